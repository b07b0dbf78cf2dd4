//! The session: numbered requests over a connection that may drop and come back.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stated_shared::limits::{CHUNK_LEN_MAX, CONTENT_LEN_MAX, INLINE_CONTENT_LEN_MAX};
use stated_shared::wire::{ClientFrame, ClientHello, ServerFrame, Welcome, encode};
use stated_shared::{
    Bytes, Commit, Committed, Content, Failure, FailureKind, Grant, Lock, LockId, Notice, Reply, Request, Selector,
    SessionId, StateName, VersionInfo, Wait,
};

use crate::autostart;
use crate::connection::{Broken, Connection, Incoming};
use crate::discover::{self, ConnectOptions};
use crate::retry::{Bound, Pauses};

/// How long the daemon may take to welcome a client that it accepted.
const WELCOME_MAX: Duration = Duration::from_secs(30);
/// Contents of one commit that ride in its frame, in bytes all together.
const INLINE_LEN_SUM_MAX: usize = 512 << 10;
/// What is reserved for a content before its bytes arrive.
const RESERVE_LEN_MAX: u64 = 16 << 20;
/// Losses that are kept for [`Client::poll_notices`].
const KEPT_NOTICES_MAX: usize = 1024;

type NoticeHandler = Box<dyn FnMut(&Notice) + Send>;

/// One session with the daemon.
///
/// Calls block. A dropped connection is resumed by the next call, or by [`Client::poll_notices`]. The connection is
/// close-on-exec, because it carries this process's authority; children are bound to a lock by their pidfd instead.
pub struct Client {
    options: ConnectOptions,
    socket: PathBuf,
    hello: ClientHello,
    welcome: Welcome,
    link: Link,
    passing: Passing,
    /// The number of the last request.
    number: u64,
    /// Session locks that were granted and neither ended nor lost.
    held: BTreeSet<LockId>,
    handler: Option<NoticeHandler>,
    kept: Vec<Notice>,
}

/// The connection, or what is being done to have one again.
enum Link {
    Up { connection: Connection, closing: bool },
    Down { start: Option<JoinHandle<Result<(), Failure>>> },
}

impl Link {
    fn up(connection: Connection) -> Self {
        Self::Up { connection, closing: false }
    }

    fn down() -> Self {
        Self::Down { start: None }
    }
}

/// When the next attempt in passing may be made; it is forgotten at the next welcome, not at the next connection.
struct Passing {
    next_attempt: Instant,
    pauses: Pauses,
}

impl Passing {
    fn new() -> Self {
        Self { next_attempt: Instant::now(), pauses: Pauses::new() }
    }
}

/// The bytes that belong to a request besides its frame.
#[derive(Clone, Copy)]
struct Attachment<'a> {
    contents: &'a [Bytes],
    descriptor: Option<BorrowedFd<'a>>,
}

impl Client {
    /// Finds the daemon, starting one where that is allowed, and opens a session.
    pub fn connect(options: &ConnectOptions) -> Result<Self, Failure> {
        let mut session = [0; 16];
        getrandom::fill(&mut session)
            .map_err(|error| Failure::new(FailureKind::Other, format!("no random numbers: {error}")))?;
        let hello = ClientHello { session: SessionId(session), exe: options.exe.clone(), features: Vec::new() };
        let deadline = Instant::now() + WELCOME_MAX;
        let mut pauses = Pauses::new();
        loop {
            // A daemon that stops may still accept and then drop the connection: its successor answers.
            let error = match discover::connect(options, &hello).and_then(|(connection, socket)| {
                let (connection, welcome) = await_welcome(connection, deadline)?;
                Ok((connection, socket, welcome))
            }) {
                Ok((connection, socket, welcome)) => {
                    return Ok(Self {
                        options: options.clone(),
                        socket,
                        hello,
                        welcome,
                        link: Link::up(connection),
                        passing: Passing::new(),
                        number: 0,
                        held: BTreeSet::new(),
                        handler: None,
                        kept: Vec::new(),
                    });
                }
                Err(Broken::Refused(failure)) => return Err(failure),
                Err(Broken::Lost(error)) => error,
            };
            if Instant::now() >= deadline {
                return Err(Failure::new(FailureKind::Unavailable, format!("the daemon does not answer: {error}"))
                    .hint("statectl status"));
            }
            std::thread::sleep(pauses.next());
        }
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
        let mut lock = lock.clone();
        if lock.id.is_none() {
            let mut random = [0; 16];
            getrandom::fill(&mut random)
                .map_err(|error| Failure::new(FailureKind::Other, format!("no random numbers: {error}")))?;
            lock.id = Some(LockId::from_random(random));
        }
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

    /// The descriptor that becomes readable when [`Client::poll_notices`] has something to do; none while the
    /// connection is down, when that should be called again after a second at most.
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

    /// Numbers the request and repeats it until it is answered.
    fn exchange(&mut self, request: &Request, attachment: Attachment<'_>) -> Result<(Reply, Vec<u8>), Failure> {
        self.number += 1;
        let number = self.number;
        let mut bound = Bound::new(waits_for_lock(request));
        let asked = Instant::now();
        let mut sent = false;
        loop {
            let result = self.resume(&mut bound).and_then(|()| {
                sent = true;
                self.attempt(number, request, asked, attachment)
            });
            match result {
                Ok(answer) => {
                    self.account(request, &answer.0);
                    return Ok(answer);
                }
                Err(Broken::Lost(_)) => self.link = Link::down(),
                Err(Broken::Refused(failure)) => {
                    if matches!(request, Request::Unlock { .. }) && failure.kind == FailureKind::NotFound {
                        self.account(request, &Reply::Done);
                    }
                    let connected = matches!(self.link, Link::Up { .. });
                    return Err(if sent && !connected && writes(request) { unknown(failure) } else { failure });
                }
            }
        }
    }

    /// Sends the request once and waits for its answer.
    fn attempt(
        &mut self,
        number: u64,
        request: &Request,
        asked: Instant,
        attachment: Attachment<'_>,
    ) -> Result<(Reply, Vec<u8>), Broken> {
        let request = Box::new(still_waiting(request, asked.elapsed()));
        let frame = encode(&ClientFrame::Request { number, request }).map_err(|error| {
            Broken::Refused(Failure::new(FailureKind::Usage, format!("request too large: {error}")))
        })?;
        match self.send_request(number, &frame, attachment) {
            Ok(()) => self.await_reply(number, None),
            // A server that refuses a content may close before it read all of it: its answer is here then.
            Err(Broken::Lost(error)) => match self.await_reply(number, Some(Instant::now())) {
                Err(Broken::Lost(_)) => Err(Broken::Lost(error)),
                answer => answer,
            },
            Err(refused) => Err(refused),
        }
    }

    fn send_request(&mut self, number: u64, frame: &[u8], attachment: Attachment<'_>) -> Result<(), Broken> {
        let connection = self.connection()?;
        connection.send(frame, attachment.descriptor)?;
        for content in attachment.contents {
            for piece in content.0.chunks(CHUNK_LEN_MAX) {
                connection.send(&encode(&ClientFrame::Chunk { number, data: Bytes(piece.to_vec()) })?, None)?;
            }
        }
        Ok(())
    }

    fn await_reply(&mut self, number: u64, deadline: Option<Instant>) -> Result<(Reply, Vec<u8>), Broken> {
        loop {
            match self.receive(deadline)? {
                Incoming::Frame(ServerFrame::Reply { number: of, result }) if of == number => match *result {
                    Ok(reply) => {
                        let content = self.await_content(number, &reply)?;
                        return Ok((reply, content));
                    }
                    Err(failure) if self.is_closing() && is_passing(&failure) => {
                        return Err(Broken::Lost(std::io::ErrorKind::ConnectionAborted.into()));
                    }
                    Err(failure) => return Err(Broken::Refused(failure)),
                },
                other => self.unasked(other).map_err(Broken::Refused)?,
            }
        }
    }

    /// Reads the content that a reply announces.
    fn await_content(&mut self, number: u64, reply: &Reply) -> Result<Vec<u8>, Broken> {
        let Reply::Fetched(fetched) = reply else { return Ok(Vec::new()) };
        let size = fetched.version.content.as_ref().map_or(0, |content| content.size_bytes);
        let malformed = |why: &str| Broken::Refused(Failure::new(FailureKind::Protocol, format!("content {why}")));
        if size > CONTENT_LEN_MAX {
            return Err(malformed("announced over the limit"));
        }
        let mut content = Vec::with_capacity(size.min(RESERVE_LEN_MAX) as usize);
        while (content.len() as u64) < size {
            match self.receive(None)? {
                Incoming::Frame(ServerFrame::Chunk { number: of, data }) if of == number => {
                    if data.0.is_empty() || (content.len() + data.0.len()) as u64 > size {
                        return Err(malformed("in chunks of the wrong size"));
                    }
                    content.extend_from_slice(&data.0);
                }
                Incoming::Frame(ServerFrame::Cut { number: of, failure }) if of == number => {
                    return Err(Broken::Refused(*failure));
                }
                other => self.unasked(other).map_err(Broken::Refused)?,
            }
        }
        Ok(content)
    }

    fn connection(&mut self) -> Result<&mut Connection, Broken> {
        match &mut self.link {
            Link::Up { connection, .. } => Ok(connection),
            Link::Down { .. } => Err(Broken::Lost(std::io::ErrorKind::NotConnected.into())),
        }
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<Incoming, Broken> {
        self.connection()?.receive(deadline)?.ok_or_else(|| Broken::Lost(std::io::ErrorKind::TimedOut.into()))
    }

    fn is_closing(&self) -> bool {
        matches!(self.link, Link::Up { closing: true, .. })
    }

    /// Makes sure of a connection whose handshake is over, as long as the bound allows.
    fn resume(&mut self, bound: &mut Bound) -> Result<(), Broken> {
        if let Link::Up { connection, .. } = &self.link
            && connection.is_open()
        {
            return Ok(());
        }
        let lost_at = Instant::now();
        let deadline = bound.lost(lost_at);
        let mut pauses = Pauses::new();
        // An attempt made in passing may have a handshake that is not over.
        let mut begun = match std::mem::replace(&mut self.link, Link::down()) {
            Link::Up { connection, .. } => Some(connection),
            Link::Down { .. } => None,
        };
        let mut last = None;
        while Instant::now() < deadline {
            let connection = begun.take().map_or_else(|| self.open_again(), Ok);
            let attempt = connection.and_then(|connection| await_welcome(connection, deadline));
            match attempt {
                Ok((connection, welcome)) => {
                    self.link = Link::up(connection);
                    bound.resumed(lost_at.elapsed());
                    return self.welcomed(welcome).map_err(Broken::Refused);
                }
                Err(Broken::Lost(error)) => last = Some(discover::unreachable(&self.socket, &error)),
                Err(Broken::Refused(failure)) if is_passing(&failure) => last = Some(failure),
                Err(refused) => return Err(refused),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            std::thread::sleep(pauses.next().min(left));
        }
        let failure = last.unwrap_or_else(|| Failure::new(FailureKind::Unavailable, "the connection was lost"));
        Err(Broken::Refused(Failure { kind: FailureKind::Unavailable, ..failure }))
    }

    /// One attempt to connect where this session was, starting the daemon again where it may be.
    fn open_again(&self) -> Result<Connection, Broken> {
        match Connection::open(&self.socket, &self.hello) {
            Err(Broken::Lost(error))
                if discover::nobody_listens(&error) && discover::may_start(&self.options, &self.socket) =>
            {
                autostart::start(&self.options, &self.socket).map_err(Broken::Refused)?;
                Connection::open(&self.socket, &self.hello)
            }
            result => result,
        }
    }

    /// One attempt that does not wait; `true` where there is something to read again.
    fn reopen_in_passing(&mut self) -> Result<bool, Failure> {
        let Link::Down { start } = &mut self.link else { return Ok(true) };
        if start.as_ref().is_some_and(|start| !start.is_finished()) || Instant::now() < self.passing.next_attempt {
            return Ok(false);
        }
        // How a start ended shows in whether somebody listens now.
        *start = None;
        self.passing.next_attempt = Instant::now() + self.passing.pauses.next();
        let opened = Connection::open(&self.socket, &self.hello).and_then(|mut connection| {
            connection.flush()?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                self.link = Link::up(connection);
                Ok(true)
            }
            Err(Broken::Lost(error)) => {
                if discover::nobody_listens(&error) && discover::may_start(&self.options, &self.socket) {
                    let (options, socket) = (self.options.clone(), self.socket.clone());
                    *start = std::thread::Builder::new()
                        .name("stated-start".into())
                        .spawn(move || autostart::start(&options, &socket))
                        .ok();
                }
                Ok(false)
            }
            Err(Broken::Refused(failure)) => Err(failure),
        }
    }

    /// Takes note of a handshake after the first one.
    fn welcomed(&mut self, welcome: Welcome) -> Result<(), Failure> {
        if welcome.repository != self.welcome.repository {
            self.link = Link::down();
            return Err(Failure::new(
                FailureKind::Unavailable,
                format!("another repository answers at {} now: {}", self.socket.display(), welcome.repository),
            ));
        }
        self.passing = Passing::new();
        let resumed = welcome.resumed;
        self.welcome = welcome;
        if !resumed {
            for id in std::mem::take(&mut self.held) {
                self.notice(Notice::LockLost { id, why: "the daemon restarted and does not know it any more".into() });
            }
        }
        Ok(())
    }

    /// Handles what no caller waits for.
    fn unasked(&mut self, incoming: Incoming) -> Result<(), Failure> {
        match incoming {
            Incoming::Welcome(welcome) => self.welcomed(*welcome)?,
            Incoming::Frame(ServerFrame::Notice(notice)) => self.notice(*notice),
            // Late frames of a request that was given up.
            Incoming::Frame(_) => {}
        }
        Ok(())
    }

    fn notice(&mut self, notice: Notice) {
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

    /// Keeps the list of session locks, which says what a failed resumption has lost.
    fn account(&mut self, request: &Request, reply: &Reply) {
        match (request, reply) {
            (Request::Lock(lock), Reply::Granted(grant)) if lock.ttl_ms.is_none() => {
                self.held.insert(grant.id.clone());
            }
            (Request::Unlock { id }, Reply::Done) => {
                self.held.remove(id);
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).field("session", &self.session()).finish_non_exhaustive()
    }
}

/// Finishes the handshake.
fn await_welcome(mut connection: Connection, deadline: Instant) -> Result<(Connection, Welcome), Broken> {
    connection.flush()?;
    match connection.receive(Some(deadline))? {
        Some(Incoming::Welcome(welcome)) => Ok((connection, *welcome)),
        Some(Incoming::Frame(_)) => {
            Err(Broken::Refused(Failure::new(FailureKind::Protocol, "the server sent a frame before its welcome")))
        }
        None => Err(Broken::Lost(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Whether the daemon will say something else in a moment.
fn is_passing(failure: &Failure) -> bool {
    failure.kind == FailureKind::Unavailable
}

fn waits_for_lock(request: &Request) -> bool {
    matches!(request, Request::Lock(lock) if lock.wait != Wait::No)
}

/// Whether it matters that nobody knows whether the request was done.
fn writes(request: &Request) -> bool {
    match request {
        Request::Commit(_)
        | Request::Lock(_)
        | Request::Bind { .. }
        | Request::Unlock { .. }
        | Request::Renew { .. }
        | Request::Break { .. } => true,
        Request::Get { .. }
        | Request::Show { .. }
        | Request::List { .. }
        | Request::Log { .. }
        | Request::Locks { .. }
        | Request::Audit { .. }
        | Request::Verify { .. }
        | Request::Status => false,
    }
}

/// The request as it is sent now: a retry asks to wait only for what is left of the time.
fn still_waiting(request: &Request, elapsed: Duration) -> Request {
    let mut request = request.clone();
    if let Request::Lock(Lock { wait: Wait::AtMost { ms }, .. }) = &mut request {
        *ms = ms.saturating_sub(elapsed.as_millis() as u64);
    }
    request
}

fn unknown(failure: Failure) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("outcome unknown: {}", failure.message))
        .hint("look at what is there (statectl log STATE, statectl locks) before you try again")
}

fn unexpected(reply: &Reply) -> Failure {
    let debug = format!("{reply:?}");
    let name = debug.split(['(', ' ', '{']).next().unwrap_or_default();
    Failure::new(FailureKind::Protocol, format!("the daemon answered with {name}, which does not fit the request"))
}
