//! What a user is told of the policy's decisions: by `access check`, and through a gateway.

use serde_json::Value;
use stated_tests::tool;

use super::service::{AUDITOR, CROWDED, KEEPER, OPERATOR, READER, ROOT, RULES, STRANGER, Service, User, WRITER};

fn check(service: &Service, by: User, args: [&str; 3], code: i32) -> Value {
    service.run(by, &[&["access", "check"], &args[..], &["--json"]].concat()).code(code).object()
}

#[test]
fn access_check_says_what_decides() {
    let Some(service) = Service::start(RULES) else { return };
    let found = check(&service, KEEPER, ["daemon", "read", "team/a"], 0);
    let expected = [("allowed", Value::from(true)), ("user", "daemon".into()), ("uid", 1.into()), ("rule", 1.into())];
    for (field, value) in expected.into_iter().chain([("line", 2.into()), ("missing", Value::Null)]) {
        assert_eq!(found[field], value, "{found}");
    }
    let found = check(&service, KEEPER, ["daemon", "write", "team/a"], 77);
    assert_eq!(
        (&found["allowed"], &found["missing"], &found["rule"]),
        (&Value::from(false), &"write".into(), &Value::Null)
    );
    // By number; of a user whom nobody knows; of a name that nothing has.
    for (user, verb, state, code) in [
        ("2", "lock", "secret/none", 0),
        ("60002", "audit", "anything", 0),
        ("60002", "read", "anything", 77),
        ("4000000000", "read", "team/a", 77),
        ("root", "admin", "team/a", 0),
        ("root", "read", "team/a", 77),
    ] {
        check(&service, KEEPER, [user, verb, state], code);
    }
    service.run(KEEPER, &["access", "check", "no-such-user", "read", "team/a"]).code(66);
    service.run(KEEPER, &["access", "check", "bin", "wirte", "team/a"]).code(2);
    let text = service.run(KEEPER, &["access", "check", "bin", "write", "team/a"]).ok().text();
    assert_eq!(text, "allowed: bin (uid 2) may write team/a: rule 2 (line 7: user bin)");
    let text = service.run(KEEPER, &["access", "check", "bin", "break", "team/a"]).code(77).text();
    assert_eq!(text, "denied: bin (uid 2) may not break team/a: no rule gives it \"break\" there");
}

#[test]
fn of_oneself_everybody_may_ask_and_of_others_whoever_administers() {
    let Some(service) = Service::start(RULES) else { return };
    assert_eq!(check(&service, READER, ["daemon", "read", "team/a"], 0)["uid"], 1);
    // By the groups of the very process: the host knows of none.
    let own = check(&service, OPERATOR, ["60001", "break", "team/a"], 0);
    assert_eq!(own["gids"], serde_json::json!([60, 60001]));
    check(&service, KEEPER, ["60001", "break", "team/a"], 77);
    let crowded = check(&service, CROWDED, ["60005", "break", "team/a"], 0);
    assert_eq!(crowded["gids"].as_array().unwrap().len(), 101);
    for user in [READER, OPERATOR, AUDITOR, WRITER] {
        // Also of a user that there is not: who there is, is not for everybody.
        for other in ["games", "no-such-user", "0"] {
            let denied = service.run(user, &["access", "check", other, "read", "team/a", "--json"]).code(77);
            assert!(denied.stdout.is_empty(), "{}", denied.text());
            assert!(denied.error()["message"].as_str().unwrap().contains("may not admin team/a"));
        }
    }
    check(&service, ROOT, ["games", "break", "team/a"], 0);
    service.run(STRANGER, &["access", "check", "60004", "read", "team/a"]).code(77);
}

#[test]
fn a_gateway_hands_a_denial_on() {
    if !tool("curl") {
        return;
    }
    let Some(service) = Service::start(RULES) else { return };
    service.put(WRITER, "team/a", "{}");
    let script = r#"curl -sS -u "$TF_HTTP_USERNAME:$TF_HTTP_PASSWORD" -w '%{http_code}\n' "$@" "$TF_HTTP_ADDRESS""#;
    let ask = |user: User, state: &str, curl: &[&str]| {
        let args = ["exec", "--protocol", "http", "--state", state, "--", "sh", "-c", script, "sh"];
        service.run(user, &[&args[..], curl].concat()).ok().text()
    };
    assert_eq!(ask(READER, "team/a", &[]), "{}200");
    let denied = ask(READER, "team/a", &["--data", "{\"serial\":1}"]);
    assert!(denied.ends_with("403") && denied.contains("uid 1 may not write team/a"), "{denied}");
    let denied = ask(READER, "team/a", &["-X", "LOCK", "--data", "{\"ID\":\"x\"}"]);
    assert!(denied.ends_with("403") && denied.contains("uid 1 may not lock team/a"), "{denied}");
    let denied = ask(READER, "secret/a", &[]);
    assert!(denied.ends_with("403") && denied.contains("uid 1 may not read secret/a"), "{denied}");
}
