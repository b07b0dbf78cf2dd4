//! The real daemon, but for its sockets, over a simulated disk whose power is cut over and over.
//!
//! One thread does everything and a seed draws everything: requests, faults, and what a cut leaves. Only the bytes that
//! sealing draws are fresh in every run, so a seed repeats the requests and the faults, and nearly always the sectors
//! too; the disk that a failing run ended with is written to a directory for a look at exactly that one.

mod aged;
mod faults;
mod flips;
mod held;
mod host;
mod life;
mod model;
mod retained;
mod rotated;

use std::path::PathBuf;

use self::life::Life;
use crate::disk::sim::Chosen;

/// Power cuts of a usual run.
const CUTS: u64 = 1000;
/// Power cuts in the life of one repository.
const CUTS_PER_LIFE: u64 = 8;
const THREADS: u64 = 2;

/// `STATED_SIM_CUTS=10000` makes it longer, `STATED_SIM_SEED=N` repeats the life of that seed.
#[test]
fn promise_1_acknowledged_commits_survive_power_loss() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("STATED_SIM_SEED") {
        live(seed);
        return;
    }
    let lives = number("STATED_SIM_CUTS").unwrap_or(CUTS).div_ceil(CUTS_PER_LIFE);
    // So many lives can be lived in parts.
    let begin = number("STATED_SIM_FIRST").unwrap_or(0);
    // Always the same lives in a usual run: a change that fails is at fault.
    let done: Vec<[u64; 4]> = std::thread::scope(|scope| {
        let share = |first| {
            let seeds = (begin + first..begin + lives).step_by(THREADS as usize);
            scope.spawn(move || seeds.map(live).collect::<Vec<_>>())
        };
        let threads: Vec<_> = (0..THREADS).map(share).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a life failed")).collect()
    });
    let [acknowledged, gone_bytes, aged_bytes, resealed] =
        done.iter().fold([0; 4], |sum: [u64; 4], of| std::array::from_fn(|at| sum[at] + of[at]));
    eprintln!("{lives} lives of {CUTS_PER_LIFE} power cuts from seed {begin} on, {acknowledged} acknowledgements");
    eprintln!("{gone_bytes} bytes of pruned contents left the log, and {aged_bytes} of old observations");
    eprintln!("{resealed} rotations went through");
    assert!(acknowledged > lives * CUTS_PER_LIFE, "the load was no load");
    assert!(gone_bytes > lives * 1000, "little was written anew");
    assert!(aged_bytes > lives * 1000, "little was summed up");
    assert!(resealed > lives / 4, "few rotations went through");
}

/// The syncs of the state directory, each with the files or directories that it is of.
const SYNCS: &[(&str, Chosen)] = &[
    ("a record", |path| path.ends_with(".log")),
    ("a log file before it has its name", |path| path == "/state/log/next.tmp"),
    ("a log file that is written anew", |path| path == "/state/log/renewed.tmp"),
    ("the directory of the log", |path| path == "/state/log"),
    ("a blob", |path| path.starts_with("/state/blob/") && path.ends_with(".age")),
    ("a blob's directory", |path| path.starts_with("/state/blob/") && !path.ends_with(".age")),
    ("the directory of the blobs' directories", |path| path == "/state/blob"),
    ("a keyring", |path| path == "/state/keys/1.tmp"),
    ("the directory of the keyrings", |path| path == "/state/keys"),
    ("FORMAT", |path| path == "/state/FORMAT.tmp"),
    ("the state directory", |path| path == "/state"),
];

/// Lives within which a sync that is skipped must be found out.
const LIVES_TO_FIND: u64 = 60;

/// So the simulation is able to fail, and no sync is there for nothing.
#[test]
fn a_sync_that_is_not_done_is_found_out() {
    for (what, about) in SYNCS {
        let found = (0..LIVES_TO_FIND).find(|seed| {
            let life = || {
                let mut life = Life::new(*seed);
                life.disk().lie(*about);
                life.live(CUTS_PER_LIFE);
            };
            std::panic::catch_unwind(life).is_err()
        });
        let seed = found.unwrap_or_else(|| panic!("nothing needs the sync of {what}"));
        eprintln!("without the sync of {what} the life of seed {seed} fails");
    }
}

/// Acknowledgements, bytes of contents that are gone from the log, and of observations.
fn live(seed: u64) -> [u64; 4] {
    let mut life = Witness { seed, life: Life::new(seed) };
    [life.life.live(CUTS_PER_LIFE), life.life.gone_bytes, life.life.aged_bytes, life.life.resealed]
}

/// Says how to repeat a life that failed, and keeps its disk.
struct Witness {
    seed: u64,
    life: Life,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let dir = std::env::temp_dir().join(format!("stated-sim-{}", self.seed));
            eprintln!("repeat with STATED_SIM_SEED={}; its disk is in {}", self.seed, dir.display());
            for (path, bytes) in self.life.image() {
                let path: PathBuf = dir.join(path.trim_start_matches('/'));
                // A failing test has no use for another failure.
                let _ = std::fs::create_dir_all(path.parent().unwrap_or(&dir));
                let _ = std::fs::write(path, bytes);
            }
        }
    }
}
