//! A restore is all or nothing, believes nothing that does not verify, and deletes nothing.

use std::fs;

use stated_tests::{Host, Random, files_below, flip};

use super::{backup, image, restore, verify};

fn backed_up() -> (Host, String) {
    let host = Host::new();
    host.put("a", &Random::new().bytes(200_000));
    host.put("b", b"small");
    let dir = host.path("backup");
    backup(&host, &dir);
    (host, dir.to_str().unwrap().to_owned())
}

#[test]
fn a_flipped_bit_of_the_backup_is_found_and_nothing_is_changed() {
    let (host, dir) = backed_up();
    host.stop_daemon();
    let before = image(&host.state_dir());
    let mut random = Random::new();
    let files = files_below(dir.as_ref());
    for file in files.iter().filter(|file| !file.ends_with("BACKUP")) {
        for _ in 0..2 {
            let at = random.below(file.metadata().unwrap().len());
            flip(file, at);
            let refused = restore(&host, &[&dir, "--force"]);
            let is_key = file.starts_with(format!("{dir}/keys"));
            assert!(refused.code == 74 || (is_key && refused.code == 78), "{file:?} at {at}: {}", refused.stderr);
            flip(file, at);
        }
    }
    assert!(image(&host.state_dir()) == before, "what was there is as it was");
    // A file that is missing is no less.
    let blob = files.iter().find(|file| file.starts_with(format!("{dir}/blob"))).unwrap();
    fs::rename(blob, host.path("kept")).unwrap();
    restore(&host, &[&dir, "--force"]).code(74).says("damaged");
    fs::rename(host.path("kept"), blob).unwrap();
    restore(&host, &[&dir, "--force"]).ok();
    host.verify();
}

#[test]
fn what_is_there_is_moved_aside_only_where_that_was_asked_for() {
    let (host, dir) = backed_up();
    host.put("b", b"later");
    restore(&host, &[&dir]).code(75).says("in use");
    restore(&host, &[&dir, "--force"]).code(75).says("in use");
    host.stop_daemon();
    restore(&host, &[&dir]).code(65).says("is not empty").says("--force");
    let told = host.statectl(["restore", &dir, "--force", "--json"]).run().ok().object();
    assert_eq!(told["aside"], "before-restore-1", "{told}");
    assert!(told["before"].as_u64() > told["seq"].as_u64(), "{told}");
    host.statectl(["get", "b"]).run().code(74).says("statectl status --accept-rollback");
    host.run(["status", "--accept-rollback"]);
    assert_eq!(host.get("b"), b"small");
    host.stop_daemon();
    // And back again: what was moved aside is a state directory.
    let aside = host.state_dir().join("before-restore-1");
    restore(&host, &[aside.to_str().unwrap(), "--force"]).ok();
    host.statectl(["ls"]).run();
    host.run(["status", "--accept-rollback"]);
    assert_eq!(host.get("b"), b"later");
    host.stop_daemon();
    verify(&host, &aside);
}

#[test]
fn where_a_restore_was_interrupted_no_daemon_starts_empty() {
    let (host, dir) = backed_up();
    host.stop_daemon();
    let aside = host.path("aside");
    fs::rename(host.state_dir(), &aside).unwrap();
    fs::create_dir_all(host.state_dir().join("restoring")).unwrap();
    host.chmod(&host.state_dir(), 0o700);
    host.stated(["run"]).run().code(74).says("a restore was interrupted");
    host.stated(["init"]).run().code(74).says("do it again");
    restore(&host, &[&dir]).ok();
    host.verify();
    assert!(!host.state_dir().join("restoring").exists());
}

#[test]
fn a_key_that_opens_nothing_is_named() {
    let (host, dir) = backed_up();
    let other = Host::new();
    other.put("a", b"1");
    host.stop_daemon();
    let to = host.path("to");
    let foreign = other.identity();
    let args = ["restore", &dir, "--state-dir", to.to_str().unwrap()];
    let refused = host.statectl(args).env("STATED_IDENTITY_FILE", &foreign).run();
    refused.code(78).says("opens nothing").says("STATED_IDENTITY_FILE");
    assert!(!to.join("FORMAT").exists());
    host.statectl(args).env("STATED_IDENTITY_FILE", host.identity()).run().ok();
    verify(&host, &to);
}

#[test]
fn what_is_no_backup_is_not_restored() {
    let (host, dir) = backed_up();
    let served = host.state_dir().to_str().unwrap().to_owned();
    let to = host.path("to");
    let to = to.to_str().unwrap();
    restore(&host, &[&served, "--state-dir", to]).code(75).says("a daemon serves").says("statectl backup");
    restore(&host, &[&format!("{dir}/none"), "--state-dir", to]).code(66).says("does not exist");
    fs::remove_file(format!("{dir}/FORMAT")).unwrap();
    restore(&host, &[&dir, "--state-dir", to]).code(65).says("no complete backup");
}
