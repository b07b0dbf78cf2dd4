//! Gives back the room of what was pruned, beside the commits: blobs at once, and what lies in the log when a part of it is
//! worth writing anew.
//!
//! One thread does it, in small steps with pauses in between. What is not needed any more never is again, so it may come
//! late, and whatever fails can be tried by the next daemon. The same thread lets observations age out ([`super::ageing`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stated_shared::{Seq, Timestamp};

use super::ageing::{self, AuditKeep, Beside};
use super::owner::Command;
use super::rewrite::{NotRewritten, Piece, Rewriting};
use super::seat::WeakQueue;
use super::store::Store;
use super::summary::Runs;
use crate::host::Clock;
use crate::journal::{Part, Parts};
use crate::machine::event::Summarized;
use crate::machine::{Freed, States, Summed};

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
    /// How far observations are summed up, and the time.
    Summed(Option<Summed>, Timestamp),
    /// A summary is durable, or has found no room.
    Summarized(bool),
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
    clock: Clock,
    audit_keep: AuditKeep,
    /// When the log is looked at for old observations, as `CLOCK_BOOTTIME`.
    ages_at_boottime_ms: u64,
}

/// What the thread begins with.
pub(super) struct Reclaiming {
    pub store: Store,
    pub parts: Arc<dyn Parts>,
    pub queue: WeakQueue,
    /// As the start found them, where it may be worth to look for what was given up before.
    pub states: Option<States>,
    pub clock: Clock,
    pub audit_keep: AuditKeep,
}

impl Reclaim {
    /// The states that a thread begins with.
    pub fn states(states: &States) -> Option<States> {
        (states.given_up_bytes() >= WORTH_MIN).then(|| states.clone())
    }

    /// Starts the thread.
    pub fn start(reclaiming: Reclaiming) -> io::Result<Self> {
        let Reclaiming { store, parts, queue, states, clock, audit_keep } = reclaiming;
        let (sender, inbox) = channel();
        let reclaimer = Reclaimer {
            store,
            parts,
            queue,
            sender: sender.clone(),
            inbox,
            dead: BTreeMap::new(),
            left: BTreeSet::new(),
            clock,
            audit_keep,
            ages_at_boottime_ms: clock.boottime_ms(),
        };
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
                    self.rewrite(part, &Runs::default())?;
                } else {
                    self.begin_part(part)?;
                }
            }
            let Some(keep_ms) = self.audit_keep.ms() else {
                let told = self.inbox.recv().map_err(|_| Stopping)?;
                self.take(told)?;
                continue;
            };
            let now = self.clock.boottime_ms();
            if now >= self.ages_at_boottime_ms {
                ageing::age(&mut self, keep_ms)?;
                self.ages_at_boottime_ms = self.clock.boottime_ms() + ageing::EVERY_MS;
                continue;
            }
            self.wait(Duration::from_millis(self.ages_at_boottime_ms - now))?;
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

    /// Takes what it is told; what answers a question of its own is given back.
    fn take(&mut self, told: Told) -> Result<Option<Told>, Stopping> {
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
            Told::Stop => Err(Stopping),
            answer => Ok(Some(answer)),
        }
    }

    /// Leaves a command to the owner, and waits for the answer; what else is told meanwhile is taken.
    fn ask<T>(&mut self, command: impl Fn() -> Command, answer: impl Fn(Told) -> Option<T>) -> Result<T, Stopping> {
        while !self.queue.leave(command()) {
            self.wait(PAUSE)?;
        }
        loop {
            let told = self.inbox.recv().map_err(|_| Stopping)?;
            if let Some(answer) = self.take(told)?.and_then(&answer) {
                return Ok(answer);
            }
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
    fn begin_part(&mut self, part: Part) -> Result<bool, Stopping> {
        let sender = self.sender.clone();
        let command = || {
            let sender = sender.clone();
            // Whoever waited may be gone.
            Command::BeginPart(Box::new(move || drop(sender.send(Told::Begun))))
        };
        self.ask(command, |told| matches!(told, Told::Begun).then_some(()))?;
        let is_closed = self.parts.is_closed(part.first);
        if !is_closed {
            // The disk is full; it will be worth it another time.
            self.dead.remove(&part.first);
        }
        Ok(is_closed)
    }

    /// Whether it was written, or did not need to be.
    fn rewrite(&mut self, part: Part, summed_up: &Runs) -> Result<bool, Stopping> {
        let first = part.first;
        let rewritten = self.rewritten(part, summed_up)?;
        let is_rewritten = rewritten.is_ok();
        match rewritten {
            Ok(cut_bytes) => tracing::info!(%first, cut_bytes, "wrote a part of the log anew"),
            Err(error) if error.is_full() => {
                tracing::info!(%first, "a part of the log is not written anew: {error}");
            }
            Err(error) => self.leave(&part, error),
        }
        // All that was known to be given up is gone, or waits for the next prune there, or for the next start.
        self.dead.remove(&first);
        Ok(is_rewritten)
    }

    fn rewritten(&mut self, part: Part, summed_up: &Runs) -> Result<Result<u64, NotRewritten>, Stopping> {
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
            let needed = self.needed(&piece)?;
            if let Err(error) = rewriting.write(&piece, &needed, summed_up) {
                return Ok(Err(error));
            }
            self.wait(PAUSE)?;
        }
    }

    /// Asks the owner which payloads of a piece are needed.
    fn needed(&mut self, piece: &Piece) -> Result<Vec<bool>, Stopping> {
        if piece.payloads.is_empty() {
            return Ok(Vec::new());
        }
        let sender = self.sender.clone();
        let query = || {
            let (sender, payloads) = (sender.clone(), piece.payloads.clone());
            Command::Query(Box::new(move |machine, _| {
                let needed = machine.states().needed(payloads.iter().map(|(seq, of)| (&of.state, of.version, *seq)));
                // Whoever asked may be gone.
                Box::new(move || drop(sender.send(Told::Needed(needed))))
            }))
        };
        self.ask(query, |told| match told {
            Told::Needed(needed) => Some(needed),
            _ => None,
        })
    }

    /// Waits until something is told, or for this long.
    fn wait(&mut self, pause: Duration) -> Result<(), Stopping> {
        match self.inbox.recv_timeout(pause) {
            Ok(told) => self.take(told).map(drop),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Stopping),
        }
    }
}

impl Beside for Reclaimer {
    type Stop = Stopping;

    fn store(&self) -> &Store {
        &self.store
    }

    fn parts(&self) -> &dyn Parts {
        &*self.parts
    }

    fn summed(&mut self) -> Result<(Option<Summed>, Timestamp), Stopping> {
        let sender = self.sender.clone();
        let query = || {
            let sender = sender.clone();
            Command::Query(Box::new(move |machine, view| {
                let (summed, now) = (machine.summed().cloned(), view.time.wall);
                // Whoever asked may be gone.
                Box::new(move || drop(sender.send(Told::Summed(summed, now))))
            }))
        };
        self.ask(query, |told| match told {
            Told::Summed(summed, now) => Some((summed, now)),
            _ => None,
        })
    }

    fn close(&mut self, part: Part) -> Result<bool, Stopping> {
        self.begin_part(part)
    }

    fn append(&mut self, summarized: Box<Summarized>) -> Result<bool, Stopping> {
        let sender = self.sender.clone();
        let command = || {
            let sender = sender.clone();
            let done = move |is_done| drop(sender.send(Told::Summarized(is_done)));
            Command::SummarizeItself(summarized.clone(), Box::new(done))
        };
        self.ask(command, |told| match told {
            Told::Summarized(is_done) => Some(is_done),
            _ => None,
        })
    }

    fn empty(&mut self, part: Part, runs: &Runs) -> Result<bool, Stopping> {
        self.rewrite(part, runs)
    }

    fn is_left(&self, part: &Part) -> bool {
        self.left.contains(&part.first)
    }

    fn leave(&mut self, part: &Part, why: NotRewritten) {
        tracing::warn!(first = %part.first, "a part of the log is left as it is: {why}");
        self.left.insert(part.first);
    }

    fn pause(&mut self) -> Result<(), Stopping> {
        self.wait(PAUSE)
    }
}

fn is_worth(dead: u64, part: &Part) -> bool {
    dead >= WORTH_MIN.max(part.len_bytes / WORTH_SHARE)
}
