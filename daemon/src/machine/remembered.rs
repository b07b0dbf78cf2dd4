//! The answers of one session, and runs of sessions whose answers are packed until somebody asks again: hardly ever.

use std::collections::VecDeque;
use std::sync::Arc;

use stated_shared::SessionId;
use stated_shared::limits::ANSWERS_PER_SESSION_MAX;

use super::Divergence;
use super::answers::Answer;
use super::packed::{Packed, Unreadable};
use super::snapshot::{Answered, Line};

/// Answers in a run that grows no more.
pub(super) const RUN_ANSWERS_MAX: usize = 512;

/// An answer, and the number of the request that it is of.
pub(super) type Numbered = (u64, Answer);

/// A session that was answered.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub uid: u32,
    /// When it was answered last, by the clock that answers grow old by.
    pub age_ms: u64,
    /// Its place among the sessions.
    pub turn: u64,
    /// The oldest of its answers, where they are packed.
    packed: Option<Place>,
    /// Those after them.
    loose: VecDeque<Numbered>,
    /// The highest number of these: most requests are new, and then none of them needs a look.
    loose_highest: u64,
}

/// Where the answers of a session are packed.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub run: Arc<SessionRun>,
    /// The session's place in the run.
    pub at: usize,
    /// How many of what is there, the newest, are remembered.
    pub len: usize,
}

/// Sessions whose answers are packed together.
#[derive(Debug)]
pub(super) struct SessionRun(Packed<Vec<Vec<Numbered>>>);

impl Remembered {
    /// One without an answer yet.
    pub fn new(uid: u32, age_ms: u64, turn: u64) -> Self {
        Self { uid, age_ms, turn, packed: None, loose: VecDeque::new(), loose_highest: 0 }
    }

    /// How many answers are remembered.
    pub fn len(&self) -> usize {
        self.packed.as_ref().map_or(0, |place| place.len) + self.loose.len()
    }

    /// Where its answers are packed: all of them, or none.
    pub fn place(&self) -> Option<&Place> {
        self.packed.as_ref().filter(|_| self.loose.is_empty())
    }

    /// The answer to the request of this number. The last ones are asked for again, if any.
    pub fn get(&self, number: u64) -> Result<Option<&Answer>, Unreadable> {
        let is_it = |numbered: &&Numbered| numbered.0 == number;
        let may_be_loose = number <= self.loose_highest;
        let mut found = may_be_loose.then(|| self.loose.iter().rev().find(is_it)).flatten();
        if let (None, Some(place)) = (found, &self.packed) {
            found = place.answers()?.iter().rev().find(is_it);
        }
        Ok(found.map(|(_, answer)| answer))
    }

    /// All of them, the oldest first.
    pub fn answers(&self) -> Result<impl Iterator<Item = &Numbered>, Unreadable> {
        let packed = self.packed.as_ref().map_or(Ok(&[][..]), Place::answers)?;
        Ok(packed.iter().chain(&self.loose))
    }

    /// The newest answer; the oldest goes where there are too many.
    pub fn push(&mut self, number: u64, answer: Answer) {
        self.loose_highest = self.loose_highest.max(number);
        self.loose.push_back((number, answer));
        if self.len() <= ANSWERS_PER_SESSION_MAX {
            return;
        }
        match &mut self.packed {
            Some(place) if place.len > 1 => place.len -= 1,
            Some(_) => self.packed = None,
            None => drop(self.loose.pop_front()),
        }
    }

    /// All of its answers are there from now on.
    pub fn pack(&mut self, place: Place) {
        self.packed = Some(place);
        self.loose.clear();
    }
}

impl Place {
    fn answers(&self) -> Result<&[Numbered], Unreadable> {
        let answers = self.run.rows()?.get(self.at);
        let kept = answers.and_then(|answers| answers.get(answers.len().checked_sub(self.len)?..));
        kept.ok_or_else(|| Unreadable(format!("{} answers of session {} in a run", self.len, self.at)))
    }
}

impl SessionRun {
    /// Packs sessions. Those that soon become part of a longer run are kept unpacked as well.
    pub fn pack(sessions: &[(SessionId, &Remembered)], is_growing: bool) -> Result<Self, Divergence> {
        let mut rows = Vec::with_capacity(sessions.len());
        let mut lines = Vec::with_capacity(sessions.len());
        for (session, remembered) in sessions {
            let answers: Vec<Numbered> = remembered.answers()?.cloned().collect();
            lines.push(Line::Answers(Answered::of(*session, remembered)?));
            rows.push(answers);
        }
        Ok(Self(Packed::pack(&lines, is_growing.then_some(rows))?))
    }

    /// One that a snapshot holds.
    pub fn of_frame(frame: &[u8]) -> Self {
        Self(Packed::of_frame(frame))
    }

    fn rows(&self) -> Result<&[Vec<Numbered>], Unreadable> {
        let rows = self.0.unpacked(|lines| {
            let row = |line| match line {
                Line::Answers(answered) => Ok(answered.into_answers()),
                _ => Err(Unreadable("no answers among answers".to_owned())),
            };
            lines.map(|line| line.and_then(row)).collect()
        });
        rows.map(Vec::as_slice)
    }

    pub fn frame(&self) -> &[u8] {
        self.0.frame()
    }

    pub fn is_unpacked(&self) -> bool {
        self.0.is_unpacked()
    }
}
