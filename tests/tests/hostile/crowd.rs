use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stated_shared::wire::Preamble;
use stated_tests::{Direct, Host, LIMIT, Random, connect, present};

use super::is_served;

const CONNECTIONS: usize = 10_000;

#[test]
fn ten_thousand_connections_do_not_disturb_who_is_in() {
    let limit = getrlimit(Resource::Nofile);
    let needed = CONNECTIONS as u64 + 1000;
    let may = limit.maximum.is_none_or(|maximum| maximum >= needed);
    if !present(may, "this process may not have ten thousand connections") {
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("within the limit");
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    let mut honest = Direct::connect(&host.socket(), &mut random).expect("a connection");
    let mut crowd = Vec::with_capacity(CONNECTIONS);
    for n in 0..CONNECTIONS {
        // The daemon takes them in as fast as it can; a full backlog makes a connection wait, never fail.
        let mut stream = connect(&host.socket()).expect("a connection");
        match n % 3 {
            0 => {}
            // May be refused already.
            1 => drop(stream.write_all(&Preamble::OURS.encode())),
            _ => drop(stream.write_all(&random.bytes(64))),
        }
        crowd.push(stream);
        if n % 500 == 0 {
            is_served(&mut honest, n as u64);
        }
    }
    is_served(&mut honest, CONNECTIONS as u64);
    let memory = daemon.memory_max_bytes();
    assert!(memory < 256 << 20, "{memory} bytes");
    drop(crowd);
    // All places are free again: as many as a user may have can shake hands.
    let fresh: Vec<UnixStream> = (0..100).map(|_| shaken_at_last(&host, &mut random)).collect();
    is_served(&mut honest, 0);
    drop(fresh);
    daemon.stop();
    host.verify();
}

/// The daemon may still be telling the crowd's connections apart from the dead.
fn shaken_at_last(host: &Host, random: &mut Random) -> UnixStream {
    let until = Instant::now() + LIMIT;
    loop {
        match Direct::connect(&host.socket(), random) {
            Ok(direct) => return direct.into_stream(),
            Err(error) => assert!(Instant::now() < until, "the crowd is gone, and still nobody gets in: {error}"),
        }
        std::thread::yield_now();
    }
}
