//! Tags: names that stay at a version.

use stated_tests::Host;

#[test]
fn a_tag_selects_its_version() {
    let host = Host::new();
    for content in ["one", "two", "three"] {
        host.put("example/app", content.as_bytes());
    }
    assert_eq!(host.run(["tag", "example/app@1", "first"]), "example/app@1");
    assert_eq!(host.run(["tag", "example/app", "release-7.0"]), "example/app@3");
    assert_eq!(host.get("example/app@first"), b"one");
    host.put("example/app", b"four");
    assert_eq!(host.get("example/app@release-7.0"), b"three", "it stays when versions follow");
    let shown = host.statectl(["show", "example/app@first", "--json"]).run().ok().object();
    assert_eq!((&shown["version"], &shown["tags"]), (&1.into(), &serde_json::json!(["first"])));
    let tags: Vec<_> = host.statectl(["log", "example/app", "--json"]).run().ok().objects();
    let tags: Vec<_> = tags.iter().map(|row| row["tags"].to_string()).collect();
    assert_eq!(tags, ["[]", r#"["release-7.0"]"#, "[]", r#"["first"]"#]);
    host.stop_daemon();
    assert_eq!(host.get("example/app@first"), b"one", "it outlives the daemon");

    assert!(host.statectl(["diff", "example/app", "first", "release-7.0"]).run().ok().text().contains("+three"));
    assert_eq!(host.run(["rollback", "example/app", "first"]), "example/app@5");
    assert_eq!(host.get("example/app"), b"one");
}

#[test]
fn a_tag_moves_only_on_purpose() {
    let host = Host::new();
    host.put("a", b"1");
    host.put("a", b"2");
    host.run(["tag", "a@1", "good"]);
    host.statectl(["tag", "a@2", "good"]).run().code(65).says("--force");
    assert_eq!(host.run(["tag", "a@1", "good"]), "a@1", "saying it again changes nothing");
    assert_eq!(host.run(["tag", "--force", "a@2", "good"]), "a@2");
    assert_eq!(host.get("a@good"), b"2");
    assert_eq!(host.run(["tag", "--delete", "a", "good"]), "a@2");
    host.statectl(["get", "a@good"]).run().code(66).says("no tag good of a");
    host.statectl(["tag", "--delete", "a", "good"]).run().code(66);
}

#[test]
fn what_cannot_be_tagged_is_told() {
    let host = Host::new();
    host.put("a", b"1");
    host.run(["rm", "a"]);
    host.statectl(["tag", "a", "gone"]).run().code(66).says("removal");
    host.statectl(["tag", "a@9", "t"]).run().code(66).says("no version 9 of a");
    host.statectl(["tag", "no/such", "t"]).run().code(66);
    for tag in ["7", "7up", "", "a b", "x@y", "ü"] {
        host.statectl(["tag", "a@1", tag]).run().code(2);
    }
    let audit = host.statectl(["audit", "--verb", "tag", "--json"]).run().ok().objects();
    assert!(audit.iter().any(|row| row["outcome"] == "not-found"), "{audit:?}");
}
