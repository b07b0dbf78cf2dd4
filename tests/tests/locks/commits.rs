//! What a lock guards.

use stated_tests::Host;

#[test]
fn a_commit_under_somebody_elses_lock_is_refused() {
    let host = Host::new();
    host.put("x", b"before");
    let held = host.hold(&["-m", "maintenance", "x"]);
    for args in [&["put", "x"][..], &["rm", "x"], &["rollback", "x", "1"], &["put", "x", "--force"]] {
        let refused = host.statectl(args).stdin("after").run().code(75);
        assert!(refused.stderr.contains("held by") && refused.stderr.contains("hint: "), "{}", refused.stderr);
    }
    assert_eq!(host.get("x"), b"before", "reading is free");
    assert_eq!(host.put("y", b"other names too"), "y@1");
    held.release().ok();
    assert_eq!(host.put("x", b"after"), "x@2");
}

#[test]
fn a_commit_that_names_its_lock_is_accepted() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    assert_eq!(host.statectl(["put", "x", "--lock", &held.id]).stdin("1").run().ok().text(), "x@1");
    assert_eq!(host.statectl(["put", "x"]).stdin("2").env("STATED_LOCK_ID", &held.id).run().ok().text(), "x@2");
    host.statectl(["rm", "x", "--lock", &held.id]).run().ok();
    host.statectl(["rollback", "x", "1", "--lock", &held.id]).run().ok();
    held.release().ok();
}

#[test]
fn inside_of_lock_every_verb_just_works() {
    let host = Host::new();
    let script = r#"echo one | "$STATECTL" put x && "$STATECTL" get x && echo two | "$STATECTL" put x && "$STATECTL" rollback x 1 && "$STATECTL" rm x"#;
    let printed =
        host.statectl(["lock", "x", "--", "sh", "-c", script]).env("STATECTL", host.statectl_path()).run().ok();
    assert_eq!(printed.text(), "x@1\none\nx@2\nx@3\nx@4");
}

#[test]
fn promise_5_no_commit_under_a_stale_fence() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    let stale = held.id.clone();
    held.release().ok();
    host.statectl(["put", "x", "--lock", &stale]).stdin("1").run().code(75);
    let next = host.hold(&["x"]);
    host.statectl(["put", "x", "--lock", &stale]).stdin("1").run().code(75);
    host.statectl(["put", "x", "--lock", &next.id]).stdin("1").run().ok();
    host.run(["break", "x", &next.id]);
    host.statectl(["put", "x", "--lock", &next.id]).stdin("2").run().code(75);
    assert_eq!(host.get("x"), b"1");
}

#[test]
fn a_lock_on_another_name_does_not_open_this_one() {
    let host = Host::new();
    let _other = host.hold(&["x"]);
    let own = host.hold(&["y"]);
    host.statectl(["put", "x", "--lock", &own.id]).stdin("1").run().code(75);
    host.statectl(["put", "y", "--lock", &own.id]).stdin("1").run().ok();
}

#[test]
fn a_shared_lock_refuses_every_commit() {
    let host = Host::new();
    host.put("x", b"before");
    let held = host.hold(&["-s", "x"]);
    host.statectl(["put", "x"]).stdin("after").run().code(75);
    host.statectl(["put", "x", "--lock", &held.id]).stdin("after").run().code(75);
    held.release().ok();
    host.put("x", b"after");
}

#[test]
fn a_semaphore_guards_no_commits() {
    let host = Host::new();
    let held = host.hold(&["--slots", "1", "x"]);
    assert_eq!(host.put("x", b"1"), "x@1");
    held.release().ok();
}

#[test]
fn a_commit_of_several_states_needs_all_of_their_locks() {
    use stated_tests::Commits;
    let host = Host::new();
    let held = host.hold(&["b"]);
    let mut client = host.client();
    let refused = client.put_all(&[("a", b"1"), ("b", b"1"), ("c", b"1")]).unwrap_err();
    assert_eq!(refused.kind.exit_code(), 75, "{refused}");
    assert_eq!(host.run(["ls"]), "", "none of them was written");
    held.release().ok();
    client.put_all(&[("a", b"1"), ("b", b"1"), ("c", b"1")]).unwrap();
    assert_eq!(host.statectl(["ls", "--json"]).run().ok().objects().len(), 3);
}
