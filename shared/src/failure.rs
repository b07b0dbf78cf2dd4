//! Why a request was not done, and what the caller must make of it.

use serde::{Deserialize, Serialize};

use crate::{LockInfo, VersionInfo};

/// A refusal or a failure, as it is told to a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the caller can do about it.
    pub kind: FailureKind,
    /// What and why, one sentence, lower case.
    pub message: String,
    /// One command or step that helps.
    pub hint: Option<String>,
    /// Facts for programs.
    pub detail: Detail,
}

/// The kinds of failure; each has an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// Another failure: exit 1.
    Other,
    /// The request is not of its form, or a name may not be: exit 2.
    Usage,
    /// Version, serial or lineage conflict, or bad content: exit 65.
    Conflict,
    /// No such state, version or lock: exit 66.
    NotFound,
    /// The daemon cannot be reached, is stopping, or the outcome is unknown: exit 69.
    Unavailable,
    /// A bug of ours: exit 70.
    Internal,
    /// The storage failed or is damaged: exit 74.
    Storage,
    /// A lock is busy or timed out, or a lock refuses the commit: exit 75.
    Busy,
    /// The protocol versions do not match: exit 76.
    Protocol,
    /// The caller may not: exit 77.
    Denied,
    /// The configuration is wrong, or a key opens nothing: exit 78.
    Config,
}

impl FailureKind {
    /// The exit code of `statectl` and `stated`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::Conflict => 65,
            Self::NotFound => 66,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Storage => 74,
            Self::Busy => 75,
            Self::Protocol => 76,
            Self::Denied => 77,
            Self::Config => 78,
        }
    }

    /// The kind's name in JSON and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Usage => "usage",
            Self::Conflict => "conflict",
            Self::NotFound => "not-found",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Storage => "storage",
            Self::Busy => "busy",
            Self::Protocol => "protocol",
            Self::Denied => "denied",
            Self::Config => "config",
        }
    }
}

/// Facts that a program needs and a message only tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Detail {
    /// None.
    #[default]
    None,
    /// What is there instead of what was expected.
    Current(Option<Box<VersionInfo>>),
    /// Who is in the way, and how many requests wait.
    Held {
        /// The grants, a row for each name in the way.
        holders: Vec<LockInfo>,
        /// Requests in the queue.
        waiters: u32,
    },
}

impl Failure {
    /// A failure without hint or detail.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, detail: Detail::None }
    }

    /// Adds a step that helps.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds facts for programs.
    #[must_use]
    pub fn detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }
}
