//! The daemon's side of the load: frames made once, with number and content patched in.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use stated_shared::wire::{ClientFrame, ClientHello, PREFIX_LEN, Preamble, ServerHello, body_len, decode, encode};
use stated_shared::{
    Bytes, Change, Commit, Content, Expect, Lock, LockId, Request, Selector, SerialRule, SessionId, StateName, Wait,
};
use stated_tests::{Host, Random};

use crate::CONTENT_LEN;
use crate::load::{Dialogue, Line, drive};
use crate::report::Measured;

/// Numbers from here on take the same bytes in a frame: a tag, then 32 bits.
const NUMBER_FIRST: u32 = 1 << 16;
/// Where they are: after the length, the frame's variant and the tag.
const NUMBER_AT: usize = PREFIX_LEN + 2;
/// The tag of a number of 32 bits.
const NUMBER_TAG: u8 = 252;
/// A frame that begins so is an answer (its number, then that it is no failure).
const DONE_AT: usize = NUMBER_AT + 4;

/// Requests taken in turns.
struct Requests {
    frames: Vec<Frame>,
    number: u32,
    /// Frames that an answer has: a content comes in one of its own.
    answer_frames: usize,
}

struct Frame {
    bytes: Vec<u8>,
    /// Where eight bytes count, so that no content and no ID comes twice.
    counter: Option<usize>,
}

impl Frame {
    fn new(request: Request, counted: Option<&[u8]>) -> Self {
        let bytes = encode(&ClientFrame::Request { number: NUMBER_FIRST.into(), request: Box::new(request) });
        let bytes = bytes.expect("a request fits into a frame");
        assert_eq!(bytes[NUMBER_AT - 1], NUMBER_TAG, "the numbers are where they are looked for");
        let counter = counted.map(|part| {
            bytes.windows(part.len()).position(|window| window == part).expect("what is counted is in the frame")
        });
        Self { bytes, counter }
    }
}

impl Dialogue for Requests {
    fn next(&mut self) -> &[u8] {
        self.number += 1;
        let count = self.frames.len();
        let frame = &mut self.frames[self.number as usize % count];
        frame.bytes[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&self.number.to_le_bytes());
        if let Some(at) = frame.counter {
            let digits = format!("{:08x}", self.number / count as u32);
            frame.bytes[at..at + 8].copy_from_slice(digits.as_bytes());
        }
        &frame.bytes
    }

    fn answer_len(&self, bytes: &[u8]) -> Option<usize> {
        let mut len = 0;
        for _ in 0..self.answer_frames {
            let prefix = bytes.get(len..)?.first_chunk::<PREFIX_LEN>()?;
            len += PREFIX_LEN + body_len(*prefix, 1 << 20).expect("a frame");
        }
        let bytes = bytes.get(..len)?;
        assert_eq!((bytes[PREFIX_LEN], bytes[DONE_AT]), (0, 0), "the daemon refused: {bytes:?}");
        Some(len)
    }
}

/// Opens a session.
fn connect(host: &Host, random: &mut Random) -> UnixStream {
    let mut stream = UnixStream::connect(host.socket()).expect("the daemon listens");
    let session = SessionId(random.bytes(16).try_into().expect("16 bytes"));
    let hello = ClientHello { session, exe: Some("bench".to_owned()), features: Vec::new(), pin: None };
    let opening = [&Preamble::OURS.encode()[..], &encode(&hello).expect("a hello fits into a frame")].concat();
    stream.write_all(&opening).expect("the daemon reads");
    let mut head = [0; Preamble::LEN + PREFIX_LEN];
    stream.read_exact(&mut head).expect("a preamble");
    let prefix = head[Preamble::LEN..].try_into().expect("a length");
    let mut body = vec![0; body_len(prefix, 1 << 20).expect("a frame")];
    stream.read_exact(&mut body).expect("a welcome");
    decode::<ServerHello>(&body).expect("a welcome").expect("the daemon welcomes");
    stream
}

fn line(host: &Host, random: &mut Random, frames: Vec<Frame>, answer_frames: usize) -> Line<Requests> {
    Line { stream: connect(host, random), dialogue: Requests { frames, number: NUMBER_FIRST, answer_frames } }
}

fn random() -> Random {
    Random::seeded(u64::from(std::process::id()) ^ std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64))
}

fn name(text: &str) -> StateName {
    StateName::parse(text).expect("a name")
}

fn commit_to(state: &str, content: &[u8]) -> Request {
    let content = Content::Inline(Bytes(content.to_vec()));
    Request::Commit(Commit {
        changes: vec![Change { state: name(state), expect: Expect::Any, content }],
        locks: Vec::new(),
        message: None,
        labels: BTreeMap::new(),
        serials: SerialRule::Refuse,
    })
}

/// Durable commits of new contents, each client to a state of its own.
pub fn commits(host: &Host, clients: usize, count: usize) -> Measured {
    let mut random = random();
    let mut lines: Vec<_> = (0..clients)
        .map(|n| {
            let content = random.bytes(CONTENT_LEN);
            let frame = Frame::new(commit_to(&format!("bench/commit/{n:02}"), &content), Some(&content));
            line(host, &mut random, vec![frame], 1)
        })
        .collect();
    drive(&mut lines, count)
}

/// Reads of the newest version.
pub fn gets(host: &Host, count: usize) -> Measured {
    let mut random = random();
    let content = random.bytes(CONTENT_LEN);
    let put = Frame::new(commit_to("bench/get", &content), Some(&content));
    drive(&mut [line(host, &mut random, vec![put], 1)], 1);
    let get = Frame::new(Request::Get { state: name("bench/get"), at: Selector::Newest }, None);
    drive(&mut [line(host, &mut random, vec![get], 2)], count)
}

/// Session locks, each taken and ended; the figure is of both together.
pub fn locks(host: &Host, count: usize) -> Measured {
    let mut random = random();
    let id = "00000000-bench-lock";
    let lock_id = LockId::parse(id).expect("an ID");
    let lock = Lock { id: Some(lock_id.clone()), wait: Wait::No, ..Lock::exclusive([name("bench/lock")], "bench") };
    let frames = vec![
        Frame::new(Request::Lock(lock), Some(id.as_bytes())),
        Frame::new(Request::Unlock { id: lock_id }, Some(id.as_bytes())),
    ];
    // The first number is odd, and an unlock must not come first.
    let mut line = line(host, &mut random, frames, 1);
    line.dialogue.number += 1;
    drive(&mut [line], 2 * count).in_pairs()
}
