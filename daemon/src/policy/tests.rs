//! Decisions, principal by principal and verb by verb.

use std::sync::Arc;

use stated_shared::{FailureKind, Verb};

use super::*;

/// alice 1001, bob 1002; the groups deploy 2001 and audit 2002.
struct Known;

impl Directory for Known {
    fn uid(&self, user: &str) -> Option<u32> {
        [("root", 0), ("alice", 1001), ("bob", 1002)].into_iter().find(|(name, _)| *name == user).map(|(_, uid)| uid)
    }
    fn gid(&self, group: &str) -> Option<u32> {
        [("deploy", 2001), ("audit", 2002)].into_iter().find(|(name, _)| *name == group).map(|(_, gid)| gid)
    }
}

const RULES: &str = r#"
# Line 2.
[[rule]]
user = "alice"
names = "prod/**"
verbs = ["read", "write", "lock"]

[[rule]]
group = ["deploy", "nobody-has-this"]
names = ["prod/*", "stage/{a,b}"]
verbs = ["read", "break"]

[[rule]]
uid = [1002, 1003]
group = "audit"
names = "**"
verbs = "audit"

[[rule]]
user = "*"
names = "public"
verbs = "read"

[[rule]]
user = "bob"
names = "blind"
verbs = ["write", "lock", "break"]

[[rule]]
uid = 1004
names = "**"
verbs = "admin"
"#;

fn policy(mode: Mode) -> Arc<Policy> {
    Arc::new(Policy::parse(RULES, mode, &Known).unwrap())
}

/// The verbs that somebody has on a name, by their first letters; `a` is audit and `m` admin.
fn has(policy: &Arc<Policy>, uid: u32, gids: &[u32], name: &str) -> String {
    let view = policy.view(Subject::new(uid, gids.to_vec()));
    let letters = Verb::ALL.into_iter().zip("rwlbam".chars());
    letters.filter(|(verb, _)| view.may(*verb, name)).map(|(_, letter)| letter).collect()
}

#[test]
fn each_principal_has_exactly_the_verbs_of_its_rules() {
    type Decided<'a> = &'a [(&'a str, &'a str)];
    let table: &[(u32, &[u32], Decided<'_>)] = &[
        // A user's rule, and what everybody may.
        (
            1001,
            &[],
            &[("prod/a", "rwl"), ("prod/a/b", "rwl"), ("prod", ""), ("stage/a", ""), ("public", "r"), ("x", "")],
        ),
        // Another user of the same groups as nobody.
        (1009, &[9], &[("prod/a", ""), ("public", "r")]),
        // A group's, be it the effective or a supplementary one; `*` stays in a part.
        (1009, &[9, 2001], &[("prod/a", "rb"), ("prod/a/b", ""), ("stage/a", "rb"), ("stage/c", ""), ("public", "r")]),
        // Rules add up.
        (1001, &[2001], &[("prod/a", "rwlb"), ("stage/b", "rb")]),
        // By number or by group, either will do. Verbs that tell of what is there are nothing without `read`.
        (1002, &[], &[("prod/a", "a"), ("public", "ra"), ("blind", "a")]),
        (1003, &[], &[("anything/at/all", "a")]),
        (1009, &[2002], &[("anything", "a")]),
        (1004, &[], &[("anything", "m"), ("public", "rm")]),
    ];
    for mode in [Mode::System, Mode::User { owner: 1000 }] {
        let policy = policy(mode);
        for (uid, gids, names) in table {
            for (name, verbs) in *names {
                assert_eq!(has(&policy, *uid, gids, name), *verbs, "{uid} {gids:?} {name}");
            }
        }
    }
}

#[test]
fn the_mode_is_what_holds_without_a_rule() {
    let system = policy(Mode::System);
    assert_eq!(has(&system, 0, &[0], "prod/a"), "m", "root administers the system's daemon");
    assert_eq!(has(&system, 0, &[0], "public"), "rm");
    let user = policy(Mode::User { owner: 1000 });
    assert_eq!(has(&user, 0, &[], "x"), "rwlbam");
    assert_eq!(has(&user, 1000, &[], "x"), "rwlbam");
    assert_eq!(has(&user, 1005, &[], "x"), "");
    for (mode, uid, connects) in [
        (Mode::System, 0, true),
        (Mode::System, 1000, false),
        (Mode::User { owner: 1000 }, 1000, true),
        (Mode::User { owner: 1000 }, 0, true),
        (Mode::User { owner: 1000 }, 1001, false),
    ] {
        let view = Arc::new(Policy::without_rules(mode)).view(Subject::new(uid, vec![]));
        assert_eq!(view.may_connect(), connects, "{mode:?} {uid}");
        assert_eq!(view.may_somewhere(Verb::Read), connects && mode != Mode::System);
    }
}

#[test]
fn what_is_about_all_names_takes_a_rule_for_all_names() {
    let policy = policy(Mode::System);
    let view = |uid| policy.view(Subject::new(uid, vec![]));
    assert!(view(1004).may_everywhere(Verb::Admin) && view(0).may_everywhere(Verb::Admin));
    assert!(!view(1001).may_everywhere(Verb::Read) && view(1001).may_somewhere(Verb::Read));
    assert!(!view(1001).may_somewhere(Verb::Audit) && view(1002).may_everywhere(Verb::Audit));
}

#[test]
fn a_denial_names_the_verb_that_is_missing() {
    let view = policy(Mode::System).view(Subject::new(1002, vec![]));
    let told = |verb, name| {
        let failure = view.denial(verb, name);
        assert_eq!(failure.kind, FailureKind::Denied);
        failure.message
    };
    assert_eq!(told(Verb::Lock, "prod/a"), "uid 1002 may not lock prod/a: no rule gives it \"lock\" there");
    assert_eq!(
        told(Verb::Write, "blind"),
        "uid 1002 may not write blind: no rule gives it \"read\" there, which \"write\" needs"
    );
    let by = |uid, name| {
        policy(Mode::System).view(Subject::new(uid, vec![])).grants(Verb::Read, name).map(|by| by.to_string())
    };
    assert_eq!(by(1001, "prod/a").as_deref(), Some("rule 1 (line 3: user alice)"));
    assert_eq!(by(1001, "public").as_deref(), Some("rule 4 (line 19: user *)"));
    assert_eq!(by(1001, "x"), None);
}

#[test]
fn whom_the_host_does_not_know_has_nothing_and_is_told() {
    let text = "[[rule]]\nuser = [\"alice\", \"alcie\"]\ngroup = \"dpeloy\"\nnames = \"x\"\nverbs = \"read\"\n";
    let policy = Arc::new(Policy::parse(text, Mode::System, &Known).unwrap());
    assert_eq!(policy.unknown(), ["group \"dpeloy\" (line 3)", "user \"alcie\" (line 2)"]);
    assert_eq!(has(&policy, 1001, &[], "x"), "r");
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let rule = |lines: &str| format!("# first\n\n[[rule]]\n{lines}\n");
    let cases = [
        ("[[rules]]\n".to_owned(), 1, "there is no setting \"rules\""),
        ("x = 1\n".to_owned(), 1, "there is no setting \"x\""),
        ("rule = 1\n".to_owned(), 1, "a rule is a table of an array"),
        ("[[rule]\n".to_owned(), 1, "it is no TOML"),
        (rule("user = \"alice\"\nname = \"x\"\nverbs = \"read\""), 5, "a rule has no \"name\""),
        (rule("user = \"alice\"\nnames = \"x\"\nverbs = [\"read\",\n \"wirte\"]"), 7, "\"wirte\" is no verb"),
        (rule("user = \"alice\"\nnames = [\"a\", \"x[\"]\nverbs = \"read\""), 5, "\"x[\" is no glob"),
        (rule("user = \"alice\"\nnames = \"x\""), 3, "the rule has no verbs"),
        (rule("user = \"alice\"\nverbs = \"read\""), 3, "the rule has no names"),
        (rule("names = \"x\"\nverbs = \"read\""), 3, "the rule has no user, uid or group"),
        (rule("user = []\nnames = \"x\"\nverbs = \"read\""), 4, "a user is a name in quotes"),
        (rule("user = \"\"\nnames = \"x\"\nverbs = \"read\""), 4, "a user is a name in quotes"),
        (rule("uid = -1\nnames = \"x\"\nverbs = \"read\""), 4, "a uid is a number"),
        (rule("uid = 4294967295\nnames = \"x\"\nverbs = \"read\""), 4, "a uid is a number"),
        (rule("uid = \"7\"\nnames = \"x\"\nverbs = \"read\""), 4, "a uid is a number"),
        (rule("user = \"a\"\nuser = \"b\"\nnames = \"x\"\nverbs = \"read\""), 5, "it is no TOML"),
    ];
    for (text, line, message) in cases {
        let error = Policy::parse(&text, Mode::System, &Known).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.message.starts_with(message), "{text}: {error}");
    }
    let whole = rule("names = \"x\"\nverbs = \"read\"\nuid = 1001");
    // Of a file that is there in part, each part is broken or gives no more than the whole.
    for len in 0..=whole.len() {
        let Ok(part) = Policy::parse(&whole[..len], Mode::System, &Known) else { continue };
        let part = Arc::new(part);
        assert!([1, 10, 100].into_iter().all(|uid| has(&part, uid, &[], "x").is_empty()), "{}", &whole[..len]);
    }
    assert_eq!(Policy::parse(whole.trim_end(), Mode::System, &Known).unwrap_err().line, 6);
    let long = format!("#{}", "x".repeat(FILE_LEN_MAX));
    assert!(Policy::parse(&long, Mode::System, &Known).is_err());
    assert_eq!(Policy::parse("# nothing\n", Mode::System, &Known).unwrap().rule_count(), 0);
}

#[test]
fn a_policy_that_is_replaced_leaves_no_view_of_the_old_one() {
    let policies = Policies::new(Policy::without_rules(Mode::System), "/p".to_owned(), None);
    let view = policies.current().view(Subject::new(1001, vec![]));
    assert!(view.is_of(&policies.current()));
    policies.keep("broken".to_owned());
    assert!(view.is_of(&policies.current()), "a broken edit changes nothing");
    assert_eq!((policies.told().error.as_deref(), policies.told().rules), (Some("broken"), 0));
    policies.replace(Policy::parse(RULES, Mode::System, &Known).unwrap(), None);
    assert!(!view.is_of(&policies.current()));
    let told = policies.told();
    assert_eq!((told.error, told.rules, told.mode.as_str(), told.file.as_str()), (None, 6, "system", "/p"));
}
