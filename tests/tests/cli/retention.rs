//! What the daemon prunes and sums up by itself, and the room that the log gives back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use stated_tests::{Host, LIMIT, Random, files_below, read, tool};

fn configure(host: &Host, text: &str) {
    fs::create_dir_all(host.config_dir()).unwrap();
    fs::write(host.config_dir().join("config.toml"), text).unwrap();
}

/// Asks until it is so: the daemon does it beside the requests.
fn await_so<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Some(answer) = ask() {
            return answer;
        }
    }
    panic!("{what}: not within {LIMIT:?}");
}

fn pruned(host: &Host, state: &str) -> Vec<u64> {
    let log = host.statectl(["log", state, "--json"]).run().ok().objects();
    let mut pruned: Vec<u64> =
        log.iter().filter(|row| row["pruned"] == true).map(|row| row["version"].as_u64().unwrap()).collect();
    pruned.sort_unstable();
    pruned
}

#[test]
fn the_daemon_prunes_what_its_configuration_does_not_keep() {
    let host = Host::new();
    for n in 1..=5 {
        host.put("prod/net", format!("prod {n}").as_bytes());
        host.put("test/net", format!("test {n}").as_bytes());
    }
    host.run(["tag", "test/net@2", "release"]);
    host.stop_daemon();
    // Without a policy nothing is ever dropped, whoever starts it.
    host.run(["ls"]);
    assert_eq!(host.statectl(["status", "--json"]).run().ok().object()["retention"], serde_json::json!([]));
    host.stop_daemon();
    let sections = "[[retention]]\nglob = \"prod/**\"\nkeep_within = \"90d\"\n\n\
                    [[retention]]\nkeep_last = 2\nkeep_tagged = true\n";
    configure(&host, sections);
    host.run(["ls"]);
    let rows = await_so("a prune", || {
        let rows = host.statectl(["audit", "--verb", "prune", "--json"]).run().ok().objects();
        (!rows.is_empty()).then_some(rows)
    });
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["name"], &rows[0]["note"]), (&"test/net".into(), &"versions 1, 3".into()));
    assert_eq!(rows[0]["actor"]["comm"], "stated", "by the daemon");
    assert_eq!((pruned(&host, "test/net"), pruned(&host, "prod/net")), (vec![1, 3], vec![]));
    assert_eq!(host.get("test/net@release"), b"test 2");
    host.statectl(["get", "test/net@1"]).run().code(66).says("was pruned on 20");
    // What would go besides is said of what is there now.
    let planned = host.statectl(["prune", "--keep-last", "1", "--dry-run", "--json"]).run().ok().objects();
    let dropped: Vec<_> = planned.iter().map(|row| row["dropped"].clone()).collect();
    assert_eq!(dropped, [serde_json::json!([[1, 4]]), serde_json::json!([[2, 4]])], "{planned:?}");
    let status = host.statectl(["status", "--json"]).run().ok().object();
    let told = ["prod/**: keeps what is younger than 90d", "**: keeps the last 2, what is tagged"];
    assert_eq!(status["retention"], serde_json::json!(told));
    assert!(host.run(["status"]).contains(told[1]));
    host.stop_daemon();
    host.verify();
}

#[test]
fn a_policy_that_says_nothing_or_something_odd_is_78() {
    let host = Host::new();
    for (section, what) in [
        ("[retention]\n", "keep_last"),
        ("[retention]\nkeep_last = 0\n", "keep_last is 0"),
        ("[retention]\nkeep_within = \"soon\"\n", "soon"),
        ("[retention]\nkeep_lats = 3\n", "keep_lats"),
        ("[audit]\nkeep = \"0s\"\n", "0s"),
        ("[audit]\nkeep = 90\n", "90"),
        ("[[retention]]\nkeep_last = 1\nglob = \"prod/[\"\n", "prod/["),
    ] {
        configure(&host, section);
        host.stated(["run"]).run().code(78).says(what).says("config.toml");
    }
    host.statectl(["put", "a"]).stdin("x").run().code(78).says("prod/[");
    assert!(!host.state_dir().join("FORMAT").exists(), "nothing was founded");
}

fn log_bytes(host: &Host) -> u64 {
    host.statectl(["status", "--json"]).run().ok().object()["log_bytes"].as_u64().unwrap()
}

#[test]
fn small_contents_that_were_pruned_leave_the_log() {
    let host = Host::new();
    let mut random = Random::new();
    let contents: Vec<Vec<u8>> = (0..45).map(|_| random.bytes(50_000)).collect();
    host.put("other", b"it lies among them");
    for content in &contents {
        host.put("app", content);
    }
    let before = log_bytes(&host);
    assert!(before > 2_000_000, "{before}");
    host.run(["prune", "--keep-last", "2"]);
    let after = await_so("a log without them", || Some(log_bytes(&host)).filter(|len| *len < 500_000));
    assert!(after < before / 4, "{after} of {before}");
    let check = |host: &Host| {
        assert_eq!(host.get("app"), contents[44]);
        assert_eq!(host.get("app@44"), contents[43]);
        assert_eq!(host.get("other"), b"it lies among them");
        assert_eq!(pruned(host, "app"), (1..=43).collect::<Vec<_>>());
        host.statectl(["get", "app@7"]).run().code(66).says("was pruned");
        assert!(
            host.statectl(["audit", "--verb", "commit", "--json"]).run().ok().objects().len() >= 46,
            "who did what stays"
        );
        host.statectl(["verify", "--read-data"]).run().ok();
    };
    check(&host);
    host.stop_daemon();
    let logs = files_below(&host.state_dir().join("log"));
    let on_disk: u64 = logs.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(logs.len() == 2 && on_disk < 500_000, "{on_disk} bytes in {logs:?}");
    check(&host);
    host.stop_daemon();
    host.verify();
    check_recovered(&host, &contents);
    // A snapshot less: the whole log is replayed.
    fs::remove_dir_all(host.state_dir().join("snap")).unwrap();
    check(&host);
}

#[test]
fn what_was_read_and_locked_long_ago_is_summed_up() {
    let host = Host::new();
    let mut random = Random::new();
    // A log file that holds less is not closed for this.
    let contents: Vec<Vec<u8>> = (0..2).map(|_| random.bytes(50_000)).collect();
    configure(&host, "[audit]\nkeep = \"forever\"\n");
    for content in &contents {
        host.put("app", content);
    }
    for _ in 0..3 {
        assert_eq!(host.get("app"), contents[1]);
        host.run(["lock", "-n", "job", "--", "true"]);
    }
    host.statectl(["put", "app", "--if-absent"]).stdin("x").run().code(65);
    let of = |verb: &str| host.statectl(["audit", "--verb", verb, "--json"]).run().ok().objects();
    let refused = of("commit").into_iter().filter(|row| row["outcome"] != "ok").collect::<Vec<_>>();
    assert_eq!(refused.len(), 1);
    assert!(host.run(["status"]).contains("one by one for ever"));
    host.stop_daemon();
    // Whatever is there is older than this.
    configure(&host, "[audit]\nkeep = \"1us\"\n");
    host.run(["ls"]);
    await_so("a summary", || (!of("summarize").is_empty()).then_some(()));
    let check = || {
        for (verb, name) in [("get", "app"), ("lock", "job"), ("unlock", "job")] {
            let rows = of(verb);
            assert_eq!(rows.len(), 1, "{rows:?}");
            let (row, actor) = (&rows[0], &rows[0]["actor"]);
            assert_eq!(
                (&row["name"], &row["count"], &row["outcome"]),
                (&name.into(), &3.into(), &"ok".into()),
                "{row}"
            );
            assert_eq!(
                (&row["note"], &actor["pid"], &actor["comm"]),
                (&"summed up".into(), &Value::Null, &Value::Null)
            );
            assert!(
                actor["uid"] == refused[0]["actor"]["uid"] && actor["user"] == refused[0]["actor"]["user"],
                "{row}"
            );
            assert!(row["time"].as_str() <= refused[0]["time"].as_str(), "{row}");
        }
        assert_eq!(of("summarize")[0]["actor"]["comm"], "stated", "by the daemon");
        let left = of("commit").into_iter().filter(|row| row["outcome"] != "ok").collect::<Vec<_>>();
        assert_eq!(left, refused, "who was refused stays told");
        host.statectl(["verify", "--read-data"]).run().ok();
    };
    check();
    host.stop_daemon();
    configure(&host, "");
    host.verify();
    // A snapshot less: the whole log is replayed.
    let _ = fs::remove_dir_all(host.state_dir().join("snap"));
    check();
    assert_eq!(host.get("app@1"), contents[0]);
    host.stop_daemon();
    let Some((_, rows)) = recovered(&host) else { return };
    assert!(rows.len() == 2 && rows.iter().all(|row| row["status"] == "ok"), "{rows:?}");
}

/// Stock tools read the log that was written anew.
fn recovered(host: &Host) -> Option<(PathBuf, Vec<Value>)> {
    if !["bash", "age", "zstd", "jq", "sha256sum"].iter().all(|name| tool(name)) {
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    let out = host.path("out");
    let (dir, key) = (host.state_dir(), host.identity());
    host.call("bash", [script.as_os_str(), dir.as_os_str(), key.as_os_str(), out.as_os_str()]).run().ok();
    let index = String::from_utf8(read(&out.join("index.jsonl"))).unwrap();
    Some((out, index.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
}

fn check_recovered(host: &Host, contents: &[Vec<u8>]) {
    let Some((out, rows)) = recovered(host) else { return };
    assert_eq!(rows.len(), 46);
    for row in rows.iter().filter(|row| row["state"] == "app") {
        let n = row["version"].as_u64().unwrap() as usize;
        match n {
            44.. => assert_eq!(read(&out.join(row["path"].as_str().unwrap())), contents[n - 1]),
            _ => assert_eq!(row["status"], "pruned", "{row}"),
        }
    }
}
