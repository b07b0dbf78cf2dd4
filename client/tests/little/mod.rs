//! A little daemon for tests: states and exclusive locks in memory, over a real socket.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stated_shared::wire::{ClientFrame, ServerFrame};
use stated_shared::{
    Bytes, Commit, Committed, CommittedState, Content, Detail, Failure, FailureKind, Fetched, Lock, LockId, LockInfo,
    LockPage, Reply, Request, StateName, Timestamp, VersionInfo,
};

use super::fake::{self, Peer};

/// How long something may take that should happen.
const WAIT_MAX: Duration = Duration::from_secs(30);

pub struct Little {
    directory: tempfile::TempDir,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    kept: Mutex<Kept>,
    changed: Condvar,
}

#[derive(Default)]
pub struct Kept {
    pub versions: BTreeMap<String, Vec<(VersionInfo, Vec<u8>)>>,
    pub locks: BTreeMap<LockId, Held>,
    /// The processes whose connections are open.
    pub peers: Vec<u32>,
    /// Every lock that was asked for.
    pub asked: Vec<Lock>,
}

pub struct Held {
    pub lock: Lock,
    /// The process that it is tied to.
    pub pidfd: OwnedFd,
}

impl Held {
    /// The process ID that the descriptor stands for.
    pub fn pid(&self) -> u32 {
        use std::os::fd::AsRawFd;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd())).unwrap();
        info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
    }

    /// Waits until that process is gone.
    pub fn wait_gone(&self) {
        let timeout = Timespec::try_from(WAIT_MAX).unwrap();
        assert_eq!(poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)), Ok(1), "it still runs");
    }
}

impl Little {
    pub fn run() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let shared = Arc::new(Shared::default());
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                loop {
                    let peer = Peer::accept(&listener);
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || shared.serve(peer));
                }
            }
        });
        Self { directory, shared }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// Waits until it is so, and returns what the question found.
    pub fn until<T>(&self, what: &str, mut question: impl FnMut(&Kept) -> Option<T>) -> T {
        let mut found = None;
        let kept = self.shared.kept.lock().unwrap();
        let (_kept, waited) = self
            .shared
            .changed
            .wait_timeout_while(kept, WAIT_MAX, |kept| {
                found = question(kept);
                found.is_none()
            })
            .unwrap();
        assert!(!waited.timed_out(), "this did not happen: {what}");
        found.unwrap()
    }

    pub fn look<T>(&self, question: impl FnOnce(&mut Kept) -> T) -> T {
        question(&mut self.shared.kept.lock().unwrap())
    }

    /// The newest version of a state.
    pub fn newest(&self, state: &str) -> VersionInfo {
        self.look(|kept| kept.versions[state].last().unwrap().0.clone())
    }
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let result = change(&mut self.kept.lock().unwrap());
        self.changed.notify_all();
        result
    }

    fn serve(&self, mut peer: Peer) {
        let pid = peer.pid();
        self.change(|kept| kept.peers.push(pid));
        while let Some(ClientFrame::Request { number, request }) = peer.frame() {
            let descriptor = peer.descriptors().pop();
            let mut content = Vec::new();
            let result = self.change(|kept| kept.answer(*request, descriptor, &mut content));
            peer.reply(number, result);
            if !content.is_empty() {
                peer.send(&ServerFrame::Chunk { number, data: Bytes(content) });
            }
        }
        self.change(|kept| {
            let index = kept.peers.iter().position(|peer| *peer == pid).unwrap();
            kept.peers.remove(index);
        });
    }
}

impl Kept {
    fn answer(
        &mut self,
        request: Request,
        descriptor: Option<OwnedFd>,
        content: &mut Vec<u8>,
    ) -> Result<Reply, Failure> {
        match request {
            Request::Show { state, .. } => Ok(Reply::Version(self.find(&state)?.0.clone())),
            Request::Get { state, .. } => {
                let (version, bytes) = self.find(&state)?.clone();
                *content = bytes;
                Ok(Reply::Fetched(Fetched { version }))
            }
            Request::Commit(commit) => self.commit(commit),
            Request::Lock(lock) => self.lock(lock, descriptor.expect("a pidfd")),
            Request::Unlock { id } => {
                let gone = || Failure::new(FailureKind::NotFound, "no such lock");
                self.locks.remove(&id).map(|_| Reply::Done).ok_or_else(gone)
            }
            Request::Locks { .. } => Ok(Reply::Locks(LockPage { locks: self.rows(), more: false })),
            Request::Break { id, .. } => {
                self.locks.retain(|held, _| Some(held) != id.as_ref());
                Ok(Reply::Broken(Vec::new()))
            }
            other => panic!("nobody should ask this: {other:?}"),
        }
    }

    fn find(&self, state: &StateName) -> Result<&(VersionInfo, Vec<u8>), Failure> {
        let newest = self.versions.get(state.as_str()).and_then(|versions| versions.last());
        newest.ok_or_else(|| Failure::new(FailureKind::NotFound, "no such state"))
    }

    fn commit(&mut self, commit: Commit) -> Result<Reply, Failure> {
        let change = &commit.changes[0];
        let Content::Inline(bytes) = &change.content else { panic!("no small content") };
        let locked = self.locks.values().any(|held| held.lock.names.contains(&change.state));
        if (locked && commit.locks.is_empty()) || !commit.locks.iter().all(|id| self.locks.contains_key(id)) {
            return Err(self.busy());
        }
        let versions = self.versions.entry(change.state.to_string()).or_default();
        let mut version = fake::version(change.state.as_str(), versions.len() as u64 + 1, &bytes.0);
        version.message = commit.message;
        version.labels = commit.labels;
        let state = CommittedState { state: change.state.clone(), version: version.version, changed: true };
        versions.push((version, bytes.0.clone()));
        Ok(Reply::Committed(Committed { seq: None, states: vec![state], head: None }))
    }

    fn lock(&mut self, lock: Lock, pidfd: OwnedFd) -> Result<Reply, Failure> {
        self.asked.push(lock.clone());
        let id = lock.id.clone().unwrap();
        if self.locks.iter().any(|(held, other)| *held != id && !other.lock.names.is_disjoint(&lock.names)) {
            return Err(self.busy());
        }
        self.locks.insert(id.clone(), Held { lock, pidfd });
        Ok(Reply::Granted(fake::grant(id)))
    }

    fn busy(&self) -> Failure {
        let detail = Detail::Held { holders: self.rows(), waiters: 0 };
        Failure::new(FailureKind::Busy, "locked").detail(detail)
    }

    fn rows(&self) -> Vec<LockInfo> {
        let row = |(id, held): (&LockId, &Held)| LockInfo {
            name: held.lock.names.first().unwrap().clone(),
            kind: held.lock.kind,
            id: id.clone(),
            fence: fake::grant(id.clone()).fence,
            holder: fake::actor(),
            since: Timestamp(0),
            operation: held.lock.operation.clone(),
            reason: None,
            info: held.lock.info.clone(),
            under: None,
            process: None,
            expires: None,
            waiters: 0,
        };
        self.locks.iter().map(row).collect()
    }
}
