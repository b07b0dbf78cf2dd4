//! What the daemon prunes by itself.

use std::collections::BTreeMap;

use stated_shared::{Bytes, Change, Commit, Content, Expect, PrunePage, Request, SerialRule, StateName, Version};

use super::host::{Daemon, Host};
use crate::disk::sim::Random;
use crate::engine::{Retention, Section};

fn put(host: &mut Host, daemon: &mut Daemon, number: u64, name: &str, content: &str) {
    let state = StateName::parse(name).unwrap();
    let content = Content::Inline(Bytes(content.as_bytes().to_vec()));
    let changes = vec![Change { state, expect: Expect::Any, content }];
    let labels = BTreeMap::new();
    let commit = Commit { changes, locks: Vec::new(), message: None, labels, serials: SerialRule::Refuse };
    host.ask(daemon, 0, number, Request::Commit(commit));
    let (answers, stepped) = host.step(daemon, &mut Random::seeded(number));
    stepped.unwrap();
    assert!(answers[0].1.is_ok(), "{answers:?}");
}

/// Which versions of a state are pruned, and by which users.
fn pruned(daemon: &Daemon, name: &str) -> (Vec<u64>, Vec<Option<String>>) {
    let name = StateName::parse(name).unwrap();
    let rows = daemon.engine.machine().states().all().map(Result::unwrap).filter(|(state, ..)| **state == name);
    let rows = rows.filter_map(|(_, version, entry)| Some((version.0, entry.pruned.as_ref()?.actor.comm.clone())));
    rows.unzip()
}

#[test]
fn the_daemon_prunes_by_its_configuration_in_its_own_name() {
    let mut host = Host::new(1);
    let mut daemon = host.start().unwrap();
    for n in 1..=6 {
        put(&mut host, &mut daemon, 2 * n, "prod/net", &format!("prod {n}"));
        put(&mut host, &mut daemon, 2 * n + 1, "test/net", &format!("test {n}"));
    }
    assert_eq!(daemon.engine.retain(&Retention::default()).unwrap(), []);
    assert_eq!(pruned(&daemon, "test/net").0, [0_u64; 0], "without a policy nothing is ever dropped");
    let sections = vec![
        Section { glob: Some("prod/**".to_owned()), keep_last: Some(4), ..Section::default() },
        Section { keep_last: Some(1), ..Section::default() },
    ];
    let retention = Retention::new(sections).unwrap();
    let pages = daemon.engine.retain(&retention).unwrap();
    let dropped: Vec<_> = pages.iter().flat_map(|page| &page.rows).map(|row| row.dropped.clone()).collect();
    assert_eq!(dropped, [[(Version(1), Version(2))], [(Version(1), Version(5))]]);
    let by_daemon = Some("the daemon".to_owned());
    assert_eq!(pruned(&daemon, "prod/net"), (vec![1, 2], vec![by_daemon.clone(); 2]));
    assert_eq!(pruned(&daemon, "test/net"), (vec![1, 2, 3, 4, 5], vec![by_daemon; 5]));
    let seq = daemon.engine.machine().seq();
    let nothing = PrunePage { rows: Vec::new(), next: None };
    assert_eq!(daemon.engine.retain(&retention).unwrap(), [nothing.clone(), nothing]);
    assert_eq!(daemon.engine.machine().seq(), seq, "where nothing goes nothing is written");
    // It is an event as any other.
    let before = daemon.engine.machine().states().clone();
    daemon.engine.close().unwrap();
    let daemon = host.start().unwrap();
    assert!(*daemon.engine.machine().states() == before);
    assert_eq!(daemon.engine.verify().damage, []);
}

#[test]
fn what_is_younger_than_a_policy_asks_stays() {
    let mut host = Host::new(2);
    let mut daemon = host.start().unwrap();
    put(&mut host, &mut daemon, 1, "a", "one");
    host.pass_ms(60_000);
    put(&mut host, &mut daemon, 2, "a", "two");
    put(&mut host, &mut daemon, 3, "a", "three");
    let section = Section { keep_within_ms: Some(30_000), ..Section::default() };
    daemon.engine.retain(&Retention::new(vec![section]).unwrap()).unwrap();
    assert_eq!(pruned(&daemon, "a").0, [1]);
}
