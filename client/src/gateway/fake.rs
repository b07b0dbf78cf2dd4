//! A daemon in memory, for tests of everything in front of one.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex};

use sha2::{Digest as _, Sha256};
use stated_shared::{
    Actor, Commit, Committed, CommittedState, Content, ContentInfo, Detail, Digest, Epoch, Expect, Failure,
    FailureKind, Fence, Grant, Lock, LockId, LockInfo, Selector, SessionId, StateName, Timestamp, Version, VersionInfo,
    VersionPage,
};

use super::Backend;

/// The process that every lock is tied to: more than any has.
pub const PROCESS: u32 = 4_200_001;
/// Rows of one page: few, so that a test sees several.
const PAGE_ROWS: usize = 3;

/// Keeps states and locks as the daemon would, one exclusive holder a name and nesting included.
#[derive(Default)]
pub struct Fake {
    memory: Mutex<Memory>,
    /// Wakes commits that [`Fake::hold_commits`] holds back.
    released: Condvar,
}

#[derive(Default)]
struct Memory {
    versions: BTreeMap<StateName, Vec<(VersionInfo, Vec<u8>)>>,
    locks: BTreeMap<LockId, LockInfo>,
    last_released: BTreeMap<StateName, LockId>,
    asked: Vec<Lock>,
    broken: Vec<LockId>,
    renewed: Vec<LockId>,
    failing: Option<FailureKind>,
    commits_held: bool,
}

/// Who every grant of the fake's own belongs to.
pub fn actor() -> Actor {
    Actor {
        uid: 1000,
        gid: 1000,
        pid: Some(99),
        user: Some("alice".to_owned()),
        comm: None,
        exe: None,
        host: "build-7".to_owned(),
        session: SessionId([7; 16]),
    }
}

impl Fake {
    /// Every version of a state, a removal as `None`.
    pub fn contents(&self, state: &str) -> Vec<Option<Vec<u8>>> {
        let memory = self.memory.lock().unwrap();
        let versions = memory.versions.get(&StateName::parse(state).unwrap());
        let content = |(info, bytes): &(VersionInfo, Vec<u8>)| info.content.is_some().then(|| bytes.clone());
        versions.into_iter().flatten().map(content).collect()
    }

    /// The facts of a state's newest version.
    pub fn newest(&self, state: &str) -> VersionInfo {
        self.memory.lock().unwrap().versions[&StateName::parse(state).unwrap()].last().unwrap().0.clone()
    }

    /// The IDs that are held.
    pub fn held(&self) -> Vec<String> {
        self.memory.lock().unwrap().locks.keys().map(ToString::to_string).collect()
    }

    /// Every lock request so far.
    pub fn asked(&self) -> Vec<Lock> {
        self.memory.lock().unwrap().asked.clone()
    }

    /// Every grant that was broken.
    pub fn broken(&self) -> Vec<String> {
        self.memory.lock().unwrap().broken.iter().map(ToString::to_string).collect()
    }

    /// How many leases were extended.
    pub fn renewals(&self) -> usize {
        self.memory.lock().unwrap().renewed.len()
    }

    /// Fails every call so, until told otherwise.
    pub fn fail(&self, kind: Option<FailureKind>) {
        self.memory.lock().unwrap().failing = kind;
    }

    /// Forgets a state and its versions, as if the journal went back.
    pub fn forget(&self, state: &str) {
        self.memory.lock().unwrap().versions.remove(&StateName::parse(state).unwrap());
    }

    /// Holds back commits, or lets them go on.
    pub fn hold_commits(&self, held: bool) {
        self.memory.lock().unwrap().commits_held = held;
        self.released.notify_all();
    }

    /// Ends a lock, as if elsewhere.
    pub fn release(&self, id: &str) {
        self.memory.lock().unwrap().locks.remove(&LockId::parse(id).unwrap());
    }

    /// Somebody else's lock, as if taken elsewhere.
    pub fn hold(&self, id: &str, state: &str) {
        let (id, name) = (LockId::parse(id).unwrap(), StateName::parse(state).unwrap());
        self.memory.lock().unwrap().grant(id, name, "apply", None, None);
    }
}

impl Memory {
    fn up(&self) -> Result<(), Failure> {
        self.failing.map_or(Ok(()), |kind| Err(Failure::new(kind, "the fake fails")))
    }

    fn grant(&mut self, id: LockId, name: StateName, operation: &str, info: Option<String>, under: Option<LockId>) {
        let row = LockInfo {
            name,
            kind: stated_shared::LockKind::Exclusive,
            id: id.clone(),
            fence: Fence { epoch: Epoch(1), n: 1 },
            holder: actor(),
            since: Timestamp(0),
            operation: operation.to_owned(),
            reason: None,
            info,
            under,
            process: Some(PROCESS),
            expires: None,
            waiters: 0,
        };
        self.locks.insert(id, row);
    }

    fn holders(&self, name: &StateName) -> Vec<LockInfo> {
        self.locks.values().filter(|row| row.name == *name).cloned().collect()
    }

    fn busy(&self, name: &StateName) -> Failure {
        let detail = Detail::Held { holders: self.holders(name), waiters: 0 };
        Failure::new(FailureKind::Busy, format!("{name} is locked")).detail(detail)
    }

    fn end(&mut self, id: &LockId) -> Result<(), Failure> {
        let Some(row) = self.locks.remove(id) else {
            return Err(Failure::new(FailureKind::NotFound, format!("no lock {id}")));
        };
        self.last_released.insert(row.name, id.clone());
        Ok(())
    }
}

impl Backend for Fake {
    fn get(&self, state: &StateName, at: Selector) -> Result<(VersionInfo, Vec<u8>), Failure> {
        let memory = self.memory.lock().unwrap();
        memory.up()?;
        let mut versions = memory.versions.get(state).into_iter().flatten();
        let found = match at {
            Selector::Version(number) => versions.find(|(info, _)| info.version == number),
            _ => versions.last(),
        };
        found.cloned().ok_or_else(|| Failure::new(FailureKind::NotFound, format!("no state {state}")))
    }

    fn show(&self, state: &StateName, at: Selector) -> Result<VersionInfo, Failure> {
        self.get(state, at).map(|(info, _)| info)
    }

    fn list(&self, glob: &str, after: Option<StateName>) -> Result<VersionPage, Failure> {
        let memory = self.memory.lock().unwrap();
        memory.up()?;
        let head = glob.strip_suffix("**").expect("the gateway asks for whole parts and what is below");
        let newest = memory.versions.values().filter_map(|versions| versions.last()).map(|(info, _)| info);
        let wanted = |info: &&VersionInfo| {
            let follows = after.as_ref().is_none_or(|after| info.state > *after);
            info.content.is_some() && follows && info.state.as_str().starts_with(head)
        };
        let mut versions: Vec<_> = newest.filter(wanted).cloned().collect();
        let more = versions.len() > PAGE_ROWS;
        versions.truncate(PAGE_ROWS);
        Ok(VersionPage { versions, more })
    }

    fn log(&self, state: &StateName, before: Option<Version>) -> Result<VersionPage, Failure> {
        let memory = self.memory.lock().unwrap();
        memory.up()?;
        let all = memory.versions.get(state).ok_or_else(|| Failure::new(FailureKind::NotFound, "no such state"))?;
        let wanted = all.iter().rev().map(|(info, _)| info);
        let mut versions: Vec<_> =
            wanted.filter(|info| before.is_none_or(|before| info.version < before)).cloned().collect();
        let more = versions.len() > PAGE_ROWS;
        versions.truncate(PAGE_ROWS);
        Ok(VersionPage { versions, more })
    }

    fn commit(&self, commit: Commit) -> Result<Committed, Failure> {
        let memory = self.memory.lock().unwrap();
        let mut memory = self.released.wait_while(memory, |memory| memory.commits_held).unwrap();
        memory.up()?;
        let change = &commit.changes[0];
        let covered = |id: &LockId| memory.locks.get(id).is_some_and(|row| row.name == change.state);
        let locked = !memory.holders(&change.state).is_empty();
        if !commit.locks.iter().all(covered) || (locked && commit.locks.is_empty()) {
            return Err(memory.busy(&change.state));
        }
        let newest =
            memory.versions.get(&change.state).and_then(|versions| versions.last()).map(|(info, _)| info.clone());
        let is_there = newest.as_ref().is_some_and(|info| info.content.is_some());
        let met = match change.expect {
            Expect::Any => true,
            Expect::Absent => !is_there,
            Expect::Version(version) => newest.as_ref().is_some_and(|info| info.version == version),
        };
        if !met {
            let detail = Detail::Current(newest.map(Box::new));
            return Err(
                Failure::new(FailureKind::Conflict, format!("{} is not as expected", change.state)).detail(detail)
            );
        }
        let (content, bytes) = match &change.content {
            Content::Inline(bytes) => {
                let info = ContentInfo {
                    sha256: Digest(Sha256::digest(&bytes.0).into()),
                    size_bytes: bytes.0.len() as u64,
                    serial: None,
                    lineage: None,
                };
                (Some(info), bytes.0.clone())
            }
            Content::Removed => (None, Vec::new()),
            Content::Streamed { .. } => panic!("a gateway hands over whole bodies"),
        };
        let versions = memory.versions.entry(change.state.clone()).or_default();
        let same = match versions.last() {
            Some((info, old)) => info.content.is_some() == content.is_some() && *old == bytes,
            None => content.is_none(),
        };
        let version = Version(versions.len() as u64 + u64::from(!same));
        if !same {
            let info = VersionInfo {
                state: change.state.clone(),
                version,
                content,
                time: Timestamp(0),
                actor: actor(),
                message: commit.message.clone(),
                labels: commit.labels.clone(),
                forced: false,
                tags: Vec::new(),
                pruned: None,
            };
            versions.push((info, bytes));
        }
        Ok(Committed {
            head: None,
            seq: None,
            states: vec![CommittedState { state: change.state.clone(), version, changed: !same }],
        })
    }

    fn lock(&self, lock: &Lock, pidfd: Option<BorrowedFd<'_>>) -> Result<Grant, Failure> {
        let mut memory = self.memory.lock().unwrap();
        memory.up()?;
        assert_eq!(lock.process.is_some(), pidfd.is_some(), "a descriptor comes with each request that names one");
        memory.asked.push(lock.clone());
        let (id, name) = (lock.id.clone().unwrap(), lock.names.first().unwrap().clone());
        let in_the_way = |row: &LockInfo| row.id != id && Some(&row.id) != lock.under.as_ref();
        if memory.holders(&name).iter().any(in_the_way) {
            return Err(memory.busy(&name));
        }
        let under = lock.under.clone().filter(|under| memory.locks.contains_key(under));
        memory.grant(id.clone(), name, &lock.operation, lock.info.clone(), under.clone());
        Ok(Grant { id, fence: Fence { epoch: Epoch(1), n: 1 }, under, expires: None })
    }

    fn renew(&self, id: &LockId) -> Result<(), Failure> {
        self.memory.lock().unwrap().renewed.push(id.clone());
        Ok(())
    }

    fn unlock(&self, id: &LockId) -> Result<(), Failure> {
        let mut memory = self.memory.lock().unwrap();
        memory.up()?;
        if memory.last_released.values().any(|released| released == id) {
            return Ok(());
        }
        memory.end(id)
    }

    fn break_lock(&self, name: &StateName, id: &LockId) -> Result<(), Failure> {
        let mut memory = self.memory.lock().unwrap();
        memory.up()?;
        if !memory.holders(name).iter().any(|row| row.id == *id) {
            return Err(Failure::new(FailureKind::NotFound, format!("{id} does not hold {name}")));
        }
        memory.end(id)?;
        memory.broken.push(id.clone());
        Ok(())
    }

    fn holders(&self, name: &StateName) -> Result<Vec<LockInfo>, Failure> {
        let memory = self.memory.lock().unwrap();
        memory.up()?;
        Ok(memory.holders(name))
    }
}
