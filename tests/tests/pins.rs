//! Promise 8: a directory that was put back from an old copy is noticed wherever a client saw the newer one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use stated_shared::FailureKind;
use stated_tests::{Commits, Host, files_below, read};

/// A copy of the state directory, made while no daemon runs.
fn copy(host: &Host) -> PathBuf {
    let copy = host.path("copy");
    host.call("cp", ["-a".as_ref(), host.state_dir().as_os_str(), copy.as_os_str()]).run().ok();
    copy
}

/// Puts the copy in the directory's place. The table of locks, another witness, is gone with the boot.
fn put_back(host: &Host, copy: &Path) {
    fs::remove_dir_all(host.state_dir()).unwrap();
    fs::rename(copy, host.state_dir()).unwrap();
    let _ = fs::remove_file(host.grant_table());
}

/// Every command refuses, until the user says that all is well.
#[track_caller]
fn is_refused_until_accepted(host: &Host, told: &str) {
    let hint = "statectl status --accept-rollback";
    host.statectl(["get", "a"]).run().code(74).says(told).says(hint);
    host.statectl(["put", "a"]).stdin("lost?").run().code(74).says(told);
    host.statectl(["exec", "--state", "a", "--", "true"]).run().code(74).says(told);
    host.statectl(["status"]).run().code(74).says(told);
    let error = host.statectl(["ls", "--json"]).run().code(74).error();
    assert_eq!((&error["kind"], error["code"].as_u64()), (&"storage".into(), Some(74)));
    let doctor = host.statectl(["doctor"]).run().code(1);
    assert!(doctor.text().contains(hint), "{}", doctor.text());
    host.run(["status", "--accept-rollback"]);
    host.run(["get", "a"]);
    host.put("a", b"on from here");
    host.run(["status"]);
}

#[test]
fn promise_8_an_old_copy_that_was_put_back_is_refused_until_accepted() {
    let host = Host::new();
    host.put("a", b"1");
    host.stop_daemon();
    let copy = copy(&host);
    for content in 0..20_u32 {
        host.put("a", content.to_string().as_bytes());
    }
    host.stop_daemon();
    put_back(&host, &copy);
    is_refused_until_accepted(&host, "went back");
}

#[test]
fn an_old_copy_that_has_grown_otherwise_since_is_refused_until_accepted() {
    let host = Host::new();
    host.put("a", b"1");
    host.stop_daemon();
    let copy = copy(&host);
    host.put("a", b"2");
    host.stop_daemon();
    put_back(&host, &copy);
    let daemon = host.daemon();
    // Somebody who saw nothing of it before.
    let mut fresh = host.client();
    for content in 0..20_u32 {
        fresh.put_one("a", content.to_string().as_bytes());
    }
    is_refused_until_accepted(&host, "another is in its place");
    daemon.stop();
}

#[test]
fn another_repository_at_the_socket_is_refused_until_accepted() {
    let host = Host::new();
    host.put("a", b"1");
    host.stop_daemon();
    fs::remove_dir_all(host.state_dir()).unwrap();
    host.statectl(["ls"]).run().code(74).says("another repository");
    host.client().put_one("a", b"2");
    is_refused_until_accepted(&host, "another repository");
}

#[test]
fn an_acknowledged_last_record_that_was_zeroed_is_noticed() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", b"1");
    host.put("a", b"acknowledged");
    daemon.kill();
    // As a disk leaves it that lied about what was durable: to the daemon the image of a record never acknowledged.
    let log = files_below(&host.state_dir().join("log")).remove(0);
    let bytes = read(&log);
    let starts: Vec<usize> = (0..bytes.len() - 8).filter(|at| bytes[*at..].starts_with(b"stated1 ")).collect();
    // Its own client alone has seen it: by the answer to its commit.
    let (last, at) = (starts.len(), *starts.last().unwrap());
    let zeros = vec![0; bytes.len() - at];
    OpenOptions::new().write(true).open(&log).unwrap().write_all_at(&zeros, at as u64).unwrap();
    let _ = fs::remove_file(host.grant_table());
    let _daemon = host.daemon();
    host.statectl(["get", "a"]).run().code(74).says(&format!("record {last} "));
}

#[test]
fn a_session_notices_by_itself() {
    let host = Host::new();
    host.put("a", b"1");
    host.stop_daemon();
    let copy = copy(&host);
    let daemon = host.daemon();
    // Without a place to keep what it saw.
    let mut client = host.client();
    for content in 0..20_u32 {
        client.put_one("a", content.to_string().as_bytes());
    }
    daemon.signal(Signal::KILL);
    drop(daemon);
    put_back(&host, &copy);
    let _daemon = host.daemon();
    let failure = client.call(&stated_shared::Request::Status).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Storage, "{failure}");
}

#[test]
fn each_socket_has_a_pin_of_its_own() {
    let host = Host::new();
    host.put("a", b"1");
    host.stop_daemon();
    let copy = copy(&host);
    host.put("a", b"2");
    let other = host.path("other/s");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    let [copy, other] = [copy.to_str().unwrap(), other.to_str().unwrap()];
    let elsewhere = host.stated(["run", "--state-dir", copy, "--socket", other]);
    let _elsewhere = host.daemon_by(elsewhere);
    // A copy that is looked at elsewhere is met anew there, and is no rollback here.
    assert_eq!(host.run(["get", "a", "--socket", other]), "1");
    assert_eq!(host.get("a"), b"2");
    assert_eq!(host.run(["get", "a", "--socket", other]), "1");
    assert_eq!(files_below(&host.path("s/statectl/pins")).len(), 2);
}

#[test]
fn who_saw_nothing_before_notices_nothing() {
    let host = Host::new();
    host.put("a", b"1");
    host.stop_daemon();
    let copy = copy(&host);
    host.put("a", b"2");
    host.stop_daemon();
    put_back(&host, &copy);
    let _daemon = host.daemon();
    let socket = host.socket();
    let got = host.statectl(["get", "a", "--socket", socket.to_str().unwrap()]);
    assert_eq!(got.env("XDG_STATE_HOME", host.path("fresh")).run().ok().stdout, b"1");
    host.statectl(["get", "a"]).run().code(74);
}

#[test]
fn where_nothing_can_be_kept_everything_works() {
    let host = Host::new();
    fs::create_dir_all(host.path("s")).unwrap();
    fs::write(host.path("s/statectl"), "in the way").unwrap();
    assert_eq!(host.statectl(["put", "a"]).stdin("1").run().ok().text(), "a@1");
    assert_eq!(host.statectl(["get", "a"]).run().ok().stderr, "");
}
