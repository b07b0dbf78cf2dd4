//! A process of its own that increments a counter over the client library; `counter.rs` starts many.
//!
//!     worker compare|lock SOCKET NAME COUNT

use std::time::Duration;

use stated_client::{Client, ConnectOptions};
use stated_shared::{Expect, FailureKind, Hold, LockId, LockKind, Reply, Request, Selector, StateName, Version, Wait};
use stated_tests::{Random, commit, state};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [way, socket, name, count] = &args[..] else { panic!("usage: worker compare|lock SOCKET NAME COUNT") };
    let exe = Some("worker".to_owned());
    let options = ConnectOptions { socket: Some(socket.into()), exe, ..ConnectOptions::default() };
    let mut client = Client::connect(&options).unwrap_or_else(|failure| panic!("{failure}"));
    let name = state(name);
    let increment = match way.as_str() {
        "compare" => by_comparison,
        "lock" => under_a_lock,
        other => panic!("no way is called {other}"),
    };
    for _ in 0..count.parse().expect("a count") {
        increment(&mut client, &name);
    }
}

/// Reads, adds one, writes if nobody else did; else once more.
///
/// Whoever lost stands back for a random while, as any such loop should: else the others' attempts only feed the heat.
/// Nothing depends on how long that is.
fn by_comparison(client: &mut Client, name: &StateName) {
    let mut random = Random::seeded(u64::from(std::process::id()));
    for attempt in 0.. {
        let (version, number) = read(client, name);
        match client.commit(commit([(name.as_str(), Expect::Version(version), next(number))])) {
            Ok(_) => return,
            Err(failure) if failure.kind == FailureKind::Conflict => {
                std::thread::sleep(Duration::from_micros(random.below(500 << attempt.min(8))));
            }
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// Reads, adds one, writes without any condition: the lock alone keeps the others away.
fn under_a_lock(client: &mut Client, name: &StateName) {
    let id = lock(client, name);
    let (_, number) = read(client, name);
    let mut commit = commit([(name.as_str(), Expect::Any, next(number))]);
    commit.locks = vec![id.clone()];
    client.commit(commit).unwrap_or_else(|failure| panic!("{failure}"));
    client.unlock(&id).unwrap_or_else(|failure| panic!("{failure}"));
}

fn lock(client: &mut Client, name: &StateName) -> LockId {
    let lock = stated_shared::Lock {
        id: None,
        names: [name.clone()].into(),
        kind: LockKind::Exclusive,
        wait: Wait::Forever,
        ttl_ms: None,
        operation: "increment".to_owned(),
        reason: None,
        info: None,
        under: None,
        hold: Hold::Connection,
        process: None,
    };
    match client.call(&Request::Lock(lock)) {
        Ok(Reply::Granted(grant)) => grant.id,
        other => panic!("no lock: {other:?}"),
    }
}

fn read(client: &mut Client, name: &StateName) -> (Version, u64) {
    let (version, content) = client.get(name, Selector::Newest).unwrap_or_else(|failure| panic!("{failure}"));
    let number = String::from_utf8(content).ok().and_then(|text| text.parse().ok());
    (version.version, number.expect("a number"))
}

fn next(number: u64) -> Vec<u8> {
    (number + 1).to_string().into_bytes()
}
