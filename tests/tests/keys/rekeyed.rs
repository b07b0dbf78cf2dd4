//! Recipients that come and go, and keys that are made anew, while the daemon serves.

use std::fs;
use std::path::{Path, PathBuf};

use stated_tests::{Host, Random, read};

use super::{age_decrypts_the_keyring, recovers, ssh_key, tools};

/// Every age file that lies in the state directory, but for the keyring.
fn age_files(host: &Host) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for log in files(&host.state_dir().join("log")) {
        let bytes = read(&log);
        let mut at = 0;
        // A header line, and as many bytes as its third field says.
        while bytes.get(at).is_some_and(|byte| *byte != 0) {
            let line_len = bytes[at..].iter().position(|byte| *byte == b'\n').unwrap();
            let line = std::str::from_utf8(&bytes[at..at + line_len]).unwrap();
            let len = usize::from_str_radix(line.split(' ').nth(2).unwrap(), 16).unwrap();
            let start = at + line_len + 1;
            found.push((format!("{} at {at}", log.display()), bytes[start..start + len].to_vec()));
            at = start + len;
        }
    }
    for dir in ["blob", "snap"] {
        let whole =
            files(&host.state_dir().join(dir)).into_iter().map(|path| (path.display().to_string(), read(&path)));
        found.extend(whole);
    }
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Which of them this identity opens.
fn opened(host: &Host, identity: &Path) -> Vec<String> {
    let sealed = host.path("w/sealed.age");
    let opens = |(name, bytes): (String, Vec<u8>)| {
        fs::write(&sealed, bytes).unwrap();
        let args = ["-d", "-o", "/dev/null", "-i", identity.to_str().unwrap(), sealed.to_str().unwrap()];
        (host.call("age", args).run().code == 0).then_some(name)
    };
    age_files(host).into_iter().filter_map(opens).collect()
}

#[test]
fn after_a_rotation_the_keys_of_before_open_nothing_that_lies_there() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let mut random = Random::seeded(1);
    let large = random.bytes(200_000);
    host.put("large", &large);
    for n in 0..30 {
        host.put("small", format!("content {n}").as_bytes());
    }
    // What somebody would have who was removed: the repository's own keys.
    let stolen = host.path("w/stolen");
    fs::write(&stolen, age_decrypts_the_keyring(&host, &host.identity()).ok().stdout).unwrap();
    let held = host.path("w/copy");
    fs::copy(host.state_dir().join("keys/1.age"), &held).unwrap();

    let rotated = host.statectl(["key", "rotate"]).run().ok();
    assert_eq!(rotated.text(), "keyring 2");
    host.put("small", b"after");
    let audit = host.statectl(["audit", "--json", "--outcome", "ok"]).run().ok().text();
    assert!(audit.contains("\"verb\":\"rekey\"") && audit.contains("\"verb\":\"reseal\""), "{audit}");
    // A client that has seen more notices nothing: it is the same journal.
    assert_eq!(host.get("small@30"), b"content 29");
    host.stop_daemon();
    assert_eq!(opened(&host, &stolen), [""; 0], "of {} files", age_files(&host).len());
    assert!(!host.state_dir().join("keys/1.age").exists());
    host.verify();
    assert_eq!(host.get("large"), large, "the next daemon opens it");
    host.stop_daemon();
    recovers_all(&host, &large);

    // The keyring of before opens no start any more.
    fs::rename(host.state_dir().join("keys/2.age"), host.path("w/aside")).unwrap();
    fs::copy(&held, host.state_dir().join("keys/1.age")).unwrap();
    host.stated(["verify"]).run().code(74);
}

fn recovers_all(host: &Host, large: &[u8]) {
    let out = host.path("w/out");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    host.call("bash", [script, host.state_dir(), host.identity(), out.clone()]).run().ok();
    let index = String::from_utf8(read(&out.join("index.jsonl"))).unwrap();
    assert_eq!(index.lines().count(), 32, "{index}");
    assert!(index.lines().all(|line| line.contains("\"status\":\"ok\"")), "{index}");
    assert!(files(&out).iter().any(|path| read(path) == large));
}

#[test]
fn a_recipient_opens_the_directory_from_when_it_is_added_until_it_is_removed() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (key, public) = ssh_key(&host, "id", &["ed25519"], "");
    host.put("a", b"sealed");
    host.statectl(["key", "add", &public]).run().ok();
    let listed = host.statectl(["key", "ls", "--json"]).run().ok().text();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    host.stop_daemon();
    recovers(&host, &key, b"sealed");
    let as_it = host.statectl(["get", "a"]).env("STATED_IDENTITY_FILE", &key).run().ok();
    assert_eq!(as_it.stdout, b"sealed");
    // The daemon has that one now, and cannot do without.
    let fingerprint = host.statectl(["key", "ls"]).run().ok().text();
    let fingerprint = fingerprint.lines().find_map(|line| line.split_once("SHA256:")).unwrap().1.to_owned();
    let fingerprint = format!("SHA256:{}", fingerprint.split_whitespace().next().unwrap());
    host.statectl(["key", "rm", &fingerprint]).run().code(65).says("could not start again");
    host.stop_daemon();
    host.statectl(["key", "rm", &fingerprint]).run().ok();
    host.stop_daemon();
    host.statectl(["get", "a"]).env("STATED_IDENTITY_FILE", &key).run().code(78);
    assert_eq!(host.get("a"), b"sealed");

    host.statectl(["key", "add", "age1nonsense"]).run().code(2);
    host.statectl(["key", "rm", &public]).run().code(66);
}
