//! Peers that mean harm, against a real daemon: others are served, and the daemon's memory stays bounded.

mod crowd;
mod frames;
mod readers;
mod waiters;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use stated_shared::limits::HELLO_LEN_MAX;
use stated_shared::wire::{ClientFrame, ClientHello, PREFIX_LEN, Preamble, ServerHello, body_len, decode, encode};
use stated_shared::{Expect, Hold, Lock, LockKind, Reply, Request, SessionId, StateName, Wait};
use stated_tests::{Daemon, Direct, Host, LIMIT, Random, commit};

/// A connection that has shaken hands, and whose other half of the protocol is up to the test.
fn shaken(host: &Host, random: &mut Random) -> UnixStream {
    let mut stream = UnixStream::connect(host.socket()).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let mut session = [0; 16];
    session.copy_from_slice(&random.bytes(16));
    let hello = ClientHello { session: SessionId(session), exe: None, features: Vec::new(), pin: None };
    stream.write_all(&Preamble::OURS.encode()).expect("sent");
    stream.write_all(&encode(&hello).expect("a frame")).expect("sent");
    stream.read_exact(&mut [0; Preamble::LEN]).expect("a preamble");
    let mut prefix = [0; PREFIX_LEN];
    stream.read_exact(&mut prefix).expect("a frame");
    let mut body = vec![0; body_len(prefix, HELLO_LEN_MAX).expect("a hello")];
    stream.read_exact(&mut body).expect("a frame");
    decode::<ServerHello>(&body).expect("a hello").expect("let in");
    stream
}

fn request(number: u64, request: Request) -> Vec<u8> {
    encode(&ClientFrame::Request { number, request: Box::new(request) }).expect("a frame")
}

fn lock(name: &str) -> Lock {
    Lock {
        id: None,
        names: BTreeSet::from([StateName::parse(name).expect("a name")]),
        kind: LockKind::Exclusive,
        wait: Wait::Forever,
        ttl_ms: None,
        operation: "test".to_owned(),
        reason: None,
        info: None,
        under: None,
        hold: Hold::Connection,
        process: None,
    }
}

/// Writes one state, whatever it was.
fn put(name: &str, content: &[u8]) -> Request {
    Request::Commit(commit([(name, Expect::Any, content.to_vec())]))
}

/// Writes: what an honest client does all the while.
#[track_caller]
fn is_served(client: &mut Direct, n: u64) {
    match client.ask(put("honest", n.to_string().as_bytes()), &[]).expect("an answer").expect("a commit") {
        Reply::Committed(committed) => assert!(committed.states[0].changed),
        other => panic!("{other:?}"),
    }
}

/// The most memory that the daemon ever had, in bytes.
fn memory_max_bytes(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a kernel that counts");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
}
