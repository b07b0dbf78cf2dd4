//! How a start finds its way: the last snapshot, and the log since.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use stated_tests::{Commits, Daemon, Host, files_below, flip, read};

/// The snapshots of a host, the newest last.
fn snapshots(host: &Host) -> Vec<PathBuf> {
    let dir = host.state_dir().join("snap");
    if dir.exists() { files_below(&dir) } else { Vec::new() }
}

/// A host with this many versions of one state, whose daemon was stopped or killed.
fn prepared(versions: u32, clean: bool) -> Host {
    prepared_by(versions, clean, 1)
}

/// As [`prepared`], by so many sessions.
fn prepared_by(versions: u32, clean: bool, sessions: u32) -> Host {
    let host = Host::new();
    let daemon = host.daemon();
    let mut client = host.client();
    for number in 1..=versions {
        if number > 1 && number % (versions / sessions) == 0 {
            client = host.client();
        }
        client.put_one("a", format!("version {number}").as_bytes());
    }
    drop(client);
    if clean {
        daemon.stop()
    } else {
        daemon.kill()
    }
    host
}

/// Everything but the lock file, which says who looked.
fn contents(host: &Host) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files_below(&host.state_dir()).into_iter().filter(|file| !file.ends_with("LOCK"));
    files.map(|file| (file.clone(), read(&file))).collect()
}

/// The only log file, and where each of its records starts.
fn records(host: &Host) -> (PathBuf, Vec<usize>) {
    let log = files_below(&host.state_dir().join("log")).remove(0);
    let bytes = read(&log);
    let starts = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"stated1 ")).collect();
    (log, starts)
}

fn name(host: &Host, file: &Path) -> String {
    file.strip_prefix(host.state_dir()).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_start_reads_its_snapshot_and_the_log_since_and_nothing_before() {
    // What a start reads is what it costs: here much before the snapshot is damaged, and no start sees it.
    for clean in [true, false] {
        let host = prepared(600, clean);
        let written = snapshots(&host);
        assert!((1..=2).contains(&written.len()), "{written:?}");
        let (log, starts) = records(&host);
        let newest = written.last().unwrap().file_stem().unwrap().to_str().unwrap().to_owned();
        let seq = usize::from_str_radix(&newest, 16).unwrap();
        assert!(starts.len() - seq < 300, "the log since it is short: {seq} of {}", starts.len());
        assert!(!clean || seq == starts.len(), "a clean stop leaves nothing to replay");
        let damaged = [seq / 2, seq - 20];
        for record in [0, damaged[0], damaged[1]] {
            flip(&log, starts[record] as u64 + 150);
        }
        let _daemon = host.daemon();
        assert_eq!(host.get("a"), b"version 600");
        // The first record holds no version; each of the others refuses its own and nothing else.
        let near = |record: usize| record - 4..record + 4;
        let versions = damaged.iter().flat_map(|record| near(*record));
        let refused = versions.filter(|n| host.statectl(["get", &format!("a@{n}")]).run().code == 74).count();
        assert_eq!(refused, 2);
        let told = host.statectl(["verify"]).run().code(74).text();
        assert!(told.contains(&name(&host, &log)), "{told}");
    }
}

/// What a daemon said of its start: records opened, versions, runs of old versions, runs of them unpacked.
fn replayed(daemon: &Daemon) -> [u64; 4] {
    let said = daemon.said();
    let line = said.lines().find(|line| line.contains("replayed the records")).unwrap_or_else(|| panic!("{said}"));
    ["opened=", "versions=", "runs=", "unpacked="].map(|name| {
        let value = line.split(name).nth(1).unwrap_or_else(|| panic!("{line}"));
        value.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    })
}

#[test]
fn a_start_costs_no_more_for_a_longer_history() {
    // The longest tail that a kill can leave is up to the follower: what it was about to write, and what came meanwhile.
    for (clean, opened_max) in [(true, 1), (false, 300)] {
        // The last one has a session for each version, whose answers are remembered.
        for (versions, sessions) in [(100, 1), (2000, 1), (2000, 2000)] {
            let host = prepared_by(versions, clean, sessions);
            let daemon = host.daemon();
            let [opened, found, runs, unpacked] = replayed(&daemon);
            assert_eq!(found, u64::from(versions));
            assert!(opened <= opened_max, "{opened} records were opened for {versions} versions, clean {clean}");
            assert_eq!(unpacked, 0, "of {runs} runs");
            // A daemon that is killed after a hundred may have written no snapshot yet.
            let runs_min = 20 + u64::from(sessions / 600);
            assert!(versions < 2000 || runs > runs_min, "{runs} runs are there to be left alone");
            // The next commit needs no old version either, and whoever asks for one gets it.
            host.put("a", b"one more");
            assert_eq!(host.get("a@1"), b"version 1");
            assert_eq!(host.get(&format!("a@{}", versions / 2)), format!("version {}", versions / 2).as_bytes());
            let rows = host.run(["log", "a", "--json"]);
            assert_eq!(rows.lines().count() as u64, u64::from(versions) + 1);
            daemon.stop();
            host.verify();
        }
    }
}

#[test]
fn a_damaged_or_foreign_snapshot_is_passed_over_and_made_anew() {
    let host = prepared(600, true);
    let newest = snapshots(&host).pop().unwrap();
    let good = read(&newest);
    let other = prepared(40, true);
    let foreign = read(&snapshots(&other).pop().unwrap());
    let flipped = {
        let mut bytes = good.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    for (what, bytes) in
        [("flipped", &flipped[..]), ("cut", &good[..good.len() - 1]), ("empty", &[]), ("foreign", &foreign)]
    {
        fs::write(&newest, bytes).unwrap();
        let told = host.stated(["verify"]).run().code(74);
        assert!(told.text().contains(&name(&host, &newest)), "{what}: {}", told.text());
        let daemon = host.daemon();
        assert!(daemon.said().contains(&name(&host, &newest)), "{what}: {}", daemon.said());
        assert_eq!(host.get("a@1"), b"version 1");
        assert_eq!(host.get("a"), b"version 600");
        daemon.stop();
        assert!(host.verify().contains("as they were written"), "{what}: it was made anew");
        fs::remove_file(snapshots(&host).pop().unwrap()).unwrap();
    }
    fs::remove_dir_all(host.state_dir().join("snap")).unwrap();
    let _daemon = host.daemon();
    assert_eq!(host.get("a@300"), b"version 300");
}

#[test]
fn every_flipped_byte_of_a_snapshot_is_named() {
    let host = prepared(40, true);
    let file = snapshots(&host).pop().unwrap();
    let len = read(&file).len() as u64;
    for at in [0, 30, 150, len / 2, len - 1] {
        flip(&file, at);
        let told = host.stated(["verify"]).run().code(74).text();
        assert!(told.contains(&name(&host, &file)), "byte {at}: {told}");
        flip(&file, at);
    }
    host.verify();
}

#[test]
fn a_snapshot_newer_than_the_log_refuses_the_start_until_the_loss_is_accepted() {
    let host = prepared(600, true);
    let (log, starts) = records(&host);
    // The log of a copy that is older than its snapshots.
    let whole = read(&log);
    fs::write(&log, &whole[..starts[590]]).unwrap();
    let before = contents(&host);
    let Err(mut refused) = host.try_daemon_by(host.stated(["run"])) else { panic!("it serves what is left") };
    assert_eq!(refused.exit(), 74);
    assert!(refused.said().contains("--accept-loss=591"), "{}", refused.said());
    assert!(refused.said().contains("snap/"), "{}", refused.said());
    for wrong in ["590", "592", "1"] {
        let again = host.stated(["run", &format!("--accept-loss={wrong}")]).run().code(74);
        assert!(again.stderr.contains("--accept-loss=591"), "{}", again.stderr);
    }
    assert!(contents(&host) == before, "something was changed");
    // A client that starts the daemon accepts nothing.
    host.statectl(["ls"]).env_remove("STATED_NO_AUTOSTART").run().code(74);
    let daemon = host.daemon_by(host.stated(["run", "--accept-loss=591"]));
    assert_eq!(host.put("b", b"on it goes"), "b@1");
    let notes = host.status()["notes"].to_string();
    assert!(notes.contains("lost/"), "{notes}");
    let audit = host.run(["audit", "--json"]);
    assert!(audit.contains("accept-loss") && audit.contains("from record 591 on"), "{audit}");
    assert_eq!(host.statectl(["get", "a@600"]).run().code, 66);
    assert!(host.get("a").starts_with(b"version 5"));
    daemon.stop();
    assert_eq!(files_below(&host.state_dir().join("lost")).len(), 1, "the snapshot that proved it");
    host.verify();
    let refused = host.stated(["run", "--accept-loss=591"]).run().code(2);
    assert!(refused.stderr.contains("nothing is lost"), "{}", refused.stderr);
}

#[test]
fn accepted_damage_goes_to_lost_and_nothing_else_does() {
    for clean in [true, false] {
        let host = prepared(20, clean);
        let daemon = host.daemon();
        host.put("large", &vec![7; 3 << 20]);
        daemon.stop();
        let (log, starts) = records(&host);
        let bytes = read(&log);
        flip(&log, starts[9] as u64 + 150);
        let refused = host.stated(["run"]).run().code(74);
        assert!(refused.stderr.contains("--accept-loss=10"), "{}", refused.stderr);
        let daemon = host.daemon_by(host.stated(["run", "--accept-loss=10"]));
        // Who saw more is not told that all is well.
        host.statectl(["get", "a"]).run().code(74).says("--accept-rollback");
        host.run(["status", "--accept-rollback"]);
        let newest = host.get("a");
        assert!(newest.starts_with(b"version ") && newest != b"version 20");
        assert_eq!(host.statectl(["get", "large"]).run().code, 66);
        daemon.stop();
        let lost = files_below(&host.state_dir().join("lost"));
        let cut = lost.iter().find(|file| file.to_str().unwrap().contains(".log.from-")).unwrap();
        let mut expected = bytes[starts[9]..].to_vec();
        expected[150] ^= 1;
        assert!(read(cut) == expected, "all of it is there");
        host.verify();
    }
}

#[test]
fn a_blob_of_the_lost_part_is_kept_with_it() {
    let host = prepared(5, true);
    let daemon = host.daemon();
    host.put("large", &stated_tests::Random::new().bytes(300 << 10));
    daemon.stop();
    let blob = files_below(&host.state_dir().join("blob")).remove(0);
    let sealed = read(&blob);
    let (log, starts) = records(&host);
    flip(&log, starts[5] as u64 + 150);
    host.daemon_by(host.stated(["run", "--accept-loss=6"])).stop();
    assert!(!blob.exists());
    let kept = files_below(&host.state_dir().join("lost")).into_iter().any(|file| read(&file) == sealed);
    assert!(kept, "it is in lost/");
}

#[test]
fn a_loss_that_only_the_table_of_locks_knows_of_can_be_accepted() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", b"1");
    let (log, _) = records(&host);
    let old = read(&log);
    host.put("a", b"2");
    let held = host.hold(&["x"]);
    daemon.kill();
    fs::write(&log, old).unwrap();
    drop(held);
    let refused = host.stated(["run"]).run().code(74);
    let hint = refused.stderr.split("--accept-loss=").nth(1).expect("a hint").trim().to_owned();
    let daemon = host.daemon_by(host.stated(["run", &format!("--accept-loss={hint}")]));
    host.run(["status", "--accept-rollback"]);
    assert_eq!(host.get("a"), b"1");
    daemon.kill();
    // It is recorded: the next start asks nothing.
    let daemon = host.daemon();
    assert!(host.run(["audit", "--json"]).contains("accept-loss"));
    daemon.stop();
}

/// Prints how long starts take: `cargo test --release -p stated-tests --test starts -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: it asserts nothing"]
fn starts_by_number_of_versions() {
    for (clean, each) in [(true, false), (false, false), (true, true), (false, true)] {
        for versions in [100, 1000, 10_000] {
            let sessions = if each { versions } else { 1 };
            let host = prepared_by(versions, clean, sessions);
            let (mut times, mut works) = (Vec::new(), Vec::new());
            for _ in 0..9 {
                let began = Instant::now();
                let daemon = host.daemon();
                times.push(began.elapsed().as_secs_f64() * 1000.0);
                works.push(work_ms(&daemon));
                if clean { daemon.stop() } else { daemon.kill() }
            }
            times.sort_by(f64::total_cmp);
            works.sort_by(f64::total_cmp);
            let (least, median, work) = (times[0], times[4], works[4]);
            println!(
                "clean {clean}, {versions} versions by {sessions} sessions: {least:.1} ms, median {median:.1} ms, {work:.1} ms of work"
            );
        }
    }
}

/// How long the daemon's threads have run, in milliseconds; what else the machine does is no part of it.
fn work_ms(daemon: &Daemon) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let run_ns = tasks.filter_map(|task| {
        let schedstat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<f64>().ok()
    });
    run_ns.sum::<f64>() / 1e6
}
