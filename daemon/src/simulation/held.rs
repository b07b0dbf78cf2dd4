//! Session locks of a daemon that is killed: what was answered is held on, what was broken is not.

use std::fs;

use stated_shared::{Lock, LockId, Reply, Request, StateName, Wait};

use super::host::{Answer, Daemon, Host, lock_id};
use crate::disk::sim::Random;

fn asked(host: &mut Host, daemon: &mut Daemon, number: u64, request: Request) -> Answer {
    host.ask(daemon, 0, number, request);
    let (mut answers, stepped) = host.step(daemon, &mut Random::seeded(number));
    stepped.unwrap();
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// A lock that is bound to nothing but its connection, so that nothing but its grant is ever written down.
fn take(host: &mut Host, daemon: &mut Daemon, number: u64, name: &StateName) -> LockId {
    let lock = Lock {
        id: Some(lock_id(&mut Random::seeded(number))),
        wait: Wait::No,
        ..Lock::exclusive([name.clone()], "lock")
    };
    match asked(host, daemon, number, Request::Lock(lock)) {
        (_, Ok(Reply::Granted(grant))) => grant.id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_grant_that_was_answered_outlives_the_daemon() {
    let mut host = Host::new(1);
    let mut daemon = host.start().unwrap();
    let name = StateName::parse("a").unwrap();
    let id = take(&mut host, &mut daemon, 1, &name);
    let before = daemon.engine.machine().locks().grant(&id).unwrap().fence;
    // Killed: nothing is closed in order.
    drop(daemon);
    host.disk.take_over();
    let daemon = host.start().unwrap();
    let held = daemon.engine.machine().locks().grant(&id);
    assert_eq!(held.map(|grant| grant.fence), Some(before), "the grant, with its fence, is held on");
}

#[test]
fn a_lock_that_was_broken_stays_broken_though_the_table_was_not_told() {
    let mut host = Host::new(1);
    let mut daemon = host.start().unwrap();
    let name = StateName::parse("a").unwrap();
    let id = take(&mut host, &mut daemon, 1, &name);
    let table = fs::read(host.grant_table()).unwrap();
    let broken = asked(&mut host, &mut daemon, 2, Request::Break { name: name.clone(), id: Some(id.clone()) });
    assert!(matches!(broken, (_, Ok(Reply::Broken(_)))), "{broken:?}");
    // Killed after the record was durable, and before the grant was struck out.
    drop(daemon);
    fs::write(host.grant_table(), table).unwrap();
    host.disk.take_over();
    let daemon = host.start().unwrap();
    assert_eq!(daemon.engine.machine().locks().grant(&id), None, "the journal knows better");
}
