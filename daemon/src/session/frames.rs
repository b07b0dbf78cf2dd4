//! Reads frames, and the descriptors that come with them.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use stated_shared::limits::FRAME_DESCRIPTORS_MAX;
use stated_shared::wire::{FrameError, PREFIX_LEN, body_len};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout_at};

use super::limits::{BUFFER_LEN_MIN, FRAME_TIMEOUT, HANG_UP_PERIOD, SMALL_FRAME_LEN_MAX};
use crate::engine::{ContentBudget, ContentPermit};

/// The receiving side of one connection.
///
/// The buffer grows with what has arrived, never with what was announced.
pub(super) struct FrameReader {
    socket: Arc<UnixStream>,
    buffer: Vec<u8>,
    /// What was received and not consumed.
    filled: Range<usize>,
    descriptors: VecDeque<OwnedFd>,
}

/// A complete frame in the reader's buffer.
pub(super) struct Frame<'a> {
    /// Without its length.
    pub(super) body: &'a [u8],
    /// Room of a large frame, to be kept until the body was decoded and its value was taken over.
    pub(super) room: Option<ContentPermit>,
}

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The length is over the limit.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Fewer bytes than announced, and then none.
    #[error("the connection ended within a frame")]
    Truncated,
    /// The peer was too slow.
    #[error("nothing complete arrived for {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The socket failed.
    #[error("cannot read from the socket")]
    Io(#[from] io::Error),
}

impl FrameReader {
    pub(super) fn new(socket: Arc<UnixStream>) -> Self {
        Self { socket, buffer: vec![0; BUFFER_LEN_MIN], filled: 0..0, descriptors: VecDeque::new() }
    }

    /// The oldest descriptor that arrived and was not taken.
    pub(super) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Exactly this many bytes; `None` at the end of the stream.
    pub(super) async fn bytes<const N: usize>(&mut self) -> Result<Option<[u8; N]>, ReadError> {
        while self.filled.len() < N {
            if self.receive(N).await? == 0 {
                return if self.filled.is_empty() { Ok(None) } else { Err(ReadError::Truncated) };
            }
        }
        let bytes = self.buffer[self.filled.start..][..N].try_into().expect("N bytes were just sliced");
        self.filled.start += N;
        Ok(Some(bytes))
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// A frame that has begun must be complete in [`FRAME_TIMEOUT`]; before it begins, `idle_max` may pass, or any time.
    /// A large one waits for room in `budget`, where one is given. Dropping the future loses nothing.
    pub(super) async fn frame(
        &mut self,
        len_max: usize,
        idle_max: Option<Duration>,
        budget: Option<&ContentBudget>,
    ) -> Result<Option<Frame<'_>>, ReadError> {
        if self.filled.is_empty() && self.buffer.len() > SMALL_FRAME_LEN_MAX && idle_max.is_none() {
            // A large frame was answered, and the next one may be long in coming.
            self.buffer = vec![0; BUFFER_LEN_MIN];
            self.filled = 0..0;
        }
        if self.filled.is_empty() {
            let deadline = idle_max.map(|idle| (Instant::now() + idle, idle));
            if self.receive_until(PREFIX_LEN, deadline).await? == 0 {
                return Ok(None);
            }
        }
        let mut deadline = None;
        let mut room = None;
        loop {
            let needed = match self.buffer[self.filled.clone()].first_chunk() {
                Some(prefix) => PREFIX_LEN + body_len(*prefix, len_max)?,
                None => PREFIX_LEN,
            };
            if needed > SMALL_FRAME_LEN_MAX
                && room.is_none()
                && let Some(budget) = budget
            {
                room = budget.room(needed as u64).await.ok();
                // The time that others made it wait is not the peer's.
                deadline = None;
            }
            if self.filled.len() >= needed && self.has_prefix() {
                let body = self.filled.start + PREFIX_LEN..self.filled.start + needed;
                self.filled.start += needed;
                return Ok(Some(Frame { body: &self.buffer[body], room }));
            }
            // A frame that arrived in one piece never asks for the time.
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + FRAME_TIMEOUT);
            if self.receive_until(needed, Some((deadline, FRAME_TIMEOUT))).await? == 0 {
                return Err(ReadError::Truncated);
            }
        }
    }

    /// Whether the next frame is here already.
    pub(super) fn holds_frame(&self) -> bool {
        let filled = &self.buffer[self.filled.clone()];
        filled.first_chunk().is_some_and(|prefix| filled.len() - PREFIX_LEN >= u32::from_be_bytes(*prefix) as usize)
    }

    /// Reads and forgets, until the peer has nothing more to say.
    pub(super) async fn discard_all(&mut self) {
        loop {
            self.filled = 0..0;
            if !matches!(self.receive(1).await, Ok(1..)) {
                return;
            }
        }
    }

    /// Returns when the peer has hung up, although nothing is read meanwhile.
    ///
    /// By asking every now and then: with bytes unread the socket is always ready, so there is nothing to wait for.
    pub(super) async fn hung_up(&self) {
        loop {
            sleep(HANG_UP_PERIOD).await;
            let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            if matches!(poll(&mut fds, Some(&at_once)), Ok(1..)) {
                return;
            }
        }
    }

    fn has_prefix(&self) -> bool {
        self.filled.len() >= PREFIX_LEN
    }

    async fn receive_until(
        &mut self,
        needed: usize,
        deadline: Option<(Instant, Duration)>,
    ) -> Result<usize, ReadError> {
        match deadline {
            None => Ok(self.receive(needed).await?),
            Some((instant, timeout)) => match timeout_at(instant, self.receive(needed)).await {
                Ok(received) => Ok(received?),
                Err(_) => Err(ReadError::TooSlow(timeout)),
            },
        }
    }

    /// Receives what is there, at least one byte; 0 at the end of the stream. `needed` is what the consumer waits for.
    async fn receive(&mut self, needed: usize) -> io::Result<usize> {
        consume_budget().await;
        self.make_room(needed);
        let Self { socket, buffer, filled, descriptors } = self;
        let free = &mut buffer[filled.end..];
        loop {
            let mut received = None;
            let tried = socket.try_io(Interest::READABLE, || {
                let held = descriptors.len();
                let len = receive_now(socket.as_ref(), free, descriptors)?;
                received = Some(len);
                // Less than there was room for: the socket is empty, and need not be asked again before it says that
                // it is not. A receive also ends behind a descriptor, so one that brought some tells nothing.
                let is_empty = 0 < len && len < free.len() && descriptors.len() == held;
                if is_empty { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (received, tried) {
                (Some(len), _) => {
                    filled.end += len;
                    return Ok(len);
                }
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                (None, _) => socket.readable().await?,
            }
        }
    }

    /// Makes the buffer able to take more bytes.
    fn make_room(&mut self, needed: usize) {
        if self.filled.is_empty() {
            self.filled = 0..0;
        }
        if self.filled.end < self.buffer.len() && self.filled.start + needed <= self.buffer.len() {
            return;
        }
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        if self.filled.end == self.buffer.len() {
            // Full, and the frame is longer: twice as much, so that a peer must send half of what it makes us hold.
            let len = (self.buffer.len() * 2).min(needed.max(self.buffer.len() + 1));
            self.buffer.resize(len, 0);
        }
    }
}

/// One receive, without waiting; keeps what descriptors it may and closes the others.
fn receive_now(socket: &UnixStream, free: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FRAME_DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(free)], &mut control, flags))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            let kept = FRAME_DESCRIPTORS_MAX.saturating_sub(descriptors.len());
            // What is not taken is closed when the iterator is dropped.
            descriptors.extend(fds.take(kept));
        }
    }
    Ok(received.bytes)
}
