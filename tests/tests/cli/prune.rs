//! Pruning: what goes, what stays, and what is told of it.

use std::fs;
use std::path::Path;

use serde_json::Value;
use stated_tests::{Host, Random, files_below, read, tool};

/// Lines of noise, of which every version has changed one.
fn version(noise: &[String], n: usize) -> Vec<u8> {
    let mut lines = noise.to_vec();
    lines[n % noise.len()] = format!("changed in version {n}");
    lines.join("\n").into_bytes()
}

fn noise(lines: usize) -> Vec<String> {
    let mut random = Random::new();
    (0..lines).map(|_| random.bytes(24).iter().map(|byte| format!("{byte:02x}")).collect()).collect()
}

fn blobs(host: &Host) -> usize {
    let shards = fs::read_dir(host.state_dir().join("blob")).unwrap();
    shards.map(|shard| fs::read_dir(shard.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn what_no_rule_keeps_goes_and_the_rest_is_as_it_was() {
    let host = Host::new();
    let noise = noise(60);
    for n in 1..=70 {
        host.put("app/a", &version(&noise, n));
    }
    host.put("app/b", b"alone");
    host.run(["tag", "app/a@7", "release"]);
    let args = ["prune", "--keep-last", "10", "--keep-tagged", "app/*"];
    let planned = host.statectl(args.iter().chain(&["--dry-run", "--json"])).run().ok().objects();
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert_eq!(host.get("app/a@1"), version(&noise, 1), "nothing went yet");
    let done = host.statectl(args.iter().chain(&["--json"])).run().ok().objects();
    assert_eq!(done, planned, "and what was said is what is done");
    let row = &done[0];
    assert_eq!(row["dropped"], serde_json::json!([[1, 6], [8, 60]]));
    assert_eq!((&row["state"], &row["versions"], &row["needed"]), (&"app/a".into(), &59.into(), &0.into()));
    assert!(
        host.statectl(args.iter().chain(&["--json"])).run().ok().objects().is_empty(),
        "once more it finds nothing"
    );

    let check = |host: &Host| {
        for n in (61..=70).chain([7]) {
            assert_eq!(host.get(&format!("app/a@{n}")), version(&noise, n), "version {n}");
        }
        for n in [1, 6, 8, 60] {
            let refused = host.statectl(["get", &format!("app/a@{n}")]).run().code(66);
            refused.says(&format!("version {n} of app/a was pruned on 20")).says("statectl log");
        }
        let log = host.statectl(["log", "app/a", "--json"]).run().ok().objects();
        let log: Vec<_> = log.into_iter().filter(|row| row["version"].as_u64() <= Some(70)).collect();
        assert_eq!(log.len(), 70, "what is known of them stays");
        assert!(log.iter().all(|row| row["sha256"].is_string()));
        assert_eq!(log.iter().filter(|row| row["pruned"] == true).count(), 59);
        host.statectl(["verify", "--read-data"]).run().ok();
    };
    check(&host);
    assert!(host.statectl(["log", "app/a"]).run().ok().text().contains("[pruned]"));
    host.statectl(["rollback", "app/a", "3"]).run().code(66).says("was pruned");
    host.statectl(["tag", "app/a@3", "t"]).run().code(66).says("was pruned");
    let shown = host.statectl(["show", "app/a@3", "--json"]).run().ok().object();
    assert_eq!((&shown["pruned"], &shown["removed"]), (&true.into(), &false.into()));
    let audit = host.statectl(["audit", "--verb", "prune", "--json"]).run().ok().objects();
    assert_eq!((audit.len(), &audit[0]["note"]), (1, &"versions 1-6, 8-60".into()));
    host.stop_daemon();
    check(&host);
    host.stop_daemon();
    host.verify();
    // What follows is patched from what is kept.
    host.put("app/a", &version(&noise, 71));
    assert_eq!(host.get("app/a@71"), version(&noise, 71));
    check_recovered(&host, &noise);
}

/// Stock tools give what is kept, and do not take for damage what is not.
fn check_recovered(host: &Host, noise: &[String]) {
    if !["bash", "age", "zstd", "jq", "sha256sum"].iter().all(|name| tool(name)) {
        return;
    }
    host.stop_daemon();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    let out = host.path("out");
    let (dir, key) = (host.state_dir(), host.identity());
    host.call("bash", [script.as_os_str(), dir.as_os_str(), key.as_os_str(), out.as_os_str()]).run().ok();
    let index = String::from_utf8(read(&out.join("index.jsonl"))).unwrap();
    let rows: Vec<Value> = index.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 72);
    for row in rows.iter().filter(|row| row["state"] == "app/a") {
        let n = row["version"].as_u64().unwrap() as usize;
        if n >= 61 || n == 7 {
            assert_eq!(row["status"], "ok", "{row}");
            assert_eq!(read(&out.join(row["path"].as_str().unwrap())), version(noise, n));
        } else {
            assert_eq!(row["status"], "pruned", "{row}");
        }
    }
}

#[test]
fn the_files_of_what_was_pruned_are_gone() {
    let host = Host::new();
    let mut random = Random::new();
    let contents: Vec<Vec<u8>> = (0..6).map(|_| random.bytes(200_000)).collect();
    for content in &contents {
        host.put("big", content);
    }
    assert_eq!(blobs(&host), 6);
    let table = host.statectl(["prune", "--keep-last", "2"]).run().ok();
    assert!(table.text().contains("1-4"), "{}", table.text());
    table.says("4 versions pruned, 781.");
    // Beside the answers; a start sweeps what a crash left.
    host.stop_daemon();
    host.run(["ls"]);
    assert_eq!(blobs(&host), 2);
    assert_eq!((host.get("big"), host.get("big@5")), (contents[5].clone(), contents[4].clone()));
    host.statectl(["get", "big@4"]).run().code(66);
    host.statectl(["verify", "--read-data"]).run().ok();
}

#[test]
fn a_blob_that_no_prune_gave_up_is_damage() {
    let host = Host::new();
    let mut random = Random::new();
    for _ in 0..3 {
        host.put("big", &random.bytes(200_000));
    }
    host.run(["prune", "--keep-last", "2"]);
    host.stop_daemon();
    host.run(["ls"]);
    let blob = files_below(&host.state_dir().join("blob")).remove(0);
    fs::remove_file(blob).unwrap();
    host.statectl(["verify", "--read-data"]).run().code(74);
}

#[test]
fn a_prune_without_a_rule_is_a_mistake() {
    let host = Host::new();
    host.put("a", b"1");
    host.put("a", b"2");
    host.statectl(["prune"]).run().code(2);
    host.statectl(["prune", "a"]).run().code(2);
    host.statectl(["prune", "--keep-last", "0"]).run().code(2);
    host.statectl(["prune", "--keep-last", "1", "a["]).run().code(2);
    host.run(["prune", "--keep-last", "1", "b"]);
    assert_eq!(host.get("a@1"), b"1");
    host.run(["prune", "--keep-within", "1h"]);
    assert_eq!(host.get("a@1"), b"1");
    host.run(["rm", "a"]);
    host.run(["prune", "--keep-within", "0s"]);
    host.statectl(["get", "a@1"]).run().code(66);
    assert_eq!(host.get("a@2"), b"2", "the newest content stays, also of what was removed");
}
