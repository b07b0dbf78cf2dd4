//! `kill -9` at random moments, under load.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use stated_client::Client;
use stated_shared::{Digest, Seq};
use stated_tests::{Daemon, Direct, Host, LIMIT, Random};

use super::ledger::{Ledger, Plan};
use super::writer::{Load, asking_once, retrying};

const WRITERS: usize = 8;
const ROUNDS: usize = 50;
/// Where `CI=true`.
const ROUNDS_IN_CI: usize = 200;
/// Then all is read back and verified, and a new repository begins, so that long runs stay as quick as short ones.
const ROUNDS_PER_HOST: usize = 250;
/// While one waits for its disk or for a process, another goes on.
const HOSTS_AT_ONCE: usize = 2;

/// A writer and what it knows.
struct Writer {
    ledger: Ledger,
    /// A session that lives over all crashes, for every second writer.
    client: Option<Client>,
    /// A commit whose outcome is not known.
    open: Option<Plan>,
}

/// Many times: load from 8 threads, `kill -9` after a random number of acknowledged commits, start again.
///
/// `STATED_TORTURE_ROUNDS` makes it longer.
#[test]
fn promise_1_acknowledged_commits_survive_kill_9() {
    let usual = if std::env::var("CI").as_deref() == Ok("true") { ROUNDS_IN_CI } else { ROUNDS };
    let rounds = std::env::var("STATED_TORTURE_ROUNDS").map_or(usual, |text| text.parse().expect("a number"));
    let mut random = Random::new();
    let each = ROUNDS_PER_HOST.min(rounds.div_ceil(HOSTS_AT_ONCE));
    let hosts = Mutex::new((0..rounds).step_by(each).map(|done| each.min(rounds - done)));
    thread::scope(|scope| {
        for lane in 0..HOSTS_AT_ONCE {
            let (hosts, mut random) = (&hosts, Random::seeded(random.bits()));
            let next = || hosts.lock().expect("taking one does not fail").next();
            let work = move || {
                while let Some(rounds) = next() {
                    torture(rounds, &mut random);
                }
            };
            thread::Builder::new().name(format!("torture {lane}")).spawn_scoped(scope, work).expect("a thread");
        }
    });
}

/// So many rounds on a host of their own.
fn torture(rounds: usize, random: &mut Random) {
    let host = Host::new();
    let mut daemon = host.daemon();
    let client = |index: usize| index.is_multiple_of(2).then(|| host.client());
    let mut writers: Vec<Writer> =
        (0..WRITERS).map(|index| Writer { ledger: Ledger::default(), client: client(index), open: None }).collect();
    let mut last = settle(&mut writers, &host, random);
    for round in 0..rounds {
        daemon = run_a_round(&mut writers, &host, random, daemon);
        let head = settle(&mut writers, &host, random);
        assert!(
            head.seq > last.seq && head.head != last.head,
            "round {round}: the chain goes on from {last:?}: {head:?}"
        );
        last = head;
    }
    let acknowledged: u64 = writers.iter().map(|writer| writer.ledger.acknowledged).sum();
    let versions: usize = writers.iter().map(|writer| writer.ledger.check(&host)).sum();
    eprintln!("{rounds} rounds, {acknowledged} acknowledged commits, {versions} versions, all as they were written");
    assert!(acknowledged as usize > rounds * 10, "the load was no load");
    assert_eq!(host.status()["versions"], versions);
    host.run(["verify", "--read-data"]);
    // Killed once more: what is on the disk now is what a crash leaves.
    daemon.kill();
    host.verify();
}

/// How far the journal is.
#[derive(Debug)]
struct Head {
    seq: Seq,
    head: Digest,
}

/// Starts the writers, ends the daemon after some acknowledgements, and gives its successor.
fn run_a_round(writers: &mut [Writer], host: &Host, random: &mut Random, daemon: Daemon) -> Daemon {
    let (acknowledged, acknowledgements) = channel();
    let load = Load { socket: host.socket(), stop: AtomicBool::new(false), acknowledged };
    let until = random.below(40);
    thread::scope(|scope| {
        for (index, writer) in writers.iter_mut().enumerate() {
            let (random, load) = (Random::seeded(random.bits()), &load);
            scope.spawn(move || match &mut writer.client {
                Some(client) => retrying(index, random, &mut writer.ledger, load, client),
                None => writer.open = asking_once(index, random, &mut writer.ledger, load),
            });
        }
        let _stop = StopAtTheEnd(&load.stop);
        await_acknowledgements(&acknowledgements, until);
        if random.one_in(2) {
            spin(random);
        }
        // Once in a while in good order: that is a promise under load too.
        if random.one_in(10) {
            daemon.stop()
        } else {
            daemon.kill()
        }
        load.stop.store(true, Ordering::Release);
        if random.one_in(5) {
            // Killed in the middle of its start.
            let unready = host.daemon_unready();
            spin(random);
            unready.kill();
        }
        // It answers those who retry, and serves the next round.
        host.daemon()
    })
}

/// Writers end also where the test fails.
struct StopAtTheEnd<'a>(&'a AtomicBool);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn await_acknowledgements(acknowledgements: &Receiver<()>, count: u64) {
    for _ in 0..count {
        acknowledgements.recv_timeout(LIMIT).expect("the daemon acknowledges commits");
    }
}

/// A moment too short to be measured, and never the same.
fn spin(random: &mut Random) {
    for _ in 0..random.below(2_000_000) {
        std::hint::spin_loop();
    }
}

/// Finds out what became of the commits that were never answered, and how far the journal is.
fn settle(writers: &mut [Writer], host: &Host, random: &mut Random) -> Head {
    let mut connection = Direct::connect(&host.socket(), random).expect("the daemon serves");
    let head = Head { seq: connection.welcome.seq, head: connection.welcome.head };
    for writer in writers {
        if let Some(plan) = writer.open.take() {
            writer.ledger.settle(plan, &mut connection);
        }
    }
    head
}
