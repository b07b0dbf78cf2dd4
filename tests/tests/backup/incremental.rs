//! A second backup fetches what is new, and believes no other journal.

use std::fs;
use std::path::{Path, PathBuf};

use stated_tests::{Host, Random, files_below};

use super::{backup, image, recovered, verify};

#[test]
fn a_second_backup_fetches_only_what_is_new() {
    let host = Host::new();
    let mut random = Random::new();
    let dir = host.path("backup");
    host.put("a", &random.bytes(50_000));
    host.put("b", &random.bytes(300_000));
    let first = backup(&host, &dir);
    assert!(first["bytes"].as_u64().unwrap() > 350_000 && first["blobs"] == 1, "{first}");
    host.put("a", b"small");
    let second = backup(&host, &dir);
    assert!(second["bytes"].as_u64().unwrap() < 20_000 && second["blobs"] == 0, "{second}");
    assert!(second["seq"].as_u64() > first["seq"].as_u64());
    host.put("b", &random.bytes(200_000));
    let third = backup(&host, &dir);
    let bytes = third["bytes"].as_u64().unwrap();
    assert!((200_000..220_000).contains(&bytes) && third["blobs"] == 1, "{third}");
    verify(&host, &dir);
    if let Some(found) = recovered(&host, &dir) {
        assert_eq!((found["a"].as_slice(), found["b"].len()), (&b"small"[..], 200_000));
    }
}

#[test]
fn a_blob_that_nothing_needs_leaves_the_backup_and_one_that_was_lost_is_fetched_again() {
    let host = Host::new();
    let mut random = Random::new();
    let dir = host.path("backup");
    for _ in 0..3 {
        host.put("a", &random.bytes(200_000));
    }
    assert_eq!(backup(&host, &dir)["blobs"], 3);
    host.run(["prune", "--keep-last", "2"]);
    assert_eq!(backup(&host, &dir)["blobs"], 0);
    let blobs = files_below(&dir.join("blob"));
    assert_eq!(blobs.len(), 2);
    fs::remove_file(&blobs[0]).unwrap();
    assert_eq!(backup(&host, &dir)["blobs"], 1);
    verify(&host, &dir);
}

#[test]
fn a_blob_that_the_daemon_lost_stays_in_the_backup_and_is_told_where_it_does_not() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", &Random::new().bytes(200_000));
    let dir = host.path("backup");
    backup(&host, &dir);
    fs::remove_file(&files_below(&host.state_dir().join("blob"))[0]).unwrap();
    assert_eq!(backup(&host, &dir)["missing"], 0);
    verify(&host, &dir);
    let other = host.path("other");
    let late = ["backup".as_ref(), other.as_os_str()];
    host.statectl(late).run().code(74).says("1 blobs are missing").says("statectl verify --read-data");
    drop(daemon);
}

/// A backup of this directory is refused, and changes nothing.
#[track_caller]
fn is_refused(host: &Host, dir: &Path, told: &str) {
    let before = image(dir);
    let error = host.statectl(["backup".as_ref(), dir.as_os_str(), "--json".as_ref()]).run().code(65).error();
    assert!(error["message"].as_str().unwrap().contains(told), "{error}");
    assert!(image(dir) == before, "the refused directory was changed");
}

fn copy(host: &Host, from: &Path, name: &str) -> PathBuf {
    let copy = host.path(name);
    host.call("cp", ["-a".as_ref(), from.as_os_str(), copy.as_os_str()]).run().ok();
    copy
}

#[test]
fn another_journal_is_refused() {
    let (host, other) = (Host::new(), Host::new());
    host.put("a", b"1");
    other.put("a", b"1");
    let dir = host.path("backup");
    backup(&host, &dir);
    let theirs = copy(&other, &dir, "theirs");
    is_refused(&other, &theirs, "is of repository");
    // Back to where it was, and then on another way.
    host.stop_daemon();
    let old = copy(&host, &host.state_dir(), "old");
    for content in ["2", "3", "4", "5", "6", "7"] {
        host.put("a", content.as_bytes());
    }
    backup(&host, &dir);
    host.stop_daemon();
    fs::remove_dir_all(host.state_dir()).unwrap();
    fs::rename(old, host.state_dir()).unwrap();
    let _ = fs::remove_file(host.grant_table());
    host.statectl(["ls"]).run().code(74).says("went back");
    host.run(["status", "--accept-rollback"]);
    is_refused(&host, &dir, "it went back since");
    for content in 0..20 {
        host.put("a", format!("another {content}").as_bytes());
    }
    is_refused(&host, &dir, "has grown since");
    // The witness is as good as ever.
    verify(&host, &dir);
}

#[test]
fn what_is_no_backup_or_was_changed_is_left_alone() {
    let host = Host::new();
    host.put("a", b"1");
    let dir = host.path("backup");
    backup(&host, &dir);
    let file = host.file("mine.txt", b"mine");
    is_refused(&host, file.parent().unwrap(), "it holds mine.txt, and no backup");
    is_refused(&host, &host.state_dir(), "and no backup");
    let elsewhere = host.path("e.sock");
    let args = ["run".as_ref(), "--state-dir".as_ref(), dir.as_os_str(), "--socket".as_ref(), elsewhere.as_os_str()];
    host.stop_daemon();
    host.daemon_by(host.stated(args)).stop();
    let _daemon = host.daemon();
    is_refused(&host, &dir, "a daemon served it");
}

#[test]
fn two_backups_at_once_do_not_meet_in_one_directory() {
    let host = Host::new();
    host.put("a", b"1");
    let dir = host.path("backup");
    fs::create_dir(&dir).unwrap();
    let locked = fs::File::open(&dir).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    host.statectl(["backup".as_ref(), dir.as_os_str()]).run().code(75).says("another backup");
    drop(locked);
    backup(&host, &dir);
}
