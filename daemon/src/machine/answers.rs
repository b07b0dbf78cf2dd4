//! Answers to requests that changed something, kept so that a retry is answered and not applied twice.

use std::collections::{BTreeMap, VecDeque};

use stated_shared::limits::{ANSWER_SESSIONS_MAX, ANSWERS_PER_SESSION_MAX};
use stated_shared::{LockId, Reply, SessionId, StateName, Version};

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

/// The last answers of the last sessions. Bounded in both directions, the oldest go first.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Answers {
    by_session: BTreeMap<SessionId, Remembered>,
    /// Sessions in the order of their first answer.
    order: VecDeque<SessionId>,
}

#[derive(Debug, Clone, PartialEq)]
struct Remembered {
    uid: u32,
    /// The greatest number that was answered.
    number_max: u64,
    answers: VecDeque<(u64, Answer)>,
}

impl Answers {
    /// The answer that this request of this session of this user already got.
    pub fn get(&self, session: SessionId, uid: u32, number: u64) -> Option<&Answer> {
        let remembered = self.by_session.get(&session).filter(|remembered| remembered.uid == uid)?;
        // Nearly every request is new, and nearly every other is the last one.
        if number > remembered.number_max {
            return None;
        }
        remembered.answers.iter().rev().find_map(|(n, answer)| (*n == number).then_some(answer))
    }

    /// The user that a session belongs to, as far as it is remembered.
    pub fn owner(&self, session: SessionId) -> Option<u32> {
        self.by_session.get(&session).map(|remembered| remembered.uid)
    }

    /// Every session with its user and its answers; the one that goes first comes first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (SessionId, u32, impl Iterator<Item = &(u64, Answer)>)> {
        self.order.iter().filter_map(|session| {
            let remembered = self.by_session.get(session)?;
            Some((*session, remembered.uid, remembered.answers.iter()))
        })
    }

    pub(super) fn put(&mut self, session: SessionId, uid: u32, number: u64, answer: Answer) {
        let remembered = self.by_session.entry(session).or_insert_with(|| {
            self.order.push_back(session);
            Remembered { uid, number_max: 0, answers: VecDeque::new() }
        });
        remembered.number_max = remembered.number_max.max(number);
        remembered.answers.push_back((number, answer));
        if remembered.answers.len() > ANSWERS_PER_SESSION_MAX {
            remembered.answers.pop_front();
        }
        while self.by_session.len() > ANSWER_SESSIONS_MAX {
            match self.order.pop_front() {
                Some(oldest) => drop(self.by_session.remove(&oldest)),
                None => break,
            }
        }
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        if self.by_session.remove(&session).is_some() {
            self.order.retain(|other| *other != session);
        }
    }
}
