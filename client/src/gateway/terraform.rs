//! Terraform's `http` backend, request by request.
//!
//! What it sends and accepts was recorded with Terraform 1.11 and read in the sources of others; see docs/gateway.md.
//! This file knows no socket and no header: a [`Call`] comes in, an [`Answer`] goes out.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use hyper::StatusCode;
use stated_shared::limits::LOCK_INFO_LEN_MAX;
use stated_shared::{
    Bytes, Change, Commit, Content, Detail, Expect, Failure, FailureKind, Hold, Lock, LockId, LockKind, ProcessRef,
    SerialRule, StateName, Timestamp, Wait,
};

use super::answer::Answer;
use super::backend::Backend;
use super::lock_document::LockDocument;
use super::owner::Owner;
use super::work::{Held, Work};

/// How long a lock of a process that cannot be traced outlives the last request that named it, in milliseconds.
///
/// Long, because an apply may work for many minutes without a request, and losing its lock would lose its state.
const LEASE_TTL_MS: u64 = 3_600_000;

/// What is asked of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET
    Read,
    /// POST or PUT
    Write,
    /// DELETE
    Remove,
    /// LOCK
    Lock,
    /// UNLOCK
    Unlock,
}

impl Verb {
    /// Whether it needs to know whose process asks.
    pub fn needs_owner(self) -> bool {
        self == Self::Lock
    }

    /// Longest body, in bytes.
    pub fn body_len_max(self) -> usize {
        match self {
            Self::Write => super::STATE_LEN_MAX,
            // What a lock may carry; the document goes into it as it is.
            Self::Lock | Self::Unlock => LOCK_INFO_LEN_MAX,
            Self::Read | Self::Remove => 0,
        }
    }
}

/// One request, let in and read to its end.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub verb: Verb,
    /// Of which state.
    pub state: StateName,
    /// The `ID` of the query.
    pub id: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    /// Whose process asks, where that was traced.
    pub owner: Option<Owner>,
    /// The time now.
    pub now: Timestamp,
}

/// Translates one gateway's requests.
pub struct Terraform<B> {
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
    /// Told of each failure that Terraform shows nothing of but a number.
    pub report: Report,
}

/// Takes a sentence for the user's eyes.
pub type Report = Arc<dyn Fn(&str) + Send + Sync>;

impl<B: Backend> Terraform<B> {
    /// Answers one request; blocks as long as the daemon does.
    pub fn answer(&self, call: &mut Call) -> Answer {
        let now = call.now;
        let result = match call.verb {
            Verb::Read => self.read(&call.state),
            Verb::Write => {
                let content = std::mem::take(&mut call.body);
                if content.is_empty() {
                    return Answer::text(StatusCode::BAD_REQUEST, "an empty body is no state");
                }
                self.commit(call, Content::Inline(Bytes(content)))
            }
            Verb::Remove => match self.commit(call, Content::Removed) {
                // Gone is what was asked for.
                Err(failure) if failure.kind == FailureKind::NotFound => Ok(Answer::done()),
                result => result,
            },
            Verb::Lock => self.lock(call),
            Verb::Unlock if call.body.is_empty() => self.break_every(&call.state),
            Verb::Unlock => self.unlock(call),
        };
        result.unwrap_or_else(|failure| {
            self.report(call, &failure);
            Answer::failure(&failure, now)
        })
    }

    /// Terraform prints the holder of a lock, and takes a state that is not there for an empty one.
    fn report(&self, call: &Call, failure: &Failure) {
        let shown =
            matches!((call.verb, failure.kind), (Verb::Lock, FailureKind::Busy) | (Verb::Read, FailureKind::NotFound));
        if !shown {
            let hint = failure.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
            (self.report)(&format!("{}: {failure}{hint}", call.state));
        }
    }

    fn read(&self, state: &StateName) -> Result<Answer, Failure> {
        let (version, bytes) = self.backend.get(state)?;
        if version.content.is_none() {
            return Ok(Answer::text(StatusCode::NOT_FOUND, format_args!("{state} is removed")));
        }
        Ok(Answer::json(StatusCode::OK, bytes))
    }

    fn commit(&self, call: &Call, content: Content) -> Result<Answer, Failure> {
        let id = call.id.as_deref().map(LockId::parse).transpose().map_err(usage)?;
        let held = id.as_ref().and_then(|id| self.work.held(id));
        self.keep_alive(id.as_ref(), held.as_ref());
        let mut labels = self.labels.clone();
        labels.insert("gateway".to_owned(), "http".to_owned());
        let what = match (&held, &content) {
            (Some(held), _) => held.operation.as_str(),
            (None, Content::Removed) => "delete",
            (None, _) => "write",
        };
        self.backend.commit(Commit {
            changes: vec![Change { state: call.state.clone(), expect: Expect::Any, content }],
            locks: id.or_else(|| self.under.clone()).into_iter().collect(),
            message: Some(format!("{} {what}", self.program)),
            labels,
            serials: SerialRule::Mark,
        })?;
        Ok(Answer::done())
    }

    fn lock(&self, call: &Call) -> Result<Answer, Failure> {
        let document = LockDocument::parse(&call.body).map_err(usage)?;
        // In order: the process that asked, the child of the run, a lease.
        let process = call.owner.clone().or_else(|| self.work.child());
        let lock = Lock {
            id: Some(document.id.clone()),
            names: [call.state.clone()].into(),
            kind: LockKind::Exclusive,
            wait: Wait::No,
            ttl_ms: process.is_none().then_some(LEASE_TTL_MS),
            operation: document.operation(),
            reason: document.reason(),
            info: String::from_utf8(call.body.clone()).ok(),
            under: self.under.clone(),
            hold: if process.is_some() { Hold::Process } else { Hold::Connection },
            process: process.is_some().then_some(ProcessRef::Descriptor),
        };
        self.backend.lock(&lock, process.as_ref().map(|owner| owner.pidfd.as_fd()))?;
        // Asked again after a lost answer, or while it polls: the grant is the same, its time starts anew.
        self.keep_alive(Some(&document.id), self.work.held(&document.id).as_ref());
        let held = Held { state: call.state.clone(), operation: lock.operation, process };
        self.work.locked(document.id, held);
        Ok(Answer::done())
    }

    /// A lease lives by the requests that name it; one that is gone shows in the request itself.
    fn keep_alive(&self, id: Option<&LockId>, held: Option<&Held>) {
        if let (Some(id), Some(Held { process: None, .. })) = (id, held) {
            let _ = self.backend.renew(id);
        }
    }

    fn unlock(&self, call: &Call) -> Result<Answer, Failure> {
        let document = LockDocument::parse(&call.body).map_err(usage)?;
        let id = &document.id;
        let held = self.work.held(id);
        let result = match &held {
            Some(held) if held.state != call.state => Err(not_held(id, &call.state)),
            None if document.is_forced() => self.backend.break_lock(&call.state, id),
            _ => self.backend.unlock(id),
        };
        match result {
            Ok(()) => {
                self.work.unlocked(id);
                Ok(Answer::done())
            }
            Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::Usage) => {
                if held.is_some_and(|held| held.state == call.state) {
                    self.work.unlocked(id);
                }
                self.wrong_id(call, id)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Says who holds the name instead.
    fn wrong_id(&self, call: &Call, id: &LockId) -> Result<Answer, Failure> {
        let holders = self.backend.holders(&call.state)?;
        let waiters = holders.iter().map(|holder| holder.waiters).max().unwrap_or_default();
        let mut failure = not_held(id, &call.state);
        failure.kind = FailureKind::Conflict;
        Ok(Answer::failure(&failure.detail(Detail::Held { holders, waiters }), call.now))
    }

    /// Terraform's force-unlock, which names no ID: whoever holds the state loses it, and that is audited.
    ///
    /// Each grant is broken by its ID, so that one which is taken meanwhile is not hit, and the run's own lock around
    /// it stays. Nothing held is what was asked for.
    fn break_every(&self, state: &StateName) -> Result<Answer, Failure> {
        for holder in self.backend.holders(state)? {
            if self.under.as_ref() == Some(&holder.id) {
                continue;
            }
            match self.backend.break_lock(state, &holder.id) {
                Ok(()) => self.work.unlocked(&holder.id),
                Err(failure) if failure.kind == FailureKind::NotFound => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(Answer::done())
    }
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Usage, error.to_string())
}

fn not_held(id: &LockId, state: &StateName) -> Failure {
    Failure::new(FailureKind::NotFound, format!("{id} does not hold {state}"))
}
