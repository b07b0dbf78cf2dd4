//! Answers to requests that changed something, kept so that a retry is answered and not applied twice.
//!
//! They are forgotten by age: clients stop to ask again long before. Age is counted from event to event of the journal,
//! so that a replay forgets what the live machine did. A clock that is set back adds nothing to it, and one that jumps
//! ahead, or a daemon that was down, no more than [`STEP_MS_MAX`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stated_shared::limits::{ANSWER_AGE_MS_MAX, ANSWER_SESSIONS_MAX};
use stated_shared::{Generation, LockId, Reply, SessionId, StateName, Timestamp, Version};

use super::Divergence;
use super::packed::Unreadable;
use super::remembered::{Numbered, Place, RUN_ANSWERS_MAX, Remembered, SessionRun};

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
    /// The keyring that was made.
    Rekeyed(Generation),
}

/// The last answers of the last sessions. Bounded in both directions and by age, the oldest go first.
#[derive(Debug, Default, Clone)]
pub struct Answers {
    by_session: BTreeMap<SessionId, Arc<Remembered>>,
    /// Sessions in the order of their last answers.
    order: BTreeMap<u64, SessionId>,
    turns: u64,
    /// From which turn on there are sessions that were answered since the last packing.
    settled: u64,
    age: Age,
}

/// How far the clock that answers grow old by has come, and the event that it did so at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Age {
    elapsed_ms: u64,
    at: Timestamp,
}

/// Neighbours: sessions of one run, or such as are in none.
pub(super) type Neighbours<'a> = (Option<&'a Arc<SessionRun>>, Vec<(SessionId, &'a Remembered)>);

impl Answers {
    /// The answer that this request of this session of this user already got.
    pub fn get(&self, session: SessionId, uid: u32, number: u64) -> Result<Option<&Answer>, Unreadable> {
        let remembered = self.by_session.get(&session).filter(|remembered| remembered.uid == uid);
        remembered.map_or(Ok(None), |remembered| remembered.get(number))
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

    /// Every session, as above: those of a run together, for as far as they are neighbours.
    pub(super) fn neighbours(&self) -> Vec<Neighbours<'_>> {
        let mut all: Vec<Neighbours<'_>> = Vec::new();
        for (session, remembered) in self.in_order() {
            let run = remembered.place().map(|place| &place.run);
            match all.last_mut().filter(|(last, _)| last.map(Arc::as_ptr) == run.map(Arc::as_ptr)) {
                Some((_, sessions)) => sessions.push((session, remembered)),
                None => all.push((run, vec![(session, remembered)])),
            }
        }
        all
    }

    /// How many runs of packed answers there are, and how many of them are unpacked.
    pub fn run_count(&self) -> (u64, u64) {
        let places = self.by_session.values().filter_map(|remembered| remembered.place());
        let runs: BTreeMap<_, _> = places.map(|place| (Arc::as_ptr(&place.run), &place.run)).collect();
        (runs.len() as u64, runs.values().filter(|run| run.is_unpacked()).count() as u64)
    }

    pub(super) fn age(&self) -> Age {
        self.age
    }

    pub(super) fn put(&mut self, at: Timestamp, session: SessionId, uid: u32, number: u64, answer: Answer) {
        self.age.elapsed_ms += at.0.saturating_sub(self.age.at.0).min(STEP_MS_MAX);
        self.age.at = at;
        let age_ms = self.age.elapsed_ms;
        self.turn(session, uid, age_ms).push(number, answer);
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
        let empty = || Arc::new(Remembered::new(uid, age_ms, turn));
        let remembered = Arc::make_mut(self.by_session.entry(session).or_insert_with(empty));
        self.order.remove(&remembered.turn);
        self.order.insert(turn, session);
        (remembered.age_ms, remembered.turn) = (age_ms, turn);
        remembered
    }

    /// Packs the answers of sessions that were not answered since the last time. On `Err` nothing has changed but that.
    ///
    /// Whoever is at work stays as it is: it would be unpacked at once. Short runs, and those of which much was forgotten
    /// or taken out, are put together with their neighbours until they are long enough to be left alone.
    pub(super) fn pack(&mut self) -> Result<(), Divergence> {
        let mut runs: Vec<Vec<SessionId>> = vec![Vec::new()];
        let mut answers = 0;
        for (run, sessions) in self.neighbours() {
            let count: usize = sessions.iter().map(|(_, remembered)| remembered.len()).sum();
            if run.is_some() && count >= RUN_ANSWERS_MAX / 2 {
                runs.push(Vec::new());
                answers = 0;
                continue;
            }
            for (session, remembered) in sessions.into_iter().take_while(|(_, one)| one.turn < self.settled) {
                if answers + remembered.len() > RUN_ANSWERS_MAX {
                    runs.push(Vec::new());
                    answers = 0;
                }
                answers += remembered.len();
                if let Some(last) = runs.last_mut() {
                    last.push(session);
                }
            }
        }
        for sessions in runs {
            self.pack_run(&sessions)?;
        }
        self.settled = self.turns;
        Ok(())
    }

    fn pack_run(&mut self, sessions: &[SessionId]) -> Result<(), Divergence> {
        let row = |session: &SessionId| Some((*session, &**self.by_session.get(session)?));
        let rows: Vec<(SessionId, &Remembered)> = sessions.iter().filter_map(row).collect();
        let run = |at: usize| rows.get(at)?.1.place().map(|place| Arc::as_ptr(&place.run));
        if rows.is_empty() || (run(0).is_some() && (1..rows.len()).all(|at| run(at) == run(0))) {
            // There is nobody to put it together with.
            return Ok(());
        }
        let lens: Vec<usize> = rows.iter().map(|(_, remembered)| remembered.len()).collect();
        let is_growing = lens.iter().sum::<usize>() < RUN_ANSWERS_MAX / 2;
        let run = Arc::new(SessionRun::pack(&rows, is_growing)?);
        for (at, (session, len)) in sessions.iter().zip(lens).enumerate() {
            if let Some(remembered) = self.by_session.get_mut(session) {
                Arc::make_mut(remembered).pack(Place { run: Arc::clone(&run), at, len });
            }
        }
        Ok(())
    }

    pub(super) fn restore_age(&mut self, age: Age) {
        self.age = age;
    }

    /// Puts a session after those that were put back before, for its answers to follow.
    pub(super) fn restore(&mut self, session: SessionId, uid: u32, age_ms: u64) -> &mut Remembered {
        self.settled = self.turns + 1;
        self.turn(session, uid, age_ms)
    }
}

/// Of the turns only the order counts: a restored machine counts them anew.
impl PartialEq for Answers {
    fn eq(&self, other: &Self) -> bool {
        let all = |remembered: &Remembered| -> Result<Vec<Numbered>, Unreadable> {
            Ok(remembered.answers()?.cloned().collect())
        };
        let same = |(one, other): ((SessionId, &Remembered), (SessionId, &Remembered))| {
            let said = |(session, remembered): (SessionId, &Remembered)| (session, remembered.uid, remembered.age_ms);
            said(one) == said(other) && matches!((all(one.1), all(other.1)), (Ok(one), Ok(other)) if one == other)
        };
        self.age == other.age
            && self.session_count() == other.session_count()
            && self.in_order().zip(other.in_order()).all(same)
    }
}

#[cfg(test)]
mod tests {
    use stated_shared::limits::ANSWERS_PER_SESSION_MAX;

    use super::super::Machine;
    use super::super::snapshot::{Line, Restoring};
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn session(n: u64) -> SessionId {
        SessionId(u128::from(n).to_be_bytes())
    }

    fn put(answers: &mut Answers, at_ms: u64, n: u64) {
        answers.put(Timestamp(at_ms), session(n), 1000, 1, Answer::Lease(LockId::parse("x").unwrap()));
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
        let has = |n, uid| answers.get(session(n), uid, 1).unwrap().is_some();
        assert!(!has(2, 1000));
        assert!(has(1, 1000) && !has(1, 1001));
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

    /// Through a snapshot and back; and how many of its lines are of answers.
    fn restored(answers: &Answers) -> (Answers, usize) {
        let machine = Machine { answers: answers.clone(), ..Machine::default() };
        let (mut lines, mut frames) = (Vec::new(), Vec::new());
        let mut see = |line: &Line| lines.push(serde_json::to_string(line).unwrap());
        machine.store(&mut see, &mut |frame| frames.extend_from_slice(frame)).unwrap();
        let mut restoring = Restoring::new(&frames);
        lines.iter().for_each(|line| restoring.line(serde_json::from_str(line).unwrap()).unwrap());
        let of_answers = lines.iter().filter(|line| line.starts_with("{\"answer")).count();
        (restoring.finish().unwrap().answers, of_answers)
    }

    fn runs(answers: &Answers) -> Vec<*const SessionRun> {
        answers.neighbours().into_iter().filter_map(|(run, _)| run.map(Arc::as_ptr)).collect()
    }

    #[test]
    fn a_start_reads_no_more_for_many_sessions_than_for_few_and_forgets_none() {
        let mut lines_of = Vec::new();
        for count in [100, 10_000] {
            let mut answers = Answers::default();
            for n in 0..count {
                put(&mut answers, 1_764_000_000_000 + n, n);
                if n % 128 == 0 {
                    let before = runs(&answers);
                    answers.pack().unwrap();
                    let anew = runs(&answers).into_iter().filter(|run| !before.contains(run)).count();
                    assert!(anew <= 1, "what was packed once is copied: {anew} runs are new at {n}");
                }
            }
            answers.pack().unwrap();
            let (restored, lines) = restored(&answers);
            let (runs, unpacked) = restored.run_count();
            assert!(unpacked == 0 && runs >= count / RUN_ANSWERS_MAX as u64, "{runs} runs, {unpacked} unpacked");
            lines_of.push(lines);
            assert_eq!(restored.session_count() as u64, count);
            assert!(restored.owner(session(0)).is_some() && restored.run_count().1 == 0, "whose it is needs no look");
            assert!(restored.get(session(1), 1000, 1).unwrap().is_some());
            assert_eq!(restored.get(session(1), 1000, 2).unwrap(), None);
            assert!(restored.run_count().1 <= 1, "one run holds it");
            assert_eq!(restored, answers);
        }
        assert!(lines_of[1] <= lines_of[0] + 100, "{lines_of:?} lines of a snapshot");
    }

    #[test]
    fn whoever_comes_back_is_known_however_often_what_is_old_was_packed() {
        let (mut plain, mut packed) = (Answers::default(), Answers::default());
        let mut random = 1_u64;
        for n in 0..6000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Half are new, the others come back: a few again and again, some once in a while.
            let who = match random >> 62 {
                0 => (random >> 32) % 5,
                1 => (random >> 32) % (n + 1),
                _ => n,
            };
            for answers in [&mut plain, &mut packed] {
                let answer = Answer::Lease(LockId::parse(&format!("{n:032x}")).unwrap());
                answers.put(Timestamp(n * 200), session(who), 1000, n, answer);
            }
            if n % 97 == 0 {
                packed.pack().unwrap();
            }
            if n % 500 == 0 {
                packed = restored(&packed).0;
            }
        }
        assert_eq!(packed, plain);
        let (runs, _) = packed.run_count();
        let answers: usize = plain.in_order().map(|(_, remembered)| remembered.len()).sum();
        assert!(runs <= 2 + answers as u64 * 4 / RUN_ANSWERS_MAX as u64, "{runs} runs for {answers} answers");
        let lens: Vec<usize> = plain.in_order().map(|(_, remembered)| remembered.len()).collect();
        assert!(lens.contains(&ANSWERS_PER_SESSION_MAX) && lens.contains(&1), "{lens:?}");
    }
}
