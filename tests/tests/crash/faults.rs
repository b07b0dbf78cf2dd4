//! `EIO` and `ENOSPC` at one system call of a real daemon, wherever it writes, cuts, syncs or renames.

use std::path::PathBuf;

use stated_shared::{Expect, FailureKind, Reply, Request};
use stated_tests::{Call, Direct, Host, Random, commit, tool};

/// Which call of each kind and thread fails, one in each run: one of the start, and one of what comes after it.
const CALLS: [usize; 2] = [1, 6];
/// What is too large for a record.
const BLOB_LEN: usize = 150_000;

/// A call that fails, and how.
const FAULTS: [(&str, &str); 7] = [
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("fsync", "EIO"),
    ("ftruncate", "EIO"),
    ("rename,renameat,renameat2", "EIO"),
];

/// Runs `stated` with a fault in the `when`th of these calls in or below the state directory, counted in each thread.
fn failing(host: &Host, (call, error): (&str, &str), when: usize, arg: &str) -> Call {
    let trace = host.path("strace");
    let mut args: Vec<PathBuf> = vec!["-f".into(), "-o".into(), trace];
    args.extend(["-e".into(), format!("trace={call}").into()]);
    args.extend(["-e".into(), format!("inject={call}:error={error}:when={when}").into()]);
    args.extend(["--".into(), host.stated_path(), arg.into()]);
    host.call("strace", args)
}

/// The versions that were acknowledged, and whether one more was asked for and not answered.
struct Written {
    acknowledged: Vec<Vec<u8>>,
    open: Option<Vec<u8>>,
    refused: usize,
}

/// Small commits and blobs, until one is not answered.
fn write(host: &Host, random: &mut Random) -> Written {
    let mut written = Written { acknowledged: Vec::new(), open: None, refused: 0 };
    let Ok(mut connection) = Direct::connect(&host.socket(), random) else { return written };
    for number in 0..12 {
        let content = random.bytes(if number % 2 == 1 { BLOB_LEN } else { 1000 });
        match connection.ask(Request::Commit(commit([("a", Expect::Any, content.clone())])), &[]) {
            Ok(Ok(Reply::Committed(_))) => written.acknowledged.push(content),
            Ok(Ok(other)) => panic!("{other:?}"),
            Ok(Err(failure)) => {
                assert_eq!(failure.kind, FailureKind::Storage, "{failure:?}");
                written.refused += 1;
                // Reads go on.
                let newest = written.acknowledged.len();
                if newest > 0 {
                    assert_eq!(host.get(&format!("a@{newest}")), written.acknowledged[newest - 1]);
                }
            }
            Err(_) => {
                written.open = Some(content);
                break;
            }
        }
    }
    written
}

/// What is there after all: what was acknowledged, and perhaps what was not answered.
fn check(host: &Host, written: &Written, what: &str) {
    let daemon = host.daemon();
    let rows = host.statectl(["log", "a", "--json"]).run();
    let versions = if rows.code == 66 { 0 } else { rows.ok().objects().len() };
    let mut expected: Vec<&Vec<u8>> = written.acknowledged.iter().collect();
    if versions == expected.len() + 1 {
        expected.extend(&written.open);
    }
    assert_eq!(versions, expected.len(), "{what}");
    for (index, content) in expected.into_iter().enumerate() {
        assert!(host.get(&format!("a@{}", index + 1)) == *content, "{what}: version {}", index + 1);
    }
    assert_eq!(host.put("a", b"and on it goes"), format!("a@{}", versions + 1), "{what}");
    daemon.stop();
    host.verify();
}

/// `STATED_FAULT_CALLS=30` lets each of the first 30 calls fail.
fn calls() -> Vec<usize> {
    let up_to = |text: String| (1..=text.parse().expect("a number")).collect();
    std::env::var("STATED_FAULT_CALLS").map_or(CALLS.to_vec(), up_to)
}

#[test]
fn a_call_that_fails_refuses_or_halts_and_loses_nothing() {
    if !tool("strace") {
        return;
    }
    let mut random = Random::new();
    let (mut unready, mut halted, mut refused) = (0, 0, 0);
    for fault in FAULTS {
        for when in calls() {
            let what = format!("{fault:?} at call {when}");
            let host = Host::new();
            host.stated(["init"]).run().ok();
            let written = match host.try_daemon_by(failing(&host, fault, when, "run")) {
                Err(mut ended) => {
                    assert_eq!(ended.exit(), 74, "{what}: {}", ended.said());
                    unready += 1;
                    Written { acknowledged: Vec::new(), open: None, refused: 0 }
                }
                Ok(mut daemon) => {
                    let written = write(&host, &mut random);
                    refused += written.refused;
                    if written.open.is_some() {
                        assert_eq!(daemon.exit(), 74, "{what}: {}", daemon.said());
                        assert!(daemon.said().contains("start the daemon again"), "{what}: {}", daemon.said());
                        halted += 1;
                    } else {
                        host.stop_daemon();
                        let code = daemon.exit();
                        assert!([0, 74].contains(&code), "{what}: {code}: {}", daemon.said());
                        halted += usize::from(code == 74);
                    }
                    written
                }
            };
            check(&host, &written, &what);
        }
    }
    eprintln!("{unready} did not start, {halted} halted, {refused} requests were refused");
    assert!(unready > 0 && halted > 0 && refused > 0, "the faults missed: {unready} {halted} {refused}");
}

#[test]
fn a_first_start_that_fails_can_be_repeated() {
    if !tool("strace") {
        return;
    }
    let mut failed = 0;
    for fault in FAULTS {
        for when in calls() {
            let what = format!("{fault:?} at call {when}");
            let host = Host::new();
            let init = failing(&host, fault, when, "init").run();
            failed += usize::from(init.code != 0);
            // The key is no part of the state directory: one that cannot be made is a matter of the configuration.
            assert!([0, 74, 78].contains(&init.code), "{what}: {}: {}", init.code, init.stderr);
            check(&host, &Written { acknowledged: Vec::new(), open: None, refused: 0 }, &what);
        }
    }
    assert!(failed > 3, "the faults missed: {failed}");
}
