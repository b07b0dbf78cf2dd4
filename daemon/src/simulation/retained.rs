//! What the daemon prunes by itself, and what becomes of the log then.

use std::collections::BTreeMap;

use stated_shared::{Bytes, Change, Commit, Content, Expect, PrunePage, Request, SerialRule, StateName, Version};

use super::host::{Daemon, Host};
use crate::disk::sim::Random;
use crate::engine::{Retention, Section};

pub(super) fn put(host: &mut Host, daemon: &mut Daemon, number: u64, name: &str, content: &str) {
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

/// What a log file is like after contents of some kilobytes each, of one state.
fn filled(host: &mut Host) -> Daemon {
    let mut daemon = host.start().unwrap();
    for n in 1..=12 {
        let content = text(&Random::seeded(n).bytes(2000));
        put(host, &mut daemon, 2 * n, "a", &content);
        put(host, &mut daemon, 2 * n + 1, "b", &content);
    }
    daemon
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_log_is_written_anew_while_it_is_read_and_added_to() {
    let mut host = Host::new(3);
    let mut daemon = filled(&mut host);
    daemon.engine.begin_part().unwrap();
    let parts = daemon.engine.closed_parts();
    assert!(parts >= 3, "{parts} closed log files");
    let a = StateName::parse("a").unwrap();
    let before = daemon.engine.store().reader.len_bytes();
    let section = Section { glob: Some("a".to_owned()), keep_last: Some(1), ..Section::default() };
    daemon.engine.retain(&Retention::new(vec![section]).unwrap()).unwrap();
    host.snapshot(&daemon).unwrap();
    assert_eq!((0..parts).map(|at| daemon.engine.rewrite(at).unwrap()).filter(|gone| *gone > 0).count(), parts);
    assert!((0..parts).all(|at| daemon.engine.rewrite(at).unwrap() == 0), "once more nothing goes");
    assert!(daemon.engine.store().reader.len_bytes() < before - 11 * 1500);
    assert_eq!((daemon.engine.verify().damage, daemon.engine.verify_records().damage), (vec![], vec![]));
    put(&mut host, &mut daemon, 99, "a", "after it");
    for (version, n) in [(12, 12), (13, 0)] {
        let expected = if n == 0 { "after it".to_owned() } else { text(&Random::seeded(n).bytes(2000)) };
        assert_eq!(daemon.engine.load(&a, Version(version)).unwrap(), expected.into_bytes());
    }
    let states = daemon.engine.machine().states().clone();
    drop(daemon);
    host.disk.take_over();
    let daemon = host.start().unwrap();
    assert!(*daemon.engine.machine().states() == states);
    assert_eq!(daemon.engine.verify().damage, []);
}

/// Whoever has the public key alone can take payloads out of the log. Nothing else is gone by that, and it is told.
#[test]
fn a_payload_that_is_gone_without_a_prune_is_named_and_refuses_its_version() {
    let mut host = Host::new(4);
    let mut daemon = filled(&mut host);
    let section = Section { glob: Some("a".to_owned()), keep_last: Some(11), ..Section::default() };
    daemon.engine.retain(&Retention::new(vec![section]).unwrap()).unwrap();
    let (a, b) = (StateName::parse("a").unwrap(), StateName::parse("b").unwrap());
    // Of both states the first two versions, of which one was given up.
    let is_taken = |version: Version| version <= Version(2);
    let gone =
        daemon.engine.rewrite_by(0, |_, payloads| payloads.iter().map(|(_, of)| !is_taken(of.version)).collect());
    assert!(gone.unwrap() > 0);
    for round in 0..2 {
        for found in [daemon.engine.verify_records().damage, daemon.engine.verify().damage] {
            let told: Vec<_> = found.iter().filter(|damage| damage.what.contains("no prune gave it up")).collect();
            assert!(told.len() >= 3 && told.iter().all(|damage| damage.file.starts_with("log/")), "{round}: {found:?}");
        }
        for (state, version, is_there) in
            [(&a, 2, false), (&a, 3, true), (&b, 1, false), (&b, 2, false), (&b, 3, true), (&b, 12, true)]
        {
            let loaded = daemon.engine.load(state, Version(version));
            assert_eq!(loaded.is_ok(), is_there, "{state}@{version}: {loaded:?}");
        }
        daemon.engine.close().unwrap();
        daemon = host.start().unwrap();
    }
}
