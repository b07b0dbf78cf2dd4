//! Locks without a connection.

use stated_tests::Host;

#[test]
fn a_lease_is_held_by_nobody_and_ends_by_its_id() {
    let host = Host::new();
    let id = host.run(["lock", "--ttl", "1h", "x"]);
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75);
    let waiting = host.queue(&["x"]);
    host.run(["unlock", &id]);
    waiting.granted().release().ok();
    host.statectl(["unlock", &id]).run().ok();
}

#[test]
fn a_lease_that_is_not_renewed_goes_to_the_next_in_line() {
    let host = Host::new();
    let id = host.run(["lock", "--ttl", "1s", "x"]);
    let waiting = host.queue(&["x"]);
    let next = waiting.granted();
    assert_ne!(next.id, id);
    host.statectl(["renew", &id]).run().code(66);
    host.statectl(["put", "x", "--lock", &id]).stdin("late").run().code(75);
    next.release().ok();
    // Its end is in the journal, before the next grant.
    host.stop_daemon();
    let audit = host.statectl(["audit", "--name", "x", "--json"]).run().ok().objects();
    let deeds: Vec<_> =
        audit.iter().map(|entry| (entry["verb"].as_str().unwrap(), entry["outcome"].as_str().unwrap())).collect();
    let at = |deed| deeds.iter().position(|found| *found == deed).unwrap_or_else(|| panic!("{deed:?} in {deeds:?}"));
    assert!(deeds.iter().filter(|(verb, _)| *verb == "lock").count() >= 2, "{deeds:?}");
    assert!(at(("unlock", "expired")) > at(("lock", "ok")), "{deeds:?}");
}

#[test]
fn a_renewed_lease_ends_later() {
    let host = Host::new();
    let id = host.run(["lock", "--ttl", "5m", "x"]);
    let expires = |host: &Host| host.locks()[0]["expires"].as_str().unwrap().to_owned();
    let before = expires(&host);
    let told = host.run(["renew", &id, "--ttl", "2h"]);
    assert!(told > before, "{told} is after {before}");
    // Times are told to the millisecond, and read from two clocks.
    assert_eq!(expires(&host)[..16], told[..16]);
    host.run(["renew", &id, "--ttl", "1s"]);
    host.queue(&["x"]).granted().release().ok();
}

#[test]
fn a_lease_survives_a_restart_and_kill_9() {
    let host = Host::new();
    let daemon = host.daemon();
    let id = host.run(["lock", "--ttl", "1h", "-m", "plan, review, apply", "x"]);
    let before = host.locks();
    daemon.kill();
    let daemon = host.daemon();
    assert_eq!(host.locks()[0]["id"], id);
    assert_eq!(host.locks()[0]["fence"], before[0]["fence"]);
    daemon.stop();
    let _daemon = host.daemon();
    assert_eq!((&host.locks()[0]["id"], &host.locks()[0]["reason"]), (&before[0]["id"], &before[0]["reason"]));
    host.statectl(["lock", "-n", "x", "--", "true"]).run().code(75);
    host.run(["unlock", &id]);
    host.statectl(["lock", "-n", "x", "--", "true"]).run().ok();
}

#[test]
fn a_lease_of_two_kinds_prints_what_programs_need() {
    let host = Host::new();
    let grant = host.statectl(["lock", "--ttl", "1h", "-s", "x", "--json"]).run().ok().object();
    assert!(grant["id"].is_string() && grant["fence"].is_string() && grant["expires"].is_string(), "{grant}");
    assert_eq!(host.locks()[0]["kind"], "shared");
    host.statectl(["lock", "--ttl", "0.5", "y"]).run().code(2);
    host.statectl(["lock", "--ttl", "1h", "y", "--", "true"]).run().code(2);
}

#[test]
fn a_session_lock_is_not_renewed() {
    let host = Host::new();
    let held = host.hold(&["x"]);
    host.statectl(["renew", &held.id]).run().code(2).says("no lease");
    held.release().ok();
}
