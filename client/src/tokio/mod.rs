//! The same session for asynchronous programs (feature `tokio`).
//!
//! [`Client`] has the verbs of the blocking [`crate::Client`], takes `&self`, and is cheap to clone: all clones are one
//! session over one connection, and any number of requests are outstanding at once, so that one that waits for a lock
//! holds up no other. A task of the runtime owns the connection. It resumes a lost one by itself as long as a request
//! waits or a lock is held, else when the next request comes.
//!
//! ```no_run
//! use stated_client::ConnectOptions;
//! use stated_client::tokio::Client;
//! use stated_shared::{Failure, Lock, Selector, StateName};
//!
//! # async fn work() {}
//! #[tokio::main]
//! async fn main() -> Result<(), Failure> {
//!     let client = Client::connect(&ConnectOptions::from_env()).await?;
//!     let name = StateName::parse("example/greeting").expect("a valid name");
//!     let guard = client.lock(&Lock::exclusive([name.clone()], "greet")).await?;
//!     tokio::select! {
//!         () = work() => {}
//!         why = guard.lost() => eprintln!("stop: {why}"),
//!     }
//!     let (version, bytes) = client.get(&name, Selector::Newest).await?;
//!     println!("{}@{}: {} bytes", version.state, version.version, bytes.len());
//!     guard.release().await
//! }
//! ```
//!
//! # Dropping futures
//!
//! A future that is dropped before its first poll asks nothing. After that:
//!
//! - **A request that reads** is answered to nobody.
//! - **A request that writes** may or may not be done, as after a lost connection: look before you try again.
//! - **A lock** is never lost in silence. One that was granted meanwhile, or is granted later, is given back at once,
//!   also one that lies in the channel to the future when that is dropped. What waits in the daemon's queue stays there
//!   until its turn comes or its own time ([`Wait::AtMost`](stated_shared::Wait::AtMost)) is over.
//!
//! # What is not here
//!
//! A lock can be tied to a process by its number ([`ProcessRef::Pid`](stated_shared::ProcessRef::Pid)), not by a
//! descriptor; [`ConnectOptions::pins`] are read and written on the task's thread, which takes microseconds. Starting a
//! daemon and each attempt to connect run on a thread that may block.

mod driver;
mod guard;

use std::path::{Path, PathBuf};

use stated_shared::{
    Bytes, Commit, Committed, Failure, FailureKind, Grant, Lock, LockId, LockInfo, LockPage, Notice, Reply, Request,
    Selector, SessionId, StateName, StatusInfo, Version, VersionInfo, VersionPage,
};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::ConnectOptions;
use crate::client::{take_large, unexpected, with_id};
use driver::{Answer, Command, Driver};

pub use guard::LockGuard;

/// Notices that a slow reader of [`Client::notices`] may lag behind.
const NOTICES_KEPT: usize = 64;

/// A handle of one session with the daemon; see the [module](self).
///
/// The session ends when the last handle and the last [`LockGuard`] are dropped, and its session locks with it.
#[derive(Clone)]
pub struct Client {
    sender: mpsc::UnboundedSender<Command>,
    notices: broadcast::Sender<Notice>,
    session: SessionId,
    socket: PathBuf,
    daemon_said: Option<String>,
}

impl Client {
    /// Finds the daemon, starting one where that is allowed, and opens a session.
    ///
    /// Call it in a runtime whose I/O and time are enabled. Cancel safe: a session that was opened meanwhile is closed.
    ///
    /// # Errors
    ///
    /// As [`crate::Client::connect`].
    pub async fn connect(options: &ConnectOptions) -> Result<Self, Failure> {
        let options = options.clone();
        let connected = tokio::task::spawn_blocking(move || crate::Client::connect(&options));
        let core = connected.await.map_err(|_| ended())??;
        let (sender, commands) = mpsc::unbounded_channel();
        let (notices, _) = broadcast::channel(NOTICES_KEPT);
        let (session, socket) = (core.session(), core.socket().to_owned());
        let daemon_said = core.daemon_said().map(ToOwned::to_owned);
        tokio::spawn(Driver::new(core, commands, sender.downgrade(), notices.clone()).run());
        Ok(Self { sender, notices, session, socket, daemon_said })
    }

    /// What the daemon said of its start, where this client started it: of a new key that must be backed up, say.
    pub fn daemon_said(&self) -> Option<&str> {
        self.daemon_said.as_deref()
    }

    /// The session's ID; it stays over reconnections.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The socket that answered.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the daemon says unasked from now on: who is in the way of a lock, which locks are lost, that it stops.
    ///
    /// A reader that lags behind misses the oldest; a lock's own [`LockGuard::lost`] misses nothing.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Asks, and waits for the answer; the content of a [`Reply::Fetched`] is dropped.
    ///
    /// Over a lost connection the session is resumed and the request sent again under its number, which the daemon
    /// applies once; see [`crate::Client::call`]. A lock that is asked for here has no guard: after a dropped future it
    /// is held until the session ends. Use [`Client::lock`].
    pub async fn call(&self, request: Request) -> Result<Reply, Failure> {
        Ok(self.exchange(request, Vec::new()).await?.0)
    }

    /// Writes states, all or none; contents too large for a frame are streamed.
    ///
    /// After a dropped future it may or may not be done.
    pub async fn commit(&self, mut commit: Commit) -> Result<Committed, Failure> {
        let contents = take_large(&mut commit);
        match self.exchange(Request::Commit(commit), contents).await?.0 {
            Reply::Committed(committed) => Ok(committed),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes one state, whatever its newest version is; empty content is content too.
    ///
    /// After a dropped future it may or may not be done.
    pub async fn put(&self, state: &StateName, content: impl Into<Vec<u8>>) -> Result<Committed, Failure> {
        self.commit(Commit::put(state.clone(), content.into())).await
    }

    /// Reads one version with its content; a removal has an empty one. Cancel safe.
    pub async fn get(&self, state: &StateName, at: Selector) -> Result<(VersionInfo, Vec<u8>), Failure> {
        match self.exchange(Request::Get { state: state.clone(), at }, Vec::new()).await? {
            (Reply::Fetched(fetched), content) => Ok((fetched.version, content)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Reads one version's facts. Cancel safe.
    pub async fn show(&self, state: &StateName, at: Selector) -> Result<VersionInfo, Failure> {
        match self.call(Request::Show { state: state.clone(), at }).await? {
            Reply::Version(version) => Ok(version),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of the newest versions of the states whose names match, after this one. Cancel safe.
    pub async fn list(&self, glob: Option<String>, after: Option<StateName>) -> Result<VersionPage, Failure> {
        match self.call(Request::List { glob, after }).await? {
            Reply::Versions(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of the versions of one state, newest first, before this one. Cancel safe.
    pub async fn log(&self, state: &StateName, before: Option<Version>) -> Result<VersionPage, Failure> {
        match self.call(Request::Log { state: state.clone(), before }).await? {
            Reply::Versions(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes a lock, waiting as it asks. Other requests of this client go on meanwhile.
    ///
    /// A future that is dropped loses no lock in silence: what was or will be granted is given back at once.
    pub async fn lock(&self, lock: &Lock) -> Result<LockGuard, Failure> {
        let (answer, guard) = oneshot::channel();
        let request = Request::Lock(with_id(lock)?);
        let asked = Command::Ask { request, contents: Vec::new(), answer: Answer::Guard(answer) };
        self.sender.send(asked).map_err(|_| ended())?;
        guard.await.map_err(|_| ended())?
    }

    /// Prolongs a lease, by its own TTL where none is given. After a dropped future it may or may not be done.
    pub async fn renew(&self, id: &LockId, ttl_ms: Option<u64>) -> Result<Grant, Failure> {
        match self.call(Request::Renew { id: id.clone(), ttl_ms }).await? {
            Reply::Granted(grant) => Ok(grant),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a grant of one's own that has no guard here. After a dropped future it may or may not be done.
    pub async fn unlock(&self, id: &LockId) -> Result<(), Failure> {
        match self.call(Request::Unlock { id: id.clone() }).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends somebody's grant, only this one where an ID is given. After a dropped future it may or may not be done.
    pub async fn break_lock(&self, name: &StateName, id: Option<LockId>) -> Result<Vec<LockInfo>, Failure> {
        match self.call(Request::Break { name: name.clone(), id }).await? {
            Reply::Broken(broken) => Ok(broken),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of who holds what. Cancel safe.
    pub async fn locks(&self, glob: Option<String>, after: Option<(StateName, LockId)>) -> Result<LockPage, Failure> {
        match self.call(Request::Locks { glob, after }).await? {
            Reply::Locks(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// The daemon's own facts. Cancel safe.
    pub async fn status(&self) -> Result<StatusInfo, Failure> {
        match self.call(Request::Status).await? {
            Reply::Status(info) => Ok(*info),
            other => Err(unexpected(&other)),
        }
    }

    async fn exchange(&self, request: Request, contents: Vec<Bytes>) -> Result<(Reply, Vec<u8>), Failure> {
        let (answer, reply) = oneshot::channel();
        let asked = Command::Ask { request, contents, answer: Answer::Reply(answer) };
        self.sender.send(asked).map_err(|_| ended())?;
        reply.await.map_err(|_| ended())?
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).field("session", &self.session).finish_non_exhaustive()
    }
}

/// The task is gone with its runtime. What it had asked and not heard of is unknown.
fn ended() -> Failure {
    Failure::new(FailureKind::Unavailable, "outcome unknown: the runtime of this session was shut down")
}
