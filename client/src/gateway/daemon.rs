//! The daemon behind a gateway: one session for locks, and as many as needed for the rest.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stated_shared::limits::RETRY_MS_MAX;
use stated_shared::{
    Commit, Committed, Failure, FailureKind, Grant, Lock, LockId, LockInfo, Notice, Reply, Request, Selector,
    StateName, Version, VersionInfo, VersionPage,
};

use super::backend::{Backend, literal_glob};
use crate::client::{self, Client};
use crate::discover::ConnectOptions;
use crate::retry::Pauses;

/// Sessions that are kept for the next request.
const IDLE_MAX: usize = 4;
/// How often a lost connection is looked after.
const RECONNECT: Duration = Duration::from_secs(1);

/// Sessions with one daemon.
///
/// Locks have one of their own, so that a lock never waits for a large upload, and so that news of their loss comes to
/// one place. Reads and writes take whichever is idle.
pub struct Daemon {
    options: ConnectOptions,
    locks: Mutex<Client>,
    idle: Mutex<Vec<Client>>,
}

impl Daemon {
    /// Opens the session for locks.
    pub fn connect(mut options: ConnectOptions) -> Result<Self, Failure> {
        let client = Client::connect(&options)?;
        // The states are those of this daemon: while it is away, another one's would be the wrong ones.
        options.socket = Some(client.socket().to_owned());
        Ok(Self { options, locks: Mutex::new(client), idle: Mutex::default() })
    }

    /// Opens one more session; a daemon that is being replaced is waited for, as one in a session would be.
    fn another(&self) -> Result<Client, Failure> {
        let deadline = Instant::now() + Duration::from_millis(RETRY_MS_MAX);
        let mut pauses = Pauses::new();
        loop {
            match Client::connect(&self.options) {
                Err(failure) if failure.kind == FailureKind::Unavailable && Instant::now() < deadline => {
                    std::thread::sleep(pauses.next());
                }
                result => return result,
            }
        }
    }

    /// The socket that answered.
    pub fn socket(&self) -> PathBuf {
        self.locks().socket().to_owned()
    }

    /// Reads notices as they come, so that the handler hears of a lost lock while nobody asks for anything.
    ///
    /// Blocks; for a thread of its own.
    fn read_notices(&self) -> ! {
        loop {
            // Before each wait: what another thread's call has read already wakes nobody. A session that cannot be
            // resumed is tried again: somebody may accept yet that the journal went back.
            let polled = self.locks().poll_notices();
            // The descriptor is waited for without the session, which requests need meanwhile.
            let descriptor = polled.ok().and_then(|_| self.locks().as_fd()?.try_clone_to_owned().ok());
            match descriptor {
                Some(descriptor) => {
                    let _ = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None);
                }
                None => {
                    let pause = Timespec::try_from(RECONNECT).ok();
                    let _ = poll(&mut [], pause.as_ref());
                }
            }
        }
    }

    fn locks(&self) -> MutexGuard<'_, Client> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks in an idle session or a new one.
    fn with_any<T>(&self, ask: impl FnOnce(&mut Client) -> Result<T, Failure>) -> Result<T, Failure> {
        let idle = self.idle().pop();
        let mut client = match idle {
            Some(client) => client,
            None => self.another()?,
        };
        let result = ask(&mut client);
        // Where a journal went back, a later session may be believed that this one was not.
        let is_down = client.as_fd().is_none();
        let sound = !is_down && !matches!(&result, Err(failure) if failure.kind == FailureKind::Unavailable);
        let mut idle = self.idle();
        if sound && idle.len() < IDLE_MAX {
            idle.push(client);
        }
        result
    }

    fn in_lock_session(&self, request: &Request) -> Result<Reply, Failure> {
        self.locks().call(request)
    }
}

impl Backend for Daemon {
    fn get(&self, state: &StateName, at: Selector) -> Result<(VersionInfo, Vec<u8>), Failure> {
        self.with_any(|client| client.get(state, at))
    }

    fn show(&self, state: &StateName, at: Selector) -> Result<VersionInfo, Failure> {
        match self.with_any(|client| client.call(&Request::Show { state: state.clone(), at }))? {
            Reply::Version(version) => Ok(version),
            other => Err(client::unexpected(&other)),
        }
    }

    fn list(&self, glob: &str, after: Option<StateName>) -> Result<VersionPage, Failure> {
        let request = Request::List { glob: Some(glob.to_owned()), after };
        match self.with_any(|client| client.call(&request))? {
            Reply::Versions(page) => Ok(page),
            other => Err(client::unexpected(&other)),
        }
    }

    fn log(&self, state: &StateName, before: Option<Version>) -> Result<VersionPage, Failure> {
        let request = Request::Log { state: state.clone(), before };
        match self.with_any(|client| client.call(&request))? {
            Reply::Versions(page) => Ok(page),
            other => Err(client::unexpected(&other)),
        }
    }

    fn commit(&self, commit: Commit) -> Result<Committed, Failure> {
        self.with_any(|client| client.commit(commit))
    }

    fn lock(&self, lock: &Lock, pidfd: Option<BorrowedFd<'_>>) -> Result<Grant, Failure> {
        self.locks().lock(lock, pidfd)
    }

    fn renew(&self, id: &LockId) -> Result<(), Failure> {
        self.in_lock_session(&Request::Renew { id: id.clone(), ttl_ms: None }).map(drop)
    }

    fn unlock(&self, id: &LockId) -> Result<(), Failure> {
        self.locks().unlock(id)
    }

    fn break_lock(&self, name: &StateName, id: &LockId) -> Result<(), Failure> {
        self.in_lock_session(&Request::Break { name: name.clone(), id: Some(id.clone()) }).map(drop)
    }

    fn holders(&self, name: &StateName) -> Result<Vec<LockInfo>, Failure> {
        // A name may hold what a glob gives a meaning; the rows are compared with the name itself.
        let glob = Some(literal_glob(name.as_str()));
        match self.in_lock_session(&Request::Locks { glob, after: None })? {
            Reply::Locks(page) => Ok(page.locks.into_iter().filter(|row| row.name == *name).collect()),
            other => Err(client::unexpected(&other)),
        }
    }
}

/// Tells each lock that was broken or expired, whichever thread reads of it, and reads on a thread of its own.
pub fn watch_locks(daemon: &Arc<Daemon>, mut lost: impl FnMut(&LockId, &str) + Send + 'static) {
    daemon.locks().on_notice(Box::new(move |notice| {
        if let Notice::LockLost { id, why } = notice {
            lost(id, why);
        }
    }));
    let daemon = Arc::clone(daemon);
    // It ends with the process: it has nothing to finish.
    std::thread::spawn(move || daemon.read_notices());
}
