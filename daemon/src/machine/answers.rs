//! Answers to requests that changed something, kept so that a retry is answered and not applied twice.
//!
//! They are forgotten by age: clients stop to ask again long before. Age is counted from event to event of the journal,
//! so that a replay forgets what the live machine did. A clock that is set back adds nothing to it, and one that jumps
//! ahead, or a daemon that was down, no more than [`STEP_MS_MAX`].

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use stated_shared::limits::{ANSWER_AGE_MS_MAX, ANSWER_SESSIONS_MAX, ANSWERS_PER_SESSION_MAX};
use stated_shared::{LockId, Reply, SessionId, StateName, Timestamp, Version};

use super::Divergence;
use super::packed::Unreadable;
use super::snapshot::Given;

/// The most that one event adds to the age of all that was answered before, in milliseconds.
const STEP_MS_MAX: u64 = ANSWER_AGE_MS_MAX / 10;
/// Old sessions that one answer makes forgotten: what a commit costs has a bound, and many are forgotten all the same.
const FORGOTTEN_AT_ONCE_MAX: usize = 8;

/// An answer that is given again.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are replies, and a box for each would only cost")]
pub enum Answer {
    /// As it was.
    Reply(Reply),
    /// The lease of this ID, with its present end.
    Lease(LockId),
    /// The version that was tagged, with its present tags.
    Tagged(StateName, Version),
}

/// The last answers of the last sessions. Bounded in both directions and by age, the oldest go first.
#[derive(Debug, Default, Clone)]
pub struct Answers {
    by_session: BTreeMap<SessionId, Arc<Remembered>>,
    /// Sessions in the order of their last answers.
    order: BTreeMap<u64, SessionId>,
    turns: u64,
    /// From which turn on there may be answers that are not text yet.
    unpacked: u64,
    age: Age,
}

/// How far the clock that answers grow old by has come, and the event that it did so at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Age {
    elapsed_ms: u64,
    at: Timestamp,
}

/// A session that was answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Remembered {
    pub uid: u32,
    /// When it was answered last, by the clock of [`Age`].
    pub age_ms: u64,
    pub answers: VecDeque<(u64, Held)>,
    turn: u64,
}

/// An answer, or its stored form, which is read when somebody asks again: hardly ever.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Given(Answer),
    Stored(Box<RawValue>),
}

impl Answers {
    /// Whether this request of this session of this user was answered already.
    pub fn has(&self, session: SessionId, uid: u32, number: u64) -> bool {
        self.held(session, uid, number).is_some()
    }

    /// The answer that this request of this session of this user already got.
    pub fn get(&self, session: SessionId, uid: u32, number: u64) -> Result<Option<Cow<'_, Answer>>, Unreadable> {
        self.held(session, uid, number).map(Held::answer).transpose()
    }

    fn held(&self, session: SessionId, uid: u32, number: u64) -> Option<&Held> {
        let remembered = self.by_session.get(&session).filter(|remembered| remembered.uid == uid)?;
        // The last ones are asked for again, if any.
        remembered.answers.iter().rev().find_map(|(n, held)| (*n == number).then_some(held))
    }

    /// The user that a session belongs to, as far as it is remembered.
    pub fn owner(&self, session: SessionId) -> Option<u32> {
        self.by_session.get(&session).map(|remembered| remembered.uid)
    }

    /// How many sessions are remembered.
    pub fn session_count(&self) -> usize {
        self.by_session.len()
    }

    /// Every session; the one that goes first comes first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (SessionId, &Remembered)> {
        self.order.values().filter_map(|session| Some((*session, &**self.by_session.get(session)?)))
    }

    pub(super) fn age(&self) -> Age {
        self.age
    }

    pub(super) fn put(&mut self, at: Timestamp, session: SessionId, uid: u32, number: u64, answer: Answer) {
        self.age.elapsed_ms += at.0.saturating_sub(self.age.at.0).min(STEP_MS_MAX);
        self.age.at = at;
        let age_ms = self.age.elapsed_ms;
        let remembered = self.turn(session, uid, age_ms);
        remembered.answers.push_back((number, Held::Given(answer)));
        if remembered.answers.len() > ANSWERS_PER_SESSION_MAX {
            remembered.answers.pop_front();
        }
        for _ in 0..FORGOTTEN_AT_ONCE_MAX {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let is_old = self.by_session.get(oldest).is_none_or(|oldest| oldest.age_ms + ANSWER_AGE_MS_MAX < age_ms);
            if !is_old && self.by_session.len() <= ANSWER_SESSIONS_MAX {
                break;
            }
            self.forget(*oldest);
        }
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        if let Some(remembered) = self.by_session.remove(&session) {
            self.order.remove(&remembered.turn);
        }
    }

    /// Makes the session the last one in order.
    fn turn(&mut self, session: SessionId, uid: u32, age_ms: u64) -> &mut Remembered {
        let turn = self.turns;
        self.turns += 1;
        let empty = || Arc::new(Remembered { uid, age_ms, answers: VecDeque::new(), turn });
        let remembered = Arc::make_mut(self.by_session.entry(session).or_insert_with(empty));
        self.order.remove(&remembered.turn);
        self.order.insert(turn, session);
        (remembered.age_ms, remembered.turn) = (age_ms, turn);
        remembered
    }

    /// Makes texts of what came since the last time.
    pub(super) fn pack(&mut self) -> Result<(), Divergence> {
        for session in self.order.range(self.unpacked..).map(|(_, session)| session) {
            let Some(remembered) = self.by_session.get_mut(session) else { continue };
            for (_, held) in &mut Arc::make_mut(remembered).answers {
                if matches!(held, Held::Given(_)) {
                    *held = Held::Stored(held.text()?.into_owned());
                }
            }
        }
        self.unpacked = self.turns;
        Ok(())
    }

    pub(super) fn restore_age(&mut self, age: Age) {
        self.age = age;
    }

    /// Puts a session after those that were put back before.
    pub(super) fn restore(&mut self, session: SessionId, uid: u32, age_ms: u64, answers: Vec<(u64, Box<RawValue>)>) {
        let answers = answers.into_iter().map(|(number, text)| (number, Held::Stored(text)));
        self.turn(session, uid, age_ms).answers.extend(answers);
        self.unpacked = self.turns;
    }
}

impl Held {
    fn answer(&self) -> Result<Cow<'_, Answer>, Unreadable> {
        match self {
            Self::Given(answer) => Ok(Cow::Borrowed(answer)),
            Self::Stored(text) => {
                let given: Given = serde_json::from_str(text.get()).map_err(|error| Unreadable(error.to_string()))?;
                Ok(Cow::Owned(given.answer()))
            }
        }
    }

    pub fn text(&self) -> Result<Cow<'_, Box<RawValue>>, Divergence> {
        match self {
            Self::Given(answer) => {
                let text = serde_json::value::to_raw_value(&Given::of(answer)?);
                Ok(Cow::Owned(text.expect("stored types have a JSON form")))
            }
            Self::Stored(text) => Ok(Cow::Borrowed(text)),
        }
    }
}

/// In which form they are held is no part of what they say.
impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        matches!((self.answer(), other.answer()), (Ok(one), Ok(other)) if one == other)
    }
}

/// Of the turns only the order counts: a restored machine counts them anew.
impl PartialEq for Answers {
    fn eq(&self, other: &Self) -> bool {
        let said = |answers: &Self| -> Vec<_> {
            let sessions = answers.in_order();
            sessions.map(|(session, one)| (session, one.uid, one.age_ms, one.answers.clone())).collect()
        };
        self.age == other.age && said(self) == said(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn session(n: u64) -> SessionId {
        SessionId(u128::from(n).to_be_bytes())
    }

    fn put(answers: &mut Answers, at_ms: u64, n: u64) {
        answers.put(Timestamp(at_ms), session(n), 1000, 1, Answer::Reply(Reply::Done));
    }

    fn remembered(answers: &Answers) -> Vec<u64> {
        answers.in_order().map(|(session, _)| u128::from_be_bytes(session.0) as u64).collect()
    }

    #[test]
    fn the_old_are_forgotten_and_whoever_is_answered_again_is_not_old() {
        let mut answers = Answers::default();
        put(&mut answers, 1_764_000_000_000, 1);
        put(&mut answers, 1_764_000_000_000, 2);
        for minute in 1..=10 {
            put(&mut answers, 1_764_000_000_000 + minute * MINUTE_MS, 3);
        }
        assert_eq!(remembered(&answers), [1, 2, 3], "ten minutes old");
        put(&mut answers, 1_764_000_600_000, 1);
        put(&mut answers, 1_764_000_600_001, 4);
        assert_eq!(remembered(&answers), [3, 1, 4]);
        assert!(!answers.has(session(2), 1000, 1));
        assert!(answers.has(session(1), 1000, 1) && !answers.has(session(1), 1001, 1));
    }

    #[test]
    fn a_clock_that_jumps_makes_nobody_old() {
        let mut answers = Answers::default();
        put(&mut answers, 1_764_000_000_000, 1);
        // A year ahead, back before the first, and ahead again: three steps of a minute at the most.
        for (n, at_ms) in [(2, 1_795_000_000_000), (3, 1000), (4, 1_795_000_000_000)] {
            put(&mut answers, at_ms, n);
        }
        assert_eq!(remembered(&answers), [1, 2, 3, 4]);
        // What was set back grows old at the pace of the new time.
        put(&mut answers, 1000, 5);
        (1..=11).for_each(|minute| put(&mut answers, 1000 + minute * MINUTE_MS, 6));
        assert_eq!(remembered(&answers), [6]);
    }

    #[test]
    fn one_answer_makes_few_forgotten_and_all_go_in_the_end() {
        let mut answers = Answers::default();
        (0..100).for_each(|n| put(&mut answers, 1, n));
        (1..=10).for_each(|minute| put(&mut answers, 1 + minute * MINUTE_MS, 100));
        assert_eq!(answers.session_count(), 101);
        put(&mut answers, 2 + 10 * MINUTE_MS, 100);
        assert_eq!(answers.session_count(), 101 - FORGOTTEN_AT_ONCE_MAX);
        (0..20).for_each(|_| put(&mut answers, 2 + 10 * MINUTE_MS, 100));
        assert_eq!(remembered(&answers), [100]);
    }
}
