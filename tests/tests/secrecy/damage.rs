//! One flipped bit, anywhere in what is kept, is found and named.

use std::fs;
use std::path::{Path, PathBuf};

use stated_tests::{Commits, Daemon, Host, Random, contains, files_below, flip, read};

/// A place to damage.
struct Place {
    what: &'static str,
    file: PathBuf,
    at: u64,
}

/// A host with a history, stopped, and places in each kind of file.
fn prepared() -> (Host, Vec<Place>) {
    let host = Host::new();
    let mut client = host.client_started();
    for number in 0..20_u32 {
        client.put_one("a", number.to_string().as_bytes());
    }
    client.put_one("large", &Random::new().bytes(300 << 10));
    drop(client);
    host.stop_daemon();
    let dir = host.state_dir();
    let log = files_below(&dir.join("log")).remove(0);
    let blob = files_below(&dir.join("blob")).remove(0);
    let bytes = read(&log);
    let starts: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"stated1 ")).collect();
    assert!(starts.len() > 20, "{starts:?}");
    let (middle, next, last) = (starts[9], starts[10], starts[starts.len() - 1]);
    let header = bytes[middle..].iter().position(|byte| *byte == b'\n').unwrap();
    let place = |what, file: &Path, at: usize| Place { what, file: file.to_owned(), at: at as u64 };
    let places = vec![
        place("magic of the first record", &log, 0),
        place("number of a record", &log, middle + 8),
        place("MAC of a record", &log, middle + 30),
        place("check of a record", &log, middle + header - 1),
        place("age header of a record", &log, middle + header + 30),
        place("body of a record", &log, next - 1),
        place("header of the last record", &log, last + 40),
        place("body of the last record", &log, bytes.len() - 1),
        place("header of a blob", &blob, 3),
        place("middle of a blob", &blob, 150_000),
        place("end of a blob", &blob, read(&blob).len() - 1),
        place("end of the keyring", &dir.join("keys/1.age"), read(&dir.join("keys/1.age")).len() - 1),
        place("first line of FORMAT", &dir.join("FORMAT"), 5),
        place("last line of FORMAT", &dir.join("FORMAT"), read(&dir.join("FORMAT")).len() - 2),
    ];
    (host, places)
}

fn name(host: &Host, file: &Path) -> String {
    file.strip_prefix(host.state_dir()).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn verify_offline_names_the_file_of_every_flipped_bit_and_changes_nothing() {
    let (host, places) = prepared();
    host.verify();
    for place in places {
        flip(&place.file, place.at);
        let damaged = read(&place.file);
        let found = host.stated(["verify"]).run().code(74);
        let told = format!("{}{}", found.text(), found.stderr);
        assert!(told.contains(&name(&host, &place.file)), "{}: {told}", place.what);
        assert!(read(&place.file) == damaged, "{}: verify repairs nothing", place.what);
        flip(&place.file, place.at);
    }
    host.verify();
}

#[test]
fn a_start_refuses_a_damaged_log_keyring_or_format_and_changes_nothing() {
    let (host, places) = prepared();
    for place in places.iter().filter(|place| !place.what.ends_with("blob")) {
        flip(&place.file, place.at);
        let before = contents(&host);
        let refused = host.stated(["run"]).run().code(74);
        assert!(refused.stderr.contains(&name(&host, &place.file)), "{}: {}", place.what, refused.stderr);
        assert!(contents(&host) == before, "{}: something was changed", place.what);
        flip(&place.file, place.at);
    }
    assert_eq!(host.get("a"), b"19");
}

/// Everything but the lock file, which says who looked.
fn contents(host: &Host) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_below(&host.state_dir()).into_iter().filter(|file| !file.ends_with("LOCK"));
    files.map(|file| (file.clone(), read(&file))).collect()
}

#[test]
fn a_damaged_payload_refuses_its_version_and_nothing_else() {
    let (host, _) = prepared();
    let blob = files_below(&host.state_dir().join("blob")).remove(0);
    flip(&blob, 150_000);
    assert_eq!(host.get("a"), b"19");
    let refused = host.statectl(["get", "large"]).run().code(74);
    assert!(refused.stdout.is_empty(), "not one byte of it");
    let target = host.file("target", b"old");
    host.statectl(["get", "large", "-o", target.to_str().unwrap()]).run().code(74);
    assert_eq!(read(&target), b"old");
    assert_eq!(host.put("large", b"new"), "large@2");
    fs::remove_file(&blob).unwrap();
    host.statectl(["get", "large@1"]).run().code(74);
    assert_eq!(host.get("large"), b"new");
    let told = host.statectl(["verify", "--read-data"]).run().code(74);
    assert!(told.text().contains(&name(&host, &blob)), "{}", told.text());
}

#[test]
fn two_payloads_that_change_places_are_noticed() {
    let host = Host::new();
    let mut random = Random::new();
    // Both open, both decompress, and both have the same length: only what the journal says of them differs.
    for name in ["a", "b"] {
        host.put(name, &random.bytes(200 << 10));
    }
    host.stop_daemon();
    let blobs = files_below(&host.state_dir().join("blob"));
    let aside = host.path("aside");
    fs::rename(&blobs[0], &aside).unwrap();
    fs::rename(&blobs[1], &blobs[0]).unwrap();
    fs::rename(&aside, &blobs[1]).unwrap();
    for name in ["a", "b"] {
        assert!(host.statectl(["get", name]).run().code(74).stdout.is_empty());
    }
    let told = host.statectl(["verify", "--read-data"]).run().code(74).text();
    assert!(blobs.iter().all(|blob| told.contains(&self::name(&host, blob))), "{told}");
}

#[test]
fn a_running_daemons_verify_names_what_was_flipped_under_it() {
    let (host, places) = prepared();
    let _daemon: Daemon = host.daemon();
    host.run(["verify", "--read-data"]);
    for place in places {
        flip(&place.file, place.at);
        let found = host.statectl(["verify", "--read-data", "--json"]).run().code(74);
        let damage = found.object()["damage"].clone();
        let file = name(&host, &place.file);
        let rows = damage.as_array().expect("a list");
        assert!(rows.iter().any(|row| row["file"] == file.as_str()), "{}: {damage}", place.what);
        flip(&place.file, place.at);
    }
    host.run(["verify", "--read-data"]);
}

#[test]
fn a_missing_file_is_damage_and_never_a_new_beginning() {
    let (host, _) = prepared();
    let dir = host.state_dir();
    let log = files_below(&dir.join("log")).remove(0);
    for file in [log, dir.join("FORMAT"), dir.join("keys/1.age")] {
        let aside = host.path("aside");
        fs::rename(&file, &aside).unwrap();
        let refused = host.stated(["run"]).run().code(74);
        assert!(!refused.stderr.contains("new repository"), "{}", refused.stderr);
        host.statectl(["ls"]).run().code(74);
        assert!(!file.exists(), "{} was made anew", file.display());
        fs::rename(&aside, &file).unwrap();
    }
    assert_eq!(host.get("a"), b"19");
}

#[test]
fn a_log_that_lost_its_end_is_noticed_where_the_table_of_locks_has_seen_more() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", b"1");
    let log = files_below(&host.state_dir().join("log")).remove(0);
    let old = read(&log);
    host.put("a", b"2");
    let _held = host.hold(&["x"]);
    daemon.kill();
    let new = read(&log);
    fs::write(&log, old).unwrap();
    let refused = host.stated(["run"]).run().code(74);
    assert!(refused.stderr.contains("grant table"), "{}", refused.stderr);
    fs::write(&log, new).unwrap();
    let _daemon = host.daemon();
    assert_eq!(host.get("a"), b"2");
    assert!(contains(&host.get("a@1"), b"1"));
}
