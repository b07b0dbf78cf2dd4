//! What no program on this machine can do faster: a message there and back, and a write that is durable.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::CONTENT_LEN;
use crate::programs::Pinned;
use crate::report::Measured;

/// The argument that makes this program the other side of the ping-pong.
pub const PONG: &str = "--pong";

/// Bytes that the daemon too writes as zeros ahead, so that a sync has no length to make durable.
const FILL_LEN: usize = 256 << 10;

/// A message to another process and its answer, over a Unix socket.
pub fn ping_pong(ping_len: usize, pong_len: usize, count: usize, core: Option<usize>) -> Measured {
    let (mut here, there) = UnixStream::pair().expect("a pair of sockets");
    let program = std::env::current_exe().expect("the program has a path");
    let mut child = Command::new(program)
        .args([PONG, &ping_len.to_string(), &pong_len.to_string()])
        .stdin(Stdio::from(OwnedFd::from(there)))
        .spawn()
        .expect("the other side starts");
    let _pinned = core.map(|core| Pinned::new(child.id(), core));
    let (ping, mut pong) = (vec![7; ping_len], vec![0; pong_len]);
    let mut took = Vec::with_capacity(count);
    // The first ones find the other side still starting.
    for n in 0..count + count / 10 {
        let start = Instant::now();
        here.write_all(&ping).expect("the other side takes it");
        here.read_exact(&mut pong).expect("the other side answers");
        if n >= count / 10 {
            took.push(start.elapsed());
        }
    }
    drop(here);
    child.wait().expect("the other side ends");
    Measured::of(took)
}

/// The other side: on its standard input, until that ends.
pub fn pong() {
    let mut lens = std::env::args().skip(2).map(|text| text.parse().expect("a length"));
    let (mut ping, pong) = (vec![0; lens.next().expect("two lengths")], vec![7; lens.next().expect("two lengths")]);
    let stdin = rustix::io::dup(std::io::stdin()).expect("a descriptor");
    let mut stream = UnixStream::from(stdin);
    while stream.read_exact(&mut ping).is_ok() {
        if stream.write_all(&pong).is_err() {
            return;
        }
    }
}

/// A content written over zeros and synced, one after the other, in the file system of the daemon's state.
pub fn sync(path: &Path, count: usize) -> Measured {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).expect("a file");
    let content = vec![7; CONTENT_LEN];
    let zeros = vec![0; FILL_LEN];
    let mut took = Vec::with_capacity(count);
    for n in 0..count {
        let at = (n * CONTENT_LEN) as u64;
        if at.is_multiple_of(FILL_LEN as u64) {
            file.write_all_at(&zeros, at).and_then(|()| file.sync_data()).expect("room on the disk");
        }
        let start = Instant::now();
        file.write_all_at(&content, at).and_then(|()| file.sync_data()).expect("durable");
        took.push(start.elapsed());
    }
    std::fs::remove_file(path).expect("a file of ours");
    Measured::of(took)
}
