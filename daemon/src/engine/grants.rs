//! Session locks outside of the machine: their table beside the socket, and the processes that they are tied to.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use stated_shared::{LockId, Seq, SessionId};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::owner::Command;
use super::seat::WeakQueue;
use crate::host::{GrantTable, GrantTableError, Process, Reopened};
use crate::machine::{Grant, Link, Locks, Motion, Released, Tenure, Tie};

/// The key of an entry that is no grant; no lock's ID has a space.
const FROZEN: &str = "frozen until";
/// Ended grants that the table remembers; the machine of one start remembers more.
const RELEASED_MAX: usize = 1024;

/// Keeps the grant table in step with the machine, and watches processes.
pub(super) struct GrantBook {
    table: GrantTable,
    /// Processes of requests that wait for their lock.
    waiting: HashMap<(SessionId, u64), Process>,
    watches: HashMap<LockId, (u64, AbortHandle)>,
    watch_count: u64,
    /// The ended grants in the table, oldest first.
    released: VecDeque<LockId>,
    runtime: tokio::runtime::Handle,
    tracker: TaskTracker,
    queue: WeakQueue,
}

/// What the table holds of a grant that ended, in the grant's place: a repeated unlock is answered well after a restart
/// too.
#[derive(Serialize, Deserialize)]
struct Ended {
    released: Released,
}

/// What the table told of the time before a restart.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Held still.
    pub grants: Vec<Grant>,
    /// Of these, what is not known.
    pub doubts: Vec<Doubt>,
    /// Ended.
    pub released: Vec<(LockId, Released)>,
}

/// What cannot be told of a grant after a restart: it is kept for a while, then given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Whether its process lives.
    Process(LockId),
    /// Whether its holder comes back.
    Peer(SessionId),
}

impl GrantBook {
    pub(super) fn new(
        table: GrantTable,
        runtime: tokio::runtime::Handle,
        tracker: TaskTracker,
        queue: WeakQueue,
    ) -> Self {
        Self {
            table,
            waiting: HashMap::new(),
            watches: HashMap::new(),
            watch_count: 0,
            released: VecDeque::new(),
            runtime,
            tracker,
            queue,
        }
    }

    /// Keeps a process until its request has its lock.
    pub(super) fn keep(&mut self, session: SessionId, number: u64, process: Process) {
        self.waiting.insert((session, number), process);
    }

    /// Lets go of the process of a request that has its lock already, or never will.
    pub(super) fn drop_waiting(&mut self, session: SessionId, number: u64) -> Option<Process> {
        self.waiting.remove(&(session, number))
    }

    /// Writes a grant before it is given. `Err` obliges the caller to refuse it: a successor would not know it.
    ///
    /// Not synced: the page cache outlives this process, and a power loss ends the holders too.
    pub(super) fn admit(&mut self, grant: &Grant, seq: Seq) -> Result<(), GrantTableError> {
        self.put(Some(grant), seq).inspect_err(|error| {
            tracing::error!(lock = %grant.id, %error, "a lock is not granted, since it could not be written down");
            self.remove(&grant.id, seq);
        })
    }

    /// Writes what a motion changed of a grant that is given already. A failure here is only told: a successor would
    /// hold the grant longer than it should, or tie it to less.
    pub(super) fn record(&mut self, motion: &Motion, locks: &Locks, seq: Seq) {
        match motion {
            Motion::Granted(grant) => {
                if let Some(process) = self.drop_waiting(grant.session(), grant.number) {
                    self.watch(grant.id.clone(), process);
                }
            }
            Motion::Bound { id, .. } | Motion::Ending(id) => {
                if let Err(error) = self.put(locks.grant(id), seq) {
                    tracing::error!(lock = %id, %error, "what holds a lock could not be written down");
                }
            }
            Motion::Ended(id) => match locks.released(id) {
                Some(released) => self.end(id, released, locks, seq),
                None => self.remove(id, seq),
            },
            Motion::Queued(_)
            | Motion::Left(_)
            | Motion::Linked(..)
            | Motion::ProcessGone(_)
            | Motion::Frozen(_)
            | Motion::Forgotten(_)
            | Motion::Remembered(..) => {}
        }
    }

    /// Writes that a grant ended over what it was: one write, so that a successor knows it as held or as ended.
    fn end(&mut self, id: &LockId, released: Released, locks: &Locks, seq: Seq) {
        self.unwatch(id);
        let entry = serde_json::to_vec(&Ended { released }).expect("an ended grant has a JSON form");
        self.released.push_back(id.clone());
        let oldest = if self.released.len() > RELEASED_MAX { self.released.pop_front() } else { None };
        // An ID may have been granted anew.
        let written = match oldest.filter(|oldest| locks.grant(oldest).is_none() && oldest != id) {
            Some(oldest) => self.table.put_and_remove(id.as_str(), seq, &entry, oldest.as_str()),
            None => self.table.put(id.as_str(), seq, &entry),
        };
        if let Err(error) = written {
            tracing::error!(lock = %id, %error, "a lock that ended could not be struck out: it may come back with a restart");
        }
    }

    fn unwatch(&mut self, id: &LockId) {
        if let Some((_, task)) = self.watches.remove(id) {
            task.abort();
        }
    }

    /// Strikes out a grant.
    pub(super) fn remove(&mut self, id: &LockId, seq: Seq) {
        self.unwatch(id);
        if let Err(error) = self.table.remove(id.as_str(), seq) {
            tracing::error!(lock = %id, %error, "a lock that ended could not be struck out: it may come back with a restart");
        }
    }

    /// Keeps over a restart until when nobody knows who holds what; `None` once that is over.
    pub(super) fn freeze(&mut self, until_boottime_ms: Option<u64>, seq: Seq) -> Result<(), GrantTableError> {
        match until_boottime_ms {
            Some(until) => self.table.put(FROZEN, seq, until.to_string().as_bytes()),
            None => self.table.remove(FROZEN, seq),
        }
    }

    /// Takes out of the table's entries until when nobody knew who held what.
    pub(super) fn frozen_until(entries: &mut Vec<(String, Vec<u8>)>) -> Option<u64> {
        let at = entries.iter().position(|(key, _)| key == FROZEN)?;
        String::from_utf8(entries.swap_remove(at).1).ok()?.parse().ok()
    }

    fn put(&mut self, grant: Option<&Grant>, seq: Seq) -> Result<(), GrantTableError> {
        match grant {
            Some(grant) => {
                let entry = serde_json::to_vec(grant).expect("a grant has a JSON form");
                self.table.put(grant.id.as_str(), seq, &entry)
            }
            None => Ok(()),
        }
    }

    /// Sends `ProcessGone` when the process has ended.
    pub(super) fn watch(&mut self, id: LockId, process: Process) {
        self.watch_count += 1;
        let watch = self.watch_count;
        let queue = self.queue.clone();
        let told = id.clone();
        let task = async move {
            if let Err(error) = process.gone().await {
                tracing::error!(lock = %told, %error, "cannot watch the process of a lock, so the lock stays until unlocked");
                return;
            }
            queue.send(Command::ProcessGone { id: told, watch }).await;
        };
        let task = self.tracker.spawn_on(task, &self.runtime);
        if let Some((_, old)) = self.watches.insert(id, (watch, task.abort_handle())) {
            old.abort();
        }
    }

    /// Whether this watch is the present one of the grant.
    pub(super) fn is_current(&self, id: &LockId, watch: u64) -> bool {
        self.watches.get(id).is_some_and(|(current, _)| *current == watch)
    }

    /// Whether the end of a grant's process will be told.
    pub(super) fn watches(&self, id: &LockId) -> bool {
        self.watches.contains_key(id)
    }

    fn watch_peer(&self, session: SessionId, process: Process) {
        let queue = self.queue.clone();
        let task = async move {
            if process.gone().await.is_ok() {
                queue.send(Command::PeerGone { session }).await;
            }
        };
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Takes up the grants of before a restart: what is known of their processes, and what is not.
    ///
    /// A grant that was broken just before the daemon stopped may be in the table still; the journal knows better.
    pub(super) fn restore(&mut self, entries: Vec<(String, Vec<u8>)>, locks: &Locks) -> Restored {
        let Restored { mut grants, mut doubts, mut released } = Restored::default();
        for (id, entry) in entries {
            if let (Ok(ended), Ok(id)) = (serde_json::from_slice::<Ended>(&entry), LockId::parse(&id)) {
                self.released.push_back(id.clone());
                released.push((id, ended.released));
                continue;
            }
            let mut grant: Grant = match serde_json::from_slice(&entry) {
                Ok(grant) => grant,
                Err(error) => {
                    tracing::error!(lock = %id, %error, "a lock of another build cannot be kept");
                    continue;
                }
            };
            if locks.released(&grant.id).is_some_and(|released| released.fence == grant.fence) {
                continue;
            }
            let (lock_id, session) = (grant.id.clone(), grant.session());
            if let Tenure::Session { link, peer, process, .. } = &mut grant.tenure {
                *link = match peer.map(|(pid, start)| Process::reopen(pid, start)) {
                    Some(Reopened::Alive(process)) => {
                        self.watch_peer(session, process);
                        Link::Awaited
                    }
                    Some(Reopened::Gone) => Link::Down,
                    Some(Reopened::Unknown) | None => {
                        doubts.push(Doubt::Peer(session));
                        Link::Awaited
                    }
                };
                match process {
                    None | Some(Tie { gone: true, .. }) => {}
                    Some(tie) => match tie.mark.map(|(pid, start)| Process::reopen(pid, start)) {
                        Some(Reopened::Alive(process)) => self.watch(lock_id, process),
                        Some(Reopened::Gone) => tie.gone = true,
                        Some(Reopened::Unknown) | None => doubts.push(Doubt::Process(lock_id)),
                    },
                }
            }
            grants.push(grant);
        }
        Restored { grants, doubts, released }
    }
}
