//! The search for an order, after Wing and Gong ("Testing and Verifying Concurrent Objects", 1993), with the
//! remembered dead ends of Lowe ("Testing for Linearizability", 2017).

use std::collections::HashSet;

use super::history::Event;
use super::model::Model;

/// `Err` with the most requests that could be put in order.
pub fn check(events: &[Event]) -> Result<(), usize> {
    assert!(events.len() <= 64, "the set of ordered requests is a word");
    let mut search = Search { events, dead_ends: HashSet::new(), longest: 0 };
    if search.go_on(0, &Model::default()) { Ok(()) } else { Err(search.longest) }
}

struct Search<'a> {
    events: &'a [Event],
    dead_ends: HashSet<(u64, Model)>,
    longest: usize,
}

impl Search<'_> {
    /// Whether the requests that are not ordered yet can follow on this model.
    fn go_on(&mut self, ordered: u64, model: &Model) -> bool {
        let events = self.events;
        let open = || (0..events.len()).filter(move |n| ordered >> n & 1 == 0);
        // One that was never answered may have been done at any time from its being asked on, or never.
        if open().all(|n| events[n].answered.is_none()) {
            return true;
        }
        if !self.dead_ends.insert((ordered, model.clone())) {
            return false;
        }
        self.longest = self.longest.max(ordered.count_ones() as usize);
        // Whatever was answered comes before all that was asked later.
        let first_answer = open().filter_map(|n| events[n].answered.as_ref().map(|(at, _)| *at)).min();
        for n in open().filter(|n| first_answer.is_none_or(|at| events[*n].asked_at < at)) {
            let (next, answer) = model.ask(&events[n].ask);
            let fits = events[n].answered.as_ref().is_none_or(|(_, told)| *told == answer);
            if fits && self.go_on(ordered | 1 << n, &next) {
                return true;
            }
        }
        false
    }
}

mod tests {
    use super::super::model::{Answer, Ask, Expect};
    use super::*;

    fn put(state: char, content: u64) -> Ask {
        Ask::Put { changes: vec![(state, Expect::Any, Some(content))] }
    }

    fn both(content: u64) -> Ask {
        Ask::Put { changes: vec![('a', Expect::Any, Some(content)), ('b', Expect::Any, Some(content))] }
    }

    fn at(asked_at: u64, answered_at: u64, ask: Ask, answer: Answer) -> Event {
        Event { asked_at, ask, answered: Some((answered_at, answer)) }
    }

    fn committed(state: char, version: u64) -> Answer {
        Answer::Committed(vec![(state, version, true)])
    }

    #[test]
    fn overlapping_requests_may_have_either_order() {
        for seen in [Answer::NotFound, Answer::Version(1, Some(7))] {
            let events = [at(0, 3, put('a', 7), committed('a', 1)), at(1, 2, Ask::Get { state: 'a' }, seen)];
            assert_eq!(check(&events), Ok(()));
        }
    }

    #[test]
    fn a_stale_read_is_found() {
        let read = at(2, 3, Ask::Get { state: 'a' }, Answer::NotFound);
        assert!(check(&[at(0, 1, put('a', 7), committed('a', 1)), read]).is_err());
    }

    #[test]
    fn a_lost_write_is_found() {
        let one = at(0, 1, put('a', 1), committed('a', 1));
        assert!(check(&[one.clone(), at(2, 3, put('a', 2), committed('a', 1))]).is_err());
        let expect = Ask::Put { changes: vec![('a', Expect::Version(1), Some(3))] };
        let races = [at(2, 9, expect.clone(), committed('a', 2)), at(3, 8, expect, committed('a', 2))];
        assert!(check(&[&[one], &races[..]].concat()).is_err(), "both may not win");
    }

    #[test]
    fn half_a_commit_is_found() {
        let all = Answer::Committed(vec![('a', 1, true), ('b', 1, true)]);
        let seen =
            |rows: Vec<(char, u64, u64)>| [at(0, 9, both(5), all.clone()), at(1, 2, Ask::List, Answer::Versions(rows))];
        assert_eq!(check(&seen(vec![])), Ok(()));
        assert_eq!(check(&seen(vec![('a', 1, 5), ('b', 1, 5)])), Ok(()));
        assert!(check(&seen(vec![('a', 1, 5)])).is_err());
    }

    #[test]
    fn what_was_never_answered_was_done_or_not_but_not_undone() {
        let open = Event { asked_at: 0, ask: put('a', 7), answered: None };
        let read = |from, seen| at(from, from + 1, Ask::Get { state: 'a' }, seen);
        let (there, gone) = (Answer::Version(1, Some(7)), Answer::NotFound);
        assert_eq!(check(&[open.clone(), read(1, gone.clone()), read(3, there.clone())]), Ok(()));
        assert_eq!(check(&[open.clone(), read(1, gone.clone())]), Ok(()));
        assert!(check(&[open, read(1, there), read(3, gone)]).is_err());
    }
}
