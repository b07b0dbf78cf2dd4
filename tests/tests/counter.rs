//! Nobody's increment is lost, whichever way a counter is kept from being overwritten.

use stated_tests::{Commits, Host, Running};

const PROCESSES: usize = 64;
const INCREMENTS: usize = 100;

/// The counter holds their sum, and each increment is a version of its own.
#[track_caller]
fn check(host: &Host, name: &str, sum: usize) {
    assert_eq!(host.get(name), sum.to_string().as_bytes());
    // Version 1 is the zero.
    let rows = host.statectl(["log", name, "--json"]).run().ok().objects();
    let versions: Vec<usize> = rows.iter().map(|row| row["version"].as_u64().unwrap() as usize).collect();
    assert_eq!(versions, (1..=sum + 1).rev().collect::<Vec<_>>());
}

fn count_with_workers(way: &str) {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("counter", b"0");
    let socket = host.socket();
    let args = [way, socket.to_str().unwrap(), "counter", &INCREMENTS.to_string()];
    let workers: Vec<Running> = (0..PROCESSES).map(|_| host.call(env!("CARGO_BIN_EXE_worker"), args).start()).collect();
    for worker in workers {
        worker.finish().ok();
    }
    check(&host, "counter", PROCESSES * INCREMENTS);
    assert_eq!(host.locks().len(), 0);
    daemon.stop();
    host.verify();
}

#[test]
fn sixty_four_processes_that_compare_versions_lose_no_increment() {
    count_with_workers("compare");
}

#[test]
fn sixty_four_processes_that_lock_lose_no_increment() {
    count_with_workers("lock");
}

/// Runs a shell script `COUNT` times in each of some processes at once.
fn count_with_scripts(processes: usize, count: usize, increment: &str) {
    let host = Host::new();
    let _daemon = host.daemon();
    host.put("counter", b"0");
    let script = format!("set -euo pipefail\nfor _ in $(seq {count}); do\n{increment}\ndone");
    let call = || host.call("bash", ["-c", &script]).env("STATECTL", host.statectl_path());
    let workers: Vec<Running> = (0..processes).map(|_| call().start()).collect();
    for worker in workers {
        worker.finish().ok();
    }
    check(&host, "counter", processes * count);
}

#[test]
fn shell_scripts_that_compare_versions_lose_no_increment() {
    let increment = r#"
        while :; do
            version=$("$STATECTL" show counter --json | sed 's/.*"version":\([0-9]*\).*/\1/')
            number=$("$STATECTL" get "counter@$version")
            code=0
            printf %s $((number + 1)) | "$STATECTL" put counter --if-version "$version" >/dev/null 2>&1 || code=$?
            [ "$code" -ne 65 ] || continue
            [ "$code" -eq 0 ] || exit "$code"
            break
        done"#;
    count_with_scripts(8, 5, increment);
}

#[test]
fn shell_scripts_that_lock_lose_no_increment() {
    let increment = r#"
        "$STATECTL" lock counter -- sh -c '
            number=$("$STATECTL" get counter)
            printf %s $((number + 1)) | "$STATECTL" put counter >/dev/null'"#;
    count_with_scripts(8, 5, increment);
}

/// The scripts above can fail: without a lock increments get lost.
#[test]
fn without_a_condition_or_a_lock_increments_are_lost() {
    let host = Host::new();
    let _daemon = host.daemon();
    host.put("counter", b"0");
    let (mut one, mut other) = (host.client(), host.client());
    let read = |host: &Host| -> u64 { String::from_utf8(host.get("counter")).unwrap().parse().unwrap() };
    let (first, second) = (read(&host), read(&host));
    one.put_one("counter", (first + 1).to_string().as_bytes());
    other.put_one("counter", (second + 1).to_string().as_bytes());
    assert_eq!(host.get("counter"), b"1", "two increments, and one of them is gone");
}
