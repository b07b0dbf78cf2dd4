//! With the key, age, zstd and jq are enough.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use stated_tests::{Commits, Host, Random, files_below, flip, read, tool};

fn tools() -> bool {
    ["bash", "age", "zstd", "jq", "sha256sum"].iter().all(|name| tool(name))
}

fn recover(host: &Host, out: &Path) -> stated_tests::Finished {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    host.call("bash", [script.as_os_str(), host.state_dir().as_os_str(), host.identity().as_os_str(), out.as_os_str()])
        .run()
}

/// Writes a bit of everything; gives what every version must be.
fn history(host: &Host) -> BTreeMap<(String, u64), Vec<u8>> {
    let mut random = Random::new();
    let mut client = host.client_started();
    let mut versions = BTreeMap::new();
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for index in 0..40 {
        let names = ["example/a", "ü/名前 with space", "quote\"back\\slash", "-dash"];
        let chosen = &names[..1 + index % 3];
        let lens = [0, 1, 500, 70_000, 300_000];
        let contents: Vec<Vec<u8>> = chosen.iter().map(|_| random.bytes(lens[index % 5] + index)).collect();
        let pairs: Vec<_> = chosen.iter().copied().zip(contents.iter().map(Vec::as_slice)).collect();
        client.put_all(&pairs).unwrap();
        for (name, content) in pairs {
            let version = next.entry(name.to_owned()).or_default();
            *version += 1;
            versions.insert((name.to_owned(), *version), content.to_vec());
        }
    }
    host.run(["rm", "example/a"]);
    versions
}

#[test]
fn promise_9_stock_tools_recover_every_version_byte_for_byte() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let versions = history(&host);
    host.stop_daemon();
    let out = host.path("out");
    recover(&host, &out).ok();
    let index = String::from_utf8(read(&out.join("index.jsonl"))).unwrap();
    let mut recovered = 0;
    for line in index.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let (state, version) = (entry["state"].as_str().unwrap(), entry["version"].as_u64().unwrap());
        assert_eq!(entry["status"], "ok", "{line}");
        if entry["removed"] == true {
            assert_eq!(state, "example/a");
            continue;
        }
        let content = read(&out.join(entry["path"].as_str().unwrap()));
        assert!(versions[&(state.to_owned(), version)] == content, "{state}@{version}");
        recovered += 1;
    }
    assert_eq!(recovered, versions.len());
    assert!(!files_below(&host.state_dir().join("blob")).is_empty(), "some of them were blobs");
}

#[test]
fn stock_tools_recover_what_a_crash_left() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let daemon = host.daemon();
    let mut client = host.client();
    for number in 0..30_u32 {
        client.put_one("a", number.to_string().as_bytes());
    }
    daemon.kill();
    let out = host.path("out");
    recover(&host, &out).ok();
    for number in 0..30_u32 {
        assert_eq!(read(&out.join(format!("1/{}", number + 1))), number.to_string().into_bytes());
    }
}

#[test]
fn recovery_names_a_damaged_version_and_gives_back_the_rest() {
    if !tools() {
        return;
    }
    let host = Host::new();
    host.put("a", b"small");
    host.put("a", &Random::new().bytes(300 << 10));
    host.put("b", b"small too");
    host.stop_daemon();
    let blob = files_below(&host.state_dir().join("blob")).remove(0);
    flip(&blob, 100_000);
    let out = host.path("out");
    recover(&host, &out).code(1).says("state \"a\" version 2");
    assert_eq!((read(&out.join("1/1")), read(&out.join("2/1"))), (b"small".to_vec(), b"small too".to_vec()));
    assert!(!out.join("1/2").exists());
}

#[test]
fn another_key_recovers_nothing() {
    if !tools() {
        return;
    }
    let (host, other) = (Host::new(), Host::new());
    host.put("a", b"x");
    other.put("a", b"x");
    host.stop_daemon();
    std::fs::copy(other.identity(), host.identity()).unwrap();
    recover(&host, &host.path("out")).code(1).says("no keyring opens");
}
