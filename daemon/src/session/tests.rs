//! Connections over real sockets, with an engine that does as it is told.

mod contents;
mod door;
mod hostile;
mod policies;
mod processes;
mod stopping;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stated_shared::wire::{
    ClientFrame, ClientHello, Pinned, Preamble, ServerFrame, ServerHello, Welcome, decode, encode,
};
use stated_shared::{
    Actor, Bytes, Change, ChangePage, Commit, Content, ContentInfo, Digest, Epoch, Expect, Failure, FailureKind,
    Notice, Reply, RepositoryId, Request, Selector, Seq, SerialRule, SessionId, StateName, Timestamp, Version,
    VersionInfo,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::{
    Access, ConnectionId, ContentBudget, Denied, FetchedContent, HeldContent, Opened, Outbox, Service, Submission,
};
use crate::host::{DirectoryLock, Socket, Users};
use crate::policy::Policies;

/// Lets time pass where it is paused: it jumps once every task waits, so that nothing is missed in between.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// What the engine was asked.
#[derive(Debug)]
enum Event {
    Submitted(Submission),
    Closed(ConnectionId),
    Denied(Denied),
    Refused(u64, Denied),
}

/// An engine that answers by the kind of the request:
///
/// `Status` and `Commit` are done, `Lock` queues, `Verify` is never answered, `Show` is answered at length and `Audit`
/// beyond any frame.
#[derive(Clone)]
struct Engine {
    budget: ContentBudget,
    events: UnboundedSender<Event>,
    outboxes: Arc<Mutex<Vec<Arc<dyn Outbox>>>>,
    connections: Arc<AtomicU64>,
}

fn actor(session: SessionId) -> Actor {
    Actor { uid: 0, gid: 0, pid: None, user: None, comm: None, exe: None, host: "h".to_owned(), session }
}

fn version(size_bytes: u64, message: String) -> VersionInfo {
    VersionInfo {
        state: StateName::parse("a").unwrap(),
        version: Version(1),
        content: Some(ContentInfo { sha256: Digest::ZERO, size_bytes, serial: None, lineage: None }),
        time: Timestamp(0),
        actor: actor(SessionId([0; 16])),
        message: Some(message),
        labels: BTreeMap::new(),
        forced: false,
        tags: Vec::new(),
        pruned: None,
    }
}

/// Content whose bytes tell their place.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

impl Service for Engine {
    fn welcome(&self, resumed: bool, pin: Option<Seq>) -> Welcome {
        Welcome {
            version: "0".to_owned(),
            repository: RepositoryId([0; 16]),
            epoch: Epoch(1),
            seq: Seq(1),
            head: Digest::ZERO,
            resumed,
            features: vec![],
            pinned: if pin == Some(Seq(7)) { Pinned::Beyond } else { Pinned::Unasked },
        }
    }

    fn budget(&self) -> &ContentBudget {
        &self.budget
    }

    async fn open(&self, session: SessionId, _: Actor, outbox: Arc<dyn Outbox>) -> Result<Opened, Failure> {
        if session == SessionId([0xff; 16]) {
            return Err(Failure::new(FailureKind::Denied, "the session is another user's"));
        }
        // The client must not hear this before its welcome.
        outbox.notice(Notice::Closing);
        self.outboxes.lock().unwrap().push(outbox);
        Ok(Opened { resumed: true, connection: ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed)) })
    }

    async fn close(&self, _: SessionId, connection: ConnectionId) {
        self.events.send(Event::Closed(connection)).unwrap();
    }

    async fn submit(&self, submission: Submission) {
        let outbox = Arc::clone(&self.outboxes.lock().unwrap()[submission.connection.0 as usize]);
        let number = submission.number;
        match &submission.request {
            Request::Verify { .. } => {}
            Request::Lock(_) => outbox.notice(Notice::Queued { number, holders: vec![], ahead: 0 }),
            Request::Show { .. } => outbox.reply(number, Ok(Reply::Version(version(0, "x".repeat(500 << 10))))),
            Request::Audit { .. } => outbox.reply(number, Ok(Reply::Version(version(0, "x".repeat(2 << 20))))),
            _ => outbox.reply(number, Ok(Reply::Done)),
        }
        self.events.send(Event::Submitted(submission)).unwrap();
    }

    async fn refuse(&self, (_, connection, number): (SessionId, ConnectionId, u64), failure: Failure, denied: Denied) {
        let outbox = Arc::clone(&self.outboxes.lock().unwrap()[connection.0 as usize]);
        outbox.reply(number, Err(failure));
        self.events.send(Event::Refused(number, denied)).unwrap();
    }

    async fn changes(
        &self,
        _: Arc<dyn Access>,
        _: Option<String>,
        after: (Seq, u32),
        wait: Duration,
    ) -> Result<ChangePage, Failure> {
        tokio::time::sleep(wait).await;
        Ok(ChangePage { changes: Vec::new(), next: after })
    }

    async fn fetch(&self, _: SessionId, _: u64, state: StateName, _: Selector) -> Result<FetchedContent, Failure> {
        let len: usize = state.as_str().parse().map_err(|_| Failure::new(FailureKind::NotFound, "no such state"))?;
        let room = self.budget.room(len as u64).await?;
        Ok(FetchedContent {
            version: version(len as u64, String::new()),
            content: HeldContent::new(content(len), Some(room)),
        })
    }

    fn denied(&self, denied: Denied) {
        self.events.send(Event::Denied(denied)).unwrap();
    }
}

/// The rules of a daemon that serves its own user.
fn own() -> Rules {
    Rules::of(Arc::new(Policies::of_owner(crate::host::own_uid())))
}

/// A daemon's door, and what its engine was asked.
struct Server {
    _dir: tempfile::TempDir,
    _lock: DirectoryLock,
    path: PathBuf,
    engine: Engine,
    events: UnboundedReceiver<Event>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(own(), 8 << 20)
    }

    fn start_with(rules: Rules, budget_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        let path = dir.path().join("run/stated.sock");
        let socket = Socket::bind(&path, &lock, false).unwrap();
        let (sender, events) = unbounded_channel();
        let engine = Engine {
            budget: ContentBudget::new(budget_bytes),
            events: sender,
            outboxes: Arc::default(),
            connections: Arc::default(),
        };
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "it is awaited where the daemon is told to stop")]
        let served = tokio::spawn(serve(socket, engine.clone(), Arc::new(Users::default()), rules, stop.clone()));
        Self { _dir: dir, _lock: lock, path, engine, events, stop, served }
    }

    async fn dial(&self) -> Client {
        Client { socket: UnixStream::connect(&self.path).await.unwrap() }
    }

    /// A client that has been welcomed.
    async fn client(&self) -> Client {
        let mut client = self.dial().await;
        client.hello(1).await.unwrap();
        assert_eq!(client.frame().await, Some(ServerFrame::Notice(Box::new(Notice::Closing))), "told while opening");
        client
    }

    async fn submission(&mut self) -> Submission {
        match self.events.recv().await.unwrap() {
            Event::Submitted(submission) => submission,
            other => panic!("{other:?}"),
        }
    }

    async fn closed(&mut self) -> ConnectionId {
        loop {
            if let Event::Closed(connection) = self.events.recv().await.unwrap() {
                return connection;
            }
        }
    }
}

/// The other end, which may misbehave.
struct Client {
    socket: UnixStream,
}

impl Client {
    async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    async fn hello(&mut self, session: u8) -> ServerHello {
        let hello = ClientHello {
            session: SessionId([session; 16]),
            exe: Some("e\n".to_owned()),
            features: vec![],
            pin: Some(Seq(7)),
        };
        self.write(&Preamble::OURS.encode()).await;
        self.write(&encode(&hello).unwrap()).await;
        let mut preamble = [0; Preamble::LEN];
        self.socket.read_exact(&mut preamble).await.unwrap();
        assert_eq!(Preamble::decode(&preamble), Some(Preamble::OURS));
        self.value().await.expect("a hello")
    }

    async fn send(&mut self, value: &impl Serialize) {
        let frame = encode(value).unwrap();
        self.write(&frame).await;
    }

    async fn request(&mut self, number: u64, request: Request) {
        self.send(&ClientFrame::Request { number, request: Box::new(request) }).await;
    }

    async fn chunk(&mut self, number: u64, data: &[u8]) {
        self.send(&ClientFrame::Chunk { number, data: Bytes(data.to_vec()) }).await;
    }

    /// `None` where the connection has ended.
    async fn value<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut prefix = [0; 4];
        self.socket.read_exact(&mut prefix).await.ok()?;
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        self.socket.read_exact(&mut body).await.ok()?;
        Some(decode(&body).unwrap())
    }

    async fn frame(&mut self) -> Option<ServerFrame> {
        self.value().await
    }

    async fn reply(&mut self) -> (u64, Result<Reply, Failure>) {
        match self.frame().await {
            Some(ServerFrame::Reply { number, result }) => (number, *result),
            other => panic!("{other:?}"),
        }
    }

    async fn refusal(&mut self) -> (u64, FailureKind) {
        let (number, result) = self.reply().await;
        (number, result.unwrap_err().kind)
    }

    /// Asks something and is answered: the connection lives.
    async fn assert_alive(&mut self, number: u64) {
        self.request(number, Request::Status).await;
        assert_eq!(self.reply().await, (number, Ok(Reply::Done)));
    }

    /// The server has hung up without another word.
    async fn assert_ended(&mut self) {
        let mut more = [0; 64];
        let read = tokio::time::timeout(END_LIMIT, self.socket.read(&mut more)).await.expect("the connection ends");
        // A reset is an end too: it says that some of what was sent was not read.
        assert_eq!(read.unwrap_or(0), 0, "more bytes: {more:?}");
    }

    /// Sends bytes with descriptors.
    fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let sent = sendmsg(&self.socket, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, bytes.len());
    }
}

fn commit(contents: Vec<Content>) -> Request {
    let changes = contents.into_iter().enumerate().map(|(n, content)| Change {
        state: StateName::parse(&n.to_string()).unwrap(),
        expect: Expect::Any,
        content,
    });
    Request::Commit(Commit {
        changes: changes.collect(),
        locks: vec![],
        message: None,
        labels: BTreeMap::new(),
        serials: SerialRule::Refuse,
    })
}

fn get(state: &str) -> Request {
    Request::Get { state: StateName::parse(state).unwrap(), at: Selector::Newest }
}

fn show() -> Request {
    Request::Show { state: StateName::parse("a").unwrap(), at: Selector::Newest }
}

/// Beyond all that ends a connection by time.
const END_LIMIT: Duration = Duration::from_secs(600);

const VERIFY: Request = Request::Verify { read_data: None };
