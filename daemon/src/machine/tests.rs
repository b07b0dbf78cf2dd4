//! Properties of the machine under whatever clients ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use stated_shared::limits::NESTING_MAX;
use stated_shared::{
    Digest, Epoch, Expect, FailureKind, Hold, Lock, LockId, LockKind, Reply, RepositoryId, Selector, Seq, SerialRule,
    SessionId, StateName, TagName, Timestamp, Version, Wait,
};

use super::event::{Actor, BootId, Content, Event, Founded, Opened, Payload, What};
use super::*;

mod hidden;
mod prune;
mod summary;

fn name(n: u8) -> StateName {
    StateName::parse(&format!("state/{n}")).unwrap()
}

fn tag(n: u8) -> TagName {
    TagName::parse(&format!("t{n}")).unwrap()
}

fn drawn(n: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn lock_id(n: u64) -> LockId {
    LockId::from_random(drawn(n))
}

/// Sessions 0 and 1 are one user's, 2 and 3 another's.
fn actor(session: u8) -> Arc<Actor> {
    Arc::new(Actor {
        uid: 1000 + u32::from(session / 2),
        gid: 1000,
        pid: Some(100 + u32::from(session)),
        user: None,
        comm: None,
        exe: None,
        host: "build-7".to_owned(),
        session: SessionId([session + 1; 16]),
    })
}

fn content(n: u8) -> Content {
    Content {
        sha256: Digest([n; 32]),
        size_bytes: 1,
        serial: None,
        lineage: None,
        payload: Payload::Inline { offset_bytes: 0, len_bytes: 1 },
        base: None,
    }
}

/// A machine with what its owner does around it: numbers, clocks, the journal.
struct Rig {
    machine: Machine,
    journal: Vec<Event>,
    numbers: u64,
    boottime_ms: u64,
    granted: Vec<(SessionId, u64)>,
    denied: Vec<(SessionId, u64)>,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self {
            machine: Machine::default(),
            journal: Vec::new(),
            numbers: 0,
            boottime_ms: 1000,
            granted: Vec::new(),
            denied: Vec::new(),
        };
        let founded =
            Founded { repository: RepositoryId([7; 16]), generation: Generation(1), keyring: Digest([8; 32]) };
        rig.record(What::Founded(founded));
        rig.restart("boot-1");
        rig
    }

    fn time(&self) -> Time {
        Time { wall: Timestamp(1_764_000_000_000 + self.boottime_ms), boottime_ms: self.boottime_ms }
    }

    fn record(&mut self, what: What) {
        let event = Event { at: self.time().wall, actor: actor(0), what };
        self.fold(vec![Step::Record(Box::new(event))]);
    }

    fn restart(&mut self, boot: &str) {
        let epoch = Epoch(self.machine.epoch().0 + 1);
        let opened =
            Opened { epoch, boot: BootId(boot.to_owned()), boottime_ms: self.boottime_ms, version: "0".to_owned() };
        self.record(What::Opened(opened));
    }

    fn fold(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Record(event) => {
                    self.machine.apply(Seq(self.journal.len() as u64 + 1), &event).unwrap();
                    self.journal.push(*event);
                }
                Step::Move(motion) => self.machine.follow(&motion),
            }
        }
    }

    fn settle(&mut self) {
        while let Some(over) = self.machine.next_over(self.time(), &actor(0)) {
            assert!(!over.steps.is_empty());
            self.fold(over.steps);
        }
        for over in self.machine.timed_out(self.time()) {
            assert_eq!(over.failure.kind, FailureKind::Busy);
            self.machine.follow(&over.left);
        }
        while let Some(passed) = self.machine.next_passed(self.time()) {
            let told = if passed.denied.is_some() { &mut self.denied } else { &mut self.granted };
            told.push((passed.session, passed.number));
            self.fold(passed.steps);
        }
    }

    /// Asks, and returns the number of the request and what came of it.
    fn ask(&mut self, session: u8, ask: &Ask) -> (u64, Result<Option<Reply>, FailureKind>) {
        self.numbers += 1;
        let number = self.numbers;
        (number, self.ask_as(session, number, ask))
    }

    fn ask_as(&mut self, session: u8, number: u64, ask: &Ask) -> Result<Option<Reply>, FailureKind> {
        self.ask_by(session, number, ask, &(Arc::new(Itself) as Arc<dyn Access>))
    }

    fn ask_by(
        &mut self,
        session: u8,
        number: u64,
        ask: &Ask,
        access: &Arc<dyn Access>,
    ) -> Result<Option<Reply>, FailureKind> {
        let actor = actor(session);
        let cx = Context { time: self.time(), actor: &actor, number, drawn: drawn(number), access };
        let mut decision = self.machine.decide(&cx, ask);
        if matches!(decision.verdict, Verdict::Restage) {
            assert!(decision.steps.is_empty());
            decision = self.machine.decide(&cx, &prune::whole(ask));
        }
        let refused = matches!(decision.verdict, Verdict::Refuse(_));
        assert!(!refused || decision.steps.is_empty(), "a refusal changes nothing");
        self.fold(decision.steps);
        let answer = match decision.verdict {
            Verdict::Reply(reply) => Ok(Some(reply)),
            Verdict::Recall => match self.machine.recall(&actor, number, self.time()).expect("it was remembered") {
                Ok(reply) => Ok(Some(reply)),
                Err(failure) => Err(failure.kind),
            },
            Verdict::Refuse(failure) => Err(failure.kind),
            Verdict::Wait(_) => Ok(None),
            Verdict::Restage => panic!("what stands alone needs no base"),
        };
        self.settle();
        answer
    }

    fn lock(&mut self, session: u8, lock: Lock) -> Result<Option<LockId>, FailureKind> {
        self.lock_tied(session, lock, None)
    }

    fn lock_tied(&mut self, session: u8, lock: Lock, tie: Option<Tie>) -> Result<Option<LockId>, FailureKind> {
        match self.ask(session, &Ask::Lock(LockAsk { lock, tie, peer: None })).1? {
            Some(Reply::Granted(grant)) => Ok(Some(grant.id)),
            Some(other) => panic!("{other:?}"),
            None => Ok(None),
        }
    }

    fn put(&mut self, session: u8, state: u8, bytes: u8, locks: &[LockId]) -> Result<(), FailureKind> {
        let change = StagedChange { state: name(state), expect: Expect::Any, content: Some(content(bytes)) };
        self.ask(session, &commit(vec![change], locks)).1.map(drop)
    }
}

fn commit(changes: Vec<StagedChange>, locks: &[LockId]) -> Ask {
    Ask::Commit(CommitAsk {
        changes,
        locks: locks.to_vec(),
        message: None,
        labels: BTreeMap::new(),
        serials: SerialRule::Refuse,
    })
}

fn exclusive(names: &[u8]) -> Lock {
    Lock::exclusive(names.iter().map(|n| name(*n)), "lock")
}

#[derive(Debug, Clone)]
enum Act {
    Put { session: u8, states: Vec<u8>, content: Option<u8>, expect: Option<u8>, lock: Option<usize> },
    Lock { session: u8, names: BTreeSet<u8>, kind: LockKind, wait: Wait, ttl_ms: Option<u64>, under: Option<usize> },
    Unlock { session: u8, lock: usize },
    Renew { session: u8, lock: usize },
    Break { session: u8, name: u8 },
    Tag { session: u8, state: u8, tag: u8, at: Option<u8>, moves: bool },
    Prune(prune::PruneAct),
    Unlink { session: u8 },
    Pass { ms: u64 },
    Restart { boot: u8 },
}

fn any_kind() -> impl Strategy<Value = LockKind> {
    prop_oneof![
        3 => Just(LockKind::Exclusive),
        2 => Just(LockKind::Shared),
        1 => (1..3_u32).prop_map(|slots| LockKind::Semaphore { slots }),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    let session = || 0..4_u8;
    let wait = prop_oneof![Just(Wait::No), Just(Wait::Forever), (1..50_u64).prop_map(|ms| Wait::AtMost { ms })];
    prop_oneof![
        4 => (session(), prop::collection::vec(0..3_u8, 1..3), prop::option::weighted(0.8, 0..4_u8),
              prop::option::of(0..4_u8), prop::option::of(0..20_usize))
            .prop_map(|(session, states, content, expect, lock)| Act::Put { session, states, content, expect, lock }),
        6 => (session(), prop::collection::btree_set(0..3_u8, 1..3), any_kind(), wait,
              prop::option::weighted(0.3, 1..100_u64), prop::option::weighted(0.3, 0..20_usize))
            .prop_map(|(session, names, kind, wait, ttl_ms, under)| Act::Lock { session, names, kind, wait, ttl_ms, under }),
        4 => (session(), 0..20_usize).prop_map(|(session, lock)| Act::Unlock { session, lock }),
        1 => (session(), 0..20_usize).prop_map(|(session, lock)| Act::Renew { session, lock }),
        1 => (session(), 0..3_u8).prop_map(|(session, name)| Act::Break { session, name }),
        2 => (session(), 0..3_u8, 0..2_u8, prop::option::weighted(0.8, 0..4_u8), any::<bool>())
            .prop_map(|(session, state, tag, at, moves)| Act::Tag { session, state, tag, at, moves }),
        1 => prune::any_prune().prop_map(Act::Prune),
        1 => session().prop_map(|session| Act::Unlink { session }),
        2 => (1..60_u64).prop_map(|ms| Act::Pass { ms }),
        1 => (0..2_u8).prop_map(|boot| Act::Restart { boot }),
    ]
}

fn act(rig: &mut Rig, act: &Act) {
    let nth = |rig: &Rig, n: usize| rig.machine.locks().grants().nth(n).map(|grant| grant.id.clone());
    match act {
        Act::Put { session, states, content: bytes, expect, lock } => {
            let states: BTreeSet<u8> = states.iter().copied().collect();
            let changes = states.iter().map(|state| StagedChange {
                state: name(*state),
                expect: match expect {
                    None => Expect::Any,
                    Some(0) => Expect::Absent,
                    Some(n) => Expect::Version(Version(u64::from(*n))),
                },
                content: bytes.map(content).map(|content| prune::patched(rig.machine.states(), *state, content)),
            });
            let locks: Vec<LockId> = lock.and_then(|n| nth(rig, n)).into_iter().collect();
            let ask = commit(changes.collect(), &locks);
            let (number, first) = rig.ask(*session, &ask);
            let before = rig.journal.len();
            // A lost answer is asked for again: what was done is not done twice.
            if first.is_ok() {
                let again = rig.ask_as(*session, number, &ask);
                assert_eq!(rig.journal.len(), before);
                assert_eq!(again, first);
            }
        }
        Act::Lock { session, names, kind, wait, ttl_ms, under } => {
            let names: Vec<u8> = names.iter().copied().collect();
            let under = under.and_then(|n| nth(rig, n));
            let ask = Lock { kind: *kind, wait: *wait, ttl_ms: *ttl_ms, under, ..exclusive(&names) };
            let _ = rig.lock(*session, ask);
        }
        Act::Unlock { session, lock } => {
            if let Some(id) = nth(rig, *lock) {
                let (_, first) = rig.ask(*session, &Ask::Unlock { id: id.clone() });
                if first.is_ok() {
                    assert!(rig.ask(*session, &Ask::Unlock { id }).1.is_ok(), "a repeated unlock is answered well");
                }
            }
        }
        Act::Renew { session, lock } => {
            if let Some(id) = nth(rig, *lock) {
                let _ = rig.ask(*session, &Ask::Renew { id, ttl_ms: Some(50) });
            }
        }
        Act::Break { session, name: n } => {
            let _ = rig.ask(*session, &Ask::Break { name: name(*n), id: None });
        }
        Act::Tag { session, state, tag: n, at, moves } => {
            let at = at.map(|n| if n == 0 { Selector::Newest } else { Selector::Version(Version(u64::from(n))) });
            let ask = Tag { state: name(*state), tag: tag(*n), at: at.clone(), moves: *moves };
            let (_, answer) = rig.ask(*session, &Ask::Tag(ask));
            if let Ok(Some(Reply::Version(info))) = answer {
                assert_eq!(info.tags.contains(&tag(*n)), at.is_some());
                let tagged = rig.machine.states().select(&name(*state), &Selector::Tag(tag(*n))).unwrap();
                assert_eq!(tagged.map(|(version, _)| version), at.map(|_| info.version));
            }
        }
        Act::Prune(prune) => prune::act(rig, prune),
        Act::Unlink { session } => {
            let steps = rig.machine.unlink(actor(*session).session);
            rig.fold(steps);
            rig.settle();
        }
        Act::Pass { ms } => {
            rig.boottime_ms += ms;
            rig.settle();
        }
        Act::Restart { boot } => {
            rig.restart(&format!("boot-{boot}"));
            rig.settle();
        }
    }
}

/// What must hold at any time.
fn check(rig: &Rig) {
    prune::check(rig.machine.states());
    let locks = rig.machine.locks();
    let related = |a: &Grant, b: &Grant| {
        let up = |from: &Grant| {
            std::iter::successors(from.under.clone(), |id| locks.grant(id).and_then(|g| g.under.clone()))
                .collect::<Vec<_>>()
        };
        up(a).contains(&b.id) || up(b).contains(&a.id)
    };
    for n in 0..3 {
        let holders: Vec<&Grant> = locks.on(&name(n)).collect();
        for (i, a) in holders.iter().enumerate() {
            for b in &holders[i + 1..] {
                let compatible = matches!(
                    (a.kind, b.kind),
                    (LockKind::Shared, LockKind::Shared) | (LockKind::Semaphore { .. }, LockKind::Semaphore { .. })
                );
                assert!(compatible || related(a, b), "{a:?} and {b:?} hold one name");
                assert!(
                    a.fence != b.fence || related(a, b) || (a.under.is_some() && a.under == b.under),
                    "one fence, two holders"
                );
            }
        }
        let slots = holders.iter().filter(|g| g.under.is_none()).filter_map(|g| match g.kind {
            LockKind::Semaphore { slots } => Some(slots as usize),
            _ => None,
        });
        if let Some(least) = slots.clone().min() {
            assert!(slots.count() <= least, "more holders than slots");
        }
    }
    for grant in locks.grants() {
        if let Some(parent) = grant.under.as_ref() {
            let parent = locks.grant(parent).expect("a nested grant ends with its parent at the latest");
            assert!(grant.names.is_subset(&parent.names));
            assert_eq!(grant.fence, parent.fence);
        }
        assert!(!grant.is_abandoned() || grant.ending, "{grant:?} has nothing that keeps it");
    }
    for waiter in locks.waiters() {
        let wanted = &waiter.grant;
        let lets_pass = |earlier: &Waiter| {
            earlier.ticket < waiter.ticket
                && earlier.grant.under == wanted.under
                && !earlier.grant.names.is_disjoint(&wanted.names)
                && (earlier.grant.kind, wanted.kind) != (LockKind::Shared, LockKind::Shared)
        };
        let is_in_the_way = locks.in_the_way(wanted).next().is_some();
        assert_eq!(locks.is_in_the_way(wanted), is_in_the_way, "{wanted:?}");
        assert!(is_in_the_way || locks.waiters().any(lets_pass), "{wanted:?} waits for nothing");
    }
    assert_eq!(&locks.rebuilt(), locks, "what finds grants and waiters is not what they are");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever clients ask for, replaying the journal rebuilds the live machine, but for what lives with its holders.
    #[test]
    fn replay_rebuilds_the_live_machine(acts in prop::collection::vec(any_act(), 0..80)) {
        let mut rig = Rig::new();
        for one in &acts {
            act(&mut rig, one);
            check(&rig);
        }
        let mut replayed = Machine::default();
        for (i, event) in rig.journal.iter().enumerate() {
            let stored = serde_json::to_vec(event).unwrap();
            let event: Event = serde_json::from_slice(&stored).unwrap();
            replayed.apply(Seq(i as u64 + 1), &event).unwrap();
        }
        prop_assert_eq!(replayed.states(), rig.machine.states());
        prop_assert_eq!(replayed.answers(), rig.machine.answers());
        prop_assert_eq!(replayed.epoch(), rig.machine.epoch());
        let leases = |machine: &Machine| -> Vec<Grant> {
            let leases = machine.locks().grants().filter(|grant| matches!(grant.tenure, Tenure::Lease { .. }));
            leases.map(|grant| Grant { ending: false, ..grant.clone() }).collect()
        };
        prop_assert_eq!(leases(&replayed), leases(&rig.machine));
    }
}

/// The lines of a snapshot, and its frames.
fn stored(machine: &Machine) -> (String, Vec<u8>) {
    let (mut lines, mut frames) = (String::new(), Vec::new());
    let mut see = |line: &super::snapshot::Line| lines += &(serde_json::to_string(line).unwrap() + "\n");
    machine.store(&mut see, &mut |frame| frames.extend_from_slice(frame)).unwrap();
    (lines, frames)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever clients ask for, in whatever order, no two grants ever have one fence but those that nest.
    #[test]
    fn promise_6_at_most_one_holder_per_fence(acts in prop::collection::vec(any_act(), 0..80)) {
        let mut rig = Rig::new();
        let mut holders: BTreeMap<Fence, (LockId, Timestamp)> = BTreeMap::new();
        for one in &acts {
            act(&mut rig, one);
            check(&rig);
            for grant in rig.machine.locks().grants().filter(|grant| grant.under.is_none()) {
                let holder = (grant.id.clone(), grant.since);
                let before = holders.insert(grant.fence, holder.clone());
                prop_assert!(before.is_none_or(|before| before == holder), "{} was given before", grant.fence);
            }
        }
    }
}

/// Through the stored form and back.
fn restored(machine: &Machine) -> Machine {
    let (lines, frames) = stored(machine);
    let mut restoring = super::snapshot::Restoring::new(&frames);
    for line in lines.lines() {
        restoring.line(serde_json::from_str(line).unwrap()).unwrap();
    }
    restoring.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Wherever a snapshot is taken: what comes after it, folded into it, gives what the whole journal gives.
    #[test]
    fn a_snapshot_and_what_follows_equal_the_whole_replay(acts in prop::collection::vec(any_act(), 0..60)) {
        let mut rig = Rig::new();
        for one in &acts {
            act(&mut rig, one);
        }
        let events: Vec<(Seq, &Event)> = (1..).map(Seq).zip(&rig.journal).collect();
        let mut machine = Machine::default();
        // Each prefix's snapshot is taken of a machine that came out of the snapshot before.
        let mut cached = Machine::default();
        for (i, (seq, event)) in events.iter().enumerate() {
            machine.apply(*seq, event).unwrap();
            cached.apply(*seq, event).unwrap();
            if i % 3 > 0 {
                cached.pack().unwrap();
            }
            cached = restored(&cached);
            // To compare is to unpack, which the next one must do without.
            prop_assert_eq!(&cached.clone(), &machine, "after event {} of {}", i + 1, events.len());
            cached = restored(&cached);
        }
        let middle = events.len() / 2;
        let mut tailed = Machine::default();
        events[..middle].iter().for_each(|(seq, event)| tailed.apply(*seq, event).unwrap());
        if middle > 0 {
            tailed.pack().unwrap();
            tailed = restored(&tailed);
        }
        events[middle..].iter().for_each(|(seq, event)| tailed.apply(*seq, event).unwrap());
        prop_assert_eq!(tailed, machine);
    }
}

#[test]
fn the_stored_form_of_each_line_of_a_snapshot_stays_as_it_is() {
    let mut machine = Machine::default();
    let mut events = golden_events();
    let closed = events.pop().unwrap();
    let renewed = events.iter().position(|event| matches!(event.what, What::LeaseRenewed(_))).unwrap();
    for (i, event) in events.iter_mut().enumerate() {
        // The golden events tell no story: here they get one, in which two leases are held in the end.
        match &mut event.what {
            What::Committed(committed) => {
                (1..).zip(&mut committed.changes).for_each(|(n, change)| {
                    change.version = Version(1);
                    event.at = Timestamp(n);
                });
            }
            What::LeaseEnded(ended) => ended.id = lock_id(99),
            What::Broken(broken) => broken.grants[0].id = lock_id(98),
            What::Observed(observed) => "lock".clone_into(&mut observed.verb),
            _ => {}
        }
        machine.apply(Seq(i as u64 + 1), event).unwrap();
        if i == renewed {
            let mut first = events_lease(event);
            first.at = Timestamp(5);
            machine.apply(Seq(i as u64 + 1), &first).unwrap();
        }
    }
    machine.apply(Seq(20), &closed).unwrap();
    let accepted = super::event::LossAccepted { seq: Seq(21), aside: "lost/15-1".to_owned() };
    machine.apply(Seq(21), &Event { what: What::LossAccepted(accepted), ..closed }).unwrap();
    let (text, _) = stored(&machine);
    let golden = include_str!("../../tests/fixtures/snapshot-1.jsonl");
    assert_eq!(text, golden, "snapshots with the old form exist: add a fixture, never edit one");
    assert_eq!(restored(&machine), machine);
}

#[test]
fn the_stored_form_of_what_is_packed_stays_as_it_is() {
    let mut machine = Machine::default();
    let patches = include_str!("../../tests/fixtures/events-patch.jsonl").lines().collect::<Vec<_>>();
    let mut events: Vec<Event> = patches.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut last = events[1].clone();
    if let What::Committed(committed) = &mut last.what {
        let change = &mut committed.changes[0];
        change.version = Version(3);
        let content = change.content.as_mut().unwrap();
        (content.base, content.payload) = (Some(Version(2)), Payload::Blob { id: "00ff".repeat(8), len_bytes: 70_000 });
    }
    let tagged = super::event::Tagged { number: 4, state: name(0), tag: tag(1), version: Version(1), removed: false };
    events.push(last.clone());
    events.push(Event { what: What::Tagged(tagged), ..last.clone() });
    if let What::Committed(committed) = &mut last.what {
        committed.changes[0].version = Version(4);
        committed.changes[0].content = None;
    }
    events.push(last);
    for (seq, event) in (1..).map(Seq).zip(&events) {
        machine.apply(seq, event).unwrap();
    }
    machine.pack().unwrap();
    let (lines, frames) = stored(&machine);
    let state = lines.lines().find(|line| line.starts_with("{\"state\"")).unwrap();
    let mut facts: serde_json::Value = serde_json::from_str(state).unwrap();
    // How long a frame becomes is up to the compressor.
    let (run, links) = (&facts["state"]["runs"][0]["len_bytes"], &facts["state"]["links_len_bytes"]);
    assert_eq!(run.as_u64().unwrap() + links.as_u64().unwrap(), frames.len() as u64, "nothing else is old yet");
    (facts["state"]["runs"][0]["len_bytes"], facts["state"]["links_len_bytes"]) = (0.into(), 0.into());
    let unpacked = String::from_utf8(zstd::stream::decode_all(&frames[..]).unwrap()).unwrap();
    let golden = include_str!("../../tests/fixtures/snapshot-packed.jsonl");
    let (golden_facts, golden_lines) = golden.split_once('\n').unwrap();
    let why = "snapshots with the old form exist: add a fixture, never edit one";
    assert_eq!(facts, serde_json::from_str::<serde_json::Value>(golden_facts).unwrap(), "{why}");
    assert_eq!(unpacked, golden_lines, "{why}");
    assert_eq!(restored(&machine), machine);
}

#[test]
fn the_stored_form_of_packed_answers_stays_as_it_is() {
    // One answer of each kind, by a session each.
    let mut machine = Machine::default();
    let mut kinds = 0;
    for (session, mut event) in (0..).zip(golden_events().into_iter().chain(golden_tags())) {
        event.actor = actor(session);
        if let What::Committed(committed) = &mut event.what {
            committed.changes.iter_mut().for_each(|change| change.version = Version(1));
        }
        if let What::Tagged(tagged) = &mut event.what {
            tagged.version = Version(1);
        }
        let before = machine.answers().session_count();
        if machine.apply(Seq(u64::from(session) + 1), &event).is_ok() {
            kinds += machine.answers().session_count() - before;
        }
    }
    assert!(kinds >= 5, "{kinds}");
    let loose = stored(&machine).0;
    machine.pack().unwrap();
    machine.pack().unwrap();
    let (lines, frames) = stored(&machine);
    let run = lines.lines().find(|line| line.starts_with("{\"answer_run\"")).unwrap();
    let mut facts: serde_json::Value = serde_json::from_str(run).unwrap();
    let len = facts["answer_run"]["len_bytes"].as_u64().unwrap() as usize;
    facts["answer_run"]["len_bytes"] = 0.into();
    let unpacked = zstd::stream::decode_all(&frames[frames.len() - len..]).unwrap();
    let text = format!("{facts}\n{}", String::from_utf8(unpacked).unwrap());
    let golden = include_str!("../../tests/fixtures/snapshot-answers.jsonl");
    assert_eq!(text, golden, "snapshots with the old form exist: add a fixture, never edit one");
    assert_eq!(restored(&machine), machine);
    // Before answers were packed their lines were among the others.
    let packed = golden.lines().skip(1).collect::<Vec<_>>();
    assert!(packed.iter().all(|line| loose.contains(line)), "{loose}");
}

/// A second lease on the names of the first, with an ID that sorts before it.
fn events_lease(like: &Event) -> Event {
    let lease = super::event::LeaseGranted {
        number: 9,
        id: lock_id(0),
        names: BTreeSet::from([name(0)]),
        kind: super::event::Kind::Shared,
        fence: Fence { epoch: Epoch(9), n: 4 },
        ttl_ms: 60_000,
        deadline_boottime_ms: 61_000,
        operation: "lock".to_owned(),
        reason: None,
        info: None,
        under: None,
    };
    Event { what: What::LeaseGranted(Box::new(lease)), ..like.clone() }
}

#[test]
fn the_stored_form_of_an_accepted_loss_stays_as_it_is() {
    let accepted = super::event::LossAccepted { seq: Seq(7), aside: "lost/7-1".to_owned() };
    let event = Event { at: Timestamp(1_764_000_000_000), actor: actor(0), what: What::LossAccepted(accepted) };
    let golden = include_str!("../../tests/fixtures/events-loss.jsonl");
    assert_eq!(serde_json::to_string(&event).unwrap() + "\n", golden, "add a fixture, never edit one");
    assert_eq!(serde_json::from_str::<Event>(golden).unwrap(), event);
}

#[test]
fn waiters_pass_in_the_order_in_which_they_came() {
    let mut rig = Rig::new();
    let held = rig.lock(0, exclusive(&[0])).unwrap().unwrap();
    let shared = Lock { kind: LockKind::Shared, ..exclusive(&[0]) };
    for (session, ask) in [(1, exclusive(&[0])), (2, shared.clone()), (3, shared)] {
        assert_eq!(rig.lock(session, ask), Ok(None));
    }
    rig.ask(0, &Ask::Unlock { id: held }).1.unwrap();
    assert_eq!(rig.granted.iter().map(|(session, _)| session.0[0] - 1).collect::<Vec<_>>(), [1]);
    let writer = rig.machine.locks().on(&name(0)).next().unwrap().id.clone();
    rig.ask(1, &Ask::Unlock { id: writer }).1.unwrap();
    assert_eq!(rig.granted.iter().map(|(session, _)| session.0[0] - 1).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_reader_that_comes_late_does_not_pass_a_waiting_writer() {
    let mut rig = Rig::new();
    let shared = Lock { kind: LockKind::Shared, ..exclusive(&[0]) };
    assert!(rig.lock(0, shared.clone()).unwrap().is_some());
    assert_eq!(rig.lock(1, exclusive(&[0])), Ok(None));
    assert_eq!(rig.lock(2, shared.clone()), Ok(None));
    assert_eq!(rig.lock(3, Lock { wait: Wait::No, ..shared }), Err(FailureKind::Busy));
}

#[test]
fn several_names_are_taken_all_or_none() {
    let mut rig = Rig::new();
    let one = rig.lock(0, exclusive(&[1])).unwrap().unwrap();
    assert_eq!(rig.lock(1, exclusive(&[0, 1])), Ok(None));
    assert_eq!(rig.machine.locks().on(&name(0)).count(), 0, "nothing is held while something is missing");
    rig.ask(0, &Ask::Unlock { id: one }).1.unwrap();
    assert_eq!(rig.machine.locks().on(&name(0)).count(), 1);
    assert_eq!(rig.machine.locks().on(&name(1)).count(), 1);
}

#[test]
fn promise_5_a_stale_lock_fences_its_holder_off() {
    let mut rig = Rig::new();
    let id = rig.lock(0, exclusive(&[0])).unwrap().unwrap();
    assert_eq!(rig.put(1, 0, 1, &[]), Err(FailureKind::Busy), "a locked name takes no commit without the lock");
    assert_eq!(rig.put(0, 0, 1, std::slice::from_ref(&id)), Ok(()));
    assert_eq!(rig.put(1, 0, 2, std::slice::from_ref(&id)), Ok(()), "an ID is valid for its user");
    assert_eq!(rig.put(2, 0, 3, std::slice::from_ref(&id)), Err(FailureKind::Busy), "and for no other");
    rig.ask(2, &Ask::Break { name: name(0), id: Some(id.clone()) }).1.unwrap();
    assert_eq!(rig.put(0, 0, 4, std::slice::from_ref(&id)), Err(FailureKind::Busy));
    assert_eq!(rig.put(0, 1, 4, &[id]), Err(FailureKind::Busy), "also on a name that nobody holds");
    assert_eq!(rig.put(0, 0, 4, &[]), Ok(()));
}

#[test]
fn promise_4_a_retried_request_is_applied_once() {
    let mut rig = Rig::new();
    let put =
        |n: u8| commit(vec![StagedChange { state: name(0), expect: Expect::Any, content: Some(content(n)) }], &[]);
    let lease = Ask::Lock(LockAsk { lock: Lock { ttl_ms: Some(60_000), ..exclusive(&[1]) }, tie: None, peer: None });
    let asked = [(100, put(1)), (101, put(2)), (102, lease)];
    let answers: Vec<_> = asked.iter().map(|(number, ask)| rig.ask_as(0, *number, ask).unwrap()).collect();
    let events = rig.journal.len();
    let again = |rig: &mut Rig| {
        for ((number, ask), answer) in asked.iter().zip(&answers) {
            assert_eq!(&rig.ask_as(0, *number, ask).unwrap(), answer, "request {number} is answered as before");
        }
        let versions = rig.machine.states().all().count();
        assert_eq!((rig.journal.len(), versions, rig.machine.locks().grant_count()), (events, 2, 1), "nothing is done");
    };
    again(&mut rig);
    // And by a machine that knows of them from the journal alone.
    let mut replayed = Machine::default();
    for (index, event) in rig.journal.iter().enumerate() {
        replayed.apply(Seq(index as u64 + 1), event).unwrap();
    }
    rig.machine = replayed;
    again(&mut rig);
    // Of another session it is another request.
    rig.ask_as(1, 100, &put(3)).unwrap();
    assert_eq!(rig.machine.states().all().count(), 3);
}

#[test]
fn while_shared_a_name_takes_no_commit() {
    let mut rig = Rig::new();
    let shared = Lock { kind: LockKind::Shared, ..exclusive(&[0]) };
    let id = rig.lock(0, shared).unwrap().unwrap();
    assert_eq!(rig.put(0, 0, 1, &[id]), Err(FailureKind::Busy));
    let slots = Lock { kind: LockKind::Semaphore { slots: 1 }, ..exclusive(&[1]) };
    rig.lock(0, slots).unwrap().unwrap();
    assert_eq!(rig.put(3, 1, 1, &[]), Ok(()), "a semaphore guards no commits");
}

#[test]
fn a_nested_lock_does_not_wait_for_its_own_parent_and_outlives_its_end() {
    let mut rig = Rig::new();
    let outer = rig.lock(0, exclusive(&[0, 1])).unwrap().unwrap();
    assert_eq!(rig.lock(2, exclusive(&[0])), Ok(None), "somebody waits outside");
    let under = |names: &[u8]| Lock { under: Some(outer.clone()), ..exclusive(names) };
    let inner = rig.lock(1, under(&[0])).unwrap().unwrap();
    assert_eq!(
        rig.lock(1, Lock { wait: Wait::No, ..under(&[0]) }),
        Err(FailureKind::Busy),
        "nested ones exclude each other"
    );
    assert_eq!(rig.put(0, 0, 1, std::slice::from_ref(&outer)), Err(FailureKind::Busy), "the innermost holder commits");
    assert_eq!(rig.put(1, 0, 1, std::slice::from_ref(&inner)), Ok(()));
    rig.ask(0, &Ask::Unlock { id: outer.clone() }).1.unwrap();
    assert!(rig.machine.locks().grant(&outer).is_some(), "work goes on inside");
    rig.ask(1, &Ask::Unlock { id: inner }).1.unwrap();
    assert!(rig.machine.locks().grant(&outer).is_none());
    assert_eq!(rig.granted.len(), 1, "and who waited outside has it now");
}

#[test]
fn locks_within_locks_are_few_and_end_one_by_one() {
    let mut rig = Rig::new();
    let lease = |under: Option<&LockId>| Lock { ttl_ms: Some(1000), under: under.cloned(), ..exclusive(&[0]) };
    let mut chain: Vec<LockId> = Vec::new();
    for _ in 0..NESTING_MAX {
        chain.push(rig.lock(0, lease(chain.last())).unwrap().unwrap());
    }
    assert_eq!(rig.lock(0, lease(chain.last())), Err(FailureKind::Usage));
    rig.boottime_ms += 1000;
    // Of any number in one record the record might be too long.
    while let Some(over) = rig.machine.next_over(rig.time(), &actor(0)) {
        assert_eq!((over.steps.len(), Some(over.grant.id)), (1, chain.pop()));
        rig.fold(over.steps);
    }
    assert!(chain.is_empty() && rig.machine.locks().grants().next().is_none());
}

#[test]
fn a_tag_stays_until_it_is_moved_on_purpose() {
    let mut rig = Rig::new();
    rig.put(0, 0, 1, &[]).unwrap();
    rig.put(0, 0, 2, &[]).unwrap();
    let at = |version| Some(Selector::Version(Version(version)));
    let give = |at, moves| Ask::Tag(Tag { state: name(0), tag: tag(0), at, moves });
    rig.ask(0, &give(at(1), false)).1.unwrap();
    assert_eq!(rig.ask(1, &give(at(2), false)).1, Err(FailureKind::Conflict));
    assert_eq!(rig.machine.states().tagged(&name(0), &tag(0)), Some(Version(1)));
    let before = rig.journal.len();
    rig.ask(1, &give(at(1), false)).1.unwrap();
    assert_eq!(rig.journal.len(), before, "it has the tag already");
    rig.ask(1, &give(at(2), true)).1.unwrap();
    let tags = |at: &Selector| {
        let states = rig.machine.states();
        let (version, entry) = states.select(&name(0), at).unwrap().unwrap();
        (version, states.info(&name(0), version, entry).tags)
    };
    assert_eq!(tags(&Selector::Tag(tag(0))), (Version(2), vec![tag(0)]));
    assert_eq!(tags(&at(1).unwrap()), (Version(1), vec![]));
    assert_eq!(rig.ask(1, &give(at(3), true)).1, Err(FailureKind::NotFound));
    rig.ask(1, &give(None, false)).1.unwrap();
    assert_eq!(rig.ask(1, &give(None, false)).1, Err(FailureKind::NotFound));
}

#[test]
fn an_upgrade_is_refused_at_once() {
    let mut rig = Rig::new();
    let shared = Lock { kind: LockKind::Shared, ..exclusive(&[0]) };
    let id = rig.lock(0, shared).unwrap().unwrap();
    assert_eq!(rig.lock(0, exclusive(&[0])), Err(FailureKind::Busy));
    assert_eq!(rig.lock(1, Lock { under: Some(id), ..exclusive(&[0]) }), Err(FailureKind::Busy));
    assert_eq!(rig.machine.locks().waiter_count(), 0);
}

#[test]
fn a_lease_is_kept_over_a_restart_and_starts_anew_after_a_boot() {
    let mut rig = Rig::new();
    let lease = Lock { ttl_ms: Some(100_000), ..exclusive(&[0]) };
    let id = rig.lock(0, lease).unwrap().unwrap();
    rig.boottime_ms += 99_000;
    rig.restart("boot-1");
    assert_eq!(
        rig.machine.next_deadline_boottime_ms(),
        Some(rig.boottime_ms + 30_000),
        "its holder gets time to renew"
    );
    rig.boottime_ms = 10;
    rig.restart("boot-2");
    assert_eq!(rig.machine.next_deadline_boottime_ms(), Some(100_010), "the whole TTL after a new boot");
    rig.boottime_ms = 100_010;
    rig.settle();
    assert!(rig.machine.locks().grant(&id).is_none());
    assert!(matches!(&rig.journal.last().unwrap().what, What::LeaseEnded(ended) if ended.expired));
}

#[test]
fn a_lock_lives_as_long_as_its_process_or_connection() {
    let tied = |hold| Lock { hold, ..exclusive(&[0]) };
    let tie = Some(Tie { mark: Some((1, 1)), gone: false });
    for (hold, after_link, after_process) in
        [(Hold::Connection, false, true), (Hold::ConnectionOrProcess, true, true), (Hold::Process, true, false)]
    {
        let mut rig = Rig::new();
        let id = rig.lock_tied(0, tied(hold), tie).unwrap().unwrap();
        let steps = rig.machine.unlink(actor(0).session);
        rig.fold(steps);
        rig.settle();
        assert_eq!(rig.machine.locks().grant(&id).is_some(), after_link, "{hold:?} without its connection");
        let mut rig = Rig::new();
        let id = rig.lock_tied(0, tied(hold), tie).unwrap().unwrap();
        rig.machine.follow(&Motion::ProcessGone(id.clone()));
        rig.settle();
        assert_eq!(rig.machine.locks().grant(&id).is_some(), after_process, "{hold:?} without its process");
    }
}

#[test]
fn nothing_is_granted_or_overwritten_while_nobody_knows_who_holds_what() {
    let mut rig = Rig::new();
    let observed = super::event::Observed {
        verb: "lock".to_owned(),
        name: Some(name(0)),
        version: None,
        outcome: "ok".to_owned(),
        count: 1,
    };
    rig.record(What::Observed(observed));
    rig.machine.follow(&Motion::Frozen(true));
    assert_eq!(rig.lock(0, Lock { wait: Wait::No, ..exclusive(&[2]) }), Err(FailureKind::Busy));
    assert_eq!(rig.lock(0, exclusive(&[2])), Ok(None));
    assert_eq!(rig.put(0, 0, 1, &[]), Err(FailureKind::Busy));
    assert_eq!(rig.put(0, 1, 1, &[]), Ok(()), "a name that was never locked is free");
    rig.machine.follow(&Motion::Frozen(false));
    rig.settle();
    assert_eq!(rig.granted.len(), 1);
}

#[test]
fn the_stored_form_of_each_event_stays_as_it_is() {
    let fixtures = [
        (include_str!("../../tests/fixtures/events-1.jsonl"), golden_events()),
        (include_str!("../../tests/fixtures/events-tagged.jsonl"), golden_tags()),
        (include_str!("../../tests/fixtures/events-pruned.jsonl"), prune::golden()),
        (include_str!("../../tests/fixtures/events-summarized.jsonl"), summary::golden()),
        (include_str!("../../tests/fixtures/events-rekeyed.jsonl"), golden_rekeys()),
        (include_str!("../../tests/fixtures/events-restored.jsonl"), golden_restores()),
    ];
    for (golden, events) in fixtures {
        let lines: Vec<String> = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
        assert_eq!(lines.concat(), golden, "journals with the old form exist: add a fixture, never edit one");
        for (line, event) in golden.lines().zip(&events) {
            assert_eq!(serde_json::from_str::<Event>(line).unwrap(), *event);
        }
    }
}

fn golden_restores() -> Vec<Event> {
    let restored = |aside: Option<&str>| super::event::Restored {
        epoch: Epoch((1 << 32) + 1_764_000_000),
        seq: Seq(7),
        aside: aside.map(str::to_owned),
    };
    [None, Some("before-restore-1")]
        .map(|aside| Event { at: Timestamp(1_764_000_000_000), actor: actor(0), what: What::Restored(restored(aside)) })
        .to_vec()
}

/// Whoever starts on it must know, and only the first one.
#[test]
fn a_restore_is_known_until_the_next_start() {
    let mut machine = Machine::default();
    let [restored, ..] = &golden_restores()[..] else { unreachable!() };
    machine.apply(Seq(8), restored).unwrap();
    assert!(machine.is_restored());
    assert!(machine.apply(Seq(9), restored).is_err(), "an epoch comes once");
    let opened = |epoch: Epoch| Event {
        what: What::Opened(super::event::Opened {
            epoch,
            boot: BootId::default(),
            boottime_ms: 1,
            version: "1".to_owned(),
        }),
        ..restored.clone()
    };
    assert!(machine.apply(Seq(9), &opened(Epoch(1_764_000_500))).is_err(), "one of before");
    machine.apply(Seq(9), &opened(machine.epoch().of_start(1_764_000_500))).unwrap();
    assert!(!machine.is_restored());
}

fn golden_tags() -> Vec<Event> {
    let tagged =
        |removed| super::event::Tagged { number: 8, state: name(0), tag: tag(1), version: Version(2), removed };
    [false, true]
        .map(|removed| Event { at: Timestamp(1_764_000_000_000), actor: actor(0), what: What::Tagged(tagged(removed)) })
        .to_vec()
}

fn golden_rekeys() -> Vec<Event> {
    let rekeyed = super::event::Rekeyed {
        number: 9,
        generation: Generation(2),
        keyring: Digest([7; 32]),
        added: vec!["age1added".to_owned()],
        removed: vec!["ssh-ed25519 removed".to_owned()],
        rotated: false,
    };
    let (added, removed) = (Vec::new(), Vec::new());
    let rotated = super::event::Rekeyed { generation: Generation(3), rotated: true, added, removed, ..rekeyed.clone() };
    let resealed = super::event::Resealed { generation: Generation(3) };
    [What::Rekeyed(rekeyed), What::Rekeyed(rotated), What::Resealed(resealed)]
        .map(|what| Event { at: Timestamp(1_764_000_000_000), actor: actor(0), what })
        .to_vec()
}

#[test]
fn a_keyring_follows_the_one_that_counts_and_its_answer_is_remembered() {
    let mut rig = Rig::new();
    let [added, rotated, resealed] = &golden_rekeys()[..] else { panic!() };
    rig.record(added.what.clone());
    assert_eq!(rig.machine.resealing(), None, "the keys are the same");
    rig.record(rotated.what.clone());
    assert_eq!(rig.machine.resealing(), Some(Generation(3)));
    assert_eq!(
        rig.machine.recall(&actor(0), 9, rig.time()),
        Some(Ok(Reply::Rekeyed(Generation(3)))),
        "whoever asks again is told so"
    );
    let early =
        Event { what: What::Resealed(super::event::Resealed { generation: Generation(2) }), ..resealed.clone() };
    rig.record(early.what);
    assert_eq!(rig.machine.resealing(), Some(Generation(3)), "that was another rotation");
    rig.record(resealed.what.clone());
    assert_eq!(rig.machine.resealing(), None);
    assert!(rig.machine.clone().apply(Seq(99), rotated).is_err(), "it does not follow");
}

#[test]
fn the_stored_form_of_a_patch_stays_as_it_is() {
    let committed = |version, base| {
        let content = Content { base, ..content(1) };
        let change =
            super::event::Change { state: name(0), version: Version(version), content: Some(content), forced: false };
        Event {
            at: Timestamp(1_764_000_000_000),
            actor: actor(0),
            what: What::Committed(super::event::Committed {
                number: version,
                changes: vec![change],
                unchanged: Vec::new(),
                message: None,
                labels: Default::default(),
                fences: Vec::new(),
            }),
        }
    };
    let events = [committed(1, None), committed(2, Some(Version(1)))];
    let golden = include_str!("../../tests/fixtures/events-patch.jsonl");
    let text: String = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
    assert_eq!(text, golden, "journals with the old form exist: add a fixture, never edit one");
    let mut machine = Machine::default();
    for (line, seq) in golden.lines().zip(1..) {
        machine.apply(Seq(seq), &serde_json::from_str(line).unwrap()).unwrap();
    }
    let chain: Vec<_> = machine.states().chain(&name(0), Version(2)).map(|link| link.unwrap().0.0).collect();
    assert_eq!(chain, [2, 1]);
    for nothing in [0, 3, 4] {
        assert!(machine.apply(Seq(3), &committed(3, Some(Version(nothing)))).is_err(), "a patch from {nothing}");
    }
}

fn golden_events() -> Vec<Event> {
    let names = BTreeSet::from([name(0), name(1)]);
    let fence = Fence { epoch: Epoch(9), n: 3 };
    let full = Arc::new(Actor {
        user: Some("alice".to_owned()),
        comm: Some("statectl".to_owned()),
        exe: Some("/usr/bin/statectl".to_owned()),
        ..Actor::clone(&actor(0))
    });
    let committed = super::event::Committed {
        number: 4,
        changes: vec![
            super::event::Change {
                state: name(0),
                version: Version(2),
                content: Some(Content { serial: Some(7), lineage: Some("l".to_owned()), ..content(1) }),
                forced: true,
            },
            super::event::Change {
                state: name(1),
                version: Version(1),
                content: Some(Content {
                    payload: Payload::Blob { id: "00ff".repeat(8), len_bytes: 70_000 },
                    ..content(2)
                }),
                forced: false,
            },
            super::event::Change { state: name(2), version: Version(3), content: None, forced: false },
        ],
        unchanged: vec![(name(3), Version(1))],
        message: Some("why".to_owned()),
        labels: BTreeMap::from([("gateway".to_owned(), "http".to_owned())]),
        fences: vec![(lock_id(1), fence)],
    };
    let lease = super::event::LeaseGranted {
        number: 5,
        id: lock_id(2),
        names: names.clone(),
        kind: super::event::Kind::Semaphore { slots: 2 },
        fence,
        ttl_ms: 60_000,
        deadline_boottime_ms: 61_000,
        operation: "lock".to_owned(),
        reason: Some("review".to_owned()),
        info: Some("{}".to_owned()),
        under: Some(lock_id(1)),
    };
    let broken = super::event::BrokenGrant {
        id: lock_id(2),
        names: names.clone(),
        kind: super::event::Kind::Exclusive,
        fence,
        holder: Actor::clone(&actor(2)),
        since: Timestamp(6),
        operation: "apply".to_owned(),
        reason: Some("review".to_owned()),
    };
    let whats = [
        What::Founded(Founded {
            repository: RepositoryId([7; 16]),
            generation: Generation(1),
            keyring: Digest([8; 32]),
        }),
        What::Opened(Opened {
            epoch: Epoch(9),
            boot: BootId("b".to_owned()),
            boottime_ms: 10,
            version: "0.1.0".to_owned(),
        }),
        What::Committed(committed),
        What::LeaseGranted(Box::new(lease)),
        What::LeaseRenewed(super::event::LeaseRenewed {
            number: 6,
            id: lock_id(2),
            ttl_ms: 60_000,
            deadline_boottime_ms: 62_000,
        }),
        What::LeaseEnded(super::event::LeaseEnded { id: lock_id(2), names, expired: true }),
        What::Broken(super::event::Broken { number: 7, grants: vec![broken] }),
        What::Observed(super::event::Observed {
            verb: "get".to_owned(),
            name: Some(name(0)),
            version: Some(Version(2)),
            outcome: "ok".to_owned(),
            count: 3,
        }),
        What::Closed(super::event::Closed {}),
    ];
    whats.into_iter().map(|what| Event { at: Timestamp(1_764_000_000_000), actor: full.clone(), what }).collect()
}
