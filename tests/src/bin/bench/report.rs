//! What was measured, and how it is told: medians over rounds, ratios of rounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Names of measures, in the order of the report.
pub const PING: &str = "ping-pong, 4 KiB there, 64 B back";
pub const SYNC: &str = "4 KiB over zeros, fdatasync";
pub const COMMIT: &str = "stated commit, 1 client";
pub const REDIS: &str = "redis SET, 1 client";
pub const SQLITE: &str = "sqlite commit, in process";
pub const COMMIT_MANY: &str = "stated commit, 64 clients";
pub const REDIS_MANY: &str = "redis SET, 64 clients";
pub const GET: &str = "stated get";
pub const REDIS_GET: &str = "redis GET";
pub const PING_LOCK: &str = "ping-pong, 128 B there, 64 B back";
pub const LOCK: &str = "stated lock + unlock";
pub const PING_PINNED: &str = "ping-pong, one core";
pub const LOCK_PINNED: &str = "stated lock + unlock, one core";
pub const REDIS_LOCK_PINNED: &str = "redis SET NX + DEL, unsynced, one core";
pub const RUN_LOCK: &str = "statectl lock x -- true";
pub const RUN_FLOCK: &str = "flock f true";
pub const RUN_TRUE: &str = "true";

const NAMES: &[&str] = &[
    PING,
    SYNC,
    COMMIT,
    REDIS,
    SQLITE,
    COMMIT_MANY,
    REDIS_MANY,
    GET,
    REDIS_GET,
    PING_LOCK,
    LOCK,
    PING_PINNED,
    LOCK_PINNED,
    REDIS_LOCK_PINNED,
    RUN_LOCK,
    RUN_FLOCK,
    RUN_TRUE,
];

type Of = fn(&Measured) -> f64;
const TIME: Of = |measured| measured.p50_us;
const RATE: Of = |measured| measured.per_s;

/// A name, which figure of the measures counts, and what is divided by the sum of what.
type Ratio = (&'static str, Of, &'static str, &'static [(&'static str, f64)]);

const RATIOS: &[Ratio] = &[
    ("commit ÷ (ping-pong + fdatasync)", TIME, COMMIT, &[(PING, 1.0), (SYNC, 1.0)]),
    ("commit ÷ redis SET", TIME, COMMIT, &[(REDIS, 1.0)]),
    ("commit ÷ sqlite commit", TIME, COMMIT, &[(SQLITE, 1.0)]),
    ("commits a second ÷ redis SETs a second, 64 clients", RATE, COMMIT_MANY, &[(REDIS_MANY, 1.0)]),
    ("get ÷ redis GET", TIME, GET, &[(REDIS_GET, 1.0)]),
    ("lock + unlock ÷ two ping-pongs", TIME, LOCK, &[(PING_LOCK, 2.0)]),
    ("lock + unlock ÷ two ping-pongs, one core", TIME, LOCK_PINNED, &[(PING_PINNED, 2.0)]),
    ("lock + unlock ÷ redis SET NX + DEL, one core", TIME, LOCK_PINNED, &[(REDIS_LOCK_PINNED, 1.0)]),
    ("statectl lock ÷ flock", TIME, RUN_LOCK, &[(RUN_FLOCK, 1.0)]),
];

/// One measure in one round.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    p50_us: f64,
    p99_us: f64,
    per_s: f64,
}

impl Measured {
    /// Of requests one after the other.
    pub fn of(took: Vec<Duration>) -> Self {
        let total = took.iter().sum();
        Self::in_parallel(took, total)
    }

    /// Of requests that were under way together.
    pub fn in_parallel(mut took: Vec<Duration>, total: Duration) -> Self {
        took.sort_unstable();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1e6;
        Self { p50_us: at(50), p99_us: at(99), per_s: took.len() as f64 / total.as_secs_f64() }
    }

    /// As of pairs, where one request after the other was measured: the mean, since the two halves differ.
    pub fn in_pairs(self) -> Self {
        Self { p50_us: 2e6 / self.per_s, p99_us: 2.0 * self.p99_us, per_s: self.per_s / 2.0 }
    }
}

/// All rounds.
#[derive(Debug, Default)]
pub struct Report(BTreeMap<&'static str, Vec<Measured>>);

impl Report {
    pub fn add(&mut self, name: &'static str, measured: Measured) {
        self.0.entry(name).or_default().push(measured);
    }

    /// The ratio's value in each round; none where something was not measured.
    fn ratios(&self, of: Of, above: &str, below: &[(&str, f64)]) -> Option<Vec<f64>> {
        let above = self.0.get(above)?;
        let below: Vec<_> = below.iter().map(|(name, n)| Some((self.0.get(name)?, n))).collect::<Option<_>>()?;
        let sum = |round: usize| below.iter().map(|(rounds, n)| of(&rounds[round]) * **n).sum::<f64>();
        Some(above.iter().enumerate().map(|(round, measured)| of(measured) / sum(round)).collect())
    }
}

/// Lowest, median, highest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    (values[0], median, values[values.len() - 1])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.0.values().map(Vec::len).max().unwrap_or(0);
        writeln!(f, "Medians over {rounds} rounds; in brackets the lowest and the highest round.\n")?;
        writeln!(f, "| what | median, µs | p99, µs | a second |\n|---|---|---|---|")?;
        for (name, all) in NAMES.iter().filter_map(|name| Some((name, self.0.get(name)?))) {
            let of = |of: Of| spread(all.iter().map(of).collect());
            let ((low, time, high), (_, p99, _), (_, rate, _)) = (of(TIME), of(|m| m.p99_us), of(RATE));
            writeln!(f, "| {name} | {time:.0} ({low:.0}–{high:.0}) | {p99:.0} | {rate:.0} |")?;
        }
        writeln!(f, "\n| ratio | median |\n|---|---|")?;
        for (name, of, above, below) in RATIOS {
            if let Some(ratios) = self.ratios(*of, above, below) {
                let (low, median, high) = spread(ratios);
                writeln!(f, "| {name} | {median:.2} ({low:.2}–{high:.2}) |")?;
            }
        }
        Ok(())
    }
}
