//! Benchmarks: the programs of this repository beside the floor of the machine and beside other stores.
//!
//!     cargo run --release -p stated-tests --bin bench [ROUNDS [NAME…]]
//!
//! Within each round everything is measured once, one after the other; the figures are medians over the rounds, and
//! the ratios are medians of the rounds' own ratios. So what else the machine does meanwhile hits both sides alike.
//! With names only the measures whose names contain one of them run.

mod floor;
mod load;
mod other;
mod programs;
mod report;
mod stated;

use std::process::ExitCode;

use report::{Measured, Report};
use stated_tests::Host;

/// Bytes of every content: random, so that nobody gains by compressing.
pub const CONTENT_LEN: usize = 4096;
/// Clients of the measures under load.
const CLIENTS: usize = 64;
/// Requests of one client in a round.
const ONE_COUNT: usize = 1000;
/// Requests of all clients under load in a round.
const MANY_COUNT: usize = 40_000;
/// Pairs of lock and unlock in a round.
const LOCK_COUNT: usize = 4000;
/// Runs of a program in a round.
const RUN_COUNT: usize = 100;
/// The core that the pinned measures share.
const CORE: usize = 0;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if first.as_deref() == Some(floor::PONG) {
        floor::pong();
        return ExitCode::SUCCESS;
    }
    let Ok(rounds) = first.map_or(Ok(8), |text| text.parse::<usize>()) else {
        eprintln!("usage: bench [ROUNDS [NAME…]]");
        return ExitCode::from(2);
    };
    let wanted: Vec<String> = args.collect();
    let mut bench = Bench::new();
    let mut report = Report::default();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        bench.round(&|name| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())), &mut report);
    }
    print!("{report}");
    ExitCode::SUCCESS
}

/// What all rounds share: one daemon, one of each other store, one host.
struct Bench {
    host: Host,
    daemon: stated_tests::Daemon,
    redis: Option<other::Redis>,
    unsynced: Option<other::Redis>,
    python: bool,
    flock: bool,
}

impl Bench {
    fn new() -> Self {
        let host = Host::new();
        let daemon = host.daemon();
        let redis = other::Redis::start(&host, "always");
        let unsynced = other::Redis::start(&host, "no");
        let [python, flock] = ["python3", "flock"].map(programs::is_there);
        Self { host, daemon, redis, unsynced, python, flock }
    }

    fn round(&mut self, wanted: &dyn Fn(&str) -> bool, report: &mut Report) {
        let mut measure = |name: &'static str, measured: &mut dyn FnMut() -> Measured| {
            if wanted(name) {
                report.add(name, measured());
            }
        };
        let (host, daemon) = (&self.host, &self.daemon);
        measure(report::PING, &mut || floor::ping_pong(CONTENT_LEN, 64, ONE_COUNT, None));
        measure(report::SYNC, &mut || floor::sync(&host.path("floor"), ONE_COUNT));
        measure(report::COMMIT, &mut || stated::commits(host, 1, ONE_COUNT));
        if let Some(redis) = &self.redis {
            measure(report::REDIS, &mut || redis.sets(1, ONE_COUNT));
        }
        if self.python {
            measure(report::SQLITE, &mut || other::sqlite(host, ONE_COUNT));
        }
        measure(report::COMMIT_MANY, &mut || stated::commits(host, CLIENTS, MANY_COUNT));
        if let Some(redis) = &self.redis {
            measure(report::REDIS_MANY, &mut || redis.sets(CLIENTS, MANY_COUNT));
        }
        measure(report::GET, &mut || stated::gets(host, ONE_COUNT));
        if let Some(redis) = &self.redis {
            measure(report::REDIS_GET, &mut || redis.gets(ONE_COUNT));
        }
        measure(report::PING_LOCK, &mut || floor::ping_pong(128, 64, LOCK_COUNT, None));
        measure(report::LOCK, &mut || stated::locks(host, LOCK_COUNT));
        measure(report::PING_PINNED, &mut || floor::ping_pong(128, 64, LOCK_COUNT, Some(CORE)));
        measure(report::LOCK_PINNED, &mut || {
            let _pinned = programs::Pinned::new(daemon.pid(), CORE);
            stated::locks(host, LOCK_COUNT)
        });
        if let Some(redis) = &self.unsynced {
            measure(report::REDIS_LOCK_PINNED, &mut || {
                let _pinned = programs::Pinned::new(redis.pid(), CORE);
                redis.locks(LOCK_COUNT)
            });
        }
        measure(report::RUN_LOCK, &mut || programs::runs(RUN_COUNT, || host.statectl(["lock", "x", "--", "true"])));
        if self.flock {
            let file = host.file("flock", b"");
            let args = [file.as_os_str(), "true".as_ref()];
            measure(report::RUN_FLOCK, &mut || programs::runs(RUN_COUNT, || host.call("flock", args)));
        }
        measure(report::RUN_TRUE, &mut || programs::runs(RUN_COUNT, || host.call("true", [""; 0])));
    }
}
