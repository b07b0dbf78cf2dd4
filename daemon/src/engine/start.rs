//! From a journal to a running engine: replay, check, open, take up the locks.

use std::io;
use std::sync::Arc;

use stated_shared::{Digest, Epoch, Generation, Seq, SessionId};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::ageing::AuditKeep;
use super::backup::Backups;
use super::budget::ContentBudget;
use super::follower::{Follower, Following};
use super::grants::GrantBook;
use super::handle::{self, Engine, Facts, Shared};
use super::owner::{Halt, Owner, Parts};
use super::preparation::Preparation;
use super::reclaim::{Reclaim, Reclaiming};
use super::record;
use super::seat::{self, Commands};
use super::store::Store;
use super::summary::{self, Emptied};
use super::watermark::Watermark;
use crate::host::{Clock, GrantTable, GrantTableError, Loaded, Origin};
use crate::journal::{Journal, LocalSnapshots, Mark, Record, RecordKind, Unverified};
use crate::machine::Machine;
use crate::machine::event::{Actor, BootId, Event, Founded, LossAccepted, Opened, Rekeyed, What};
use crate::vault::{KeyringPlace, Own, Vault};

/// Folds a journal into a machine, record by record.
pub struct Replay {
    vault: Arc<Vault>,
    machine: Machine,
    head: Digest,
    closed: bool,
    /// The snapshot that it began with.
    snapshot: Option<Seq>,
    /// Records that it opened.
    opened: u64,
    /// Records of which nothing was left, until their summary comes.
    emptied: Emptied,
}

impl Replay {
    /// Of nothing yet.
    pub fn new(vault: Arc<Vault>) -> Self {
        let (machine, emptied) = (Machine::default(), Emptied::default());
        Self { vault, machine, head: Digest::ZERO, closed: false, snapshot: None, opened: 0, emptied }
    }

    /// Of everything up to the record that a snapshot was made at.
    pub fn of_snapshot(vault: Arc<Vault>, machine: Machine, mark: &Mark) -> Self {
        let emptied = Emptied::default();
        Self { vault, machine, head: mark.mac, closed: false, snapshot: Some(mark.seq), opened: 0, emptied }
    }

    /// Believes a record if the chain does, and folds its events in.
    pub fn visit(&mut self, record: &Record) -> Result<RecordKind, Unverified> {
        self.opened += 1;
        if self.snapshot == Some(record.seq) {
            // The journal has compared its MAC with the snapshot's; that nothing else of it changed, age tells.
            let opened = record::open_unchained(&self.vault, record)?;
            self.emptied.read(record.seq, &opened);
            self.closed = opened.kind == RecordKind::Closed;
            return Ok(opened.kind);
        }
        let opened = record::open(&self.vault, self.head, record)?;
        for event in &opened.events {
            self.machine.apply(record.seq, event).map_err(|divergence| Unverified(divergence.to_string()))?;
        }
        self.emptied.read(record.seq, &opened);
        self.head = record.mac;
        self.closed = opened.kind == RecordKind::Closed;
        Ok(opened.kind)
    }

    /// The first record, of those that it read, that was emptied although no summary tells of it: then the log has lost the
    /// summary with its end, or somebody took out of it what nobody may. What it told is missing here.
    pub fn unsummarized(&self) -> Option<Seq> {
        self.emptied.left().first().copied()
    }

    /// The last start's epoch, or a restore's.
    pub fn epoch(&self) -> Epoch {
        self.machine.epoch()
    }

    /// What came of it.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(super) fn vault(&self) -> Arc<Vault> {
        Arc::clone(&self.vault)
    }

    pub(super) fn head(&self) -> Digest {
        self.head
    }

    /// The names of all blobs that some version needs.
    pub fn blobs(&self) -> std::collections::BTreeSet<&str> {
        self.machine.states().blobs()
    }

    /// What the journal says of itself: the keyring that counts.
    pub fn keyring(&self) -> Option<(Generation, Digest)> {
        self.machine.keyring()
    }
}

/// Why the engine did not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keyring on disk is another than the journal's.
    #[error("keyring {0} is not the one that the journal names")]
    Keyring(Generation),
    /// The log lost what was durable.
    #[error("the log ends at record {last}, but the grant table has seen record {seen}")]
    Lost {
        /// Where it ends.
        last: Seq,
        /// What was there once.
        seen: Seq,
    },
    /// The blobs could not be listed.
    #[error("cannot list the blobs")]
    Blobs(#[source] io::Error),
    /// The grant table could not be written.
    #[error(transparent)]
    GrantTable(#[from] GrantTableError),
    /// The thread did not start.
    #[error("cannot start a thread of the engine")]
    Thread(#[source] io::Error),
    /// The first record did not become durable.
    #[error(transparent)]
    Halt(#[from] Halt),
}

/// Everything that an engine is made of.
pub struct Beginning {
    /// The replayed journal.
    pub replay: Replay,
    /// The journal.
    pub journal: Box<dyn Journal>,
    /// The clocks.
    pub clock: Clock,
    /// The grant table and what it held.
    pub grants: (GrantTable, Loaded),
    /// Facts for `status`.
    pub facts: Facts,
    /// Where contents take their room.
    pub budget: ContentBudget,
    /// The daemon itself, as an actor.
    pub daemon: stated_shared::Actor,
    /// Where snapshots are kept.
    pub snapshots: Snapshots,
    /// The accepted loss of the log's end that no record tells of yet: where what was left of it is.
    pub loss: Option<String>,
    /// How long observations are told one by one.
    pub audit_keep: AuditKeep,
    /// Where keyrings are.
    pub keyrings: Keyrings,
}

/// Where keyrings are, and with what the daemon opens them.
pub struct Keyrings {
    /// The place.
    pub place: KeyringPlace,
    /// What it keeps of the keys that it opened the present one with.
    pub own: Own,
}

/// Where snapshots are kept, and whether one is wanted at once.
pub struct Snapshots {
    /// The place; absent where there is none.
    pub place: Option<LocalSnapshots>,
    /// A newer one than the one that the start used did not verify.
    pub is_due: bool,
}

/// How the engine ended; the process must exit with it.
pub type Ended = oneshot::Receiver<Result<(), Halt>>;

/// Makes the start durable, takes up the locks of before it, and runs the owner on a thread of its own.
pub fn start(beginning: Beginning, tracker: &TaskTracker) -> Result<(Engine, Ended), StartError> {
    let Begun { engine, owner, commands } = begin(beginning, tracker)?;
    let (done, ended) = oneshot::channel();
    let queue = engine.queue.clone();
    tracker.spawn(queue.turns());
    let run = move || queue.keep(owner, commands, done);
    #[expect(
        clippy::disallowed_methods,
        reason = "drives the owner where it would keep a connection for long, and sees to what time brings"
    )]
    std::thread::Builder::new().name("engine".to_owned()).spawn(run).map_err(StartError::Thread)?;
    Ok((engine, ended))
}

/// An engine whose start is durable, and whose owner nobody runs yet.
pub(super) struct Begun {
    pub engine: Engine,
    pub owner: Owner,
    pub commands: Commands,
}

pub(super) fn begin(beginning: Beginning, tracker: &TaskTracker) -> Result<Begun, StartError> {
    let Beginning {
        replay,
        journal,
        clock,
        grants: (mut table, mut loaded),
        facts,
        budget,
        daemon,
        snapshots,
        loss,
        audit_keep,
        keyrings,
    } = beginning;
    let keyrings = Arc::new(keyrings);
    let Replay { vault, machine, head, closed, snapshot, opened, emptied: _ } = replay;
    let daemon = Arc::new(Actor::from(daemon));
    let last = journal.last();
    let present = (vault.generation(), vault.keyring_digest());
    // The record that made it count may be among those that were lost.
    let rekeyed = machine.keyring().filter(|(generation, _)| loss.is_some() && generation.next() == present.0);
    if let Some((generation, digest)) = machine.keyring().filter(|_| rekeyed.is_none())
        && (generation, digest) != present
    {
        return Err(StartError::Keyring(generation));
    }
    if loss.is_some() {
        table.go_back(last);
    } else if machine.is_restored() {
        // It may be further, and its grants have fences of before.
        table.start_over(last);
        loaded.entries.clear();
    } else if loaded.seq_max > last {
        return Err(StartError::Lost { last, seen: loaded.seq_max });
    }
    sweep(&machine, journal.as_ref()).map_err(StartError::Blobs)?;
    if let Err(error) = keyrings.place.keep_only(vault.generation()) {
        tracing::warn!("a keyring that does not count could not be removed: {error}");
    }
    let (runs, unpacked) = machine.run_count();
    let (snapshot_seq, versions) = (snapshot.unwrap_or_default(), machine.states().version_count());
    tracing::info!(%snapshot_seq, opened, versions, runs, unpacked, "replayed the records since the snapshot");

    let time = handle::time(&clock);
    let boot = BootId(SessionId(clock.boot_id().0).to_string());
    let is_untold = match loaded.origin {
        Origin::SameBoot | Origin::OtherBoot => false,
        Origin::Missing => !closed,
        Origin::Damaged { what } => {
            tracing::error!(what, "the table of locks beside the socket is damaged, and kept as it is");
            true
        }
    };
    let frozen = last > Seq(0) && is_untold && !machine.is_restored() && *machine.boot() == boot;
    table.begin()?;
    let epoch = machine.epoch().of_start(time.wall.0 / 1000);
    let event = |what| Event { at: time.wall, actor: daemon.clone(), what };
    let store = Store {
        vault: Arc::clone(&vault),
        reader: journal.reader(),
        blobs: journal.blobs(),
        snapshots: snapshots.place.clone(),
    };
    let mut events = Vec::new();
    if machine.repository().is_none() {
        events.push(event(What::Founded(Founded {
            repository: vault.repository(),
            generation: vault.generation(),
            keyring: vault.keyring_digest(),
        })));
    }
    let opened = Opened { epoch, boot, boottime_ms: time.boottime_ms, version: facts.version.clone() };
    events.push(event(What::Opened(opened)));
    let accepted = loss.clone().map(|aside| LossAccepted { seq: last.next(), aside }).or(machine.loss().cloned());
    // As long as somebody may want to look at it.
    let accepted = accepted.filter(|accepted| facts.state_dir.join(&accepted.aside).exists());
    let notes = accepted.map(|LossAccepted { seq, aside }| {
        format!("the log from record {seq} on was lost, and that was accepted: what was left of it is in {aside}")
    });
    let notes = notes.into_iter().collect();
    if let Some(aside) = loss {
        tracing::warn!(seq = %last.next(), aside, "the end of the log was lost, and that was accepted");
        events.push(event(What::LossAccepted(LossAccepted { seq: last.next(), aside })));
        if let Some((generation, _)) = rekeyed {
            let (added, removed, rotated) = (Vec::new(), Vec::new(), vault.is_rotated_from(generation));
            let (generation, keyring) = present;
            let rekeyed = Rekeyed { number: 0, generation, keyring, added, removed, rotated };
            events.push(event(What::Rekeyed(rekeyed)));
        }
        // What told of emptied records may have been lost, too.
        if let Some(summarized) = summary::orphans(&store, last) {
            tracing::warn!(records = ?summarized.records, "the summaries of some emptied records were lost");
            events.push(event(What::Summarized(summarized)));
        }
    }

    let (queue, commands) = seat::queue();
    let watermark = Arc::new(Watermark::new(last, head));
    let backups = Arc::new(Backups::new(store.clone(), clock));
    let shared = Arc::new(Shared {
        facts,
        store,
        backups: Arc::clone(&backups),
        watermark: Arc::clone(&watermark),
        budget: budget.clone(),
        epoch,
        tracker: tracker.clone(),
        resealing: Arc::default(),
        keyrings: Arc::clone(&keyrings),
    });
    let runtime = tokio::runtime::Handle::current();
    let book = GrantBook::new(table, runtime, tracker.clone(), queue.downgrade());
    // Who follows the journal by a thread has one for this, too.
    let reclaim = match snapshots.place {
        None => Reclaim::AtOnce(shared.store.clone()),
        Some(_) => Reclaim::start(Reclaiming {
            store: shared.store.clone(),
            parts: journal.parts(),
            queue: queue.downgrade(),
            states: Reclaim::states(machine.states()),
            backups,
            clock,
            audit_keep,
            reseals: machine.resealing().is_some(),
            progress: Arc::clone(&shared.resealing),
        })
        .map_err(StartError::Thread)?,
    };
    let follower = match snapshots.place {
        None => Follower::absent(),
        Some(place) => Follower::start(Following {
            machine: machine.clone(),
            vault: Arc::clone(&vault),
            reader: journal.reader(),
            snapshots: place,
            last: snapshot,
            is_due: snapshots.is_due,
        })
        .map_err(StartError::Thread)?,
    };
    let preparation = Preparation::start(Arc::clone(&vault)).map_err(StartError::Thread)?;
    let mut owner = Owner::new(Parts {
        machine,
        journal,
        vault,
        head,
        clock,
        book,
        watermark,
        budget,
        daemon,
        follower,
        preparation,
        reclaim,
        keyrings,
        notes,
    });
    owner.start(events, loaded.entries, frozen)?;
    Ok(Begun { engine: Engine { queue, shared }, owner, commands })
}

/// Removes blobs that no version refers to: what was written for a commit that never became durable.
fn sweep(machine: &Machine, journal: &dyn Journal) -> io::Result<()> {
    let blobs = journal.blobs();
    let needed = machine.states().blobs();
    for id in blobs.list()? {
        if !needed.contains(id.to_string().as_str()) {
            tracing::info!(blob = %id, "swept a blob that no version refers to");
            blobs.remove(id)?;
        }
    }
    Ok(())
}
