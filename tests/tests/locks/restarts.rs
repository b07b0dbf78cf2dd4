//! Locks outlive their daemon.

use std::fs;

use stated_tests::{Daemon, Held, Host, root, tool};

/// Holds x, lets somebody wait for it, restarts the daemon by `end`, and checks that nobody noticed.
fn a_restart_under_a_lock(end: impl Fn(Daemon)) {
    let host = Host::new();
    let daemon = host.daemon();
    let held = host.hold(&["x"]);
    let waiting = host.queue(&["x"]);
    let before = host.locks();
    end(daemon);

    let _daemon = host.daemon();
    host.statectl(["lock", "-n", "y", "--", "true"]).run().ok();
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75).says("held by");
    host.statectl(["put", "x"]).stdin("1").run().code(75);
    let after = host.locks();
    for field in ["id", "fence", "holder", "since", "kind"] {
        assert_eq!(before[0][field], after[0][field], "{field}");
    }
    assert_eq!(host.statectl(["put", "x", "--lock", &held.id]).stdin("1").run().ok().text(), "x@1");
    assert!(held.child_runs());
    held.release().ok();
    let next = waiting.granted();
    assert_ne!(next.fence, before[0]["fence"].as_str().unwrap());
    next.release().ok();
}

#[test]
fn a_lock_keeps_its_id_and_fence_over_a_clean_restart() {
    a_restart_under_a_lock(Daemon::stop);
}

#[test]
fn a_lock_keeps_its_id_and_fence_over_kill_9() {
    a_restart_under_a_lock(Daemon::kill);
}

/// Until a break is durable nobody is granted what it frees: a grant is written down at once, and the broken one is there
/// still after a crash.
#[test]
fn a_break_that_a_crash_cuts_off_leaves_one_holder() {
    if !tool("strace") || !root("hold a daemon's threads") {
        return;
    }
    let host = Host::new();
    let mut daemon = host.daemon();
    let held = host.hold(&["x"]);
    let waiting = host.queue(&["x"]);
    let pid = daemon.pid().to_string();
    let inject = "inject=pwrite64:error=EIO:signal=SIGKILL:when=1";
    let mut strace = host.call("strace", ["-f", "-o", "/dev/null", "-e", inject, "-p", &pid]).start();
    strace.says("attached");
    let mut breaker = host.statectl(["break", "x"]).start();
    assert_eq!(daemon.exit(), 128 + 9, "{}", daemon.said());
    breaker.signal(rustix::process::Signal::KILL);
    breaker.exit();
    strace.exit();
    let _successor = host.daemon();
    let rows = host.locks();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["id"], held.id.as_str());
    held.release().ok();
    waiting.granted().release().ok();
}

#[test]
fn a_lock_outlives_many_daemons() {
    let host = Host::new();
    let mut daemon = host.daemon();
    let held = host.hold(&["x", "y"]);
    for round in 0..5 {
        if round % 2 == 0 {
            daemon.kill()
        } else {
            daemon.stop()
        }
        daemon = host.daemon();
        let rows = host.locks();
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row["id"] == held.id.as_str() && row["fence"] == held.fence.as_str()));
    }
    held.release().ok();
    host.statectl(["lock", "-n", "x", "--", "true"]).run().ok();
}

#[test]
fn waiters_queue_anew_in_whatever_order_and_all_get_their_turn() {
    let host = Host::new();
    let daemon = host.daemon();
    let held = host.hold(&["x"]);
    let waiting: Vec<_> = (0..4).map(|_| host.lock_briefly("x")).collect();
    daemon.kill();
    let _daemon = host.daemon();
    held.release().ok();
    for waiter in waiting {
        waiter.finish().ok();
    }
    assert_eq!(host.locks().len(), 0);
}

#[test]
fn holders_that_died_with_the_daemon_hold_nothing_after_it() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut held = host.hold(&["x"]);
    daemon.kill();
    held.kill_child();
    held.kill_wrapper();
    let _daemon = host.daemon();
    // A waiting request returns when the daemon has found out.
    host.hold(&["x"]).release().ok();
}

#[test]
fn a_wrapper_that_died_with_the_daemon_leaves_the_lock_to_its_command() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut held = host.hold(&["x"]);
    daemon.kill();
    held.kill_wrapper();
    let _daemon = host.daemon();
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75);
    let waiting = host.queue(&["x"]);
    held.kill_child();
    waiting.granted().release().ok();
}

#[test]
fn a_repeated_unlock_is_answered_well_after_kill_9_too() {
    let host = Host::new();
    let daemon = host.daemon();
    let held = host.hold(&["--on-lost", "warn", "x"]);
    host.run(["unlock", &held.id]);
    daemon.kill();
    let daemon = host.daemon();
    host.run(["unlock", &held.id]);
    host.statectl(["unlock", "00000000-0000-4000-8000-000000000000"]).run().code(66);
    assert_eq!(host.locks().len(), 0);
    daemon.stop();
    let _daemon = host.daemon();
    host.run(["unlock", &held.id]);
    host.statectl(["lock", "-n", "x", "--", "true"]).run().ok();
}

#[test]
fn a_lock_that_was_broken_stays_broken_after_kill_9() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut held = host.hold(&["--on-lost", "warn", "x"]);
    host.run(["break", "x"]);
    held.wrapper.says("the lock is lost");
    daemon.kill();
    let _daemon = host.daemon();
    assert_eq!(host.locks().len(), 0);
    host.statectl(["put", "x", "--lock", &held.id]).stdin("1").run().code(75);
    held.release().ok();
}

#[test]
fn a_table_of_locks_that_vanished_in_a_crash_freezes_them() {
    let host = Host::new();
    let daemon = host.daemon();
    let held = host.hold(&["x"]);
    daemon.kill();
    fs::remove_file(host.grant_table()).unwrap();
    let _daemon = host.daemon();
    let refused = host.statectl(["lock", "-n", "free", "--", "true"]).run().code(75);
    assert!(refused.stderr.contains("without telling who held them"), "{}", refused.stderr);
    assert_eq!(host.status()["grants"], 0, "status always answers");
    assert_eq!(host.put("never-locked", b"1"), "never-locked@1");
    drop::<Held>(held);
}

#[test]
fn commands_whose_locks_went_with_their_table_get_sigterm_or_a_warning() {
    let host = Host::new();
    let daemon = host.daemon();
    let (mut ended, mut warned) = (host.hold(&["x"]), host.hold(&["--on-lost", "warn", "y"]));
    daemon.kill();
    fs::remove_file(host.grant_table()).unwrap();
    let _daemon = host.daemon();
    ended.wrapper.says("the daemon restarted and does not know it any more; the command gets SIGTERM");
    assert_eq!(ended.wrapper.exit(), 128 + 15);
    warned.wrapper.says("the daemon restarted and does not know it any more; the command goes on");
    assert!(warned.child_runs());
    warned.release().ok();
}

#[test]
fn a_table_of_locks_that_vanished_after_a_clean_stop_was_of_no_use() {
    let host = Host::new();
    host.daemon().stop();
    let _ = fs::remove_file(host.grant_table());
    let _daemon = host.daemon();
    host.statectl(["lock", "-n", "free", "--", "true"]).run().ok();
}
