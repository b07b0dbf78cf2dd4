//! How long a lock lasts: as long as the work.

use rustix::process::Signal;
use stated_tests::Host;

#[test]
fn the_command_finds_its_lock_in_its_environment() {
    let host = Host::new();
    let script = r#"printf '%s|%s|%s|%s' "$STATED_SOCKET" "$STATED_STATE" "$STATED_LOCK_ID" "$STATED_FENCE""#;
    let printed = host.run(["lock", "b", "a", "--", "sh", "-c", script]);
    let fields: Vec<&str> = printed.split('|').collect();
    assert_eq!(fields[0], host.socket().to_str().unwrap());
    assert_eq!(fields[1], "b\na");
    assert_eq!(fields[2].len(), 36);
    assert!(fields[3].contains('.'));
}

#[test]
fn the_commands_exit_code_is_passed_through() {
    let host = Host::new();
    let run = |script: &str| host.statectl(["lock", "x", "--", "sh", "-c", script]).run().code;
    for code in [0, 1, 42, 75, 255] {
        assert_eq!(run(&format!("exit {code}")), code);
    }
    assert_eq!(run("kill -TERM $$"), 128 + 15);
    assert_eq!(run("kill -KILL $$"), 128 + 9);
    // A directory on PATH that may not be searched would be another reason, and another code.
    let missing = host.statectl(["lock", "x", "--", "no-such-program-anywhere"]).env("PATH", "/usr/bin:/bin");
    missing.run().code(127);
    let file = host.file("not-executable", b"text");
    host.statectl(["lock", "x", "--", file.to_str().unwrap()]).run().code(126);
    assert_eq!(host.locks().len(), 0, "every one of them ended its lock");
}

#[test]
fn the_wrapper_passes_on_input_output_and_signals() {
    let host = Host::new();
    let echoed = host.statectl(["lock", "x", "--", "cat"]).stdin("through").run().ok();
    assert_eq!(echoed.text(), "through");
    let script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do read -r _ || :; done";
    let mut running = host.statectl(["lock", "x", "--", "bash", "-c", script]).start();
    assert_eq!(running.line(), "ready");
    running.signal(Signal::TERM);
    assert_eq!(running.line(), "got it");
    assert_eq!(running.exit(), 7);
}

#[test]
fn a_killed_wrapper_leaves_the_lock_to_its_living_command() {
    let host = Host::new();
    let mut held = host.hold(&["x"]);
    held.kill_wrapper();
    // The daemon has seen the connection close when it has answered whoever came later.
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75);
    assert!(held.child_runs());
    assert_eq!(host.locks()[0]["id"], held.id);
    let waiting = host.queue(&["x"]);
    held.kill_child();
    waiting.granted().release().ok();
}

#[test]
fn a_command_that_ends_after_its_wrapper_ends_the_lock() {
    let host = Host::new();
    let mut held = host.hold(&["x"]);
    held.kill_wrapper();
    let waiting = host.queue(&["x"]);
    held.wrapper.close_stdin();
    held.await_child();
    waiting.granted().release().ok();
}

#[test]
fn a_killed_command_ends_the_lock_and_the_wrapper_tells() {
    let host = Host::new();
    let mut held = host.hold(&["x"]);
    let waiting = host.queue(&["x"]);
    held.kill_child();
    assert_eq!(held.wrapper.exit(), 128 + 9);
    waiting.granted().release().ok();
}

#[test]
fn when_both_die_the_next_one_gets_the_lock() {
    let host = Host::new();
    let mut held = host.hold(&["x"]);
    let waiting = host.queue(&["x"]);
    held.wrapper.signal(Signal::STOP);
    held.kill_child();
    held.kill_wrapper();
    waiting.granted().release().ok();
}

#[test]
fn stopped_holders_keep_their_lock() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    held.wrapper.signal(Signal::STOP);
    let child = rustix::process::Pid::from_raw(held.child.cast_signed()).unwrap();
    rustix::process::kill_process(child, Signal::STOP).unwrap();
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75);
    host.statectl(["lock", "-w", "0.1", "x", "--", "true"]).run().code(75);
    assert_eq!(host.locks()[0]["id"], held.id);
    rustix::process::kill_process(child, Signal::CONT).unwrap();
    held.wrapper.signal(Signal::CONT);
    held.release().ok();
}

#[test]
fn with_o_the_lock_ends_with_the_wrapper() {
    let host = Host::new();
    let mut held = host.hold(&["-o", "x"]);
    let waiting = host.queue(&["x"]);
    held.kill_wrapper();
    let next = waiting.granted();
    assert!(held.child_runs(), "its command goes on without");
    next.release().ok();
}

#[test]
fn the_connection_is_not_inherited_by_the_command() {
    let host = Host::new();
    let script = "for fd in /proc/self/fd/*; do readlink \"$fd\"; done 2>/dev/null | grep -c socket; :";
    // The standard streams of a test are pipes, so any socket would be the client's own.
    assert_eq!(host.run(["lock", "x", "--", "bash", "-c", script]), "0");
}

#[test]
fn break_ends_a_lock_and_its_command_gets_sigterm() {
    let host = Host::new();
    let script = "trap 'echo terminated; exit 3' TERM; echo ready; while :; do read -r _ || :; done";
    let mut victim = host.statectl(["lock", "x", "y", "--", "bash", "-c", script]).start();
    assert_eq!(victim.line(), "ready");
    let waiting = host.queue(&["x"]);
    let broken = host.statectl(["break", "x", "--json"]).run().ok().objects();
    assert_eq!(broken.len(), 2, "a row for each of its names");
    assert_eq!(broken[0]["holder"]["pid"], victim.pid());
    victim.says("the lock is lost");
    assert_eq!(victim.line(), "terminated");
    assert_eq!(victim.exit(), 3);
    waiting.granted().release().ok();
    let audit = host.statectl(["audit", "--verb", "break", "--json"]).run().ok().objects();
    assert!(!audit.is_empty() && audit[0]["outcome"] == "ok", "{audit:?}");
}

#[test]
fn with_on_lost_warn_the_command_goes_on() {
    let host = Host::new();
    let mut held = host.hold(&["--on-lost", "warn", "x"]);
    host.run(["break", "x"]);
    held.wrapper.says("the command goes on");
    assert!(held.child_runs());
    assert_eq!(host.locks().len(), 0);
    held.release().ok();
}

#[test]
fn a_command_that_handles_no_sigterm_ends_by_it() {
    let host = Host::new();
    for flags in [&["x"][..], &["-o", "x"], &["--on-lost", "term", "-s", "x"]] {
        let mut held = host.hold(flags);
        host.run(["break", "x"]);
        held.wrapper.says("gets SIGTERM");
        assert_eq!(held.wrapper.exit(), 128 + 15, "{flags:?}");
        assert!(!held.child_runs());
    }
}

#[test]
fn an_unlock_from_elsewhere_is_a_loss_too() {
    let host = Host::new();
    let mut held = host.hold(&["x"]);
    host.run(["unlock", &held.id]);
    held.wrapper.says("the lock is lost");
    assert_eq!(held.wrapper.exit(), 128 + 15);
}

#[test]
fn break_with_an_id_does_not_hit_a_newer_lock() {
    let host = Host::new();
    let old = host.hold(&["x"]);
    let old_id = old.id.clone();
    old.release().ok();
    let new = host.hold(&["x"]);
    host.statectl(["break", "x", &old_id]).run().code(66);
    assert_eq!(host.locks()[0]["id"], new.id);
    host.run(["break", "x", &new.id]);
    assert_eq!(host.locks().len(), 0);
    host.statectl(["break", "x"]).run().code(66);
}

#[test]
fn unlock_ends_a_session_lock_of_ones_own() {
    let host = Host::new();
    let held = host.hold(&["--on-lost", "warn", "x"]);
    host.statectl(["unlock", "00000000-0000-4000-8000-000000000000"]).run().code(66);
    assert_eq!(host.locks().len(), 1);
    host.run(["unlock", &held.id]);
    assert_eq!(host.locks().len(), 0);
    host.statectl(["unlock", &held.id]).run().ok();
}
