//! Gives back the room of what was pruned, beside the commits: blobs at once, and what lies in the log when a part of it is
//! worth writing anew.
//!
//! One thread does it, in small steps with pauses in between. What is not needed any more never is again, so it may come
//! late, and whatever fails can be tried by the next daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stated_shared::Seq;

use super::owner::Command;
use super::rewrite::{NotRewritten, Piece, Rewriting};
use super::seat::WeakQueue;
use super::store::Store;
use crate::journal::{Part, Parts};
use crate::machine::{Freed, States};

/// Bytes of given up payloads for which a part of the log is written anew.
const WORTH_MIN: u64 = 1 << 20;
/// … if they are such a share of it.
const WORTH_SHARE: u64 = 4;
/// Between two steps, so that this takes a small part of one core and of the disk.
const PAUSE: Duration = Duration::from_millis(50);

/// The way to the thread; what it had left to do the next start does.
pub(super) enum Reclaim {
    Beside(Sender<Told>, Option<JoinHandle<()>>),
    /// At once, and blobs only: nothing happens but what a test asks for.
    AtOnce(Store),
}

/// What the thread is told.
pub(super) enum Told {
    /// Nothing durable needs these any more.
    Freed(Freed),
    /// Whether each of some payloads is needed.
    Needed(Vec<bool>),
    /// The part that records were added to is closed, or nothing can close it now.
    Begun,
    Stop,
}

/// The daemon stops.
struct Stopping;

/// The thread's own.
struct Reclaimer {
    store: Store,
    parts: Arc<dyn Parts>,
    queue: WeakQueue,
    sender: Sender<Told>,
    inbox: Receiver<Told>,
    /// Given up payloads that are still there, in bytes, by the first record of their part.
    dead: BTreeMap<Seq, u64>,
    /// Parts that cannot be written anew: nobody tries twice.
    left: BTreeSet<Seq>,
}

/// What the thread begins with.
pub(super) struct Reclaiming {
    pub store: Store,
    pub parts: Arc<dyn Parts>,
    pub queue: WeakQueue,
    /// As the start found them, where it may be worth to look for what was given up before.
    pub states: Option<States>,
}

impl Reclaim {
    /// The states that a thread begins with.
    pub fn states(states: &States) -> Option<States> {
        (states.given_up_bytes() >= WORTH_MIN).then(|| states.clone())
    }

    /// Starts the thread.
    pub fn start(reclaiming: Reclaiming) -> io::Result<Self> {
        let Reclaiming { store, parts, queue, states } = reclaiming;
        let (sender, inbox) = channel();
        let (dead, left) = (BTreeMap::new(), BTreeSet::new());
        let reclaimer = Reclaimer { store, parts, queue, sender: sender.clone(), inbox, dead, left };
        // It ends when it is told to, and has nothing to say.
        let run = move || drop(reclaimer.run(states));
        #[expect(clippy::disallowed_methods, reason = "it waits for the disk, which neither a task nor the owner may")]
        let thread = std::thread::Builder::new().name("reclaim".to_owned()).spawn(run)?;
        Ok(Self::Beside(sender, Some(thread)))
    }

    /// Gives back the room of what nothing durable needs.
    pub fn free(&self, freed: Freed) {
        match self {
            // A thread that died said so; the next start sweeps.
            Self::Beside(sender, _) => drop(sender.send(Told::Freed(freed))),
            Self::AtOnce(store) => freed.blobs.iter().for_each(|blob| store.remove_blob(blob)),
        }
    }
}

/// Whoever takes the state directory over must not meet it.
impl Drop for Reclaim {
    fn drop(&mut self) {
        if let Self::Beside(sender, thread) = self
            && let Some(thread) = thread.take()
        {
            // One that has ended needs no telling.
            let _ = sender.send(Told::Stop);
            if thread.join().is_err() {
                tracing::error!("the thread that gives back the room of what was pruned died");
            }
        }
    }
}

impl Reclaimer {
    fn run(mut self, states: Option<States>) -> Result<(), Stopping> {
        states.into_iter().for_each(|states| self.count(&states));
        loop {
            while let Some(part) = self.worth() {
                if part.is_closed {
                    self.rewrite(part)?;
                } else {
                    self.close(part)?;
                }
            }
            let told = self.inbox.recv().map_err(|_| Stopping)?;
            self.take(told)?;
        }
    }

    /// What was given up before this start and is still there.
    fn count(&mut self, states: &States) {
        let mut given_up: BTreeMap<Seq, u64> = BTreeMap::new();
        let mut note = |seq, len| *given_up.entry(seq).or_default() += len;
        if let Err(unreadable) = states.given_up(&mut note) {
            return tracing::warn!(%unreadable, "what was pruned before is not looked for");
        }
        for part in self.parts.list() {
            let dead: u64 = given_up.range(part.first..=part.last).map(|(_, len)| len).sum();
            if !is_worth(dead, &part) {
                continue;
            }
            let gone =
                given_up.range(part.first..=part.last).filter_map(|(seq, _)| self.store.reader.cut_bytes(*seq).ok());
            self.dead.insert(part.first, dead.saturating_sub(gone.sum()));
        }
    }

    fn take(&mut self, told: Told) -> Result<Option<Vec<bool>>, Stopping> {
        match told {
            Told::Freed(Freed { blobs, inline }) => {
                blobs.iter().for_each(|blob| self.store.remove_blob(blob));
                if inline.is_empty() {
                    return Ok(None);
                }
                let parts = self.parts.list();
                for (seq, len) in inline {
                    let after = parts.partition_point(|part| part.first <= seq);
                    if let Some(part) = after.checked_sub(1).and_then(|at| parts.get(at)) {
                        *self.dead.entry(part.first).or_default() += len;
                    }
                }
                Ok(None)
            }
            Told::Needed(needed) => Ok(Some(needed)),
            Told::Begun => Ok(None),
            Told::Stop => Err(Stopping),
        }
    }

    /// A part that is worth writing anew.
    fn worth(&self) -> Option<Part> {
        let is_meant = |part: &Part| {
            let dead = self.dead.get(&part.first).copied().unwrap_or_default();
            is_worth(dead, part) && !self.left.contains(&part.first)
        };
        if self.dead.values().all(|dead| *dead < WORTH_MIN) {
            None
        } else {
            self.parts.list().into_iter().find(is_meant)
        }
    }

    /// Asks for a new part, so that this one can be written anew.
    fn close(&mut self, part: Part) -> Result<(), Stopping> {
        loop {
            let sender = self.sender.clone();
            // Whoever waited may be gone.
            let done = Box::new(move || drop(sender.send(Told::Begun)));
            if self.queue.leave(Command::BeginPart(done)) {
                break;
            }
            self.pause()?;
        }
        loop {
            let told = self.inbox.recv().map_err(|_| Stopping)?;
            let is_begun = matches!(told, Told::Begun);
            self.take(told)?;
            if is_begun {
                break;
            }
        }
        // On a full disk it is not closed; it will be worth it another time.
        if self.parts.list().iter().any(|now| now.first == part.first && !now.is_closed) {
            self.dead.remove(&part.first);
        }
        Ok(())
    }

    fn rewrite(&mut self, part: Part) -> Result<(), Stopping> {
        let first = part.first;
        match self.rewritten(part)? {
            Ok(cut_bytes) => tracing::info!(%first, cut_bytes, "wrote a part of the log anew, without what was pruned"),
            Err(error) if error.is_full() => {
                tracing::info!(%first, "a part of the log is not written anew: {error}");
            }
            Err(error) => {
                tracing::warn!(%first, "a part of the log is not written anew: {error}");
                self.left.insert(first);
            }
        }
        // All that was known to be given up is gone, or waits for the next prune there, or for the next start.
        self.dead.remove(&first);
        Ok(())
    }

    fn rewritten(&mut self, part: Part) -> Result<Result<u64, NotRewritten>, Stopping> {
        let mut rewriting = match Rewriting::begin(&self.store, &*self.parts, part) {
            Ok(rewriting) => rewriting,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let piece = match rewriting.read() {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(rewriting.finish()),
                Err(error) => return Ok(Err(error)),
            };
            let needed = self.ask(&piece)?;
            if let Err(error) = rewriting.write(&piece, &needed) {
                return Ok(Err(error));
            }
            self.pause()?;
        }
    }

    /// Asks the owner which payloads of a piece are needed.
    fn ask(&mut self, piece: &Piece) -> Result<Vec<bool>, Stopping> {
        if piece.payloads.is_empty() {
            return Ok(Vec::new());
        }
        loop {
            let (sender, payloads) = (self.sender.clone(), piece.payloads.clone());
            let query = Command::Query(Box::new(move |machine, _| {
                let needed = machine.states().needed(payloads.iter().map(|(seq, of)| (&of.state, of.version, *seq)));
                // Whoever asked may be gone.
                Box::new(move || drop(sender.send(Told::Needed(needed))))
            }));
            if self.queue.leave(query) {
                break;
            }
            self.pause()?;
        }
        loop {
            let told = self.inbox.recv().map_err(|_| Stopping)?;
            if let Some(needed) = self.take(told)? {
                return Ok(needed);
            }
        }
    }

    /// Lets others go first.
    fn pause(&mut self) -> Result<(), Stopping> {
        match self.inbox.recv_timeout(PAUSE) {
            Ok(told) => self.take(told).map(drop),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Stopping),
        }
    }
}

fn is_worth(dead: u64, part: &Part) -> bool {
    dead >= WORTH_MIN.max(part.len_bytes / WORTH_SHARE)
}
