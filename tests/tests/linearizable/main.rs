//! Linearizable: whatever several clients asked for at once, the answers are those of some order of one request after
//! the other, in which each has its place between its being asked and its being answered.
//!
//! Histories are recorded against a real daemon, which is killed in some of them, and each is searched for such an
//! order. `STATED_HISTORIES` sets their number.

mod checker;
mod history;
mod model;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use history::{Client, Recorder};
use stated_tests::{Host, Random};

/// Clients at once in one history.
const CLIENTS: usize = 4;
/// Requests of one client in one history.
const REQUESTS: usize = 6;
/// In one of how many histories the daemon is killed.
const KILL_EVERY: usize = 25;

#[test]
fn promise_3_concurrent_histories_are_linearizable() {
    let histories = std::env::var("STATED_HISTORIES").map_or(2000, |text| text.parse().expect("a number"));
    let host = Host::new();
    let mut daemon = host.daemon();
    let mut random = Random::new();
    let connect = |random: &mut Random| -> Vec<Client> {
        (0..CLIENTS).map(|_| Client::connect(&host, Random::seeded(random.bits()))).collect()
    };
    let mut clients = connect(&mut random);
    let (mut kills, mut unknown) = (0, 0);
    for n in 0..histories {
        let recorder = Recorder::new();
        let kill_after = (n % KILL_EVERY == KILL_EVERY - 1).then(|| random.below((CLIENTS * REQUESTS) as u64));
        let asked = AtomicU64::new(0);
        thread::scope(|scope| {
            let workers: Vec<_> = clients
                .iter_mut()
                .map(|client| {
                    let (recorder, asked, daemon) = (&recorder, &asked, &daemon);
                    scope.spawn(move || {
                        client.begin(n);
                        for _ in 0..REQUESTS {
                            if kill_after == Some(asked.fetch_add(1, Ordering::Relaxed)) {
                                daemon.signal(rustix::process::Signal::KILL);
                            }
                            if !client.ask_something(recorder) {
                                break;
                            }
                        }
                    })
                })
                .collect();
            workers.into_iter().for_each(|worker| worker.join().expect("a client"));
        });
        let events = recorder.into_events();
        unknown += events.iter().filter(|event| event.answered.is_none()).count();
        if kill_after.is_some() {
            kills += 1;
            assert_eq!(daemon.exit(), 128 + 9);
            daemon = host.daemon();
            clients = connect(&mut random);
        }
        if let Err(stuck) = checker::check(&events) {
            panic!("history {n} is not linearizable; at most {stuck} of its requests have an order: {events:#?}");
        }
    }
    assert!(kills == 0 || unknown > 0, "no kill left an answer open");
    println!("{histories} histories, {kills} kills, {unknown} requests without an answer");
    daemon.stop();
    host.verify();
}
