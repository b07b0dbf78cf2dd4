//! Directories that earlier builds wrote, kept as they were: `tests/golden/<name>/`, each with its key (which opens
//! nothing else) and with what must come out of it.
//!
//! A build that changes the format adds one and touches none:
//! `STATED_GOLDEN=tests/golden/NAME cargo test -p stated-tests --test golden -- --ignored --exact make`, or
//! `make_renewed`, `make_summarized` or `make_rekeyed`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stated_tests::{Host, Random, files_below, read, sha256, tool};

fn golden() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut found: Vec<PathBuf> = fs::read_dir(dir).expect("there is one").map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// Copies a directory for one user alone, as a version control system does not keep it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect("its owner");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("copied");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("its owner");
        }
    }
}

/// What a build says of every version, and the SHA-256 of what it gives for it.
fn told(host: &Host) -> Vec<Value> {
    let mut told = Vec::new();
    // Removed states are not listed: their names are the tests' own.
    for state in ["app/config", "app/gone", "app/large", "app/patched", "app/retention"] {
        for row in host.statectl(["log", state, "--json"]).run().ok().objects() {
            let at = format!("{state}@{}", row["version"]);
            let got = host.statectl(["get", &at]).run();
            let content = if got.code == 0 { json!(sha256(&got.stdout)) } else { json!(got.code) };
            let facts =
                ["state", "version", "sha256", "size", "time", "message", "tags", "serial", "lineage", "pruned"];
            let facts = facts.map(|fact| (fact.to_owned(), row[fact].clone()));
            let mut facts: serde_json::Map<String, Value> = facts.into_iter().collect();
            facts.insert("content".to_owned(), content);
            told.push(Value::Object(facts));
        }
    }
    told
}

fn recovered(host: &Host, state_dir: &Path, key: &Path) -> Vec<Value> {
    let out = host.path("recovered");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    host.call("bash", [script.as_os_str(), state_dir.as_os_str(), key.as_os_str(), out.as_os_str()]).run().ok();
    let index = String::from_utf8(read(&out.join("index.jsonl"))).expect("text");
    index.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

#[test]
fn promise_12_every_older_format_opens_for_ever() {
    let golden = golden();
    assert!(!golden.is_empty());
    for directory in golden {
        let host = Host::new();
        copy(&directory.join("state"), &host.state_dir());
        fs::create_dir_all(host.config_dir()).expect("a directory");
        // However old they are.
        fs::write(host.config_dir().join("config.toml"), "[audit]\nkeep = \"forever\"\n").expect("written");
        fs::copy(directory.join("identity.txt"), host.identity()).expect("copied");
        host.chmod(&host.identity(), 0o600);
        let expected: Vec<Value> = String::from_utf8(read(&directory.join("expected.jsonl")))
            .expect("text")
            .lines()
            .map(|line| serde_json::from_str(line).expect("an object"))
            .collect();
        assert!(host.stated(["verify"]).run().ok().text().contains("as they were written"), "{directory:?}");
        if ["bash", "age", "zstd", "jq", "sha256sum"].iter().all(|name| tool(name)) {
            for row in recovered(&host, &directory.join("state"), &directory.join("identity.txt")) {
                let same = |told: &&Value| told["state"] == row["state"] && told["version"] == row["version"];
                let told = expected.iter().find(same).unwrap_or_else(|| panic!("{row}"));
                assert_eq!(told["sha256"], row["sha256"], "{row}");
            }
        }
        assert_eq!(told(&host), expected, "{directory:?}");
        if let Ok(rows) = fs::read_to_string(directory.join("summed-up.jsonl")) {
            let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
            assert!(!rows.is_empty() && summed_up(&host) == rows, "{directory:?}");
        }
        let lease = host.locks();
        assert_eq!(lease[0]["name"], "app/config", "its lease is held still");
        host.put("app/new", b"on top of it");
        host.stop_daemon();
        assert_eq!(host.get("app/new"), b"on top of it");
        assert_eq!(told(&host), expected, "{directory:?}, a restart later");
        host.stop_daemon();
        host.stated(["verify"]).run().ok();
    }
}

/// Writes the golden directory of this build.
#[test]
#[ignore = "it writes a directory that is to be kept"]
fn make() {
    make_with(prune_some);
}

fn prune_some(host: &Host) {
    for version in 0..4 {
        host.put("app/retention", format!("version {version}").as_bytes());
    }
    host.run(["prune", "--keep-last", "2", "app/retention"]);
}

/// As above, but that so much is pruned that the log is written anew.
#[test]
#[ignore = "it writes a directory that is to be kept"]
fn make_renewed() {
    make_with(|host| {
        let mut random = Random::seeded(13);
        // The last ones are small: what is pruned leaves its records, and what is kept lies between it.
        for version in 0..30 {
            let content = if version < 28 { random.bytes(50_000) } else { format!("version {version}").into_bytes() };
            host.put("app/retention", &content);
        }
        host.run(["prune", "--keep-last", "2", "app/retention"]);
        let began = std::time::Instant::now();
        let len = || host.statectl(["status", "--json"]).run().ok().object()["log_bytes"].as_u64();
        while len() > Some(500_000) {
            assert!(began.elapsed() < stated_tests::LIMIT, "the log is not written anew");
        }
    });
}

/// As the first, but that what was read and locked is summed up.
#[test]
#[ignore = "it writes a directory that is to be kept"]
fn make_summarized() {
    let host = make_with(|host| {
        prune_some(host);
        for _ in 0..2 {
            host.get("app/large");
            host.run(["lock", "-n", "app/job", "--", "true"]);
            // Whoever asks for it finds it written down, so each round has a record.
            host.run(["audit"]);
        }
        host.statectl(["put", "app/config", "--if-absent"]).stdin("x").run().code(65);
        host.stop_daemon();
        fs::create_dir_all(host.config_dir()).expect("a directory");
        fs::write(host.config_dir().join("config.toml"), "[audit]\nkeep = \"1us\"\n").expect("written");
        let began = std::time::Instant::now();
        while summed_up(host).is_empty() {
            assert!(began.elapsed() < stated_tests::LIMIT, "nothing is summed up");
        }
    });
    let to = named();
    let lines: String = summed_up(&host).iter().map(|row| format!("{row}\n")).collect();
    fs::write(to.join("summed-up.jsonl"), lines).expect("written");
}

/// As the first, but that a recipient came and went, and the keys were made anew in between.
#[test]
#[ignore = "it writes a directory that is to be kept"]
fn make_rekeyed() {
    let host = make_with(|host| {
        prune_some(host);
        host.run(["key", "add", OTHER]);
        host.put("app/retention", b"of the second keyring");
        host.run(["key", "rotate"]);
        host.put("app/retention", b"of the third");
        host.run(["key", "rm", OTHER]);
        host.put("app/retention", b"of the fourth");
    });
    assert!(host.state_dir().join("keys/4.age").exists());
}

/// A recipient of whom nobody has the key.
const OTHER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// What the audit log says of what was summed up.
fn summed_up(host: &Host) -> Vec<Value> {
    let rows = host.statectl(["audit", "--json"]).run().ok().objects();
    rows.into_iter().filter(|row| row["note"] == "summed up").collect()
}

fn named() -> PathBuf {
    let to = std::env::var_os("STATED_GOLDEN").map(PathBuf::from).expect("STATED_GOLDEN names the directory");
    if to.is_absolute() { to } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(to) }
}

fn make_with(prune: impl FnOnce(&Host)) -> Host {
    let to = named();
    let host = Host::new();
    let mut random = Random::seeded(12);
    host.put("app/config", b"one\n");
    host.statectl(["put", "app/config", "-m", "the second one"]).stdin("two\n").run().ok();
    host.run(["tag", "app/config@1", "first"]);
    host.put("app/gone", b"soon");
    host.run(["rm", "app/gone"]);
    host.put("app/large", &random.bytes(80 << 10));
    let mut patched: Vec<u8> =
        random.bytes(2000).iter().flat_map(|byte| format!("{byte:02x}\n").into_bytes()).collect();
    for version in 0..70 {
        patched[version * 60] = b'X';
        host.put("app/patched", &patched);
    }
    prune(&host);
    host.run(["lock", "--ttl", "8000h", "-m", "kept for ever", "app/config"]);
    let expected = told(&host);
    host.stop_daemon();
    let _ = fs::remove_dir_all(&to);
    copy(&host.state_dir(), &to.join("state"));
    fs::copy(host.identity(), to.join("identity.txt")).expect("copied");
    let lines: String = expected.iter().map(|row| format!("{row}\n")).collect();
    fs::write(to.join("expected.jsonl"), lines).expect("written");
    assert!(files_below(&to.join("state")).iter().any(|file| file.to_string_lossy().contains("/snap/")));
    host
}
