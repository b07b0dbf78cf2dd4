use std::io::Write;
use std::os::unix::net::UnixStream;

use stated_shared::wire::ServerFrame;
use stated_shared::{LockId, Notice, Reply, Request, StateName};
use stated_tests::{Direct, Host, Random, server_frame};

use super::{is_served, lock, request, shaken};

/// Waiters of one connection.
const EACH: u64 = 50;

/// Queues this many requests, and returns once the daemon has said of each that it waits.
fn queue(stream: &mut UnixStream, name: &str, count: u64) {
    for number in 1..=count {
        stream.write_all(&request(number, Request::Lock(lock(name)))).expect("sent");
    }
    for _ in 0..count {
        match server_frame(stream).expect("a frame") {
            ServerFrame::Notice(notice) => assert!(matches!(*notice, Notice::Queued { .. }), "{notice:?}"),
            other => panic!("{other:?}"),
        }
    }
}

fn granted(stream: &mut UnixStream) -> LockId {
    match server_frame(stream).expect("a frame") {
        ServerFrame::Reply { result, .. } => match *result {
            Ok(Reply::Granted(grant)) => grant.id,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_thousand_waiters_that_die_leave_the_order_of_the_rest() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    let mut holder = Direct::connect(&host.socket(), &mut random).expect("a connection");
    let held = match holder.ask(Request::Lock(lock("wanted")), &[]).expect("an answer") {
        Ok(Reply::Granted(grant)) => grant.id,
        other => panic!("{other:?}"),
    };
    let mut waiting = Vec::new();
    let mut doomed = Vec::new();
    for _ in 0..3 {
        for _ in 0..7 {
            let mut stream = shaken(&host, &mut random);
            queue(&mut stream, "wanted", EACH);
            doomed.push(stream);
        }
        let mut stream = shaken(&host, &mut random);
        queue(&mut stream, "wanted", 1);
        waiting.push(stream);
    }
    assert!(doomed.len() as u64 * EACH > 1000);
    drop(doomed);
    is_served(&mut holder, 1);
    holder.ask(Request::Unlock { id: held }, &[]).expect("an answer").expect("an unlock");
    for (n, stream) in waiting.iter_mut().enumerate() {
        let id = granted(stream);
        let rows = host.locks();
        assert_eq!(rows.len(), 1, "at most one holder: {rows:?}");
        assert_eq!(rows[0]["id"], id.to_string());
        assert_eq!(rows[0]["waiters"], (2 - n), "only the living wait");
        stream.write_all(&request(2, Request::Unlock { id })).expect("sent");
    }
    // The last unlock is answered, and then the name is free.
    let last = waiting.last_mut().expect("three of them");
    assert!(matches!(server_frame(last).expect("a frame"), ServerFrame::Reply { number: 2, .. }));
    assert_eq!(host.locks().len(), 0);
    let name = StateName::parse("wanted").expect("a name");
    let broken = holder.ask(Request::Break { name, id: None }, &[]).expect("an answer");
    assert!(broken.is_err(), "nobody holds it");
    let memory = daemon.memory_max_bytes();
    assert!(memory < 256 << 20, "{memory} bytes");
    daemon.stop();
}
