//! Writes snapshots: a second machine that replays what became durable, on a thread of its own.
//!
//! The owner gathers the events of records that are durable, hands some over at a time, and goes on: to wake this thread
//! for each would cost it, and whoever it answered, a share of a core. What the follower folds in is what a start would,
//! so its machine is the one that a start wants: without session locks, waiters, and whatever else lives with its
//! holders.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stated_shared::{Digest, Seq};

use super::snapshot::{self, SnapshotError};
use crate::journal::{LocalSnapshots, Mark, Reader, RecordKind};
use crate::machine::Machine;
use crate::machine::event::{Event, What};
use crate::vault::Vault;

/// Handovers that wait for the follower; beyond it the owner waits.
const QUEUE_LEN_MAX: usize = 128;
/// Records that are handed over together, and the bytes of theirs.
const GATHERED_MAX: usize = 32;
/// See [`GATHERED_MAX`].
const GATHERED_LEN_MAX: u64 = 4 << 20;
/// How long a record waits to be handed over.
const GATHERED_FOR_MS_MAX: u64 = 100;
/// A snapshot is due after this many records. A start opens them all, and what came while one was written.
///
/// Old versions are packed once and copied from one snapshot to the next, so history hardly makes one dearer. Where
/// what is written anew or copied grows large all the same, more records pay for it:
const RECORDS_MIN: u64 = 128;
/// … one for so many names with versions, of which the newest is written anew each time, …
const NAMES_PER_RECORD: u64 = 16;
/// … or one for so many bytes of a snapshot.
const SNAPSHOT_BYTES_PER_RECORD: u64 = 4 << 10;
/// A snapshot is due after this many bytes of records, or as many as some snapshots, where that is more.
const RECORD_BYTES_MIN: u64 = 16 << 20;
/// See [`RECORD_BYTES_MIN`].
const SNAPSHOTS_PER_RECORD_BYTES: u64 = 4;
/// At a stop, and where nothing comes for a while, a snapshot is due after a fourth of the records.
const AT_REST_DIVISOR: u64 = 4;
/// How long nothing came before the daemon is at rest.
const REST: Duration = Duration::from_millis(250);

/// A record that became durable.
pub(super) struct Durable {
    pub seq: Seq,
    pub head: Digest,
    pub kind: RecordKind,
    pub len_bytes: u64,
    pub events: Vec<Event>,
}

/// The owner's end.
pub(super) struct Follower {
    sender: Option<SyncSender<Vec<Durable>>>,
    gathered: Vec<Durable>,
    gathered_len: u64,
    /// When what is gathered is to be handed over, as `CLOCK_BOOTTIME`.
    due_boottime_ms: Option<u64>,
    thread: Option<JoinHandle<()>>,
}

/// What the follower begins with.
pub(super) struct Following {
    pub machine: Machine,
    pub vault: Arc<Vault>,
    pub reader: Arc<dyn Reader>,
    pub snapshots: LocalSnapshots,
    /// The snapshot that the start used.
    pub last: Option<Seq>,
    /// Whether a newer one did not verify, and so wants a successor at once.
    pub is_due: bool,
}

impl Follower {
    /// Starts the thread.
    pub fn start(following: Following) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LEN_MAX);
        #[expect(
            clippy::disallowed_methods,
            reason = "it replays and blocks in syncs for as long as it takes, which no task may, and the owner waits for its end"
        )]
        let thread =
            std::thread::Builder::new().name("snapshots".to_owned()).spawn(move || follow(following, &receiver))?;
        Ok(Self { sender: Some(sender), thread: Some(thread), ..Self::absent() })
    }

    /// One that writes none, for a journal that has no place for them.
    pub fn absent() -> Self {
        Self { sender: None, gathered: Vec::new(), gathered_len: 0, due_boottime_ms: None, thread: None }
    }

    /// Takes a record, to be handed over soon. Waits where the follower is far behind.
    pub fn gather(&mut self, durable: Durable, boottime_ms: u64) {
        if self.sender.is_none() {
            return;
        }
        self.due_boottime_ms.get_or_insert(boottime_ms + GATHERED_FOR_MS_MAX);
        self.gathered_len += durable.len_bytes;
        self.gathered.push(durable);
        if self.gathered.len() >= GATHERED_MAX || self.gathered_len >= GATHERED_LEN_MAX {
            self.hand_over();
        }
    }

    /// When [`Self::hand_over`] is to be called, as `CLOCK_BOOTTIME`.
    pub fn due_boottime_ms(&self) -> Option<u64> {
        self.due_boottime_ms
    }

    /// Hands over what was gathered.
    pub fn hand_over(&mut self) {
        self.due_boottime_ms = None;
        self.gathered_len = 0;
        let gathered = std::mem::take(&mut self.gathered);
        // One that gave up said so; the next start replays instead.
        if self.sender.as_ref().is_some_and(|sender| sender.send(gathered).is_err()) {
            self.sender = None;
        }
    }

    /// Waits until everything that was handed over is done with.
    pub fn stop(mut self) {
        self.hand_over();
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes snapshots died");
        }
    }
}

fn follow(following: Following, receiver: &Receiver<Vec<Durable>>) {
    let Following { mut machine, vault, reader, snapshots, mut last, mut is_due } = following;
    // What the start replayed counts as well: it would be replayed once more.
    let mut records = machine.seq().0 - last.map_or(0, |last| last.0);
    let mut record_bytes = 0;
    let mut snapshot_len = 0;
    let write = |machine: &mut Machine, head, last: &mut Option<Seq>| {
        let seq = machine.seq();
        let (file, offset_bytes) = reader.place(seq);
        let mark = Mark { seq, mac: head, file, offset_bytes };
        let sealed = machine.pack().map_err(SnapshotError::Machine);
        let sealed = sealed.and_then(|()| snapshot::seal(&vault, machine, &mark));
        let written = sealed.and_then(|sealed| {
            snapshots.write(seq, &sealed, *last).map_err(SnapshotError::Io).map(|()| sealed.len() as u64)
        });
        match written {
            Ok(len) => {
                tracing::debug!(%seq, len, "wrote a snapshot");
                *last = Some(seq);
                Some(len)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                tracing::warn!(%seq, "no snapshot was written, so the next start takes longer: {error}{cause}");
                None
            }
        }
    };
    let mut head = None;
    let mut gathered = Vec::new().into_iter();
    loop {
        let Some(durable) = gathered.next() else {
            let at_rest = records >= records_min(&machine, snapshot_len) / AT_REST_DIVISOR;
            // One that is due at rest is waited for once; without it there is nothing to wake up for.
            let next = match head {
                Some(_) if at_rest => receiver.recv_timeout(REST),
                _ => receiver.recv().map_err(RecvTimeoutError::from),
            };
            match (next, head) {
                (Ok(next), _) => gathered = next.into_iter(),
                (Err(RecvTimeoutError::Timeout), Some(head)) => {
                    snapshot_len = write(&mut machine, head, &mut last).unwrap_or(snapshot_len);
                    (records, record_bytes) = (0, 0);
                }
                (Err(_), _) => return,
            }
            continue;
        };
        head = Some(durable.head);
        for event in &durable.events {
            if let Err(divergence) = machine.apply(durable.seq, event) {
                tracing::error!(seq = %durable.seq, "no more snapshots are written: {divergence}");
                return;
            }
            if let What::Rekeyed(rekeyed) = &event.what
                && rekeyed.rotated
            {
                // What former keys had sealed is believed no more, and makes room for one that is.
                (is_due, last) = (true, None);
            }
        }
        records += 1;
        record_bytes += durable.len_bytes;
        let records_min = records_min(&machine, snapshot_len);
        let is_due_now = match durable.kind {
            RecordKind::Closed => is_due || records >= records_min / AT_REST_DIVISOR,
            RecordKind::Batch => {
                is_due
                    || records >= records_min
                    || record_bytes >= RECORD_BYTES_MIN.max(snapshot_len * SNAPSHOTS_PER_RECORD_BYTES)
            }
        };
        if is_due_now {
            is_due = false;
            snapshot_len = write(&mut machine, durable.head, &mut last).unwrap_or(snapshot_len);
            // Also after a failure: a full disk is not asked again with each record.
            (records, record_bytes) = (0, 0);
        }
    }
}

/// Records after which the next snapshot is due while others come.
fn records_min(machine: &Machine, snapshot_len: u64) -> u64 {
    let names = machine.states().name_count() / NAMES_PER_RECORD;
    RECORDS_MIN.max(names).max(snapshot_len / SNAPSHOT_BYTES_PER_RECORD)
}
