//! What happens by itself: time passes, grants end, waiters pass, observations are flushed.

use std::collections::BTreeMap;

use super::batch::Told;
use super::{Halt, Owner};
use crate::engine::grants::Doubt;
use crate::engine::handle;
use crate::engine::observed::{Deed, Kept};
use crate::journal::{AppendError, Fate, RecordKind};
use crate::machine::{Grant, Link, Motion, Step, Tenure, Tie, TimedOut};
use stated_shared::{FailureKind, Hold, LockId};

/// The owner looks at the clocks at least this often: `CLOCK_BOOTTIME` runs on while the host sleeps, timers don't.
const WAKE_MS_MAX: u64 = 5000;

/// When the owner has something to do by itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Wake {
    /// As `CLOCK_BOOTTIME`.
    pub at_boottime_ms: u64,
    /// From now.
    pub in_ms: u64,
}

impl Owner {
    /// What the passing of time alone does.
    pub(super) fn pass_time(&mut self) -> Result<(), Halt> {
        let now = self.time.boottime_ms;
        if self.frozen_until.take_if(|until| *until <= now).is_some() {
            if let Err(error) = self.parts.book.freeze(None, self.parts.journal.last()) {
                tracing::error!(%error, "the grant table could not be written");
            }
            self.turn(Motion::Frozen(false));
        }
        while let Some((_, doubt)) = self.doubts.pop_front_if(|(until, _)| *until <= now) {
            match doubt {
                Doubt::Process(id) => self.give_up_process(id),
                Doubt::Peer(session) => self.give_up_peer(session),
            }
        }
        while let Some((_, session)) = self.forget.pop_front_if(|(due, _)| *due <= now) {
            if !self.sessions.contains_key(&session) {
                self.parts.machine.follow(&Motion::Forgotten(session));
            }
        }
        if self.parts.machine.next_deadline_boottime_ms().is_some_and(|deadline| deadline <= now) {
            self.unsettled = true;
        }
        if self.observations_are_due() {
            self.flush_observations(Kept::ForEver)?;
        }
        if self.parts.follower.due_boottime_ms().is_some_and(|due| due <= now) {
            self.parts.follower.hand_over();
        }
        Ok(())
    }

    /// Nothing could be told of the process that a lock is tied to.
    fn give_up_process(&mut self, id: LockId) {
        let tenure = self.parts.machine.locks().grant(&id).map(|grant| &grant.tenure);
        let motion = match tenure {
            // It was tied to another one meanwhile.
            _ if self.parts.book.watches(&id) => return,
            // Its holder is back, and keeps it from now on.
            Some(Tenure::Session { link: Link::Up, process: Some(tie), .. }) => {
                Motion::Bound { id, hold: Hold::ConnectionOrProcess, tie: Tie { gone: true, ..*tie } }
            }
            _ => Motion::ProcessGone(id),
        };
        self.turn(motion);
    }

    pub(super) fn is_out_of_room(&self) -> bool {
        self.no_room_until.is_some_and(|until| until > self.time.boottime_ms)
    }

    /// What reads and locks leave, in records of their own behind the one that was answered: of this round nobody waits for
    /// it but who wants to read the audit log.
    pub(super) fn finish_observations(&mut self) -> Result<(), Halt> {
        if self.observations_are_due() {
            self.flush_observations(Kept::ForAWhile)?;
        } else if self.flushes.is_empty() {
            return Ok(());
        }
        self.batch.told.extend(self.flushes.drain(..).map(Told::Run));
        self.finish(RecordKind::Batch)
    }

    fn observations_are_due(&self) -> bool {
        let due = self.observations.due_boottime_ms();
        due.is_some_and(|due| due <= self.time.boottime_ms || !self.flushes.is_empty()) && !self.is_out_of_room()
    }

    pub(super) fn flush_observations(&mut self, kept: Kept) -> Result<(), Halt> {
        let steps = self.observations.take(kept).into_iter().map(|event| Step::Record(Box::new(event))).collect();
        let prepared = self.prepare(steps, BTreeMap::new());
        match self.make_room(&prepared) {
            Ok(()) => self.fold(prepared),
            Err(error) if error.fate() == Fate::Refuse => {
                tracing::error!(%error, "no room for the audit log: what was read and locked in the last second is not in it");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends what nothing keeps any more, refuses who waited long enough, and grants what can be granted.
    pub(super) fn settle(&mut self) -> Result<(), Halt> {
        if !std::mem::take(&mut self.unsettled) {
            return Ok(());
        }
        while let Some(over) = self.parts.machine.next_over(self.time, &self.parts.daemon) {
            let prepared = self.prepare(over.steps, BTreeMap::new());
            match self.make_room(&prepared) {
                Ok(()) => {}
                // Not for one more, but for this one.
                Err(AppendError::TooLarge { .. }) if !self.batch.draft.is_empty() => {
                    self.finish(RecordKind::Batch)?;
                    continue;
                }
                Err(error) if error.fate() == Fate::Refuse => break,
                Err(error) => return Err(error.into()),
            }
            let (why, outcome) =
                if over.expired { ("its time ran out", "expired") } else { ("its process is gone", "gone") };
            self.tell_lost(over.grant.session(), &over.grant.id, why);
            if !over.expired {
                self.note("unlock", &over.grant, outcome);
            }
            self.fold(prepared)?;
        }
        for TimedOut { wanted, left, failure } in self.parts.machine.timed_out(self.time) {
            self.turn(left);
            let (session, number) = (wanted.session(), wanted.number);
            self.parts.book.drop_waiting(session, number);
            self.note("lock", &wanted, failure.kind.as_str());
            self.tell(session, number, Err(failure));
        }
        self.settle_frees()?;
        let mut is_cut_short = false;
        while let Some(passed) = self.parts.machine.next_passed(self.time) {
            let prepared = self.prepare(passed.steps, BTreeMap::new());
            match self.make_room(&prepared) {
                Ok(()) => {}
                Err(error) if error.fate() == Fate::Refuse => {
                    is_cut_short = !self.batch.draft.is_empty();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
            if let Err(failure) = self.admit(&prepared) {
                self.turn(Motion::Left(passed.ticket));
                self.tell(passed.session, passed.number, Err(failure));
                continue;
            }
            self.fold(prepared)?;
            if let Some((wanted, failure)) = passed.denied {
                self.parts.book.drop_waiting(passed.session, passed.number);
                self.note("lock", &wanted, failure.kind.as_str());
                self.tell(passed.session, passed.number, Err(failure));
                continue;
            }
            if let Some(grant) = self.parts.machine.locks().grant(&passed.id).cloned() {
                self.note("lock", &grant, "ok");
            }
            let reply = self.parts.machine.granted(&passed.id, self.time);
            self.tell(passed.session, passed.number, reply);
        }
        self.unsettled = is_cut_short || self.is_out_of_room();
        Ok(())
    }

    /// Notes for the audit log what became of a grant, for each of its names.
    fn note(&mut self, verb: &'static str, grant: &Grant, outcome: &'static str) {
        // A lease's beginning and end are events of their own.
        let refused = [FailureKind::Busy, FailureKind::Denied].map(FailureKind::as_str).contains(&outcome);
        if !refused && matches!(grant.tenure, Tenure::Lease { .. }) {
            return;
        }
        for name in &grant.names {
            let (actor, name) = (grant.holder.clone(), Some(name.clone()));
            let deed = Deed { actor, verb, name, version: None, outcome };
            self.observations.note(deed, self.time.wall, self.time.boottime_ms);
        }
    }

    /// When the next round is due, whether a command comes or not.
    pub(in crate::engine) fn wake(&self) -> Wake {
        let now = handle::time(&self.parts.clock).boottime_ms;
        let in_ms = if self.unsettled && !self.is_out_of_room() { 0 } else { self.next_due_in_ms(now) };
        Wake { at_boottime_ms: now + in_ms, in_ms }
    }

    fn next_due_in_ms(&self, now: u64) -> u64 {
        let deadlines = [
            self.parts.machine.next_deadline_boottime_ms(),
            self.observations.due_boottime_ms(),
            self.parts.follower.due_boottime_ms(),
            self.frozen_until,
            self.doubts.front().map(|(until, _)| *until),
            self.forget.front().map(|(due, _)| *due),
        ];
        let next = deadlines.into_iter().flatten().min();
        let next = if self.is_out_of_room() { self.no_room_until } else { next };
        next.map_or(WAKE_MS_MAX, |next| next.saturating_sub(now).min(WAKE_MS_MAX))
    }
}
