//! Who may work when, and what others are told.

use super::project::{Project, STATE, host, serials, the_lock, told};

#[test]
fn a_second_apply_is_refused_and_told_who_holds_the_lock() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let slow = first.apply_slowly("one");
    let lock = the_lock(&host);
    assert_eq!((&lock["operation"], &lock["name"]), (&"apply".into(), &STATE.into()));
    assert_eq!(lock["process"], slow.terraform.pid(), "the lock is Terraform's, not the wrapper's");

    let holder = format!("{} held by ", lock["id"].as_str().unwrap());
    let process = format!("(pid {}) for apply since ", slow.terraform.pid());
    let others: [&[&str]; 4] =
        [&["apply", "-auto-approve"], &["plan"], &["taint", "terraform_data.x"], &["destroy", "-auto-approve"]];
    for arguments in others {
        let refused = second.terraform(arguments.iter().copied()).run().code(1);
        let told = told(&refused);
        assert!(told.contains("Error acquiring the state lock"), "{told}");
        assert!(told.contains(&holder) && told.contains(&process), "{told}");
    }
    slow.finish().ok();
    assert_eq!(second.word(), "one");
    second.apply("two").run().ok();
    assert_eq!(serials(&first.log()), [1, 2]);
    first.is_settled();
}

#[test]
fn an_apply_with_lock_timeout_waits_for_its_turn() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let slow = first.apply_slowly("one");
    let mut waiting = second.apply_waiting("two").start();
    // It says so once it was refused and is about to ask again.
    waiting.prints("Acquiring state lock");
    slow.finish().ok();
    waiting.finish().ok();
    assert_eq!(first.word(), "two");
    assert_eq!(serials(&first.log()), [1, 2]);
    second.is_settled();
}

#[test]
fn an_apply_gives_up_at_its_lock_timeout() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let slow = first.apply_slowly("one");
    let late = second.terraform(["apply", "-auto-approve", "-lock-timeout=2s", "-var=word=two"]).run().code(1);
    assert!(told(&late).contains(&format!("(pid {}) for apply", slow.terraform.pid())), "{}", late.stderr);
    slow.finish().ok();
    assert_eq!(first.word(), "one");
    first.is_settled();
}

#[test]
fn reading_needs_no_lock() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    first.apply("one").run().ok();
    let slow = first.apply_slowly("two");
    assert_eq!(second.word(), "one");
    second.terraform(["plan", "-lock=false", "-var=word=three"]).run().ok();
    second.terraform(["state", "list"]).run().ok();
    assert_eq!(second.content(None)["outputs"]["word"]["value"], "one");
    slow.finish().ok();
    assert_eq!(second.word(), "two");
    first.is_settled();
}

#[test]
fn nobody_else_writes_while_terraform_holds_the_lock() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    first.apply("one").run().ok();
    let slow = first.apply_slowly("two");
    let pid = format!("(pid {})", slow.terraform.pid());
    host.statectl(["put", STATE, "--force"]).stdin("{}").run().code(75).says(&pid);
    host.statectl(["rm", STATE]).run().code(75).says(&pid);
    host.statectl(["rollback", STATE, "1", "--exact"]).run().code(75);
    host.statectl(["lock", "-n", STATE, "--", "true"]).run().code(75).says(&pid);
    // Terraform itself, told not to take the lock, does not get past it either.
    let refused = second.terraform(["apply", "-auto-approve", "-lock=false", "-var=word=three"]).run().code(1);
    assert!(refused.stderr.contains("423"), "{}", refused.stderr);
    slow.finish().ok();
    assert_eq!(first.word(), "two");
    assert_eq!(serials(&first.log()), [1, 2]);
    first.is_settled();
}

#[test]
fn locks_of_different_states_are_independent() {
    let Some(host) = host() else { return };
    let (one, other) = (Project::of(&host, "one", "example/one"), Project::of(&host, "other", "example/other"));
    let slow = one.apply_slowly("one");
    other.apply("two").run().ok();
    slow.finish().ok();
    assert_eq!((one.word(), other.word()), ("one".into(), "two".into()));
    one.is_settled();
}
