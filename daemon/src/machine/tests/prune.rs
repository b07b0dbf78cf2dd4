//! Prunes among everything else that clients ask for.

use super::super::event::{Moved, Pruned, PrunedState};
use super::*;
use crate::machine::{Keep, PruneAsk, PrunedOf};

/// A prune whose plan may be older than its decision.
#[derive(Debug, Clone)]
pub(super) struct PruneAct {
    state: u8,
    last: Option<u64>,
    tagged: bool,
    /// How many of the versions that must be stored anew are.
    moves: usize,
    /// What is written between plan and decision.
    between: Vec<u8>,
}

pub(super) fn any_prune() -> impl Strategy<Value = PruneAct> {
    let between = prop::collection::vec(0..9_u8, 0..4);
    (0..3_u8, prop::option::of(1..4_u64), any::<bool>(), 0..4_usize, between).prop_map(
        |(state, last, tagged, moves, between)| PruneAct {
            state,
            last,
            tagged: tagged || last.is_none(),
            moves,
            between,
        },
    )
}

/// The content as a patch from the newest one, every third from one further back.
pub(super) fn patched(states: &States, state: u8, content: Content) -> Content {
    let newest = states.newest_content(&name(state));
    let base = newest.map(|newest| match states.chain(&name(state), newest).last() {
        Some(Ok((head, ..))) if newest.0.is_multiple_of(3) => head,
        _ => newest,
    });
    Content { base, ..content }
}

/// A commit with its contents stored whole.
pub(super) fn whole(ask: &Ask) -> Ask {
    let Ask::Commit(commit) = ask else { panic!("{ask:?} has nothing to be staged") };
    let mut commit = commit.clone();
    commit.changes.iter_mut().filter_map(|change| change.content.as_mut()).for_each(|content| content.base = None);
    Ask::Commit(commit)
}

fn ask_of(states: &States, keep: Keep, state: u8, moves: usize) -> Ask {
    let plan = states.plan(&name(state), &keep).unwrap();
    let moved = plan.moved.iter().take(moves).map(|&(version, base)| Moved {
        version,
        payload: Payload::Blob { id: "0".repeat(32), len_bytes: 9 },
        base,
    });
    let moved = moved.collect();
    Ask::Prune(PruneAsk { keep, states: vec![PrunedOf { state: name(state), moved }], next: None })
}

pub(super) fn act(rig: &mut Rig, act: &PruneAct) {
    let PruneAct { state, last, tagged, moves, between } = act;
    let keep = Keep { last: *last, since: None, tagged: *tagged };
    let ask = ask_of(rig.machine.states(), keep, *state, *moves);
    // Staged before the prune, decided after it.
    let late = StagedChange {
        state: name(*state),
        expect: Expect::Any,
        content: Some(patched(rig.machine.states(), *state, content(200))),
    };
    for bytes in between {
        let staged = patched(rig.machine.states(), *state, content(100 + *bytes));
        let change = StagedChange { state: name(*state), expect: Expect::Any, content: Some(staged) };
        let _ = rig.ask(1, &commit(vec![change], &[]));
    }
    let before: Vec<_> = rig
        .machine
        .states()
        .all()
        .map(Result::unwrap)
        .map(|(name, version, entry)| (name.clone(), version, entry.clone()))
        .collect();
    let Ok(Some(Reply::Pruned(page))) = rig.ask(0, &ask).1 else { panic!("a prune is refused") };
    for (of, version, old) in before {
        let states = rig.machine.states();
        let (_, entry) = states.select(&of, &Selector::Version(version)).unwrap().unwrap();
        let is_tagged = states.tagged_versions(&of).contains(&version);
        let is_dropped = page
            .rows
            .iter()
            .any(|row| row.state == of && row.dropped.iter().any(|(first, last)| (*first..=*last).contains(&version)));
        assert_eq!(entry.kept().is_some(), old.kept().is_some() && !is_dropped, "{of}@{version}");
        assert!(!is_dropped || !tagged || !is_tagged || old.kept().is_none(), "{of}@{version} has a tag");
        let facts = |entry: &VersionEntry| entry.content.as_ref().map(|content| (content.sha256, content.size_bytes));
        assert_eq!(
            (entry.seq, facts(entry), &entry.commit),
            (old.seq, facts(&old), &old.commit),
            "what is known stays"
        );
    }
    let left =
        rig.machine.states().versions(&name(*state)).unwrap().iter().filter(|entry| entry.kept().is_some()).count();
    if let Some(row) = page.rows.first()
        && let Some(last) = last
        && !tagged
    {
        assert_eq!(left as u64, last + row.needed, "{row:?}");
    }
    let _ = rig.ask(1, &commit(vec![late], &[]));
}

/// Every version that is kept can be read by versions that are kept, and the newest content is.
pub(super) fn check(states: &States) {
    for (state, version, entry) in states.all().map(Result::unwrap) {
        if entry.kept().is_some() {
            let chain: Vec<_> = states.chain(state, version).map(Result::unwrap).collect();
            assert!(chain.last().is_some_and(|(_, _, content)| content.base.is_none()), "{state}@{version}: {chain:?}");
        } else {
            assert_eq!(states.chain(state, version).count(), 0);
        }
        let newest = states.newest_content(state);
        assert!(
            newest.is_none_or(|newest| states.is_kept(state, newest).unwrap()),
            "the newest content of {state} is gone"
        );
    }
}

pub(super) fn golden() -> Vec<Event> {
    let moved = |version, base, payload| Moved { version: Version(version), payload, base };
    let states = vec![
        PrunedState { state: name(0), dropped: vec![(Version(1), Version(1))], moved: Vec::new() },
        PrunedState {
            state: name(1),
            dropped: vec![(Version(1), Version(63)), (Version(65), Version(70))],
            moved: vec![
                moved(64, None, Payload::Blob { id: "00ff".repeat(8), len_bytes: 70_000 }),
                moved(71, Some(Version(64)), Payload::Inline { offset_bytes: 7, len_bytes: 9 }),
            ],
        },
    ];
    vec![Event { at: Timestamp(1_764_000_000_000), actor: actor(0), what: What::Pruned(Pruned { states }) }]
}

fn put(rig: &mut Rig, staged: Content) {
    let change = StagedChange { state: name(0), expect: Expect::Any, content: Some(staged) };
    rig.ask(0, &commit(vec![change], &[])).1.unwrap();
}

/// One after the other, as the engine chooses bases.
fn long_history(versions: u8) -> Rig {
    let mut rig = Rig::new();
    for n in 0..versions {
        let base = match n {
            0 => None,
            // Here runs have eight versions, so that a short history has leaps.
            n if n % 8 == 0 => Some(n - 7),
            n => Some(n),
        };
        put(&mut rig, Content { base: base.map(|base| Version(u64::from(base))), ..content(n) });
    }
    rig
}

proptest! {
    /// Whichever versions are kept, nobody is further from a whole frame than before.
    #[test]
    fn chains_get_no_longer(tags in prop::collection::btree_set(1..60_u64, 0..6), last in 1..30_u64) {
        let mut rig = long_history(60);
        for (n, version) in tags.iter().enumerate() {
            let tag = Tag { state: name(0), tag: tag(n as u8), at: Some(Selector::Version(Version(*version))), moves: false };
            rig.ask(0, &Ask::Tag(tag)).1.unwrap();
        }
        let steps = |rig: &Rig| -> Vec<usize> {
            (1..=60).map(|version| rig.machine.states().chain(&name(0), Version(version)).count()).collect()
        };
        let before = steps(&rig);
        let keep = Keep { last: Some(last), since: None, tagged: true };
        let mut packed = rig.machine.clone();
        packed.pack().unwrap();
        let ask = ask_of(rig.machine.states(), keep, 0, usize::MAX);
        rig.ask(0, &ask).1.unwrap();
        check(rig.machine.states());
        // What is packed is altered alike, whether all of it is touched or its end.
        packed.apply(Seq(rig.journal.len() as u64), rig.journal.last().unwrap()).unwrap();
        prop_assert!(packed.states() == rig.machine.states());
        let kept = steps(&rig).into_iter().zip(before).filter(|(after, _)| *after > 0);
        let mut count = 0;
        for (after, before) in kept {
            prop_assert!(after <= before);
            count += 1;
        }
        let early = tags.iter().filter(|version| **version <= 60 - last).count() as u64;
        prop_assert_eq!(count, last + early, "and nothing else stays");
    }
}

#[test]
fn what_a_kept_version_needs_stays_unless_that_was_stored_anew() {
    let keep = Keep { last: Some(2), since: None, tagged: false };
    let (mut rig, name_of_it) = (long_history(8), name(0));
    let ask = ask_of(rig.machine.states(), keep, 0, 0);
    let Ok(Some(Reply::Pruned(page))) = rig.ask(0, &ask).1 else { panic!() };
    assert_eq!(page.rows, [], "all are needed, and there was no room for anything else");
    let before = rig.journal.len();
    let ask = ask_of(rig.machine.states(), keep, 0, 1);
    let Ok(Some(Reply::Pruned(page))) = rig.ask(0, &ask).1 else { panic!() };
    let row = &page.rows[0];
    assert_eq!((&row.dropped[..], row.versions, row.reencoded), (&[(Version(1), Version(6))][..], 6, 1));
    assert_eq!(rig.journal.len(), before + 1);
    let record_of = |version: u64| Seq(before as u64 - 8 + version);
    let told: Vec<_> = (1..=8).map(|version| (&name_of_it, Version(version), record_of(version))).collect();
    assert_eq!(rig.machine.states().needed(told.into_iter()), [false, false, false, false, false, false, false, true]);
    let moved = [(&name_of_it, Version(7), Seq(rig.journal.len() as u64))];
    assert_eq!(rig.machine.states().needed(moved.into_iter()), [true], "it is where the prune put it");
    let mut given_up = Vec::new();
    rig.machine.states().given_up(&mut |seq, _| given_up.push(seq)).unwrap();
    assert_eq!(
        given_up,
        [1, 2, 3, 4, 5, 6].map(record_of),
        "the seventh is in a blob now, and nothing tells what it was"
    );
    let Ok(Some(Reply::Pruned(page))) = rig.ask(0, &ask).1 else { panic!() };
    assert_eq!((page.rows.len(), rig.journal.len()), (0, before + 1), "once more it changes nothing");
    assert!(rig.machine.states().freed(&Pruned { states: Vec::new() }).unwrap().is_empty());
}

#[test]
fn time_and_tags_keep_too_and_removals_count_for_nothing() {
    let mut rig = Rig::new();
    for n in 0..4 {
        rig.boottime_ms += 1000;
        rig.put(0, 0, n, &[]).unwrap();
    }
    let removal = StagedChange { state: name(0), expect: Expect::Any, content: None };
    rig.ask(0, &commit(vec![removal], &[])).1.unwrap();
    let give = Tag { state: name(0), tag: tag(0), at: Some(Selector::Version(Version(1))), moves: false };
    rig.ask(0, &Ask::Tag(give)).1.unwrap();
    let dropped = |rig: &Rig, keep| rig.machine.states().plan(&name(0), &keep).unwrap().dropped;
    let runs = |runs: &[(u64, u64)]| runs.iter().map(|(a, b)| (Version(*a), Version(*b))).collect::<Vec<_>>();
    let keep = Keep { last: Some(1), ..Keep::default() };
    assert_eq!(dropped(&rig, keep), runs(&[(1, 3)]), "the removal is the newest version, and 4 the newest content");
    assert_eq!(dropped(&rig, Keep { tagged: true, ..keep }), runs(&[(2, 3)]));
    let since = Some(Timestamp(rig.time().wall.0 - 1000));
    assert_eq!(dropped(&rig, Keep { since, ..Keep::default() }), runs(&[(1, 2)]));
    assert_eq!(dropped(&rig, Keep { since, tagged: true, last: Some(3) }), runs(&[]));
    let ask = Ask::Prune(PruneAsk { keep, states: vec![PrunedOf { state: name(0), moved: Vec::new() }], next: None });
    rig.ask(0, &ask).1.unwrap();
    let at = |version| {
        Ask::Tag(Tag { state: name(0), tag: tag(1), at: Some(Selector::Version(Version(version))), moves: false })
    };
    assert_eq!(rig.ask(0, &at(2)).1, Err(FailureKind::NotFound), "what is gone takes no tag");
    rig.ask(0, &at(4)).1.unwrap();
}

#[test]
fn a_patch_from_what_was_pruned_meanwhile_is_not_taken() {
    let mut rig = long_history(3);
    let keep = Keep { last: Some(1), since: None, tagged: false };
    let ask = ask_of(rig.machine.states(), keep, 0, usize::MAX);
    rig.ask(0, &ask).1.unwrap();
    let staged = Content { base: Some(Version(2)), ..content(50) };
    let change = StagedChange { state: name(0), expect: Expect::Any, content: Some(staged) };
    let actor = actor(0);
    let access: Arc<dyn Access> = Arc::new(Itself);
    let cx = Context { time: rig.time(), actor: &actor, number: 99, drawn: drawn(1), access: &access };
    let decision = rig.machine.decide(&cx, &commit(vec![change], &[]));
    assert!(matches!(decision.verdict, Verdict::Restage) && decision.steps.is_empty());
}

#[test]
fn a_prune_that_leaves_a_version_unreadable_does_not_fit() {
    let mut rig = long_history(3);
    for (dropped, moved) in [
        ((1, 1), vec![]),
        ((2, 9), vec![]),
        ((0, 1), vec![]),
        ((1, 2), vec![(3, Some(1))]),
        ((1, 1), vec![(2, Some(2))]),
    ] {
        let moved = moved.into_iter().map(|(version, base): (u64, Option<u64>)| Moved {
            version: Version(version),
            payload: Payload::Inline { offset_bytes: 0, len_bytes: 1 },
            base: base.map(Version),
        });
        let dropped = vec![(Version(dropped.0), Version(dropped.1))];
        let states = vec![PrunedState { state: name(0), dropped, moved: moved.collect() }];
        let event = Event { at: Timestamp(0), actor: actor(0), what: What::Pruned(Pruned { states }) };
        let mut machine = rig.machine.clone();
        assert!(machine.apply(Seq(99), &event).is_err(), "{event:?}");
    }
    let ask = ask_of(rig.machine.states(), Keep { last: Some(1), ..Keep::default() }, 0, 9);
    rig.ask(0, &ask).1.unwrap();
}
