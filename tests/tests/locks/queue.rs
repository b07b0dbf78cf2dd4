//! Who gets a lock, and in which order.

use rustix::process::Signal;
use stated_tests::Host;

#[test]
fn an_exclusive_lock_has_one_holder_and_the_refusal_says_who() {
    let host = Host::new();
    let held = host.hold(&["-m", "the reason", "x"]);
    let refused = host.statectl(["lock", "-n", "x", "--", "echo", "never"]).run().code(75);
    assert!(refused.stdout.is_empty(), "the command did not run");
    assert!(refused.stderr.contains(&format!("pid {}", held.child)), "{}", refused.stderr);
    assert!(refused.stderr.contains("0 waiting"), "{}", refused.stderr);
    host.statectl(["lock", "-n", "-s", "x", "--", "true"]).run().code(75);
    host.statectl(["lock", "-n", "--slots", "2", "x", "--", "true"]).run().code(75);
    host.statectl(["lock", "-n", "y", "--", "true"]).run().ok();
    held.release().ok();
    host.statectl(["lock", "-n", "x", "--", "true"]).run().ok();
}

#[test]
fn a_shared_lock_has_many_holders_and_no_exclusive_one() {
    let host = Host::new();
    let one = host.hold(&["-s", "x"]);
    let two = host.hold(&["-s", "-n", "x"]);
    assert_ne!((&one.id, &one.fence), (&two.id, &two.fence));
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75);
    one.release().ok();
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75);
    two.release().ok();
    host.statectl(["lock", "-n", "x", "--", "true"]).run().ok();
}

#[test]
fn a_semaphore_has_as_many_holders_as_slots() {
    let host = Host::new();
    let first = host.hold(&["--slots", "3", "x"]);
    let _second = host.hold(&["--slots", "3", "x"]);
    // The least of all counts is what counts.
    host.statectl(["lock", "-n", "--slots", "2", "x", "--", "true"]).run().code(75);
    let _third = host.hold(&["--slots", "3", "x"]);
    host.statectl(["lock", "-n", "--slots", "3", "x", "--", "true"]).run().code(75);
    let waiting = host.queue(&["--slots", "3", "x"]);
    first.release().ok();
    waiting.granted().release().ok();
    assert_eq!(host.locks()[0]["kind"], "semaphore:3");
}

#[test]
fn who_asked_first_is_served_first() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    let waiting: Vec<_> = (0..5).map(|_| host.queue(&["x"])).collect();
    assert_eq!(host.locks()[0]["waiters"], 5);
    let mut fences = vec![held.fence.clone()];
    let mut current = held;
    for (index, next) in waiting.into_iter().enumerate() {
        current.release().ok();
        // Nobody else may have it: this one's turn has come, or this blocks.
        current = next.granted();
        assert_eq!(host.locks()[0]["id"], current.id);
        assert_eq!(host.locks()[0]["waiters"], 4 - index);
        fences.push(current.fence.clone());
    }
    let order: Vec<u64> = fences.iter().map(|fence| fence.split_once('.').unwrap().1.parse().unwrap()).collect();
    assert!(order.is_sorted_by(|one, next| one < next), "fences grow: {order:?}");
}

#[test]
fn a_later_shared_request_does_not_overtake_a_waiting_exclusive_one() {
    let host = Host::new();
    let reader = host.hold(&["-s", "x"]);
    let writer = host.queue(&["x"]);
    host.statectl(["lock", "-s", "-n", "x", "--", "true"]).run().code(75);
    let late_reader = host.queue(&["-s", "x"]);
    reader.release().ok();
    let writer = writer.granted();
    assert_eq!(host.locks()[0]["kind"], "exclusive");
    writer.release().ok();
    late_reader.granted().release().ok();
}

#[test]
fn several_names_are_taken_all_or_none() {
    let host = Host::new();
    let held = host.hold(&["b"]);
    host.statectl(["lock", "-n", "a", "b", "c", "--", "true"]).run().code(75);
    assert_eq!(host.locks().len(), 1, "neither a nor c is held");
    let waiting = host.queue(&["a", "b", "c"]);
    assert_eq!(host.locks().len(), 1, "a waiter holds nothing");
    held.release().ok();
    let all = waiting.granted();
    let rows = host.locks();
    assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(rows.iter().all(|row| row["id"] == all.id.as_str() && row["fence"] == all.fence.as_str()));
    all.release().ok();
    assert_eq!(host.locks().len(), 0);
}

#[test]
fn crossed_names_do_not_deadlock() {
    let host = Host::new();
    let workers: Vec<_> = (0..8)
        .map(|number| {
            let names = if number % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
            host.statectl(["lock"].iter().chain(&names).chain(&["--", "true"])).start()
        })
        .collect();
    for worker in workers {
        worker.finish().ok();
    }
}

#[test]
fn a_waiter_that_gives_up_leaves_the_queue_at_once() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    let mut quitter = host.queue(&["x"]);
    let next = host.queue(&["x"]);
    quitter.process().signal(Signal::KILL);
    quitter.process().exit();
    held.release().ok();
    next.granted().release().ok();
    assert_eq!(host.locks().len(), 0);
}

#[test]
fn an_interrupted_waiter_is_130() {
    let host = Host::new();
    let _held = host.hold(&["x"]);
    let mut waiting = host.queue(&["x"]);
    waiting.process().signal(Signal::INT);
    assert_eq!(waiting.finish().code, 130);
}

#[test]
fn a_bounded_wait_ends_with_75_or_the_code_that_was_asked_for() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    host.statectl(["lock", "-w", "0.05", "x", "--", "true"]).run().code(75).says("held by");
    host.statectl(["lock", "-w", "50ms", "-E", "3", "x", "--", "true"]).run().code(3);
    host.statectl(["lock", "-w", "0", "x", "--", "true"]).run().code(75);
    host.statectl(["lock", "-n", "-E", "0", "x", "--", "true"]).run().code(0);
    assert_eq!(host.locks()[0]["waiters"], 0, "nobody is left in the queue");
    let patient = host.queue(&["-w", "1h", "x"]);
    held.release().ok();
    patient.granted().release().ok();
}

#[test]
fn a_lock_under_a_lock_nests_in_it() {
    let host = Host::new();
    let script = r#"outer=$STATED_LOCK_ID; "$STATECTL" lock -n x -- sh -c 'echo "$STATED_LOCK_ID $STATED_FENCE"'; echo "$outer $STATED_FENCE""#;
    let nested = host
        .statectl(["lock", "x", "y", "--", "sh", "-c", script])
        .env("STATECTL", host.statectl_path())
        .run()
        .ok()
        .text();
    let lines: Vec<Vec<&str>> = nested.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 2, "{nested}");
    assert_ne!(lines[0][0], lines[1][0], "a nested lock has an ID of its own");
    assert_eq!(lines[0][1], lines[1][1], "and the fence of the outer one");
    assert_eq!(host.locks().len(), 0);
}

#[test]
fn what_would_deadlock_under_a_lock_is_refused() {
    let host = Host::new();
    let shared = host.hold(&["-s", "x"]);
    // An upgrade, and names that the outer lock covers only in part.
    for args in [&["x"][..], &["-s", "x", "y"]] {
        let call = host.statectl(["lock"].iter().chain(args).chain(&["--", "true"])).env("STATED_LOCK_ID", &shared.id);
        call.run().code(75).says("waiting would never end");
    }
    // Sharing it once more, and other names, are no problem.
    for args in [&["-s", "x"][..], &["z"]] {
        let call = host.statectl(["lock", "-n"].iter().chain(args).chain(&["--", "true"]));
        call.env("STATED_LOCK_ID", &shared.id).run().ok();
    }
    shared.release().ok();
}

#[test]
fn a_lock_under_a_lock_that_is_gone_is_refused() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    let id = held.id.clone();
    held.release().ok();
    let call = host.statectl(["lock", "x", "--", "echo", "never"]).env("STATED_LOCK_ID", id);
    assert!(call.run().code(75).stdout.is_empty());
}
