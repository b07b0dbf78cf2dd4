//! A server for tests: a thread that accepts connections and follows a script.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use stated_client::ConnectOptions;
use stated_shared::limits::FRAME_LEN_MAX;
use stated_shared::wire::{
    ClientFrame, ClientHello, Pinned, Preamble, ServerFrame, ServerHello, Welcome, body_len, decode, encode,
};
use stated_shared::{
    Actor, Digest, Epoch, Failure, Fence, Grant, Lock, LockId, Notice, Reply, RepositoryId, Request, Seq, SessionId,
    StateName, Timestamp, Version, VersionInfo,
};

/// A listening socket in a directory of its own, and the thread that serves it.
pub struct Fake {
    directory: tempfile::TempDir,
    script: Option<JoinHandle<()>>,
}

impl Fake {
    /// Runs the script in a thread; it panics in [`Fake::finish`] if the script did.
    pub fn run(script: impl FnOnce(&UnixListener) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let script = std::thread::spawn(move || script(&listener));
        Self { directory, script: Some(script) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn options(&self) -> ConnectOptions {
        options(&self.socket())
    }

    /// Waits for the end of the script.
    pub fn finish(mut self) {
        self.script.take().unwrap().join().unwrap();
    }
}

pub fn options(socket: &Path) -> ConnectOptions {
    ConnectOptions { socket: Some(socket.to_owned()), exe: Some("test".into()), ..ConnectOptions::default() }
}

/// One accepted connection, its handshake done.
pub struct Peer {
    pub hello: ClientHello,
    stream: UnixStream,
    inbox: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Peer {
    pub fn accept(listener: &UnixListener) -> Self {
        Self::accept_as(listener, Ok(welcome()))
    }

    /// A record that the client saw before is there still, unless the answer says otherwise.
    pub fn accept_as(listener: &UnixListener, answer: ServerHello) -> Self {
        let mut peer = Self::accept_unwelcomed(listener);
        peer.welcome(answer);
        peer
    }

    /// Reads the client's hello and leaves it without an answer.
    pub fn accept_unwelcomed(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let hello = ClientHello { session: SessionId([0; 16]), exe: None, features: Vec::new(), pin: None };
        let mut peer = Self { hello, stream, inbox: Vec::new(), descriptors: Vec::new() };
        let preamble = peer.bytes(Preamble::LEN).expect("a preamble").try_into().unwrap();
        assert_eq!(Preamble::decode(&preamble), Some(Preamble::OURS));
        peer.stream.write_all(&Preamble::OURS.encode()).unwrap();
        peer.hello = decode(&peer.body().expect("a hello")).unwrap();
        peer
    }

    /// Answers to the hello.
    pub fn welcome(&mut self, mut answer: ServerHello) {
        if let (Some(_), Ok(welcome @ Welcome { pinned: Pinned::Unasked, .. })) = (self.hello.pin, &mut answer) {
            welcome.pinned = Pinned::At(Digest::ZERO);
        }
        self.stream.write_all(&encode(&answer).unwrap()).unwrap();
    }

    /// The next request, in which no chunk may come.
    pub fn request(&mut self) -> (u64, Request) {
        match self.frame() {
            Some(ClientFrame::Request { number, request }) => (number, *request),
            other => panic!("not a request: {other:?}"),
        }
    }

    /// The next frame; `None` where the client closed.
    pub fn frame(&mut self) -> Option<ClientFrame> {
        self.body().map(|body| decode(&body).unwrap())
    }

    /// The process that connected.
    pub fn pid(&self) -> u32 {
        let credentials = rustix::net::sockopt::socket_peercred(&self.stream).unwrap();
        credentials.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The descriptors that came so far.
    pub fn descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    pub fn send(&mut self, frame: &ServerFrame) {
        self.stream.write_all(&encode(frame).unwrap()).unwrap();
    }

    pub fn notice(&mut self, notice: Notice) {
        self.send(&ServerFrame::Notice(Box::new(notice)));
    }

    pub fn reply(&mut self, number: u64, result: Result<Reply, Failure>) {
        self.send(&ServerFrame::Reply { number, result: Box::new(result) });
    }

    /// Answers the next lock request with its own ID.
    pub fn grant(&mut self) -> (u64, Lock) {
        match self.request() {
            (number, Request::Lock(lock)) => {
                self.reply(number, Ok(Reply::Granted(grant(lock.id.clone().unwrap()))));
                (number, lock)
            }
            other => panic!("not a lock request: {other:?}"),
        }
    }

    fn body(&mut self) -> Option<Vec<u8>> {
        let prefix = self.bytes(4)?;
        let len = body_len(prefix.try_into().unwrap(), FRAME_LEN_MAX).unwrap();
        self.bytes(len)
    }

    fn bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.inbox.len() < len {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut buffer = vec![0; 64 << 10];
            let received =
                recvmsg(&self.stream, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC);
            let received = received.map_or(0, |received| received.bytes);
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            if received == 0 {
                return None;
            }
            self.inbox.extend_from_slice(&buffer[..received]);
        }
        Some(self.inbox.drain(..len).collect())
    }
}

pub fn welcome() -> Welcome {
    Welcome {
        version: "0".into(),
        repository: RepositoryId([7; 16]),
        epoch: Epoch(1),
        seq: Seq(1),
        head: Digest::ZERO,
        resumed: false,
        features: Vec::new(),
        pinned: Pinned::Unasked,
    }
}

pub fn grant(id: LockId) -> Grant {
    Grant { id, fence: Fence { epoch: Epoch(1), n: 1 }, under: None, expires: None }
}

pub fn name(text: &str) -> StateName {
    StateName::parse(text).unwrap()
}

pub fn actor() -> Actor {
    Actor {
        uid: 1000,
        gid: 1000,
        pid: Some(42),
        user: Some("alice".into()),
        comm: Some("sh".into()),
        exe: None,
        host: "build-7".into(),
        session: SessionId([1; 16]),
    }
}

pub fn version(state: &str, number: u64, content: &[u8]) -> VersionInfo {
    VersionInfo {
        state: name(state),
        version: Version(number),
        content: Some(stated_shared::ContentInfo {
            sha256: Digest([0xab; 32]),
            size_bytes: content.len() as u64,
            serial: None,
            lineage: None,
        }),
        time: Timestamp(1_764_000_000_000),
        actor: actor(),
        message: Some("why".into()),
        labels: Default::default(),
        forced: false,
        tags: Vec::new(),
        pruned: None,
    }
}
