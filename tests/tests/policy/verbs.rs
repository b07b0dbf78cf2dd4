//! Each verb of `statectl` by each user.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use stated_tests::Finished;

use super::service::{AUDITOR, KEEPER, OPERATOR, READER, ROOT, RULES, STRANGER, Service, User, WRITER};

const USERS: [User; 7] = [READER, WRITER, OPERATOR, AUDITOR, KEEPER, ROOT, STRANGER];

/// What is asked, and who is allowed to; everybody else is denied.
struct Row {
    args: &'static [&'static str],
    allowed: &'static [User],
}

const KNOWN: &[User] = &[READER, WRITER, OPERATOR, AUDITOR, KEEPER, ROOT];
const READERS: &[User] = &[READER, WRITER, OPERATOR, KEEPER];

const ROWS: &[Row] = &[
    Row { args: &["get", "team/a"], allowed: READERS },
    Row { args: &["log", "team/a"], allowed: READERS },
    Row { args: &["show", "team/a@1"], allowed: READERS },
    Row { args: &["diff", "team/a"], allowed: READERS },
    Row { args: &["put", "team/b"], allowed: &[WRITER] },
    Row { args: &["put", "team/b", "--force"], allowed: &[WRITER] },
    Row { args: &["rollback", "team/a", "1"], allowed: &[WRITER] },
    Row { args: &["tag", "team/a", "good", "-f"], allowed: &[WRITER] },
    Row { args: &["edit", "team/a"], allowed: &[WRITER] },
    Row { args: &["rm", "team/b"], allowed: &[WRITER] },
    Row { args: &["lock", "-n", "team/l", "--", "true"], allowed: &[WRITER] },
    Row { args: &["lock", "-n", "-s", "team/l", "team/m", "--", "true"], allowed: &[WRITER] },
    Row { args: &["lock", "-n", "--ttl", "1m", "team/lease"], allowed: &[WRITER] },
    Row { args: &["exec", "--state", "team/a", "--protocol", "http", "--", "true"], allowed: KNOWN },
    Row { args: &["ls"], allowed: KNOWN },
    Row { args: &["locks"], allowed: KNOWN },
    Row { args: &["status"], allowed: KNOWN },
    Row { args: &["audit"], allowed: &[AUDITOR] },
    Row { args: &["prune", "--keep-last", "50", "team/**"], allowed: &[KEEPER, ROOT] },
    Row { args: &["prune", "--keep-last", "50", "--dry-run"], allowed: &[KEEPER, ROOT] },
    Row { args: &["verify"], allowed: &[KEEPER, ROOT] },
    Row { args: &["key", "ls"], allowed: &[KEEPER, ROOT] },
    Row { args: &["key", "rotate"], allowed: &[KEEPER, ROOT] },
    Row { args: &["backup", "-"], allowed: &[KEEPER, ROOT] },
    Row { args: &["access", "check", "daemon", "read", "team/a"], allowed: &[READER, KEEPER, ROOT] },
];

fn ask(service: &Service, user: User, args: &[&str]) -> Finished {
    let call = service.of(user, args).stdin(format!("{args:?} by {}", user.name));
    call.env("EDITOR", "sh -c 'echo more >> \"$1\"' edit").run()
}

#[test]
fn each_user_may_do_exactly_what_the_policy_says() {
    let Some(service) = Service::start(RULES) else { return };
    service.put(WRITER, "team/a", "one");
    service.put(WRITER, "team/a", "two");
    for Row { args, allowed } in ROWS {
        for user in USERS {
            if args[0] == "rm" && user == WRITER {
                service.put(WRITER, "team/b", "to be removed");
            }
            let done = ask(&service, user, args);
            let expected = if allowed.contains(&user) { 0 } else { 77 };
            assert_eq!(done.code, expected, "{} {args:?}: {}", user.name, done.stderr);
            if expected == 77 {
                assert!(done.stdout.is_empty() && done.stderr.contains("hint: "), "{}: {}", user.name, done.stderr);
            }
        }
    }
}

#[test]
fn a_users_own_daemon_serves_its_user_and_besides_whom_a_rule_names() {
    let Some(service) = Service::start_in("user", RULES) else { return };
    // Others reach it only where somebody opens it.
    let mode = fs::metadata(service.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    service.run(READER, &["ls"]).code(77).says("may not connect");
    fs::set_permissions(service.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    service.put(ROOT, "root/only", "x");
    service.put(ROOT, "team/a", "x");
    assert_eq!(service.names(ROOT, &["ls"], "state"), ["root/only", "team/a"]);
    assert_eq!(service.names(READER, &["ls"], "state"), ["team/a"]);
    service.run(READER, &["get", "root/only"]).code(77);
    service.run(STRANGER, &["ls"]).code(77).says("no rule is about it");
}

#[test]
fn locks_are_ended_by_their_holder_and_by_whom_the_policy_lets_break_them() {
    let Some(service) = Service::start(RULES) else { return };
    let lease = |name: &str| service.run(WRITER, &["lock", "--ttl", "1h", name]).ok().text();
    let id = lease("team/l");
    for user in USERS.into_iter().filter(|user| *user != WRITER) {
        // Who may not read the name does not hear that there is such a lock.
        let sees = READERS.contains(&user);
        let expected = if sees || user == STRANGER { 77 } else { 66 };
        for verb in ["unlock", "renew"] {
            let refused = service.run(user, &[verb, &id]).code(expected);
            assert!(sees || !refused.stderr.contains("team/l"), "{}: {}", user.name, refused.stderr);
        }
        if user != OPERATOR {
            let denied = service.run(user, &["break", "team/l", "--json"]).code(77);
            if user != STRANGER {
                let message = denied.error()["message"].as_str().unwrap().to_owned();
                assert!(message.contains(&format!("uid {} may not break team/l", user.uid)), "{message}");
            }
        }
    }
    service.run(WRITER, &["renew", &id]).ok();
    service.run(OPERATOR, &["break", "team/l", &id]).ok();
    service.run(WRITER, &["unlock", &lease("team/l")]).ok();
    // A lock on names of which one may not be broken by the operator is left alone, and that name is not told.
    service.run(WRITER, &["lock", "--ttl", "1h", "team/l", "secret/l"]).ok();
    let denied = service.run(OPERATOR, &["break", "team/l"]).code(77);
    assert!(!denied.stderr.contains("secret/l"), "{}", denied.stderr);
    service.run(WRITER, &["break", "secret/l"]).ok();
}

#[test]
fn a_denial_says_which_verb_is_missing_and_is_in_the_audit_log() {
    let Some(service) = Service::start(RULES) else { return };
    let denied = service.run(READER, &["put", "team/a", "--json"]).code(77).error();
    assert_eq!(denied["message"], "uid 1 may not write team/a: no rule gives it \"write\" there");
    assert_eq!(denied["hint"], "see what decides with: statectl access check 1 write 'team/a'");
    service.run(READER, &["get", "secret/a"]).code(77);
    service.run(STRANGER, &["ls"]).code(77);
    service.run(AUDITOR, &["verify"]).code(77);
    let entries = service.run(AUDITOR, &["audit", "--outcome", "denied", "--json"]).ok().objects();
    let told = |entry: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (entry["actor"]["uid"].as_u64().unwrap(), text(&entry["verb"]), text(&entry["name"]))
    };
    let mut told: Vec<_> = entries.iter().map(told).collect();
    told.sort();
    let expected = [(1, "commit", "team/a"), (1, "get", "secret/a"), (60_002, "verify", ""), (60_004, "connect", "")];
    assert_eq!(told, expected.map(|(uid, verb, name)| (uid, verb.to_owned(), name.to_owned())));
}
