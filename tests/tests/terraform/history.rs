//! Going back, and plans that were made before.

use super::project::{Project, STATE, host, serials, told};

/// Plans a change, makes another, goes back over that, and gives the old plan a try.
fn a_plan_from_before(project: &Project<'_>, back: &[&str]) -> stated_tests::Finished {
    project.apply("one").run().ok();
    project.terraform(["plan", "-out=plan", "-var=word=planned"]).run().ok();
    project.apply("two").run().ok();
    project.statectl(&[&["rollback", STATE, "1"], back].concat()).run().ok();
    assert_eq!(project.word(), "one");
    project.terraform(["apply", "plan"]).run()
}

#[test]
fn a_plan_from_before_a_rollback_is_stale() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    let refused = a_plan_from_before(&project, &[]).code(1);
    assert!(told(&refused).contains("Saved plan is stale"), "{}", refused.stderr);
    assert_eq!(project.word(), "one");
    let log = project.log();
    assert_eq!(serials(&log), [1, 2, 3]);
    assert_eq!(log[2]["message"], "rollback to 1");

    // From there it goes on as usual.
    project.apply("three").run().ok();
    assert_eq!(serials(&project.log()), [1, 2, 3, 4]);
    project.is_settled();
}

#[test]
fn after_an_exact_rollback_an_old_plan_passes_for_fresh() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    a_plan_from_before(&project, &["--exact"]).ok();
    assert_eq!(project.word(), "planned", "which is why rollback does not do that unasked");
    assert_eq!(serials(&project.log()), [1, 2, 1, 2]);
    project.is_settled();
}

#[test]
fn a_removed_state_is_empty_to_terraform_and_comes_back() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    project.apply("one").run().ok();
    host.run(["rm", STATE]);
    assert_eq!(project.terraform(["state", "list"]).run().code, 1, "it says that there is no state");
    host.run(["rollback", STATE, "1"]);
    assert_eq!(project.word(), "one");
    let nothing_to_do = ["plan", "-detailed-exitcode", "-var=word=one"];
    project.terraform(nothing_to_do).run().ok();
    project.is_settled();
}
