//! One connection: the handshake and the frames, read piece by piece so that it serves blocking and polling callers.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use serde::de::DeserializeOwned;
use stated_shared::limits::{FRAME_LEN_MAX, HELLO_LEN_MAX};
use stated_shared::wire::{
    ClientHello, FrameError, PREFIX_LEN, PROTOCOL, Preamble, ServerFrame, ServerHello, Welcome, body_len, decode,
    encode,
};
use stated_shared::{Failure, FailureKind};

use crate::trust;

/// Bytes asked from the socket at once: an answer, and while more comes than that, ever more.
const READ_LEN_MIN: usize = 4 << 10;
const READ_LEN_MAX: usize = 256 << 10;

/// What the server sent.
pub(crate) enum Incoming {
    /// The end of the handshake.
    Welcome(Box<Welcome>),
    /// Everything after it.
    Frame(ServerFrame),
}

/// Why a connection cannot be used any more.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It dropped: resume elsewhere.
    Lost(io::Error),
    /// The server and this client cannot work together: do not resume.
    Refused(Failure),
}

impl From<FrameError> for Broken {
    fn from(error: FrameError) -> Self {
        Self::Refused(Failure::new(FailureKind::Protocol, format!("the server does not speak this protocol: {error}")))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Preamble,
    Hello,
    Open,
}

/// A connected socket with what was read of it.
pub(crate) struct Connection {
    stream: UnixStream,
    stage: Stage,
    inbox: Vec<u8>,
    /// How much is asked for next.
    read_len: usize,
    /// How much of the inbox is consumed.
    taken: usize,
    /// The opening bytes, until they go out together with the first request.
    outbox: Vec<u8>,
}

impl Connection {
    /// Connects and checks who listens; nothing is sent yet.
    pub(crate) fn open(socket: &Path, hello: &ClientHello) -> Result<Self, Broken> {
        // The standard library opens sockets close-on-exec: a child must not inherit this user's authority.
        let stream = UnixStream::connect(socket).map_err(Broken::Lost)?;
        trust::check(&stream, socket).map_err(Broken::Refused)?;
        let mut outbox = Preamble::OURS.encode().to_vec();
        outbox.extend(encode(hello)?);
        Ok(Self { stream, stage: Stage::Preamble, inbox: Vec::new(), read_len: READ_LEN_MIN, taken: 0, outbox })
    }

    /// Whether the handshake is over.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Sends the opening where it did not go out yet.
    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        let sent = self.send(&[], None);
        if let Err(Broken::Lost(_)) = sent
            && let Err(refused @ Broken::Refused(_)) = self.receive(Some(Instant::now()))
        {
            // A server that speaks another protocol may close at once, having said which.
            return Err(refused);
        }
        sent
    }

    /// Sends a frame, with a descriptor where there is one; the opening goes first, in the same write.
    pub(crate) fn send(&mut self, frame: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Broken> {
        let opening = std::mem::take(&mut self.outbox);
        let Some(descriptor) = descriptor else {
            return self.send_all(&opening, frame);
        };
        // The kernel ties a descriptor to the first byte of its message, which must be the frame's own.
        self.send_all(&opening, &[])?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Broken::Lost(io::Error::other("no room for a descriptor")));
        }
        let sent = loop {
            match sendmsg(&self.stream, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result.map_err(|error| Broken::Lost(error.into()))?,
            }
        };
        self.send_all(&frame[sent..], &[])
    }

    /// Sends what the socket takes at once, which may be nothing.
    #[cfg(feature = "tokio")]
    pub(crate) fn send_some(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::send(&self.stream, bytes, flags) {
                Ok(sent) => return Ok(sent),
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Broken::Lost(error.into())),
            }
        }
    }

    /// Another descriptor of the socket, from now on a non-blocking one, for a runtime to watch.
    #[cfg(feature = "tokio")]
    pub(crate) fn watched(&self) -> io::Result<UnixStream> {
        let stream = self.stream.try_clone()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    fn send_all(&mut self, mut first: &[u8], mut second: &[u8]) -> Result<(), Broken> {
        while !first.is_empty() || !second.is_empty() {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            match sendmsg(&self.stream, &pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Ok(0) => return Err(Broken::Lost(io::ErrorKind::WriteZero.into())),
                Ok(sent) => {
                    let of_first = sent.min(first.len());
                    first = &first[of_first..];
                    second = &second[sent - of_first..];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Broken::Lost(error.into())),
            }
        }
        Ok(())
    }

    /// The next thing that the server sent, waiting for it until the deadline, without one for ever.
    ///
    /// `None` where the deadline passed; a deadline in the past reads what is there already.
    pub(crate) fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Incoming>, Broken> {
        loop {
            if let Some(incoming) = self.take()? {
                return Ok(Some(incoming));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> Result<Option<Incoming>, Broken> {
        if self.stage == Stage::Preamble {
            let Some(bytes) = self.inbox[self.taken..].first_chunk::<{ Preamble::LEN }>() else {
                return Ok(None);
            };
            check_preamble(bytes).map_err(Broken::Refused)?;
            self.taken += Preamble::LEN;
            self.stage = Stage::Hello;
        }
        if self.stage == Stage::Hello {
            let Some(hello) = self.take_frame::<ServerHello>(HELLO_LEN_MAX)? else {
                return Ok(None);
            };
            let welcome = hello.map_err(Broken::Refused)?;
            self.stage = Stage::Open;
            return Ok(Some(Incoming::Welcome(Box::new(welcome))));
        }
        Ok(self.take_frame(FRAME_LEN_MAX)?.map(Incoming::Frame))
    }

    fn take_frame<T: DeserializeOwned>(&mut self, len_max: usize) -> Result<Option<T>, FrameError> {
        let rest = &self.inbox[self.taken..];
        let Some(prefix) = rest.first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let len = body_len(*prefix, len_max)?;
        let Some(body) = rest.get(PREFIX_LEN..PREFIX_LEN + len) else {
            return Ok(None);
        };
        let value = decode(body)?;
        self.taken += PREFIX_LEN + len;
        Ok(Some(value))
    }

    /// Reads more into the inbox; `false` where the deadline passed first.
    fn fill(&mut self, deadline: Option<Instant>) -> Result<bool, Broken> {
        if let Some(deadline) = deadline
            && !readable(self.stream.as_fd(), deadline).map_err(Broken::Lost)?
        {
            return Ok(false);
        }
        self.inbox.drain(..self.taken);
        self.taken = 0;
        let start = self.inbox.len();
        self.inbox.resize(start + self.read_len, 0);
        let received = loop {
            match recv(&self.stream, &mut self.inbox[start..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result,
            }
        };
        let len = received.as_ref().map_or(0, |(len, _)| *len);
        self.inbox.truncate(start + len);
        if len == self.read_len {
            self.read_len = (self.read_len * 2).min(READ_LEN_MAX);
        }
        match received {
            Ok(_) if len == 0 => Err(Broken::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(true),
            Err(error) => Err(Broken::Lost(error.into())),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Waits until a descriptor is readable (or closed); `false` where the deadline passed first.
fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn check_preamble(bytes: &[u8; Preamble::LEN]) -> Result<(), Failure> {
    match Preamble::decode(bytes) {
        Some(theirs) if theirs == Preamble::OURS => Ok(()),
        Some(theirs) => Err(Failure::new(
            FailureKind::Protocol,
            format!("the daemon speaks protocol {}, this client protocol {PROTOCOL}", theirs.protocol),
        )
        .hint("install client and daemon of the same release, then restart the daemon")),
        None => Err(Failure::new(FailureKind::Protocol, "what listens on the socket is not stated")),
    }
}
