//! Who can seal cannot write history: recipients are public, the chain's key is not.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use stated_tests::{Host, files_below, read, sha256, tool};

/// The header line and the age file of a record, made by stock tools from the repository's public key alone.
fn forge(host: &Host, seq: u64, plaintext: &str, mac: &str) -> Vec<u8> {
    let key = host.path("repository.key");
    let (identity, keyring) = (host.identity(), host.state_dir().join("keys/1.age"));
    // Only the public half is used of it.
    let opened = host.call("age", ["-d".as_ref(), "-i".as_ref(), identity.as_os_str(), keyring.as_os_str()]).run().ok();
    fs::write(&key, &opened.stdout).unwrap();
    let recipient = host.call("age-keygen", ["-y".as_ref(), key.as_os_str()]).run().ok().text();
    let sealed = host.call("age", ["-r", &recipient]).stdin(plaintext).run().ok().stdout;
    let line = format!("stated1 {seq:x} {:x} {mac} ", sealed.len());
    let check = &sha256(line.as_bytes())[..8];
    [format!("{line}{check}\n").into_bytes(), sealed].concat()
}

fn plaintext(seq: u64) -> String {
    let actor = r#"{"uid":0,"gid":0,"host":"forger","session":"00000000000000000000000000000000"}"#;
    let what = r#"{"closed":{}}"#;
    format!("{{\"record\":1,\"seq\":{seq},\"events\":1}}\n{{\"at\":1764000000000,\"actor\":{actor},\"what\":{what}}}\n")
}

/// Where the last record ends.
fn end_of_log(log: &Path) -> u64 {
    let bytes = read(log);
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

#[test]
fn a_record_forged_with_the_public_key_alone_is_refused_and_named() {
    if !tool("age") || !tool("age-keygen") {
        return;
    }
    let mac = "5a".repeat(32);
    for clean in [false, true] {
        let host = Host::new();
        let daemon = host.daemon();
        host.put("a", b"genuine");
        // A crash leaves zeros ahead, as the forger finds them; a clean stop leaves none.
        if clean {
            daemon.stop()
        } else {
            daemon.kill()
        }
        let last = if clean { 3 } else { 2 };
        let log = files_below(&host.state_dir().join("log")).remove(0);
        let (intact, at) = (read(&log), end_of_log(&log));
        let forged = forge(&host, last + 1, &plaintext(last + 1), &mac);
        fs::OpenOptions::new().write(true).open(&log).unwrap().write_all_at(&forged, at).unwrap();
        let refused = host.stated(["run"]).run().code(74);
        assert!(refused.stderr.contains(&format!("record {}", last + 1)), "{}", refused.stderr);
        assert!(refused.stderr.contains("log/0000000000000001.log"), "{}", refused.stderr);
        if !clean {
            assert!(refused.stderr.contains("MAC"), "{}", refused.stderr);
        }
        host.stated(["verify"]).run().code(74);
        host.statectl(["get", "a"]).env_remove("STATED_NO_AUTOSTART").run().code(74);
        fs::write(&log, intact).unwrap();
        let _daemon = host.daemon();
        assert_eq!(host.get("a"), b"genuine");
    }
}

#[test]
fn a_genuine_record_at_another_place_is_refused() {
    let host = Host::new();
    host.put("a", b"1");
    host.put("a", b"2");
    host.put("a", b"3");
    host.stop_daemon();
    let log = files_below(&host.state_dir().join("log")).remove(0);
    let intact = read(&log);
    let starts: Vec<usize> = (0..intact.len()).filter(|at| intact[*at..].starts_with(b"stated1 ")).collect();
    let record = |index: usize| &intact[starts[index]..starts.get(index + 1).copied().unwrap_or(intact.len())];
    let records: Vec<&[u8]> = (0..starts.len()).map(record).collect();
    let orders: [&[usize]; 4] = [&[0, 2, 1, 3, 4], &[0, 1, 3, 4], &[0, 1, 2, 2, 3, 4], &[1, 2, 3, 4]];
    assert!(records.len() >= 5, "start, three commits, stop");
    for order in orders {
        let bytes: Vec<u8> = order.iter().flat_map(|index| records[*index]).copied().collect();
        fs::write(&log, bytes).unwrap();
        let refused = host.stated(["run"]).run().code(74);
        assert!(refused.stderr.contains("log/0000000000000001.log"), "{order:?}: {}", refused.stderr);
    }
    fs::write(&log, intact).unwrap();
    assert_eq!(host.get("a"), b"3");
}

#[test]
fn another_repositorys_log_is_refused() {
    let (host, other) = (Host::new(), Host::new());
    for host in [&host, &other] {
        host.put("a", b"x");
        host.stop_daemon();
    }
    let log = files_below(&host.state_dir().join("log")).remove(0);
    let intact = read(&log);
    fs::copy(files_below(&other.state_dir().join("log")).remove(0), &log).unwrap();
    host.stated(["run"]).run().code(74);
    fs::write(&log, &intact).unwrap();
    // Also with the other's keyring, which this user's key does not open, or FORMAT, which names the other.
    let format = host.state_dir().join("FORMAT");
    let own = read(&format);
    fs::copy(other.state_dir().join("FORMAT"), &format).unwrap();
    host.stated(["run"]).run().code(74).says("repository");
    fs::write(&format, own).unwrap();
    assert_eq!(host.get("a"), b"x");
}

#[test]
fn a_keyring_that_the_journal_does_not_name_is_refused() {
    if !tool("age") || !tool("age-keygen") {
        return;
    }
    let host = Host::new();
    host.put("a", b"x");
    host.stop_daemon();
    let (identity, keyring) = (host.identity(), host.state_dir().join("keys/1.age"));
    let own = read(&keyring);
    let text = host.call("age", ["-d".as_ref(), "-i".as_ref(), identity.as_os_str(), keyring.as_os_str()]).run().ok();
    let recipient = host.call("age-keygen", ["-y".as_ref(), identity.as_os_str()]).run().ok().text();
    // The same text, sealed anew: whoever swaps the file for one with more recipients does as much.
    let again = host.call("age", ["-r", &recipient]).stdin(text.stdout).run().ok().stdout;
    fs::write(&keyring, again).unwrap();
    host.stated(["run"]).run().code(74).says("keyring 1");
    fs::write(&keyring, own).unwrap();
    assert_eq!(host.get("a"), b"x");
}
