//! Terraform's `http` backend, request by request.
//!
//! What it sends and accepts was recorded with Terraform 1.11 and read in the sources of others; see docs/gateway.md.
//! This file knows no socket and no header: a [`Call`] comes in, an [`Answer`] goes out.

mod answer;
mod request;

use std::sync::Arc;

use hyper::StatusCode;
use stated_shared::limits::LOCK_INFO_LEN_MAX;
use stated_shared::{Bytes, Content, Detail, Expect, Failure, FailureKind, LockId, Selector, StateName, Timestamp};

use super::backend::Backend;
use super::lock_document::LockDocument;
use super::model::{Model, Write};
use super::owner::Owner;
pub use answer::Answer;
pub use request::{lock_id, state, verb};

/// Where states are found: this, then the percent-encoded name.
pub const STATE_PATH: &str = "/v1/state/";

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
    /// What they mean.
    pub model: Arc<Model<B>>,
}

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
            Verb::Unlock if call.body.is_empty() => self.model.break_every(&call.state).map(|()| Answer::done()),
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
            (self.model.report)(&format!("{}: {failure}{hint}", call.state));
        }
    }

    fn read(&self, state: &StateName) -> Result<Answer, Failure> {
        let (version, bytes) = self.model.backend.get(state, Selector::Newest)?;
        if version.content.is_none() {
            return Ok(Answer::text(StatusCode::NOT_FOUND, format_args!("{state} is removed")));
        }
        Ok(Answer::json(StatusCode::OK, bytes))
    }

    fn commit(&self, call: &Call, content: Content) -> Result<Answer, Failure> {
        let lock = call.id.as_deref().map(LockId::parse).transpose().map_err(usage)?;
        self.model.write(Write {
            state: call.state.clone(),
            expect: Expect::Any,
            content,
            lock,
            gateway: "http",
            labels: Default::default(),
        })?;
        Ok(Answer::done())
    }

    fn lock(&self, call: &Call) -> Result<Answer, Failure> {
        let document = LockDocument::parse(&call.body).map_err(usage)?;
        self.model.lock(&call.state, &document, call.owner.clone())?;
        Ok(Answer::done())
    }

    fn unlock(&self, call: &Call) -> Result<Answer, Failure> {
        let document = LockDocument::parse(&call.body).map_err(usage)?;
        let id = &document.id;
        let held = self.model.work.held(id);
        let result = match &held {
            Some(held) if held.state != call.state => Err(not_held(id, &call.state)),
            None if document.is_forced() => self.model.break_lock(&call.state, id),
            _ => self.model.unlock(id),
        };
        match result {
            Ok(()) => Ok(Answer::done()),
            Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::Usage) => {
                if held.is_some_and(|held| held.state == call.state) {
                    self.model.work.unlocked(id);
                }
                self.wrong_id(call, id)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Says who holds the name instead.
    fn wrong_id(&self, call: &Call, id: &LockId) -> Result<Answer, Failure> {
        let holders = self.model.backend.holders(&call.state)?;
        let waiters = holders.iter().map(|holder| holder.waiters).max().unwrap_or_default();
        let mut failure = not_held(id, &call.state);
        failure.kind = FailureKind::Conflict;
        Ok(Answer::failure(&failure.detail(Detail::Held { holders, waiters }), call.now))
    }
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Usage, error.to_string())
}

fn not_held(id: &LockId, state: &StateName) -> Failure {
    Failure::new(FailureKind::NotFound, format!("{id} does not hold {state}"))
}
