//! What programs read: JSON objects, exit codes, and a standard output that holds data only.

use serde_json::Value;
use stated_tests::{Host, tool};

fn has_fields(object: &Value, names: &[&str]) {
    for name in names {
        assert!(object.get(name).is_some(), "no field {name:?} in {object}");
    }
}

const ACTOR: [&str; 7] = ["uid", "user", "gid", "pid", "comm", "exe", "host"];
const VERSION: [&str; 10] =
    ["state", "version", "sha256", "size", "time", "actor", "message", "tags", "serial", "lineage"];
const LOCK: [&str; 10] =
    ["name", "kind", "id", "fence", "holder", "since", "operation", "reason", "waiters", "expires"];
const AUDIT: [&str; 8] = ["seq", "time", "actor", "verb", "name", "version", "outcome", "count"];

#[test]
fn versions_have_the_promised_fields_in_every_list() {
    let host = Host::new();
    host.statectl(["put", "a", "-m", "why"]).stdin("hello").run().ok();
    for args in [&["ls", "--json"][..], &["log", "a", "--json"], &["show", "a", "--json"], &["show", "a@1", "--json"]] {
        let version = host.statectl(args).run().ok().object();
        has_fields(&version, &VERSION);
        has_fields(&version["actor"], &ACTOR);
        assert_eq!((&version["state"], &version["version"]), (&"a".into(), &1.into()));
        assert_eq!((&version["size"], &version["message"]), (&5.into(), &"why".into()));
        assert_eq!(version["sha256"], stated_tests::sha256(b"hello"));
        assert_eq!(version["actor"]["uid"], rustix::process::geteuid().as_raw());
        assert_eq!(version["actor"]["comm"], "statectl");
    }
}

#[test]
fn locks_have_the_promised_fields() {
    let host = Host::new();
    let lease = host.run(["lock", "--ttl", "1h", "-m", "why", "x", "y"]);
    let rows = host.locks();
    assert_eq!(rows.len(), 2);
    for (row, name) in rows.iter().zip(["x", "y"]) {
        has_fields(row, &LOCK);
        has_fields(&row["holder"], &ACTOR);
        assert_eq!((&row["name"], &row["kind"]), (&name.into(), &"exclusive".into()));
        assert_eq!((&row["id"], &row["reason"]), (&lease.as_str().into(), &"why".into()));
        assert_eq!(row["waiters"], 0);
        assert!(row["expires"].is_string());
    }
    assert_eq!(host.statectl(["locks", "x*", "--json"]).run().ok().object()["name"], "x");
}

#[test]
fn the_audit_log_has_the_promised_fields_and_finds_deeds_by_them() {
    let host = Host::new();
    host.put("a", b"1");
    host.put("b", b"1");
    host.get("a");
    host.statectl(["put", "a", "--if-version", "7"]).stdin("2").run().code(65);
    host.run(["lock", "--ttl", "1h", "x"]);
    let audit = |args: &[&str]| host.statectl(["audit", "--json"].iter().chain(args)).run().ok().objects();
    // Reads and refusals are flushed within a second; a stop flushes what is left.
    host.stop_daemon();
    let all = audit(&[]);
    for entry in &all {
        has_fields(entry, &AUDIT);
        has_fields(&entry["actor"], &ACTOR);
    }
    let seqs: Vec<u64> = all.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
    let commits = audit(&["--verb", "commit", "--outcome", "ok"]);
    assert_eq!(commits.len(), 2);
    assert_eq!(
        (&commits[0]["name"], &commits[0]["version"], &commits[0]["count"]),
        (&"a".into(), &1.into(), &1.into())
    );
    let refused = audit(&["--name", "a", "--outcome", "conflict"]);
    assert_eq!((refused.len(), &refused[0]["verb"]), (1, &"commit".into()));
    assert_eq!(audit(&["--verb", "get", "--name", "a"]).len(), 1);
    assert_eq!(audit(&["--verb", "lock", "--name", "x"]).len(), 1);
    assert_eq!(audit(&["--until", "1h"]).len(), 0);
}

#[test]
fn lists_of_nothing_print_nothing() {
    let host = Host::new();
    host.statectl(["ls"]).run().ok();
    for args in [["ls", "--json"], ["locks", "--json"]] {
        assert_eq!(host.run(args), "", "{args:?}");
    }
}

#[test]
fn status_and_show_are_one_object() {
    let host = Host::new();
    host.put("a", b"x");
    let status = host.status();
    assert_eq!((&status["states"], &status["versions"], &status["grants"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!(status["socket"], host.socket().to_str().unwrap());
    assert_eq!(status["state_dir"], host.state_dir().to_str().unwrap());
}

#[test]
fn figures_are_what_the_status_says() {
    let host = Host::new();
    host.put("a", b"x");
    host.put("a", b"y");
    host.put("b", b"x");
    host.run(["lock", "--ttl", "1h", "x"]);
    let before = host.status();
    let figures = host.statectl(["status", "--prometheus"]).run().ok();
    let status = host.status();
    let figure = |metric: &str| -> f64 {
        let text = figures.text();
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {metric} in {text}")).parse().unwrap()
    };
    for (metric, field) in
        [("stated_states", "states"), ("stated_versions", "versions"), ("stated_locks_held", "grants")]
    {
        assert_eq!(Some(figure(metric)), status[field].as_f64(), "{metric}");
    }
    // What was read is written down meanwhile, and a client may still be on its way out.
    for (metric, field) in [("stated_records_total", "seq"), ("stated_log_bytes", "log_bytes")] {
        let figure = Some(figure(metric));
        assert!(before[field].as_f64() <= figure && figure <= status[field].as_f64(), "{metric}: {figure:?}");
    }
    assert!(figure("stated_sessions") >= 1.0 && figure("stated_locks_waiting") == 0.0);
    assert!(figure("stated_start_time_seconds") > 1.7e9);
    let info = format!("repository={},host=", status["repository"]);
    assert!(figures.text().contains(&info), "{info} is not in {}", figures.text());
    host.statectl(["status", "--prometheus", "--json"]).run().code(2);
    if tool("promtool") {
        let checked = host.call("promtool", ["check", "metrics"]).stdin(figures.stdout).run().ok();
        assert_eq!((checked.text(), checked.stderr), (String::new(), String::new()), "it has something to say");
    }
}

#[test]
fn a_failure_under_json_ends_standard_error_with_one_object() {
    let host = Host::new();
    host.put("a", b"x");
    let lease = host.run(["lock", "--ttl", "1h", "x"]);
    let cases = [
        (&["get", "b", "--json"][..], 66, "not-found"),
        (&["put", "a", "--if-absent", "--json"], 65, "conflict"),
        (&["put", "a//b", "--json"], 2, "usage"),
        (&["frobnicate", "--json"], 2, "usage"),
        (&["--json"], 2, "usage"),
        (&["put", "a", "/no/such/file", "--json"], 1, "other"),
        (&["get", "a", "-o", "/no/such/directory/x", "--json"], 1, "other"),
        (&["get", "a@9", "--json"], 66, "not-found"),
        (&["rollback", "a", "9", "--json"], 66, "not-found"),
        (&["log", "b", "--json"], 66, "not-found"),
        (&["diff", "b", "--json"], 66, "not-found"),
        (&["rm", "b", "--json"], 66, "not-found"),
        (&["renew", "gone", "--json"], 66, "not-found"),
        (&["audit", "--user", "nobody-of-that-name", "--json"], 2, "usage"),
        (&["ls", "a[", "--json"], 2, "usage"),
        (&["exec", "--state", "a", "--json", "--", "/no/such/program"], 127, "other"),
        (&["man", "/dev/null/x", "--json"], 1, "other"),
        (&["lock", "-n", "x", "--json", "--", "true"], 75, "busy"),
        (&["lock", "-n", "-E", "9", "x", "--json", "--", "true"], 9, "busy"),
        (&["put", "x", "--lock", "gone", "--json"], 75, "busy"),
        (&["unlock", "gone", "--json"], 66, "not-found"),
        (&["break", "free", "--json"], 66, "not-found"),
        (&["lock", "free", "--json", "--", "/no/such/program"], 127, "other"),
        (&["lock", "free", "--json", "--", "/"], 126, "other"),
    ];
    for (args, code, kind) in cases {
        let refused = host.statectl(args).run().code(code);
        let error = refused.error();
        has_fields(&error, &["code", "kind", "message", "hint"]);
        assert_eq!((&error["code"], &error["kind"]), (&code.into(), &kind.into()), "{args:?}");
        for field in ["message", "hint"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{args:?}: {error}");
        }
        assert!(refused.stdout.is_empty(), "{args:?}");
    }
    host.run(["unlock", &lease]);
}

#[test]
fn an_interrupt_is_told_to_programs_too() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    for args in [&["lock", "x", "--json", "--", "true"][..], &["lock", "--ttl", "1m", "x", "--json"]] {
        let mut waiting = host.statectl(args).start();
        waiting.says("waiting:");
        waiting.signal(rustix::process::Signal::INT);
        let ended = waiting.finish().code(130);
        assert_eq!((&ended.error()["code"], &ended.error()["kind"]), (&130.into(), &"interrupted".into()), "{args:?}");
    }
    held.release().ok();
}

#[test]
fn a_mistyped_name_is_answered_with_the_one_that_exists() {
    let host = Host::new();
    host.put("example/network", b"x");
    for args in [&["get", "example/netwrok"][..], &["log", "exmaple/network"], &["rollback", "example/networks", "1"]] {
        host.statectl(args).run().code(66).says("hint: did you mean example/network?");
    }
    let version = host.statectl(["get", "example/network@7"]).run().code(66);
    assert!(!version.stderr.contains("did you mean"), "{}", version.stderr);
}

#[test]
fn without_json_nobody_meets_an_object_and_without_a_terminal_no_colour() {
    let host = Host::new();
    host.put("a", b"x");
    let missing = host.statectl(["get", "b"]).run().code(66);
    assert!(!missing.stderr.contains('{') && !missing.stderr.contains('\u{1b}'), "{}", missing.stderr);
    for verb in ["ls", "status", "audit", "locks"] {
        let printed = host.run([verb]);
        assert!(!printed.contains('{') && !printed.contains('\u{1b}'), "{printed}");
    }
    assert!(host.run(["--color", "always", "diff", "a"]).contains('\u{1b}'));
}

#[test]
fn help_and_version_are_data_and_usage_errors_are_not() {
    let host = Host::new();
    for args in [&["--help"][..], &["put", "--help"], &["--version"]] {
        let help = host.statectl(args).run().ok();
        assert!(!help.stdout.is_empty() && help.stderr.is_empty(), "{args:?}");
    }
    for args in [&[][..], &["put"], &["get", "a", "b", "c"], &["lock", "x"], &["lock", "-s", "-x", "n", "--", "true"]] {
        let refused = host.statectl(args).run().code(2);
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{args:?}");
    }
    assert!(!host.socket().exists(), "none of it needs a daemon");
}

#[test]
fn a_closed_pipe_ends_a_list_quietly() {
    let host = Host::new();
    let mut client = host.client_started();
    for number in 0..600 {
        stated_tests::Commits::put_one(&mut client, &format!("state/{number}"), b"x");
    }
    let script = r#""$STATECTL" ls | head -n 1; echo "${PIPESTATUS[0]}""#;
    let piped = host.call("bash", ["-c", script]).env("STATECTL", host.statectl_path()).run().ok();
    assert!(piped.stderr.is_empty(), "{}", piped.stderr);
    assert!(matches!(piped.text().lines().last(), Some("0" | "141")), "{}", piped.text());
}
