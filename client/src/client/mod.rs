//! The session: numbered requests over a connection that may drop and come back.

mod exchange;
mod opening;
mod resume;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stated_shared::limits::INLINE_CONTENT_LEN_MAX;
use stated_shared::wire::{ClientHello, ServerFrame, Welcome};
use stated_shared::{
    Bytes, Commit, Committed, Content, Failure, FailureKind, Grant, Lock, LockId, Notice, Reply, Request, Selector,
    SessionId, StateName, VersionInfo,
};

use crate::connection::{Broken, Incoming};
use crate::discover::ConnectOptions;
use crate::pin::Witness;
use crate::random::random;
use exchange::Attachment;
use resume::{Link, Passing};

#[cfg(feature = "tokio")]
pub(crate) use exchange::{still_waiting, unknown, waits_for_lock, writes};
#[cfg_attr(not(feature = "cli"), allow(unused_imports, reason = "the library itself waits for the welcome"))]
pub(crate) use opening::Opening;
pub(crate) use resume::is_passing;

/// How long the daemon may take to welcome a client that it accepted.
pub(crate) const WELCOME_MAX: Duration = Duration::from_secs(30);
/// Contents of one commit that ride in its frame, in bytes all together.
const INLINE_LEN_SUM_MAX: usize = 512 << 10;
/// Losses that are kept for [`Client::poll_notices`].
const KEPT_NOTICES_MAX: usize = 1024;

type NoticeHandler = Box<dyn FnMut(&Notice) + Send>;
type ProgressHandler = Box<dyn FnMut(Progress) + Send>;

/// How much of the content of a commit or of a read has passed.
///
/// Over a lost connection a content begins again, and so does this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which way.
    pub direction: Direction,
    /// Bytes that have passed; at the end all of them.
    pub done_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
}

/// Which way a content passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It is sent to the daemon.
    ToDaemon,
    /// It is read from the daemon.
    FromDaemon,
}

/// One session with the daemon.
///
/// Calls block. A dropped connection is resumed by the next call, or by [`Client::poll_notices`]. The connection is
/// close-on-exec, because it carries this process's authority; children are bound to a lock by their pidfd instead.
pub struct Client {
    options: ConnectOptions,
    socket: PathBuf,
    hello: ClientHello,
    welcome: Welcome,
    witness: Witness,
    daemon_said: Option<String>,
    link: Link,
    passing: Passing,
    /// The number of the last request.
    number: u64,
    /// The first request went out with the hello, on the connection that is there now.
    ahead: bool,
    /// Session locks that were granted and neither ended nor lost.
    held: BTreeSet<LockId>,
    handler: Option<NoticeHandler>,
    progress: Option<ProgressHandler>,
    kept: Vec<Notice>,
}

impl Client {
    /// Finds the daemon, starting one where that is allowed, and opens a session.
    pub fn connect(options: &ConnectOptions) -> Result<Self, Failure> {
        Self::connect_within(options, WELCOME_MAX)
    }

    /// As [`Client::connect`], waiting so long for a daemon that accepted.
    pub(crate) fn connect_within(options: &ConnectOptions, welcome_max: Duration) -> Result<Self, Failure> {
        Opening::begin(options, welcome_max)?.finish()
    }

    /// What the daemon said of its start, where this client started it: of a new key that must be backed up, say.
    pub fn daemon_said(&self) -> Option<&str> {
        self.daemon_said.as_deref()
    }

    /// The session's ID; it stays over reconnections.
    pub fn session(&self) -> SessionId {
        self.hello.session
    }

    /// What the daemon said of itself at the last handshake.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The socket that answered.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Calls the handler with each notice as it arrives, during calls and in [`Client::poll_notices`].
    pub fn on_notice(&mut self, handler: Box<dyn FnMut(&Notice) + Send>) {
        self.handler = Some(handler);
    }

    /// Calls the handler as contents that are too long for one frame pass.
    pub fn on_progress(&mut self, handler: Box<dyn FnMut(Progress) + Send>) {
        self.progress = Some(handler);
    }

    /// Asks, and waits for the answer.
    ///
    /// Over a lost connection the session is resumed and the request sent again under its number, which the daemon
    /// applies once. After 30 s of that the failure is [`FailureKind::Unavailable`]: a request that writes may or may
    /// not have landed. Waiting for a lock counts only time without a connection. The content of a
    /// [`Reply::Fetched`] is read and dropped; [`Client::get`] keeps it.
    pub fn call(&mut self, request: &Request) -> Result<Reply, Failure> {
        Ok(self.exchange(request, Attachment { contents: &[], descriptor: None })?.0)
    }

    /// Asks, sending a process's descriptor along for a [`stated_shared::ProcessRef::Descriptor`] in the request.
    pub fn call_with_process(&mut self, request: &Request, pidfd: BorrowedFd<'_>) -> Result<Reply, Failure> {
        Ok(self.exchange(request, Attachment { contents: &[], descriptor: Some(pidfd) })?.0)
    }

    /// Writes states, all or none; contents too large for a frame are streamed.
    pub fn commit(&mut self, mut commit: Commit) -> Result<Committed, Failure> {
        let contents = take_large(&mut commit);
        let attachment = Attachment { contents: &contents, descriptor: None };
        match self.exchange(&Request::Commit(commit), attachment)?.0 {
            Reply::Committed(committed) => Ok(committed),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads one version with its content; a removal has an empty one.
    pub fn get(&mut self, state: &StateName, at: Selector) -> Result<(VersionInfo, Vec<u8>), Failure> {
        let request = Request::Get { state: state.clone(), at };
        match self.exchange(&request, Attachment { contents: &[], descriptor: None })? {
            (Reply::Fetched(fetched), content) => Ok((fetched.version, content)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Takes a lock, waiting as it asks; a [`Notice::Queued`] tells who is in the way.
    ///
    /// An ID is drawn where it has none, so that asking again over a lost connection is answered with the same grant.
    pub fn lock(&mut self, lock: &Lock, pidfd: Option<BorrowedFd<'_>>) -> Result<Grant, Failure> {
        let lock = with_id(lock)?;
        let attachment = Attachment { contents: &[], descriptor: pidfd };
        match self.exchange(&Request::Lock(lock), attachment)?.0 {
            Reply::Granted(grant) => Ok(grant),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a grant of one's own.
    pub fn unlock(&mut self, id: &LockId) -> Result<(), Failure> {
        match self.call(&Request::Unlock { id: id.clone() })? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The descriptor to wait on between calls of [`Client::poll_notices`]: readable when that has something to do.
    ///
    /// Call that before each wait, not only after one: a notice that came together with an answer is read already.
    /// None while the connection is down; then call it again after a second at most.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            Link::Up { connection, .. } => Some(connection.as_fd()),
            Link::Down { .. } => None,
        }
    }

    /// What arrived unasked since the last call, without waiting: each loss of a lock, once.
    ///
    /// A lost connection is resumed in passing, at one attempt a call. `Err` only where resuming can never work.
    pub fn poll_notices(&mut self) -> Result<Vec<Notice>, Failure> {
        loop {
            match &mut self.link {
                Link::Up { connection, .. } => match connection.receive(Some(Instant::now())) {
                    Ok(None) => break,
                    Ok(Some(incoming)) => self.unasked(incoming)?,
                    Err(Broken::Lost(_)) => self.link = Link::down(),
                    Err(Broken::Refused(failure)) if is_passing(&failure) => self.link = Link::down(),
                    Err(Broken::Refused(failure)) => return Err(failure),
                },
                Link::Down { .. } => {
                    if !self.reopen_in_passing()? {
                        break;
                    }
                }
            }
        }
        Ok(std::mem::take(&mut self.kept))
    }

    /// Handles what no caller waits for.
    fn unasked(&mut self, incoming: Incoming) -> Result<(), Failure> {
        match incoming {
            Incoming::Welcome(welcome) => {
                // Where that is not enough, the link is down, and whoever reads on opens it again.
                self.welcomed(*welcome)?;
            }
            Incoming::Frame(ServerFrame::Notice(notice)) => self.notice(*notice),
            // Late frames of a request that was given up.
            Incoming::Frame(_) => {}
        }
        Ok(())
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        if let Some(handler) = &mut self.handler {
            handler(&notice);
        }
        match &notice {
            Notice::LockLost { id, .. } => {
                self.held.remove(id);
                if self.kept.len() < KEPT_NOTICES_MAX {
                    self.kept.push(notice);
                }
            }
            Notice::Closing => {
                if let Link::Up { closing, .. } = &mut self.link {
                    *closing = true;
                }
            }
            Notice::Queued { .. } => {}
        }
    }
}

/// What the asynchronous face needs of a session besides.
#[cfg(feature = "tokio")]
impl Client {
    /// The open connection, for another to read and write.
    pub(crate) fn take_connection(&mut self) -> Option<crate::connection::Connection> {
        match std::mem::replace(&mut self.link, Link::down()) {
            Link::Up { connection, .. } => Some(connection),
            Link::Down { .. } => None,
        }
    }

    /// Whether a session lock would be lost with the session.
    pub(crate) fn holds_locks(&self) -> bool {
        !self.held.is_empty()
    }

    /// The session cannot be resumed: what it held is lost.
    pub(crate) fn lose_held(&mut self, why: &str) {
        for id in std::mem::take(&mut self.held) {
            self.notice(Notice::LockLost { id, why: why.to_owned() });
        }
    }

    /// Drops what [`Client::poll_notices`] would give: its handler was told.
    pub(crate) fn forget_notices(&mut self) {
        self.kept.clear();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).field("session", &self.session()).finish_non_exhaustive()
    }
}

/// Takes the contents out of a commit that are streamed after its frame, and announces them in their places.
pub(crate) fn take_large(commit: &mut Commit) -> Vec<Bytes> {
    let mut inline_left = INLINE_LEN_SUM_MAX;
    let mut contents = Vec::new();
    for change in &mut commit.changes {
        let Content::Inline(bytes) = &mut change.content else { continue };
        let len = bytes.0.len();
        if len <= INLINE_CONTENT_LEN_MAX && len <= inline_left {
            inline_left -= len;
            continue;
        }
        contents.push(std::mem::take(bytes));
        change.content = Content::Streamed { size_bytes: len as u64 };
    }
    contents
}

/// The lock request with an ID, drawn where it has none.
pub(crate) fn with_id(lock: &Lock) -> Result<Lock, Failure> {
    let mut lock = lock.clone();
    if lock.id.is_none() {
        let random =
            random().map_err(|error| Failure::new(FailureKind::Other, format!("no random numbers: {error}")))?;
        lock.id = Some(LockId::from_random(random));
    }
    Ok(lock)
}

pub(crate) fn unexpected(reply: &Reply) -> Failure {
    let debug = format!("{reply:?}");
    let name = debug.split(['(', ' ', '{']).next().unwrap_or_default();
    Failure::new(FailureKind::Protocol, format!("the daemon answered with {name}, which does not fit the request"))
}
