//! Peers that mean harm, against a real daemon: others are served, and the daemon's memory stays bounded.

mod crowd;
mod frames;
mod readers;
mod waiters;

use std::os::unix::net::UnixStream;

use stated_shared::wire::{ClientFrame, encode};
use stated_shared::{Expect, Lock, Reply, Request, StateName};
use stated_tests::{Direct, Host, Random, commit};

/// A connection that has shaken hands, and whose other half of the protocol is up to the test.
fn shaken(host: &Host, random: &mut Random) -> UnixStream {
    Direct::connect(&host.socket(), random).expect("a connection").into_stream()
}

fn request(number: u64, request: Request) -> Vec<u8> {
    encode(&ClientFrame::Request { number, request: Box::new(request) }).expect("a frame")
}

fn lock(name: &str) -> Lock {
    Lock::exclusive([StateName::parse(name).expect("a name")], "test")
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
