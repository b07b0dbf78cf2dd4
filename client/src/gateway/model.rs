//! What every foreign protocol means by a state, a lock and a write.
//!
//! The protocols differ in how they ask and in what they expect to hear; what is asked of the daemon is the same.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use stated_shared::{
    Change, Commit, Committed, Content, Expect, Failure, FailureKind, Hold, Lock, LockId, LockKind, ProcessRef,
    SerialRule, StateName, Wait,
};

use super::backend::Backend;
use super::lock_document::LockDocument;
use super::owner::Owner;
use super::work::{Held, Work};

/// How long a lock of a process that cannot be traced outlives the last request that named it, in milliseconds.
///
/// Long, because an apply may work for many minutes without a request, and losing its lock would lose its state.
const LEASE_TTL_MS: u64 = 3_600_000;

/// Takes a sentence for the user's eyes.
pub type Report = Arc<dyn Fn(&str) + Send + Sync>;

/// Finds whose process asks; costly, so it is asked only where the answer counts.
pub type FindOwner<'a> = &'a dyn Fn() -> Option<Owner>;

/// States and locks of one gateway's users.
pub struct Model<B> {
    /// The daemon.
    pub backend: Arc<B>,
    /// What the gateway lives for.
    pub work: Arc<Work>,
    /// A lock of the user's own that covers the run.
    pub under: Option<LockId>,
    /// What each version is labelled with.
    pub labels: BTreeMap<String, String>,
    /// The program that asks, for messages.
    pub program: String,
    /// Told what users should know and their programs do not show.
    pub report: Report,
}

/// One state's new content, or its removal.
#[derive(Debug)]
pub struct Write {
    /// Which state.
    pub state: StateName,
    /// What must be true of it now.
    pub expect: Expect,
    /// What it shall be.
    pub content: Content,
    /// The grant that the write relies on; the run's own where absent.
    pub lock: Option<LockId>,
    /// The protocol that it came by.
    pub gateway: &'static str,
    /// What the version is labelled with besides.
    pub labels: BTreeMap<String, String>,
}

impl<B: Backend> Model<B> {
    /// Writes one state.
    pub fn write(&self, write: Write) -> Result<Committed, Failure> {
        let held = write.lock.as_ref().and_then(|id| self.work.held(id));
        self.keep_alive(write.lock.as_ref(), held.as_ref());
        let what = match (&held, &write.content) {
            (Some(held), _) => held.operation.as_str(),
            (None, Content::Removed) => "delete",
            (None, _) => "write",
        };
        let message = Some(format!("{} {what}", self.program));
        let mut labels = self.labels.clone();
        labels.extend(write.labels);
        labels.insert("gateway".to_owned(), write.gateway.to_owned());
        self.backend.commit(Commit {
            changes: vec![Change { state: write.state, expect: write.expect, content: write.content }],
            locks: write.lock.or_else(|| self.under.clone()).into_iter().collect(),
            message,
            labels,
            serials: SerialRule::Mark,
        })
    }

    /// Takes a lock without waiting; asked again with the same document it is the same grant.
    pub fn lock(&self, state: &StateName, document: &LockDocument, owner: Option<Owner>) -> Result<(), Failure> {
        // In order: the process that asked, the child of the run, a lease.
        let process = owner.or_else(|| self.work.child());
        let lock = Lock {
            id: Some(document.id.clone()),
            names: [state.clone()].into(),
            kind: LockKind::Exclusive,
            wait: Wait::No,
            ttl_ms: process.is_none().then_some(LEASE_TTL_MS),
            operation: document.operation(),
            reason: document.reason(),
            info: Some(document.text.clone()),
            under: self.under.clone(),
            hold: if process.is_some() { Hold::Process } else { Hold::Connection },
            process: process.is_some().then_some(ProcessRef::Descriptor),
        };
        self.backend.lock(&lock, process.as_ref().map(|owner| owner.pidfd.as_fd()))?;
        // Asked again after a lost answer, or while it polls: the grant is the same, its time starts anew.
        self.keep_alive(Some(&document.id), self.work.held(&document.id).as_ref());
        let held = Held { state: state.clone(), operation: lock.operation, process };
        self.work.locked(document.id.clone(), held);
        Ok(())
    }

    /// A lease lives by the requests that name it; one that is gone shows in the request itself.
    fn keep_alive(&self, id: Option<&LockId>, held: Option<&Held>) {
        if let (Some(id), Some(Held { process: None, .. })) = (id, held) {
            let _ = self.backend.renew(id);
        }
    }

    /// Gives back a lock of one's own.
    pub fn unlock(&self, id: &LockId) -> Result<(), Failure> {
        self.backend.unlock(id).inspect(|()| self.work.unlocked(id))
    }

    /// Takes a lock away from whoever holds it; that needs the right to, and is audited.
    pub fn break_lock(&self, state: &StateName, id: &LockId) -> Result<(), Failure> {
        self.backend.break_lock(state, id).inspect(|()| self.work.lost(id))
    }

    /// Takes the state from whoever holds it.
    ///
    /// Each grant is broken by its ID, so that one which is taken meanwhile is not hit, and the run's own lock around
    /// it stays. Nothing held is what was asked for.
    pub fn break_every(&self, state: &StateName) -> Result<(), Failure> {
        for holder in self.backend.holders(state)? {
            if self.under.as_ref() == Some(&holder.id) {
                continue;
            }
            match self.break_lock(state, &holder.id) {
                Err(failure) if failure.kind == FailureKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }
}
