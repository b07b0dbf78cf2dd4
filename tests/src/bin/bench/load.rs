//! A closed loop: every connection has one request on its way, and sends the next when it is answered.
//!
//! One thread serves all connections, and both protocols are patched into frames made before, so that what is
//! measured is the server. With one connection it blocks in the socket, as a command-line client does.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::report::Measured;

/// Bytes that one answer may have.
const ANSWER_LEN_MAX: usize = 16 << 10;

/// One connection's requests and answers.
pub trait Dialogue {
    /// The bytes of the next request.
    fn next(&mut self) -> &[u8];

    /// The length of the answer that these bytes begin with; nothing where it is not complete. Panics at a refusal.
    fn answer_len(&self, bytes: &[u8]) -> Option<usize>;
}

/// A connection in the loop.
pub struct Line<D> {
    pub stream: UnixStream,
    pub dialogue: D,
}

struct State {
    since: Instant,
    buffer: Box<[u8; ANSWER_LEN_MAX]>,
    filled: usize,
}

/// Drives all lines until this many requests are answered; a tenth more comes before, uncounted.
pub fn drive<D: Dialogue>(lines: &mut [Line<D>], count: usize) -> Measured {
    run(lines, count / 10);
    let start = Instant::now();
    let took = run(lines, count);
    Measured::in_parallel(took, start.elapsed())
}

fn run<D: Dialogue>(lines: &mut [Line<D>], count: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(count);
    let mut states: Vec<State> = lines
        .iter()
        .map(|_| State { since: Instant::now(), buffer: Box::new([0; ANSWER_LEN_MAX]), filled: 0 })
        .collect();
    if let ([line], [state]) = (&mut *lines, &mut *states) {
        for _ in 0..count {
            send(line, state);
            while !receive(line, state, &mut took) {}
        }
        return took;
    }
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (n, line) in lines.iter_mut().enumerate() {
        line.stream.set_nonblocking(true).expect("a socket");
        epoll::add(&poll, &line.stream, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN).expect("a socket");
    }
    let mut left = count;
    for (line, state) in lines.iter_mut().zip(&mut states) {
        left -= 1;
        send(line, state);
    }
    let mut events = Vec::with_capacity(lines.len());
    while took.len() < count {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), None).expect("an epoll");
        for event in &events {
            let n = event.data.u64() as usize;
            let (line, state) = (&mut lines[n], &mut states[n]);
            if receive(line, state, &mut took) && left > 0 {
                left -= 1;
                send(line, state);
            }
        }
    }
    for line in lines {
        line.stream.set_nonblocking(false).expect("a socket");
    }
    took
}

fn send<D: Dialogue>(line: &mut Line<D>, state: &mut State) {
    state.since = Instant::now();
    // One request fits into the socket: it is empty, since the one before is answered.
    line.stream.write_all(line.dialogue.next()).expect("the server takes it");
}

/// Whether the answer is complete.
fn receive<D: Dialogue>(line: &mut Line<D>, state: &mut State, took: &mut Vec<Duration>) -> bool {
    match line.stream.read(&mut state.buffer[state.filled..]) {
        Ok(0) => panic!("the server hung up"),
        Ok(len) => state.filled += len,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
        Err(error) => panic!("the socket failed: {error}"),
    }
    let Some(len) = line.dialogue.answer_len(&state.buffer[..state.filled]) else { return false };
    assert_eq!(len, state.filled, "an answer that nobody asked for");
    state.filled = 0;
    took.push(state.since.elapsed());
    true
}
