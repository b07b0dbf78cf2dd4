//! What somebody hears of who may not do everything: of grants that are others', and of names that they may not read.

use std::sync::Mutex;

use stated_shared::{Failure, PolicyInfo, Verb};

use super::*;

/// May these verbs, with what they need, on these names; a test may change that.
#[derive(Debug, Default)]
struct Few(Mutex<Vec<(Verb, u8)>>);

impl Few {
    fn of(may: &[(Verb, u8)]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(may.to_vec())))
    }
}

impl Access for Few {
    fn may(&self, verb: Verb, of: &str) -> bool {
        let may = self.0.lock().unwrap();
        let has = |verb| may.iter().any(|(given, n)| *given == verb && name(*n).as_str() == of);
        has(verb) && verb.needs().is_none_or(has)
    }

    fn may_everywhere(&self, _: Verb) -> bool {
        false
    }

    fn denial(&self, verb: Verb, name: &str) -> Failure {
        Failure::new(FailureKind::Denied, format!("may not {verb} {name}"))
    }

    fn policy(&self) -> PolicyInfo {
        PolicyInfo::default()
    }
}

/// Asks by somebody who may only so much; the failure with all that it tells.
fn refused(rig: &Rig, session: u8, ask: &Ask, access: &Arc<Few>) -> Failure {
    let actor = actor(session);
    let access: Arc<dyn Access> = Arc::clone(access) as _;
    let cx = Context { time: rig.time(), actor: &actor, number: 99, drawn: drawn(99), access: &access };
    match rig.machine.decide(&cx, ask).verdict {
        Verdict::Refuse(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn allowed(rig: &mut Rig, session: u8, ask: &Ask, access: &Arc<Few>) -> bool {
    rig.numbers += 1;
    rig.ask_by(session, rig.numbers, ask, &(Arc::clone(access) as Arc<dyn Access>)).is_ok()
}

fn unlock(id: &LockId) -> Ask {
    Ask::Unlock { id: id.clone() }
}

fn break_on(n: u8) -> Ask {
    Ask::Break { name: name(n), id: None }
}

#[test]
fn a_grant_on_names_that_one_may_not_read_is_as_good_as_none() {
    let mut rig = Rig::new();
    let id = rig.lock(0, exclusive(&[1, 2])).unwrap().unwrap();
    let nobody = Few::of(&[(Verb::Break, 1), (Verb::Lock, 1)]);
    let absent = LockId::parse("absent").unwrap();
    for ask in [|id: &LockId| unlock(id), |id: &LockId| Ask::Renew { id: id.clone(), ttl_ms: None }] {
        let (theirs, none) = (refused(&rig, 2, &ask(&id), &nobody), refused(&rig, 2, &ask(&absent), &nobody));
        assert_eq!(theirs.kind, FailureKind::NotFound);
        assert_eq!(theirs.message.replace(id.as_str(), "ID"), none.message.replace(absent.as_str(), "ID"));
        assert_eq!((theirs.hint, theirs.detail), (none.hint, none.detail));
    }
    // Who may read one of its names hears that it is another's, by that name and no other.
    let told = refused(&rig, 2, &unlock(&id), &Few::of(&[(Verb::Read, 2)]));
    assert_eq!(told.kind, FailureKind::Denied);
    let hint = told.hint.unwrap();
    assert!(hint.contains(name(2).as_str()) && !hint.contains(name(1).as_str()), "{hint}");
    // A lock with the same ID hears of no name either.
    let lock = Lock { id: Some(id.clone()), ..exclusive(&[3]) };
    let ask = Ask::Lock(LockAsk { lock, tie: None, peer: None });
    let told = refused(&rig, 2, &ask, &Few::of(&[(Verb::Read, 3), (Verb::Lock, 3)]));
    assert!(matches!(&told.detail, stated_shared::Detail::Held { holders, .. } if holders.is_empty()), "{told:?}");
    // One's own is one's own, whatever the policy has become.
    assert!(allowed(&mut rig, 1, &unlock(&id), &Few::of(&[])));
}

#[test]
fn breaking_takes_the_verb_on_each_name_or_the_holders_uid() {
    let mut rig = Rig::new();
    rig.lock(0, exclusive(&[1, 2])).unwrap().unwrap();
    let one = Few::of(&[(Verb::Read, 1), (Verb::Break, 1)]);
    // The same answer, whether somebody holds it or nobody does.
    let (held, free) = (refused(&rig, 2, &break_on(2), &one), refused(&rig, 2, &break_on(3), &one));
    assert_eq!(held.message, format!("may not break {}", name(2)));
    assert_eq!(held.message.replace(name(2).as_str(), ""), free.message.replace(name(3).as_str(), ""));
    let both = refused(&rig, 2, &break_on(1), &one);
    assert_eq!(both.kind, FailureKind::Denied);
    assert!(!format!("{both:?}").contains(name(2).as_str()), "{both:?}");
    let blind = Few::of(&[(Verb::Break, 1), (Verb::Break, 2)]);
    assert_eq!(refused(&rig, 2, &break_on(1), &blind).kind, FailureKind::Denied);
    one.0.lock().unwrap().extend([(Verb::Read, 2), (Verb::Break, 2)]);
    assert!(allowed(&mut rig, 2, &break_on(1), &one));
    // The holder's own user needs no right.
    rig.lock(0, exclusive(&[1])).unwrap().unwrap();
    assert!(allowed(&mut rig, 1, &break_on(1), &Few::of(&[])));
}

#[test]
fn what_changes_something_is_allowed_when_it_is_decided() {
    let mut rig = Rig::new();
    let change = |n| StagedChange { state: name(n), expect: Expect::Any, content: Some(content(1)) };
    let access = Few::of(&[(Verb::Read, 1), (Verb::Write, 1), (Verb::Write, 2), (Verb::Lock, 1)]);
    assert!(allowed(&mut rig, 2, &commit(vec![change(1)], &[]), &access));
    assert!(!allowed(&mut rig, 2, &commit(vec![change(1), change(2)], &[]), &access), "all of its names or none");
    assert!(rig.machine.states().newest(&name(2)).is_none());
    let tag = |n| Ask::Tag(Tag { state: name(n), tag: tag(1), at: Some(Selector::Newest), moves: true });
    assert!(allowed(&mut rig, 2, &tag(1), &access) && !allowed(&mut rig, 2, &tag(2), &access));
    let lock = |names: &[u8]| Ask::Lock(LockAsk { lock: exclusive(names), tie: None, peer: None });
    assert!(!allowed(&mut rig, 2, &lock(&[1, 2]), &access) && allowed(&mut rig, 2, &lock(&[1]), &access));
}

#[test]
fn who_waits_for_a_lock_is_asked_again_when_its_turn_comes() {
    let mut rig = Rig::new();
    let id = rig.lock(0, exclusive(&[1])).unwrap().unwrap();
    let (keeps, loses) = (Few::of(&[(Verb::Read, 1), (Verb::Lock, 1)]), Few::of(&[(Verb::Read, 1), (Verb::Lock, 1)]));
    let ask = Ask::Lock(LockAsk { lock: exclusive(&[1]), tie: None, peer: None });
    assert!(allowed(&mut rig, 2, &ask, &loses) && allowed(&mut rig, 3, &ask, &keeps));
    let numbers = (rig.numbers - 1, rig.numbers);
    *loses.0.lock().unwrap() = Vec::new();
    assert!(rig.denied.is_empty() && rig.granted.is_empty());
    rig.ask(0, &unlock(&id)).1.unwrap();
    assert_eq!(rig.denied, [(actor(2).session, numbers.0)]);
    assert_eq!(rig.granted, [(actor(3).session, numbers.1)], "it stands in nobody's way");
}
