//! What happened without changing anything durable, gathered for the audit log.

use std::collections::BTreeMap;
use std::sync::Arc;

use stated_shared::{StateName, Timestamp, Version};

use crate::machine::event::{self, Actor, Event, Observed, What};

/// How long an observation may wait for its record, in milliseconds.
pub const FLUSH_AFTER_MS: u64 = 1000;
/// Distinct observations that wait; one more makes them due at once.
const PENDING_MAX: usize = 4096;
/// Beyond so many an observation that is none of them is noted without its name.
const NAMED_MAX: usize = 2 * PENDING_MAX;
/// Observations in one record: each may hold a name of some kilobytes.
const FLUSH_EVENTS_MAX: usize = 256;

/// One thing that somebody did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deed {
    /// Who.
    pub actor: Arc<Actor>,
    /// `get`, `lock` …
    pub verb: &'static str,
    /// To what.
    pub name: Option<StateName>,
    /// The version read.
    pub version: Option<Version>,
    /// `ok`, or the kind of the refusal.
    pub outcome: &'static str,
}

/// Which of them: a record holds what is summed up when it is old, or none of that, since a record is emptied as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Refusals and the like.
    ForEver,
    /// What was read, locked and unlocked.
    ForAWhile,
}

/// Deeds since the last flush; equal ones are one with a count, so that a busy loop costs a line a second.
#[derive(Debug, Default)]
pub struct Observations {
    for_ever: BTreeMap<Deed, (u64, Timestamp)>,
    for_a_while: BTreeMap<Deed, (u64, Timestamp)>,
    since_boottime_ms: Option<u64>,
}

impl Observations {
    /// Notes a deed.
    pub fn note(&mut self, mut deed: Deed, at: Timestamp, boottime_ms: u64) {
        self.since_boottime_ms.get_or_insert(boottime_ms);
        let kept = if event::ages(deed.verb, deed.outcome) { Kept::ForAWhile } else { Kept::ForEver };
        if self.pending() >= NAMED_MAX && !self.of(kept).contains_key(&deed) {
            (deed.name, deed.version) = (None, None);
        }
        let (count, last) = self.of(kept).entry(deed).or_insert((0, at));
        *count += 1;
        *last = at;
    }

    /// When they must be flushed, as `CLOCK_BOOTTIME`.
    pub fn due_boottime_ms(&self) -> Option<u64> {
        let since = self.since_boottime_ms?;
        Some(if self.pending() >= PENDING_MAX { since } else { since + FLUSH_AFTER_MS })
    }

    fn pending(&self) -> usize {
        self.for_ever.len() + self.for_a_while.len()
    }

    fn of(&mut self, kept: Kept) -> &mut BTreeMap<Deed, (u64, Timestamp)> {
        match kept {
            Kept::ForEver => &mut self.for_ever,
            Kept::ForAWhile => &mut self.for_a_while,
        }
    }

    /// Takes out some as events, few enough for one record; to be called again while they are due.
    pub fn take(&mut self, kept: Kept) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < FLUSH_EVENTS_MAX
            && let Some((deed, (count, at))) = self.of(kept).pop_first()
        {
            let what = What::Observed(Observed {
                verb: deed.verb.to_owned(),
                name: deed.name,
                version: deed.version,
                outcome: deed.outcome.to_owned(),
                count,
            });
            events.push(Event { at, actor: deed.actor, what });
        }
        if self.for_ever.is_empty() && self.for_a_while.is_empty() {
            self.since_boottime_ms = None;
        }
        events.sort_by_key(|event| event.at);
        events
    }
}

#[cfg(test)]
mod tests {
    use stated_shared::SessionId;

    use super::*;

    #[test]
    fn a_flood_of_names_is_counted_without_them() {
        let (uid, gid, host, session) = (1, 1, "h".to_owned(), SessionId([1; 16]));
        let (pid, user, comm, exe) = (None, None, None, None);
        let actor = stated_shared::Actor { uid, gid, pid, user, comm, exe, host, session };
        let actor = Arc::new(Actor::from(actor));
        let mut observations = Observations::default();
        let refused = 3 * NAMED_MAX;
        for n in 0..refused {
            let name = Some(StateName::parse(&n.to_string()).unwrap());
            let deed = Deed { actor: Arc::clone(&actor), verb: "commit", name, version: None, outcome: "conflict" };
            observations.note(deed, Timestamp(n as u64), 0);
        }
        let mut told = Vec::new();
        while observations.pending() > 0 {
            told.extend(observations.take(Kept::ForEver));
        }
        let observed = told.iter().map(|event| match &event.what {
            What::Observed(observed) => (observed.name.is_some(), observed.count),
            other => panic!("{other:?}"),
        });
        let (named, unnamed): (Vec<_>, Vec<_>) = observed.partition(|(is_named, _)| *is_named);
        assert_eq!((named.len(), unnamed), (NAMED_MAX, vec![(false, (refused - NAMED_MAX) as u64)]));
    }
}
