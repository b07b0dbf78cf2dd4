//! The daemon goes and comes back in the middle of an apply.

use rustix::process::{Pid, Signal};
use stated_tests::{Daemon, Host, Process};

use super::project::{Project, STATE, host, serials, the_lock};

/// Ends the daemon under a working Terraform, and checks that nobody noticed.
fn a_restart_in_an_apply(end: impl Fn(Daemon)) {
    let Some(host) = host() else { return };
    let mut daemon = host.daemon();
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    for (round, word) in ["one", "two"].into_iter().enumerate() {
        let slow = first.apply_slowly(word);
        let before = the_lock(&host);
        end(daemon);
        daemon = host.daemon();
        second.apply("three").run().code(1);
        same_lock(&host, &before);
        let finished = slow.finish().ok();
        assert!(!finished.stderr.contains("lost"), "{}", finished.stderr);
        assert_eq!(first.word(), word);
        assert_eq!(serials(&first.log()).len(), round + 1);
        first.is_settled();
    }
    second.apply("three").run().ok();
    drop(daemon);
}

#[track_caller]
fn same_lock(host: &Host, before: &serde_json::Value) {
    let after = the_lock(host);
    for field in ["id", "fence", "holder", "since", "operation", "process"] {
        assert_eq!(after[field], before[field], "{field}");
    }
}

#[test]
fn a_restart_of_the_daemon_in_an_apply_loses_nothing() {
    a_restart_in_an_apply(Daemon::stop);
}

#[test]
fn kill_9_of_the_daemon_in_an_apply_loses_nothing() {
    a_restart_in_an_apply(Daemon::kill);
}

#[test]
fn applies_at_once_outlive_a_daemon_that_keeps_dying() {
    let Some(host) = host() else { return };
    let mut daemon = host.daemon();
    let projects: Vec<Project<'_>> = (0..3).map(|n| Project::new(&host, &format!("d{n}"))).collect();
    let script = "echo begun; exec terraform apply -auto-approve -lock-timeout=140s -var=word=$0";
    let start = |(n, project): (usize, &Project<'_>)| {
        let mut apply = project.exec(&["sh", "-c", script, &n.to_string()]).start();
        // From here on the run needs a daemon only now and then.
        apply.prints("begun");
        apply
    };
    let applies: Vec<_> = projects.iter().enumerate().map(start).collect();
    for _ in 0..6 {
        // Each daemon lives until one of them, or nobody, holds the lock no more.
        host.hold(&[STATE]).release().ok();
        daemon.kill();
        daemon = host.daemon();
    }
    applies.into_iter().for_each(|apply| drop(apply.finish().ok()));
    assert_eq!(serials(&projects[0].log()), [1, 2, 3]);
    projects.iter().for_each(Project::is_settled);
    host.statectl(["verify", "--read-data"]).run().ok();
    drop(daemon);
}

#[test]
fn an_apply_that_ends_while_no_daemon_runs_waits_for_one() {
    let Some(host) = host() else { return };
    let daemon = host.daemon();
    let project = Project::new(&host, "d");
    let mut slow = project.apply_slowly("one");
    daemon.kill();
    slow.gate.open();
    // It has done its work, and is about to save its state.
    slow.running.prints("work: Creation complete");
    let _daemon = host.daemon();
    slow.running.finish().ok();
    assert_eq!(project.word(), "one");
    project.is_settled();
}

#[test]
fn a_killed_daemon_that_clients_start_is_started_again_in_an_apply() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    let slow = project.apply_slowly("one");
    let before = the_lock(&host);
    let pid = host.status()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    let daemon = Process::open(pid);
    daemon.signal(Signal::KILL);
    daemon.await_end();
    same_lock(&host, &before);
    slow.finish().ok();
    assert_eq!(project.word(), "one");
    project.is_settled();
}

#[test]
fn a_terraform_that_died_with_the_daemon_holds_nothing() {
    let Some(host) = host() else { return };
    let daemon = host.daemon();
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let mut slow = first.apply_slowly("one");
    daemon.kill();
    let group = Pid::from_raw(slow.running.pid().cast_signed()).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    slow.running.exit();
    slow.terraform.await_end();
    let _daemon = host.daemon();
    // A waiting request returns when the daemon has found out.
    host.hold(&[STATE]).release().ok();
    second.apply("two").run().ok();
    second.is_settled();
}
