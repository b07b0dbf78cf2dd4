//! Terraform under a lock of one's own.

use super::project::{Project, STATE, host, serials, the_lock, told};

#[test]
fn terraform_under_lock_does_not_block_itself() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let program = host.statectl_path();
    let program = program.to_str().unwrap();
    let run = |word: &str| {
        let word = format!("-var=word={word}");
        let command = [program, "exec", "--state", STATE, "--", "terraform", "apply", "-auto-approve", &word];
        first.statectl(&[&["lock", STATE, "--"], &command[..]].concat())
    };
    run("one").run().ok();
    assert!(host.locks().is_empty());

    let slow = first.at_gate(run("two"));
    let locks = host.locks();
    assert_eq!(locks.len(), 2, "{locks:?}");
    let outer = locks.iter().find(|lock| lock["under"].is_null()).unwrap();
    let inner = locks.iter().find(|lock| lock["under"] == outer["id"]).unwrap();
    assert_eq!((&inner["operation"], &inner["fence"]), (&"apply".into(), &outer["fence"]));
    second.apply("three").run().code(1);
    host.statectl(["put", STATE, "--force"]).stdin("{}").run().code(75);
    slow.finish().ok();
    assert_eq!(first.word(), "two");
    assert_eq!(serials(&first.log()), [1, 2]);
    first.is_settled();
}

#[test]
fn a_lease_lasts_from_plan_over_review_to_apply() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let id = host.run(["lock", "--ttl", "1h", "-m", "a review", STATE]);
    let under = ["--lock", &id];
    let plan = ["terraform", "plan", "-out=plan", "-var=word=reviewed"];
    first.exec_with(&under, &plan).run().ok();

    let refused = second.apply("two").run().code(1);
    assert!(told(&refused).contains(&format!("{id} held by ")), "{}", refused.stderr);
    host.statectl(["put", STATE]).stdin("{}").run().code(75);
    let lease = the_lock(&host);
    assert_eq!((&lease["id"], &lease["reason"]), (&id.as_str().into(), &"a review".into()));

    first.exec_with(&under, &["terraform", "apply", "plan"]).run().ok();
    assert_eq!(the_lock(&host)["id"], id, "Terraform's unlock left the lease");
    second.apply("two").run().code(1);
    assert_eq!(first.word(), "reviewed");
    host.run(["unlock", &id]);

    let late = first.exec_with(&under, &["terraform", "apply", "-auto-approve", "-var=word=late"]).run();
    assert_ne!(late.code, 0, "an ended lease covers nothing");
    assert_eq!(first.word(), "reviewed");
    second.apply("two").run().ok();
    assert_eq!(serials(&first.log()), [1, 2]);
    first.is_settled();
}

#[test]
fn a_lease_found_in_the_environment_counts_too() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    let id = host.run(["lock", "--ttl", "1h", STATE]);
    project.apply("without").run().code(1);
    project.apply("with").env("STATED_LOCK_ID", &id).run().ok();
    assert_eq!(project.word(), "with");
    host.run(["unlock", &id]);
    project.is_settled();
}

#[test]
fn a_lease_outlives_a_daemon_between_plan_and_apply() {
    let Some(host) = host() else { return };
    let daemon = host.daemon();
    let project = Project::new(&host, "d");
    let id = host.run(["lock", "--ttl", "1h", STATE]);
    project.exec_with(&["--lock", &id], &["terraform", "plan", "-out=plan", "-var=word=one"]).run().ok();
    daemon.kill();
    let _daemon = host.daemon();
    project.exec_with(&["--lock", &id], &["terraform", "apply", "plan"]).run().ok();
    assert_eq!(project.word(), "one");
    host.run(["unlock", &id]);
    project.is_settled();
}
