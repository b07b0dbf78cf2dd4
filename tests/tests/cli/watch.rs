//! `watch`: what changes, as it becomes durable.

use rustix::process::Signal;
use serde_json::Value;
use stated_tests::{Host, Running};

fn next(watch: &mut Running) -> Value {
    serde_json::from_str(&watch.line()).unwrap()
}

fn told(change: &Value) -> (String, String, u64) {
    let text = |field: &str| change[field].as_str().unwrap().to_owned();
    (text("verb"), text("state"), change["version"].as_u64().unwrap())
}

#[test]
fn a_watcher_hears_of_each_change_that_it_asked_for() {
    let host = Host::new();
    host.put("prod/a", b"1");
    let mut watch = host.statectl(["watch", "prod/**", "--since", "0", "--json"]).start();
    assert_eq!(told(&next(&mut watch)), ("commit".into(), "prod/a".into(), 1));
    host.put("test/a", b"not asked for");
    host.run(["tag", "prod/a", "good"]);
    let tagged = next(&mut watch);
    assert_eq!(told(&tagged), ("tag".into(), "prod/a".into(), 1));
    assert_eq!(tagged["tag"], "good");
    host.run(["rm", "prod/a"]);
    assert_eq!(told(&next(&mut watch)), ("rm".into(), "prod/a".into(), 2));
    host.stop_daemon();
    host.put("prod/b", b"after a restart");
    let change = next(&mut watch);
    assert_eq!(told(&change), ("commit".into(), "prod/b".into(), 1));
    watch.signal(Signal::INT);
    assert_eq!(watch.exit(), 130);

    // Who was away asks for what it missed.
    host.put("prod/c", b"missed");
    let seq = change["seq"].to_string();
    let mut watch = host.statectl(["watch", "--since", &seq, "--json"]).start();
    assert_eq!(told(&next(&mut watch)), ("commit".into(), "prod/c".into(), 1));
    host.statectl(["watch", "--since", "99999"]).run().code(65).says("beyond the journal's last one");
}

#[test]
fn a_watch_does_not_hold_up_the_daemons_end() {
    let host = Host::new();
    host.put("a", b"1");
    let mut watch = host.statectl(["watch", "--since", "0"]).start();
    assert!(watch.line().contains(" commit a@1 by "));
    host.stop_daemon();
    host.put("a", b"2");
    assert!(watch.line().contains(" commit a@2 by "));
}

#[test]
fn the_audit_log_is_followed_and_told_once_by_a_cursor() {
    let host = Host::new();
    host.put("a", b"1");
    let mut follow = host.statectl(["audit", "--follow", "--verb", "commit", "--json"]).start();
    let version = |entry: Value| entry["version"].as_u64().unwrap();
    assert_eq!(version(next(&mut follow)), 1);
    host.put("a", b"2");
    assert_eq!(version(next(&mut follow)), 2);
    host.stop_daemon();
    host.put("a", b"3");
    assert_eq!(version(next(&mut follow)), 3, "a restart of the daemon does not end it");
    follow.signal(Signal::INT);
    assert_eq!(follow.exit(), 130);

    let cursor = host.path("w/cursor");
    let told = || {
        let args = ["audit", "--verb", "commit", "--json", "--cursor", cursor.to_str().unwrap()];
        host.statectl(args).run().ok().objects().into_iter().map(version).collect::<Vec<_>>()
    };
    assert_eq!(told(), [1, 2, 3]);
    assert_eq!(told(), [0; 0]);
    host.put("a", b"4");
    assert_eq!(told(), [4]);
    std::fs::write(&cursor, "elsewhere\n").unwrap();
    let args = ["audit", "--cursor", cursor.to_str().unwrap()];
    host.statectl(args).run().code(2).says("does not say how far");
}

#[test]
fn a_cursor_stays_behind_a_table_that_nobody_got() {
    let host = Host::new();
    host.put("a", b"1");
    let (statectl, cursor) = (host.statectl_path(), host.path("w/cursor"));
    let audit = |script: &str| {
        let args = ["-c".as_ref(), script.as_ref(), statectl.as_os_str(), cursor.as_os_str()];
        host.call("bash", args).run()
    };
    let line = r#"exec "$0" audit --verb commit --cursor "$1""#;
    // Whoever read the pipe has ended before the first row comes.
    audit(&format!("exec 3> >(:); wait $!; {line} >&3")).code(141);
    audit(&format!("{line} >/dev/full")).code(1);
    let told = || audit(line).ok().text();
    assert!(told().contains("a@1"));
    assert_eq!(told(), "");
}
