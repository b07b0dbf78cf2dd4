//! How a start finds its way: the last snapshot, and the log since.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use stated_tests::{Commits, Host, files_below, flip, read};

/// The snapshots of a host, the newest last.
fn snapshots(host: &Host) -> Vec<PathBuf> {
    let dir = host.state_dir().join("snap");
    if dir.exists() { files_below(&dir) } else { Vec::new() }
}

/// A host with this many versions of one state, whose daemon was stopped or killed.
fn prepared(versions: u32, clean: bool) -> Host {
    let host = Host::new();
    let daemon = host.daemon();
    let mut client = host.client();
    for number in 1..=versions {
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

/// Prints how long starts take: `cargo test --release -p stated-tests --test starts -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: it asserts nothing"]
fn starts_by_number_of_versions() {
    for clean in [true, false] {
        for versions in [100, 1000, 10_000] {
            let host = prepared(versions, clean);
            let mut times = Vec::new();
            for _ in 0..9 {
                let began = Instant::now();
                let daemon = host.daemon();
                times.push(began.elapsed().as_secs_f64() * 1000.0);
                if clean { daemon.stop() } else { daemon.kill() }
            }
            let first = times[0];
            times.sort_by(f64::total_cmp);
            println!(
                "clean {clean}, {versions} versions: first {first:.1} ms, median {:.1} ms",
                times[times.len() / 2]
            );
        }
    }
}
