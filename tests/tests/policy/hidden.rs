//! Names that somebody may not read show nowhere, and a name that is there answers as one that is not.

use serde_json::Value;
use stated_tests::Running;

use super::service::{AUDITOR, KEEPER, OPERATOR, READER, ROOT, RULES, Service, User, WRITER};

const THERE: &str = "secret/there";
const ABSENT: &str = "secret/nowhere";

fn filled() -> Option<Service> {
    let service = Service::start(RULES)?;
    for name in ["team/a", THERE, "secret/locked"] {
        service.put(WRITER, name, "1");
        service.put(WRITER, name, "2");
    }
    service.run(WRITER, &["tag", THERE, "t"]).ok();
    service.run(WRITER, &["lock", "--ttl", "1h", "secret/locked"]).ok();
    service.run(WRITER, &["lock", "--ttl", "1h", "team/l"]).ok();
    Some(service)
}

#[test]
fn lists_show_the_names_that_one_may_read() {
    let Some(service) = filled() else { return };
    let all = ["secret/locked", THERE, "team/a"];
    for (user, readable) in [(READER, &all[2..]), (OPERATOR, &all[2..]), (WRITER, &all), (KEEPER, &all), (AUDITOR, &[])]
    {
        assert_eq!(service.names(user, &["ls"], "state"), readable, "{}", user.name);
        // Asked for by name, or by a glob, they show no more.
        for glob in [THERE, "secret/*", "**"] {
            let shown = service.names(user, &["ls", glob], "state");
            assert!(shown.iter().all(|name| readable.contains(&name.as_str())), "{} {glob}: {shown:?}", user.name);
        }
    }
    assert_eq!(service.names(READER, &["locks"], "name"), ["team/l"]);
    assert_eq!(service.names(WRITER, &["locks"], "name"), ["secret/locked", "team/l"]);
    assert_eq!(service.names(ROOT, &["locks"], "name"), [""; 0]);
    // A prune tells only of what one may both prune and read.
    assert_eq!(service.names(ROOT, &["prune", "--keep-last", "1", "--dry-run"], "state"), [""; 0]);
    assert_eq!(service.names(KEEPER, &["prune", "--keep-last", "1", "--dry-run"], "state"), all);
}

#[test]
fn a_name_that_is_there_answers_as_one_that_is_not() {
    let Some(service) = filled() else { return };
    let calls: &[&[&str]] = &[
        &["get", "NAME"],
        &["get", "NAME@1"],
        &["get", "NAME@t"],
        &["show", "NAME"],
        &["log", "NAME"],
        &["diff", "NAME"],
        &["rollback", "NAME", "1"],
        &["put", "NAME"],
        &["put", "NAME", "--if-version", "1"],
        &["put", "NAME", "--if-absent"],
        &["rm", "NAME"],
        &["tag", "NAME", "u"],
        &["tag", "NAME", "t", "-d"],
        &["edit", "NAME"],
        &["lock", "-n", "NAME", "--", "true"],
        &["lock", "-n", "team/x", "NAME", "--", "true"],
        &["lock", "-n", "--ttl", "1m", "NAME"],
        &["break", "NAME"],
        &["ls", "NAME"],
        &["locks", "NAME"],
        &["access", "check", "1", "read", "NAME"],
    ];
    for user in [READER, OPERATOR, AUDITOR] {
        for call in calls {
            let answer = |name: &str| {
                let args: Vec<String> = call.iter().map(|arg| arg.replace("NAME", name)).collect();
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let done = service.of(user, &args).stdin("x").env("EDITOR", "true").run();
                (done.code, done.text().replace(name, "NAME"), done.stderr.replace(name, "NAME"))
            };
            let absent = answer(ABSENT);
            for there in [THERE, "secret/locked"] {
                assert_eq!(answer(there), absent, "{} {call:?}", user.name);
            }
        }
    }
}

#[test]
fn no_hint_tells_a_name_that_one_may_not_read() {
    let rules = RULES.replace("names = \"team/**\"\nverbs = \"read\"", "names = \"open/net*\"\nverbs = \"read\"");
    let Some(service) = Service::start(&rules.replace("\"secret/**\"", "\"open/**\"")) else { return };
    service.put(WRITER, "open/xnetwork", "hidden");
    let hint = |user: User| service.run(user, &["get", "open/network", "--json"]).code(66).error()["hint"].to_string();
    assert!(hint(WRITER).contains("did you mean open/xnetwork?"), "{}", hint(WRITER));
    assert!(!hint(READER).contains("xnetwork"), "{}", hint(READER));
    service.put(WRITER, "open/networks", "shown");
    assert!(hint(READER).contains("did you mean open/networks?"), "{}", hint(READER));
}

#[test]
fn the_audit_log_tells_of_the_names_that_one_may_audit() {
    let rules = RULES.replace("uid = 60002\nnames = \"**\"", "uid = 60002\nnames = \"team/**\"");
    let Some(service) = Service::start(&rules) else { return };
    service.put(WRITER, "team/a", "1");
    service.put(WRITER, THERE, "1");
    let told = service.names(AUDITOR, &["audit"], "name");
    assert_eq!(told, ["team/a"], "neither other names, nor what is about the daemon itself");
    service.run(AUDITOR, &["get", "team/a"]).code(77);
}

/// The next change that a watcher hears of.
fn next(watch: &mut Running) -> String {
    let change: Value = serde_json::from_str(&watch.line()).unwrap();
    format!("{}@{}", change["state"].as_str().unwrap(), change["version"])
}

#[test]
fn a_watch_shows_what_one_may_read_and_stops_when_one_may_not_any_more() {
    let Some(service) = Service::start(RULES) else { return };
    service.put(WRITER, THERE, "1");
    service.put(WRITER, "team/a", "1");
    let mut watch = service.of(READER, &["watch", "--since", "0", "--json"]).start();
    assert_eq!(next(&mut watch), "team/a@1");
    service.put(WRITER, THERE, "2");
    service.put(WRITER, "team/a", "2");
    assert_eq!(next(&mut watch), "team/a@2");
    service.edit(&RULES.replace("names = \"team/**\"\nverbs = \"read\"", "names = \"secret/**\"\nverbs = \"read\""));
    assert!(service.reading().contains("anew"));
    service.put(WRITER, "team/a", "3");
    service.put(WRITER, THERE, "3");
    assert_eq!(next(&mut watch), format!("{THERE}@3"));
}
