//! A connection's way out: at once where the socket takes it, else by a bounded queue.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use stated_shared::wire::{FrameError, ServerFrame, encode};
use stated_shared::{Detail, Failure, FailureKind, Notice, Reply};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::limits::{PENDING_LEN_LOW, PENDING_LEN_MAX, PENDING_TOTAL_LEN_MAX, STALL_TIMEOUT};
use crate::engine::Outbox;

/// The bytes that wait for all peers together.
#[derive(Debug, Clone, Default)]
pub(super) struct PendingTotal(Arc<AtomicUsize>);

/// The sending side of one connection.
///
/// Frames leave in the order in which they were given. Whoever drives the engine sends himself where nothing waits, which
/// saves a hop to another core; else [`Self::drain`] does. Whoever lets too much pile up is cut.
pub(super) struct SocketOutbox {
    state: Mutex<State>,
    /// There is something for `drain`.
    queued: Notify,
    /// Something was sent, or answered.
    progress: Notify,
    total: PendingTotal,
    cut: CancellationToken,
}

struct State {
    /// Absent when the connection has ended: the engine may keep its outbox a little longer than its socket.
    socket: Option<Arc<UnixStream>>,
    /// Frames wait for the hello, which must be the first.
    held: bool,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that are sent.
    head_sent: usize,
    pending_len: usize,
    outstanding: HashMap<u64, Outstanding>,
    cut_reason: Option<&'static str>,
}

/// A request that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outstanding {
    /// Its answer comes by itself.
    Working,
    /// It waits for a lock: for other clients.
    Queued,
}

/// The connection was cut while something waited to be sent.
#[derive(Debug)]
pub(super) struct WasCut;

impl SocketOutbox {
    pub(super) fn new(socket: Arc<UnixStream>, total: PendingTotal) -> Self {
        Self {
            state: Mutex::new(State {
                socket: Some(socket),
                held: false,
                queue: VecDeque::new(),
                head_sent: 0,
                pending_len: 0,
                outstanding: HashMap::new(),
                cut_reason: None,
            }),
            queued: Notify::new(),
            progress: Notify::new(),
            total,
            cut: CancellationToken::new(),
        }
    }

    /// Cancelled when the connection is to end.
    pub(super) fn cut_token(&self) -> &CancellationToken {
        &self.cut
    }

    /// Why the outbox cut the connection, if it did.
    pub(super) fn cut_reason(&self) -> Option<&'static str> {
        self.state().cut_reason
    }

    /// Sends bytes that are a frame, or the preamble.
    pub(super) fn send(&self, frame: Vec<u8>) {
        let mut state = self.state();
        self.put(&mut state, frame);
    }

    /// Keeps every frame back until [`Self::release`].
    pub(super) fn hold(&self) {
        self.state().held = true;
    }

    /// Sends this frame, then what was kept back.
    pub(super) fn release(&self, hello: Vec<u8>) {
        let mut state = self.state();
        let kept = std::mem::take(&mut state.queue);
        self.forget_pending(&mut state);
        state.held = false;
        self.put(&mut state, hello);
        for frame in kept {
            self.put(&mut state, frame);
        }
    }

    /// Notes that a request will be answered. `false` where it is noted already.
    pub(super) fn expect(&self, number: u64) -> bool {
        self.state().outstanding.insert(number, Outstanding::Working).is_none()
    }

    /// Whether a request has no answer yet.
    pub(super) fn is_outstanding(&self, number: u64) -> bool {
        self.state().outstanding.contains_key(&number)
    }

    /// Notes that the answer is complete, where it was not given by [`Outbox::reply`].
    pub(super) fn finish(&self, number: u64) {
        self.state().outstanding.remove(&number);
        self.progress.notify_waiters();
    }

    /// How many requests have no answer.
    pub(super) fn outstanding_count(&self) -> usize {
        self.state().outstanding.len()
    }

    /// Waits until fewer requests than this have no answer.
    pub(super) async fn fewer_outstanding_than(&self, count: usize) {
        self.wait(|state| state.outstanding.len() < count).await;
    }

    /// Waits until the peer has taken enough for a piece of content.
    pub(super) async fn room(&self) -> Result<(), WasCut> {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(WasCut),
            () = self.wait(|state| state.pending_len < PENDING_LEN_LOW) => Ok(()),
        }
    }

    /// Waits until everything is answered and sent, but for requests that wait for a lock.
    pub(super) async fn settled(&self) {
        let is_settled = |state: &State| {
            state.pending_len == 0 && state.outstanding.values().all(|outstanding| *outstanding == Outstanding::Queued)
        };
        self.wait(is_settled).await;
    }

    /// Sends what waits, as the peer takes it, until the connection is cut. Not before [`Self::release`].
    pub(super) async fn drain(&self, socket: &UnixStream) {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => {}
            () = self.drain_for_ever(socket) => {}
        }
    }

    /// Says to the peer that nothing follows.
    pub(super) fn end(&self) {
        if let Some(socket) = &self.state().socket {
            // A peer that is gone already needs not be told.
            let _ = shutdown(socket, Shutdown::Write);
        }
    }

    /// Ends the connection and drops what waits.
    pub(super) fn close(&self) {
        let mut state = self.state();
        self.forget_pending(&mut state);
        state.queue.clear();
        if let Some(socket) = state.socket.take() {
            let _ = shutdown(&socket, Shutdown::Both);
        }
        drop(state);
        self.cut.cancel();
    }

    async fn drain_for_ever(&self, socket: &UnixStream) {
        // A socket whose peer is gone is always ready, and takes nothing.
        while !self.cut.is_cancelled() {
            consume_budget().await;
            if self.state().queue.is_empty() {
                self.queued.notified().await;
                continue;
            }
            match timeout(STALL_TIMEOUT, socket.writable()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return self.cut_for(&mut self.state(), "the socket failed"),
                Err(_) => return self.cut_for(&mut self.state(), "the peer takes nothing"),
            }
            self.send_queued(socket);
            self.progress.notify_waiters();
        }
    }

    /// Sends until the socket takes no more.
    fn send_queued(&self, socket: &UnixStream) {
        let mut guard = self.state();
        let state = &mut *guard;
        while let Some(frame) = state.queue.front() {
            // By way of the runtime, so that it learns when the socket is full.
            let rest = &frame[state.head_sent..];
            match socket.try_io(Interest::WRITABLE, || Ok(retry_on_intr(|| send_some(socket, rest))?)) {
                Ok(sent) => {
                    let is_whole = sent == rest.len();
                    state.pending_len -= sent;
                    self.total.0.fetch_sub(sent, Ordering::Relaxed);
                    if is_whole {
                        state.queue.pop_front();
                        state.head_sent = 0;
                    } else {
                        state.head_sent += sent;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.cut_for(state, "the peer is gone"),
            }
        }
    }

    /// Sends a frame, or queues what the socket does not take.
    fn put(&self, state: &mut State, frame: Vec<u8>) {
        let Some(socket) = &state.socket else { return };
        let mut sent = 0;
        if state.queue.is_empty() && !state.held {
            sent = match retry_on_intr(|| send_some(socket, &frame)) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(_) => return self.cut_for(state, "the peer is gone"),
            };
            if sent == frame.len() {
                return;
            }
            state.head_sent = sent;
        }
        let rest_len = frame.len() - sent;
        if state.pending_len + rest_len > PENDING_LEN_MAX {
            return self.cut_for(state, "the peer does not read its answers");
        }
        if self.total.0.fetch_add(rest_len, Ordering::Relaxed) + rest_len > PENDING_TOTAL_LEN_MAX {
            self.total.0.fetch_sub(rest_len, Ordering::Relaxed);
            return self.cut_for(state, "too many answers wait for all peers together");
        }
        state.pending_len += rest_len;
        state.queue.push_back(frame);
        self.queued.notify_one();
    }

    /// The connection ends; its own task closes the socket and tells the engine.
    fn cut_for(&self, state: &mut State, reason: &'static str) {
        state.cut_reason.get_or_insert(reason);
        self.cut.cancel();
    }

    /// Gives back the room of what waits; the queue is the caller's to clear.
    fn forget_pending(&self, state: &mut State) {
        self.total.0.fetch_sub(state.pending_len, Ordering::Relaxed);
        state.pending_len = 0;
        state.head_sent = 0;
    }

    async fn wait(&self, is_reached: impl Fn(&State) -> bool) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            // From here on progress is not missed, also if it comes before the await.
            progress.as_mut().enable();
            if is_reached(&self.state()) {
                return;
            }
            progress.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done by a panic here; at worst the peer is sent less than it waits for.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox for SocketOutbox {
    fn reply(&self, number: u64, result: Result<Reply, Failure>) {
        let frame = reply_frame(number, result);
        let mut state = self.state();
        state.outstanding.remove(&number);
        self.put(&mut state, frame);
        drop(state);
        self.progress.notify_waiters();
    }

    fn notice(&self, notice: Notice) {
        let queued = if let Notice::Queued { number, .. } = &notice { Some(*number) } else { None };
        let frame = match encode(&ServerFrame::Notice(Box::new(notice))) {
            Ok(frame) => Some(frame),
            Err(error) => {
                tracing::error!(%error, "cannot send a notice");
                None
            }
        };
        let mut state = self.state();
        if let Some(outstanding) = queued.and_then(|number| state.outstanding.get_mut(&number)) {
            *outstanding = Outstanding::Queued;
        }
        if let Some(frame) = frame {
            self.put(&mut state, frame);
        }
        drop(state);
        self.progress.notify_waiters();
    }
}

impl Drop for SocketOutbox {
    fn drop(&mut self) {
        self.total.0.fetch_sub(self.state().pending_len, Ordering::Relaxed);
    }
}

/// Sends without waiting, and without the signal that a closed socket would raise.
fn send_some(socket: impl AsFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

/// Encodes an answer; one that does not fit into a frame becomes a failure that does.
pub(super) fn reply_frame(number: u64, result: Result<Reply, Failure>) -> Vec<u8> {
    let frame_of = |result| encode(&ServerFrame::Reply { number, result: Box::new(result) });
    let error = match &result {
        // Its sentence counts, and the holders of many names do not fit.
        Err(failure) if failure.detail != Detail::None => {
            let bare = Failure { detail: Detail::None, ..failure.clone() };
            return frame_of(result).or_else(|_| frame_of(Err(bare))).unwrap_or_else(|error| unfit(number, &error));
        }
        _ => match frame_of(result) {
            Ok(frame) => return frame,
            Err(error) => error,
        },
    };
    unfit(number, &error)
}

fn unfit(number: u64, error: &FrameError) -> Vec<u8> {
    tracing::error!(number, %error, "cannot send an answer");
    let failure = Failure::new(FailureKind::Internal, "the answer does not fit into a frame");
    encode(&ServerFrame::Reply { number, result: Box::new(Err(failure)) }).expect("a short failure fits")
}
