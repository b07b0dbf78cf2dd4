//! Gives back the room of what was pruned, beside the commits: blobs at once, and what lies in the log when a part of it is
//! worth writing anew.
//!
//! One thread does it, in small steps with pauses in between. What is not needed any more never is again, so it may come
//! late, and whatever fails can be tried by the next daemon. The same thread lets observations age out ([`super::ageing`]),
//! and seals anew what former keys had sealed ([`super::reseal`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use stated_shared::{Generation, Seq, Timestamp};

use super::ageing::{self, AuditKeep};
use super::backup::Backups;
use super::beside::Beside;
use super::owner::{Command, View};
use super::reseal::{self, Progress};
use super::rewrite::{Anew, NotRewritten, Piece, Rewriting};
use super::seat::WeakQueue;
use super::store::Store;
use crate::host::Clock;
use crate::journal::{Part, Parts};
use crate::machine::event::What;
use crate::machine::{Freed, Machine, States, Summed};

/// Bytes of given up payloads for which a part of the log is written anew.
const WORTH_MIN: u64 = 1 << 20;
/// … if they are such a share of it.
const WORTH_SHARE: u64 = 4;
/// When what could not be sealed to the keys in use is tried again.
const RESEAL_AGAIN_MS: u64 = 60_000;
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
    /// The keyring that everything is to be sealed to, where it is not known to be.
    Resealing(Option<Generation>),
    /// An event of its own is durable, or has found no room.
    Appended(bool),
    /// The keys were rotated.
    Rotated,
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
    backups: Arc<Backups>,
    clock: Clock,
    audit_keep: AuditKeep,
    /// When the log is looked at for old observations, as `CLOCK_BOOTTIME`.
    ages_at_boottime_ms: u64,
    /// When it is seen to that all is sealed to the keys in use, as `CLOCK_BOOTTIME`.
    reseals_at_boottime_ms: Option<u64>,
    progress: Arc<Progress>,
}

/// What the thread begins with.
pub(super) struct Reclaiming {
    pub store: Store,
    pub parts: Arc<dyn Parts>,
    pub queue: WeakQueue,
    /// As the start found them, where it may be worth to look for what was given up before.
    pub states: Option<States>,
    pub backups: Arc<Backups>,
    pub clock: Clock,
    pub audit_keep: AuditKeep,
    /// Whether a rotation is not through.
    pub reseals: bool,
    pub progress: Arc<Progress>,
}

impl Reclaim {
    /// The states that a thread begins with.
    pub fn states(states: &States) -> Option<States> {
        (states.given_up_bytes() >= WORTH_MIN).then(|| states.clone())
    }

    /// Starts the thread.
    pub fn start(reclaiming: Reclaiming) -> io::Result<Self> {
        let Reclaiming { store, parts, queue, states, backups, clock, audit_keep, reseals, progress } = reclaiming;
        let (sender, inbox) = channel();
        let reclaimer = Reclaimer {
            store,
            parts,
            queue,
            sender: sender.clone(),
            inbox,
            dead: BTreeMap::new(),
            left: BTreeSet::new(),
            backups,
            clock,
            audit_keep,
            ages_at_boottime_ms: clock.boottime_ms(),
            reseals_at_boottime_ms: reseals.then(|| clock.boottime_ms()),
            progress,
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

    /// Seals anew what former keys had sealed.
    pub fn rotated(&self) {
        if let Self::Beside(sender, _) = self {
            // See above; the next start does it.
            let _ = sender.send(Told::Rotated);
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
                    self.rewrite(part, Anew::default())?;
                } else {
                    self.begin_part(part)?;
                }
            }
            let now = self.clock.boottime_ms();
            if self.reseals_at_boottime_ms.take_if(|at| *at <= now).is_some() {
                let progress = Arc::clone(&self.progress);
                if !reseal::reseal(&mut self, &progress)? {
                    self.reseals_at_boottime_ms = Some(self.clock.boottime_ms() + RESEAL_AGAIN_MS);
                }
                continue;
            }
            let ages_at_boottime_ms = self.audit_keep.ms().map(|keep_ms| (self.ages_at_boottime_ms, keep_ms));
            if let Some((_, keep_ms)) = ages_at_boottime_ms.filter(|(at, _)| *at <= now) {
                ageing::age(&mut self, keep_ms)?;
                self.ages_at_boottime_ms = self.clock.boottime_ms() + ageing::EVERY_MS;
                continue;
            }
            let next = [ages_at_boottime_ms.map(|(at, _)| at), self.reseals_at_boottime_ms].into_iter().flatten().min();
            match next {
                Some(at) => self.wait(Duration::from_millis(at - now))?,
                None => {
                    let told = self.inbox.recv().map_err(|_| Stopping)?;
                    self.take(told)?;
                }
            }
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
                self.backups.remove(blobs);
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
            Told::Rotated => {
                self.reseals_at_boottime_ms = Some(0);
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

    /// Asks the owner something of the machine.
    fn ask_machine<T>(
        &mut self,
        read: impl Fn(&Machine, &View) -> Told + Clone + Send + 'static,
        answer: impl Fn(Told) -> Option<T>,
    ) -> Result<T, Stopping> {
        let sender = self.sender.clone();
        let query = || {
            let (sender, read) = (sender.clone(), read.clone());
            Command::Query(Box::new(move |machine, view| {
                let told = read(machine, view);
                // Whoever asked may be gone.
                Box::new(move || drop(sender.send(told)))
            }))
        };
        self.ask(query, answer)
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
    fn rewrite(&mut self, part: Part, anew: Anew) -> Result<bool, Stopping> {
        let first = part.first;
        let rewritten = self.rewritten(part, anew)?;
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

    fn rewritten(&mut self, part: Part, anew: Anew) -> Result<Result<u64, NotRewritten>, Stopping> {
        let mut rewriting = match Rewriting::begin(&self.store, &*self.parts, part, anew) {
            Ok(rewriting) => rewriting,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let piece = match rewriting.read() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            };
            let needed = self.needed(&piece)?;
            if let Err(error) = rewriting.write(&piece, &needed) {
                return Ok(Err(error));
            }
            self.wait(PAUSE)?;
        }
        // A backup that is under way needs the part as it is.
        self.change(|_| rewriting.finish())
    }

    /// Asks the owner which payloads of a piece are needed.
    fn needed(&mut self, piece: &Piece) -> Result<Vec<bool>, Stopping> {
        if piece.payloads.is_empty() {
            return Ok(Vec::new());
        }
        let payloads = piece.payloads.clone();
        let needed = move |machine: &Machine, _: &View| {
            Told::Needed(machine.states().needed(payloads.iter().map(|(seq, of)| (&of.state, of.version, *seq))))
        };
        self.ask_machine(needed, |told| match told {
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
        let summed = |machine: &Machine, view: &View| Told::Summed(machine.summed().cloned(), view.time.wall);
        self.ask_machine(summed, |told| match told {
            Told::Summed(summed, now) => Some((summed, now)),
            _ => None,
        })
    }

    fn close(&mut self, part: Part) -> Result<bool, Stopping> {
        self.begin_part(part)
    }

    fn resealing(&mut self) -> Result<Option<Generation>, Stopping> {
        self.ask_machine(
            |machine, _| Told::Resealing(machine.resealing()),
            |told| match told {
                Told::Resealing(resealing) => Some(resealing),
                _ => None,
            },
        )
    }

    fn append(&mut self, what: What) -> Result<bool, Stopping> {
        let sender = self.sender.clone();
        let command = || {
            let sender = sender.clone();
            let done = move |is_done| drop(sender.send(Told::Appended(is_done)));
            Command::TellItself(Box::new(what.clone()), Box::new(done))
        };
        self.ask(command, |told| match told {
            Told::Appended(is_done) => Some(is_done),
            _ => None,
        })
    }

    fn rewrite(&mut self, part: Part, anew: Anew) -> Result<bool, Stopping> {
        self.rewrite(part, anew)
    }

    fn change<T>(&mut self, change: impl FnOnce(&Store) -> T) -> Result<T, Stopping> {
        let (backups, store) = (Arc::clone(&self.backups), self.store.clone());
        let mut change = Some(change);
        loop {
            let changed = backups.unless_held(|| change.take().map(|change| change(&store)));
            if let Some(changed) = changed.flatten() {
                return Ok(changed);
            }
            self.wait(PAUSE)?;
        }
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
