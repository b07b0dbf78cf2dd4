//! The pure heart: what a request means, and what an event does.
//!
//! `decide` reads the machine and yields steps; `apply` and `follow` fold them in. Nothing here reads a clock, a file
//! or a random number: hosts that replay the same journal must hold equal machines.
//!
//! A step is an [`Event`], which the journal keeps, or a [`Motion`], a change of session locks and waiters, which
//! lives in the grant table beside the socket and ends with its holders.

mod access;
mod answers;
mod apply;
mod commit;
pub mod event;
mod given;
mod history;
mod lock;
mod locks;
mod on_name;
mod packed;
mod prune;
mod remembered;
pub mod snapshot;
mod states;
mod tag;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stated_shared::{
    Digest, Epoch, Failure, Fence, Generation, Hold, LockId, Notice, Reply, RepositoryId, Selector, Seq, SessionId,
    StateName, Tag, Verb,
};

pub use access::{Access, Itself, Rights};
pub use answers::Answers;
pub use commit::{CommitAsk, StagedChange};
use event::{Actor, BootId, Event, LossAccepted};
pub use lock::{LockAsk, Over, Passed, TimedOut};
pub use locks::{Grant, Link, Locks, Released, Tenure, Ticket, Tie, Time, Waiter};
pub use packed::Unreadable;
pub use prune::{Freed, Keep, Plan, PruneAsk, PrunedOf, row as prune_row};
pub use states::{States, VersionEntry, no_version};

/// Everything that the journal and the holders of locks have said so far.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Machine {
    repository: Option<RepositoryId>,
    keyring: Option<(Generation, Digest)>,
    /// See [`Machine::resealing`].
    resealing: Option<Generation>,
    epoch: Epoch,
    boot: BootId,
    fences: u64,
    seq: Seq,
    states: States,
    locks: Locks,
    locked_before: BTreeSet<StateName>,
    answers: Answers,
    frozen: bool,
    loss: Option<LossAccepted>,
    summed: Option<Summed>,
    /// Nobody has served what was restored yet.
    is_restored: bool,
}

/// How far old reads and locks are summed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summed {
    /// The part of the log that was the last one, by its first record.
    pub part: Seq,
    /// The last record that was looked at.
    pub last: Seq,
    /// The records with the summaries of that part.
    pub told: Vec<Seq>,
}

/// Journal and build disagree; callers stop, and never skip the event.
#[derive(Debug, thiserror::Error)]
#[error("the journal does not fit this build: {0}")]
pub struct Divergence(pub String);

/// Who asks, when.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The clocks.
    pub time: Time,
    /// Who.
    pub actor: &'a Arc<Actor>,
    /// The request's number in the actor's session.
    pub number: u64,
    /// Random bytes for the ID of a grant, drawn for this request.
    pub drawn: [u8; 16],
    /// What they may.
    pub access: &'a Arc<dyn Access>,
}

/// A request that may change something.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Write states.
    Commit(CommitAsk),
    /// Take a lock.
    Lock(LockAsk),
    /// Tie a session lock to a process.
    Bind {
        /// The grant.
        id: LockId,
        /// What keeps it.
        hold: Hold,
        /// The process.
        tie: Tie,
    },
    /// End a grant of one's own.
    Unlock {
        /// The grant.
        id: LockId,
    },
    /// Extend a lease.
    Renew {
        /// The lease.
        id: LockId,
        /// From now; the lease's own where absent.
        ttl_ms: Option<u64>,
    },
    /// End somebody's grant.
    Break {
        /// A name that it holds.
        name: StateName,
        /// Only this grant.
        id: Option<LockId>,
    },
    /// Give a version a tag, or take it away.
    Tag(Tag),
    /// Give up contents of old versions.
    Prune(PruneAsk),
}

impl Ask {
    /// The blobs that were written for it.
    pub fn blobs(&self) -> Vec<String> {
        match self {
            Self::Commit(commit) => {
                let contents = commit.changes.iter().filter_map(|change| change.content.as_ref());
                contents.filter_map(|content| content.payload.blob()).map(str::to_owned).collect()
            }
            Self::Prune(prune) => prune.blobs(),
            _ => Vec::new(),
        }
    }
}

/// What a request leads to.
#[derive(Debug)]
pub struct Decision {
    /// To be folded in, in this order, before the verdict is told.
    pub steps: Vec<Step>,
    /// What is told.
    pub verdict: Verdict,
}

/// The answer to a request.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives for one request, on the stack")]
pub enum Verdict {
    /// This.
    Reply(Reply),
    /// What [`Machine::recall`] says once the steps are folded in.
    Recall,
    /// No.
    Refuse(Failure),
    /// Nothing yet: it waits, and is told so.
    Wait(Notice),
    /// Nothing: a content is a patch from a version that was pruned meanwhile, and must be staged anew.
    Restage,
}

/// One change of the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The journal keeps it.
    Record(Box<Event>),
    /// It lives and ends with the holders.
    Move(Motion),
}

/// A change of session locks and of the queue. Never journaled.
#[derive(Debug, Clone, PartialEq)]
pub enum Motion {
    /// A request began to wait.
    Queued(Box<Waiter>),
    /// A request waits no more.
    Left(Ticket),
    /// A session lock began, or was found in the grant table.
    Granted(Box<Grant>),
    /// A session lock was tied to a process.
    Bound {
        /// The grant.
        id: LockId,
        /// What keeps it from now on.
        hold: Hold,
        /// The process.
        tie: Tie,
    },
    /// The connection of a session's locks opened or closed.
    Linked(SessionId, Link),
    /// The process of a session lock is gone.
    ProcessGone(LockId),
    /// The holder of a grant is done with it, but nested grants are not.
    Ending(LockId),
    /// A session lock ended.
    Ended(LockId),
    /// Whether, for a while after a start, nobody knows who holds what: nothing is granted, and names that were locked
    /// before take no commits.
    Frozen(bool),
    /// A session's answers are not needed any more.
    Forgotten(SessionId),
    /// A grant of before a restart, of which the journal does not tell, had ended.
    Remembered(LockId, Released),
}

impl Machine {
    /// The repository; absent before the first event.
    pub fn repository(&self) -> Option<RepositoryId> {
        self.repository
    }

    /// The keyring that counts, and the SHA-256 of its file.
    pub fn keyring(&self) -> Option<(Generation, Digest)> {
        self.keyring
    }

    /// The last start.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The boot of the last start.
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// The last record folded in.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The states.
    pub fn states(&self) -> &States {
        &self.states
    }

    /// The locks.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The remembered answers.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// How many runs of old versions and answers there are, and how many of them were unpacked.
    pub fn run_count(&self) -> (u64, u64) {
        let (versions, answers) = (self.states.run_count(), self.answers.run_count());
        (versions.0 + answers.0, versions.1 + answers.1)
    }

    /// The last loss that somebody accepted.
    pub fn loss(&self) -> Option<&LossAccepted> {
        self.loss.as_ref()
    }

    /// The names that were locked by a session once.
    #[cfg(test)]
    pub fn locked_before(&self) -> &BTreeSet<StateName> {
        &self.locked_before
    }

    /// The keyring whose keys are new, where not all of what former keys had sealed is known to be sealed to them.
    pub fn resealing(&self) -> Option<Generation> {
        self.resealing
    }

    /// How far old reads and locks are summed up.
    pub fn summed(&self) -> Option<&Summed> {
        self.summed.as_ref()
    }

    /// Whether nobody has served what was restored yet: what lies beside the socket is of another life then.
    pub fn is_restored(&self) -> bool {
        self.is_restored
    }

    /// Whether nobody knows yet who holds what.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// What a request that may change something leads to.
    pub fn decide(&self, cx: &Context<'_>, ask: &Ask) -> Decision {
        match self.answers.get(cx.actor.session, cx.actor.uid, cx.number) {
            Ok(None) => {}
            Ok(Some(_)) => return Decision { steps: Vec::new(), verdict: Verdict::Recall },
            Err(unreadable) => return Decision { steps: Vec::new(), verdict: Verdict::Refuse(unreadable.into()) },
        }
        let allowed = match ask {
            Ask::Commit(ask) => cx.access.check(Verb::Write, ask.changes.iter().map(|change| &change.state)),
            Ask::Tag(tag) => cx.access.check(Verb::Write, [&tag.state]),
            Ask::Lock(ask) => cx.access.check(Verb::Lock, &ask.lock.names),
            Ask::Prune(ask) => cx.access.check(Verb::Admin, ask.states.iter().map(|of| &of.state)),
            // Of one's own grants, or of those that the decision finds.
            Ask::Bind { .. } | Ask::Unlock { .. } | Ask::Renew { .. } | Ask::Break { .. } => Ok(()),
        };
        let decided = allowed.and_then(|()| self.decide_allowed(cx, ask));
        decided.unwrap_or_else(|failure| Decision { steps: Vec::new(), verdict: Verdict::Refuse(failure) })
    }

    fn decide_allowed(&self, cx: &Context<'_>, ask: &Ask) -> Result<Decision, Failure> {
        match ask {
            Ask::Commit(ask) => self.decide_commit(cx, ask),
            Ask::Lock(ask) => self.decide_lock(cx, ask),
            Ask::Bind { id, hold, tie } => self.decide_bind(cx, id, *hold, *tie),
            Ask::Unlock { id } => self.decide_unlock(cx, id),
            Ask::Renew { id, ttl_ms } => self.decide_renew(cx, id, *ttl_ms),
            Ask::Break { name, id } => self.decide_break(cx, name, id.as_ref()),
            Ask::Tag(tag) => self.decide_tag(cx, tag),
            Ask::Prune(ask) => self.decide_prune(cx, ask),
        }
    }

    /// The answer that this request already got.
    pub fn recall(&self, actor: &Actor, number: u64, time: Time) -> Option<Result<Reply, Failure>> {
        let answer = match self.answers.get(actor.session, actor.uid, number) {
            Ok(answer) => answer?.clone(),
            Err(unreadable) => return Some(Err(unreadable.into())),
        };
        match answer {
            answers::Answer::Reply(reply) => Some(Ok(reply)),
            answers::Answer::Lease(id) => Some(self.granted(&id, time)),
            answers::Answer::Rekeyed(generation) => Some(Ok(Reply::Rekeyed(generation))),
            answers::Answer::Tagged(state, version) => match self.states.select(&state, &Selector::Version(version)) {
                Ok(selected) => {
                    let (_, entry) = selected?;
                    Some(Ok(Reply::Version(self.states.info(&state, version, entry))))
                }
                Err(unreadable) => Some(Err(unreadable.into())),
            },
        }
    }

    fn next_fence(&self) -> Fence {
        Fence { epoch: self.epoch, n: self.fences + 1 }
    }
}
