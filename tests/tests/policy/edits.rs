//! Edits of the policy, while the daemon runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;
use stated_shared::{Commit, Reply, Request, SessionId, StateName};
use stated_tests::{Direct, Host};

use super::service::{AUDITOR, KEEPER, READER, ROOT, RULES, STRANGER, Service, User, WRITER};

fn code(service: &Service, user: User, args: &[&str]) -> i32 {
    service.of(user, args).stdin("x").run().code
}

fn policy_of(service: &Service, user: User) -> Value {
    service.run(user, &["status", "--json"]).ok().object()["policy"].clone()
}

#[test]
fn an_edit_acts_without_a_restart() {
    let Some(service) = Service::start(RULES) else { return };
    service.put(WRITER, "team/a", "1");
    let pid = service.run(ROOT, &["status", "--json"]).ok().object()["pid"].clone();
    assert_eq!((code(&service, READER, &["put", "team/a"]), code(&service, STRANGER, &["ls"])), (77, 77));
    let more = "\n[[rule]]\nuid = [1, 60004]\nnames = \"team/*\"\nverbs = [\"read\", \"write\"]\n";
    service.edit(&format!("{RULES}{more}"));
    assert!(service.reading().contains("anew"));
    assert_eq!((code(&service, READER, &["put", "team/a"]), code(&service, STRANGER, &["get", "team/a"])), (0, 0));
    assert_eq!(policy_of(&service, READER)["rules"], 6);
    // In place as well as by a new file; and what is taken away is gone at once.
    fs::write(service.policy(), RULES).unwrap();
    assert!(service.reading().contains("anew"));
    assert_eq!((code(&service, READER, &["put", "team/a"]), code(&service, STRANGER, &["ls"])), (77, 77));
    // Without a file, nobody has anything but root, who administers.
    fs::remove_file(service.policy()).unwrap();
    assert!(service.reading().contains("anew"));
    assert_eq!((code(&service, WRITER, &["ls"]), code(&service, ROOT, &["verify"])), (77, 0));
    let policy = policy_of(&service, ROOT);
    assert_eq!((&policy["rules"], &policy["loaded"]), (&Value::from(0), &Value::Null));
    assert_eq!(service.run(ROOT, &["status", "--json"]).ok().object()["pid"], pid);
}

#[test]
fn a_broken_edit_changes_nothing_and_is_told() {
    let Some(service) = Service::start(RULES) else { return };
    let is_as_before = |what: &str| {
        let codes = [(WRITER, "put", 0), (READER, "get", 0), (READER, "put", 77), (STRANGER, "get", 77)];
        for (user, verb, expected) in codes {
            assert_eq!(code(&service, user, &[verb, "team/a"]), expected, "{what}: {} {verb}", user.name);
        }
    };
    is_as_before("before");
    let open = "[[rule]]\nuser = \"*\"\nnames = \"**\"\nverbs = \"read\"\n";
    let broken: [(&str, u32, &str); 4] = [
        ("[[rule]]\nuser = \"bin\"\nnames = \"**\"\nverbs = \"wirte\"\n", 0o600, ":4: \"wirte\" is no verb"),
        ("[[rule", 0o600, ":1: it is no TOML"),
        (open, 0o666, "may be written by others (mode 666)"),
        ("", 0, "cannot read"),
    ];
    for (text, mode, told) in broken {
        let what = told;
        // By a rename, so that the file is never there without its fault.
        let new = service.policy().with_extension("new");
        if mode == 0 {
            symlink("missing", &new).unwrap();
        } else {
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::rename(&new, service.policy()).unwrap();
        let said = service.reading();
        assert!(said.contains("stays in force") && said.contains(told), "{what}: {said}");
        is_as_before(what);
        let error = policy_of(&service, KEEPER)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(told), "{what}: {error}");
        // Others hear that it is broken, and nothing of what is in it.
        let for_others = policy_of(&service, READER)["error"].as_str().unwrap().to_owned();
        assert!(for_others.contains("broken") && !for_others.contains(told), "{for_others}");
        let metrics = service.run(KEEPER, &["status", "--prometheus"]).ok().text();
        assert!(metrics.contains("stated_policy_broken 1\n"), "{metrics}");
        // The daemon goes on, and its next start would be refused.
        let findings = service.run(ROOT, &["doctor", "--json"]).code(1).objects();
        for verdict in ["warn", "fail"] {
            let is_told = |finding: &Value| finding["what"].as_str().unwrap().contains(told);
            let found = findings.iter().any(|finding| finding["verdict"] == verdict && is_told(finding));
            assert!(found, "{verdict} {what}: {findings:?}");
        }
        service.edit(&format!("{RULES}# mended after: {what}\n"));
        assert!(service.reading().contains("anew"), "{what}");
        assert_eq!(policy_of(&service, KEEPER)["error"], Value::Null);
        is_as_before("mended");
    }
    let readings = service.run(AUDITOR, &["audit", "--verb", "policy", "--json"]).ok().objects();
    let outcomes = |outcome: &str| -> u64 {
        let of_it = readings.iter().filter(|entry| entry["outcome"] == outcome);
        of_it.map(|entry| entry["count"].as_u64().unwrap()).sum()
    };
    assert_eq!((outcomes("ok"), outcomes("config")), (5, 4), "{readings:?}");
}

#[test]
fn a_broken_policy_refuses_a_start() {
    let host = Host::new();
    fs::create_dir(host.config_dir()).unwrap();
    let file = host.config_dir().join("policy.toml");
    fs::write(&file, "# one\n[[rule]]\nuser = \"root\"\nnames = \"**\"\nverbs = [\"raed\"]\n").unwrap();
    let refused = host.stated(["run"]).run().code(78);
    assert!(refused.stderr.contains(&format!("{}:5: \"raed\" is no verb", file.display())), "{}", refused.stderr);
    assert!(!host.state_dir().join("FORMAT").exists(), "nothing was made");
    host.statectl(["ls"]).run().code(78).says("policy.toml:5");
    fs::write(&file, "[[rule]]\nnames = \"**\"\nverbs = \"read\"\n").unwrap();
    host.stated(["run"]).run().code(78).says("hint: a rule has user, uid or group, names and verbs");
    fs::write(&file, "").unwrap();
    host.chmod(&file, 0o666);
    host.stated(["run"]).run().code(78).says(&format!("hint: chmod go-w {}", file.display()));
    host.chmod(&file, 0o600);
    host.put("a", b"its owner may do everything");
    host.stop_daemon();
    // One that the configuration names must be there.
    fs::write(host.config_dir().join("config.toml"), "policy = \"rules.toml\"\n").unwrap();
    host.stated(["run"]).run().code(78).says("rules.toml");
    fs::rename(file, host.config_dir().join("rules.toml")).unwrap();
    assert_eq!(host.get("a"), b"its owner may do everything");
}

#[test]
fn what_was_done_before_an_edit_is_answered_as_it_was() {
    let rules = format!("{RULES}\n[[rule]]\nuser = \"root\"\nnames = \"team/*\"\nverbs = [\"read\", \"write\"]\n");
    let Some(service) = Service::start(&rules) else { return };
    let session = SessionId([7; 16]);
    let ask = |state: &str| {
        let mut direct = Direct::resume(&service.socket(), session).unwrap();
        direct.ask(Request::Commit(Commit::put(StateName::parse(state).unwrap(), b"x".to_vec())), &[]).unwrap()
    };
    let done = ask("team/a").unwrap();
    assert!(matches!(&done, Reply::Committed(committed) if committed.states[0].changed), "{done:?}");
    service.edit(RULES);
    assert!(service.reading().contains("anew"));
    // The same request comes again, as after a lost answer: it was done, and that is what its client must hear.
    let Reply::Committed(again) = ask("team/a").unwrap() else { panic!("another answer") };
    assert!(again.states[0].changed);
    service.run(ROOT, &["put", "team/a"]).code(77);
}

#[test]
fn who_waits_for_a_lock_is_denied_when_its_turn_comes() {
    let Some(service) = Service::start(RULES) else { return };
    let second = "\n[[rule]]\nuid = 60004\nnames = \"team/*\"\nverbs = [\"read\", \"lock\"]\n";
    service.edit(&format!("{RULES}{second}"));
    assert!(service.reading().contains("anew"));
    let id = service.run(WRITER, &["lock", "--ttl", "1h", "team/l"]).ok().text();
    let mut waiting = service.of(STRANGER, &["lock", "team/l", "--", "true"]).start();
    waiting.says("waiting:");
    let own = service.run(STRANGER, &["lock", "--ttl", "1h", "team/own"]).ok().text();
    service.edit(RULES);
    assert!(service.reading().contains("anew"));
    service.run(WRITER, &["unlock", &id]).ok();
    let denied = waiting.finish().code(77);
    assert!(denied.stderr.contains("uid 60004 may not lock team/l"), "{}", denied.stderr);
    // What one held, one may still end on the session that one has; a new one is not let in.
    service.run(STRANGER, &["unlock", &own]).code(77);
}
