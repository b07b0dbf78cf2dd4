//! What is done against somebody's will, and how it shows.

use rustix::process::Signal;
use stated_tests::Host;

use super::project::{Project, STATE, host, serials, the_lock, told};

/// The one entry of this verb in the audit log.
#[track_caller]
fn audited(host: &Host, verb: &str) -> serde_json::Value {
    let mut entries = host.statectl(["audit", "--verb", verb, "--name", "example/**", "--json"]).run().ok().objects();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

/// Takes the lock from a Terraform that is stopped, by `force`, and checks what that one can do then.
fn a_lock_that_is_taken_away(force: impl Fn(&Host, &Project<'_>, &str)) {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    first.apply("one").run().ok();
    let mut slow = first.apply_slowly("stale");
    let lock = the_lock(&host);
    slow.terraform.signal(Signal::STOP);
    second.apply("two").run().code(1);

    force(&host, &second, lock["id"].as_str().unwrap());
    assert!(host.locks().is_empty());
    slow.running.says("is lost");
    let entry = audited(&host, "break");
    assert_eq!((&entry["name"], &entry["outcome"]), (&STATE.into(), &"ok".into()));
    assert_eq!(entry["actor"]["uid"], rustix::process::getuid().as_raw());
    second.apply("two").run().ok();

    slow.terraform.signal(Signal::CONT);
    let late = slow.finish().code(1);
    assert!(late.stderr.contains("423"), "its write was refused: {}", late.stderr);
    assert!(first.has_errored(), "Terraform kept what it could not save");
    assert_eq!(second.word(), "two");
    assert_eq!(serials(&second.log()), [1, 2]);
    assert!(host.locks().is_empty());
    // It cannot pass for the newer one either.
    first.terraform(["state", "push", "errored.tfstate"]).run().code(1);
    assert_eq!(second.word(), "two");
}

#[test]
fn force_unlock_takes_the_lock_from_a_stopped_terraform() {
    a_lock_that_is_taken_away(|_, project, id| {
        project.terraform(["force-unlock", "-force", id]).run().ok();
    });
}

#[test]
fn break_takes_the_lock_from_a_stopped_terraform() {
    a_lock_that_is_taken_away(|host, _, id| {
        host.run(["break", STATE, id]);
    });
}

#[test]
fn force_unlock_of_what_nobody_holds_does_no_harm() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    project.terraform(["force-unlock", "-force", "00000000-0000-4000-8000-000000000000"]).run().ok();
    project.apply("one").run().ok();
    project.is_settled();
}

#[test]
fn an_older_state_is_pushed_by_force_only_and_marked() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    project.apply("one").run().ok();
    let old = project.terraform(["state", "pull"]).run().ok().text();
    project.write("old.tfstate", &old);
    project.apply("two").run().ok();
    project.apply("three").run().ok();

    let refused = project.terraform(["state", "push", "old.tfstate"]).run().code(1);
    assert!(told(&refused).contains("over newer state with serial 3"), "{}", refused.stderr);
    project.terraform(["state", "push", "-force", "old.tfstate"]).run().ok();
    assert_eq!(project.word(), "one");

    let log = project.log();
    let forced: Vec<bool> = log.iter().map(|version| version["forced"].as_bool().unwrap()).collect();
    assert_eq!(forced, [false, false, false, true]);
    assert_eq!(serials(&log), [1, 2, 3, 2], "Terraform raises what it pushes by one");
    assert!(host.run(["log", STATE]).contains("forced"), "people see it too");
    project.is_settled();
}

#[test]
fn a_foreign_lineage_is_pushed_by_force_only_and_marked() {
    let Some(host) = host() else { return };
    let (project, foreign) = (Project::new(&host, "d"), Project::of(&host, "foreign", "example/foreign"));
    project.apply("one").run().ok();
    foreign.apply("other").run().ok();
    foreign.apply("another").run().ok();
    project.write("foreign.tfstate", &foreign.terraform(["state", "pull"]).run().ok().text());
    let refused = project.terraform(["state", "push", "foreign.tfstate"]).run().code(1);
    assert!(told(&refused).contains("lineage"), "{}", refused.stderr);
    project.terraform(["state", "push", "-force", "foreign.tfstate"]).run().ok();
    assert_eq!(project.word(), "another");
    assert_eq!(project.log()[1]["forced"], true);
    project.is_settled();
}
