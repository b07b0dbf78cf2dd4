//! Summaries in place of what they are of.

use super::super::event::{Observed, Summarized, SummarizedDeed, SummarizedOf};
use super::*;

fn deed(verb: &str, name: Option<StateName>, count: u64) -> SummarizedDeed {
    SummarizedDeed { verb: verb.to_owned(), name, count, last: Timestamp(1_764_000_000_123) }
}

fn event(what: What) -> Event {
    Event { at: Timestamp(1_764_000_000_000), actor: actor(0), what }
}

pub(super) fn golden() -> Vec<Event> {
    let by = vec![
        SummarizedOf {
            uid: 1000,
            gid: 1000,
            user: Some("alice".to_owned()),
            host: "build-7".to_owned(),
            deeds: vec![deed("get", Some(name(0)), 12), deed("lock", Some(name(1)), 3)],
        },
        SummarizedOf { uid: 0, gid: 0, user: None, host: "build-7".to_owned(), deeds: vec![deed("unlock", None, 1)] },
    ];
    let records = vec![(Seq(3), Seq(3)), (Seq(5), Seq(9))];
    let whole = Summarized { part: Seq(2), last: Seq(12), records, by };
    let nothing = Summarized { part: Seq(13), last: Seq(40), records: Vec::new(), by: Vec::new() };
    vec![event(What::Summarized(whole)), event(What::Summarized(nothing))]
}

#[test]
fn whoever_meets_the_summary_alone_knows_as_much() {
    let observed = |verb: &str, at: u8| {
        let (verb, outcome) = (verb.to_owned(), "ok".to_owned());
        event(What::Observed(Observed { verb, name: Some(name(at)), version: None, outcome, count: 1 }))
    };
    let summary = &golden()[0];
    let mut whole = Machine::default();
    for (seq, event) in [(3, observed("get", 0)), (5, observed("lock", 1)), (60, summary.clone())] {
        whole.apply(Seq(seq), &event).unwrap();
    }
    let mut alone = Machine::default();
    alone.apply(Seq(60), summary).unwrap();
    assert_eq!(whole, alone);
    assert_eq!(alone.locked_before(), &BTreeSet::from([name(1)]));
}

#[test]
fn it_is_known_how_far_was_summed_up_and_where_that_is_told() {
    let mut machine = Machine::default();
    let mut told = |seq, part, last| {
        let what =
            What::Summarized(Summarized { part: Seq(part), last: Seq(last), records: Vec::new(), by: Vec::new() });
        machine.apply(Seq(seq), &event(what)).unwrap();
        assert_eq!(restored(&machine), machine);
        machine.summed().cloned().unwrap()
    };
    let summed = |part, last, told: &[u64]| Summed {
        part: Seq(part),
        last: Seq(last),
        told: told.iter().copied().map(Seq).collect(),
    };
    assert_eq!(told(50, 1, 7), summed(1, 7, &[50]));
    assert_eq!(told(51, 1, 9), summed(1, 9, &[50, 51]));
    assert_eq!(told(51, 1, 12), summed(1, 12, &[50, 51]));
    // What was lost is told of as if it were of no part.
    assert_eq!(told(60, 0, 0), summed(1, 12, &[50, 51]));
    assert_eq!(told(70, 13, 20), summed(13, 20, &[70]));
}
