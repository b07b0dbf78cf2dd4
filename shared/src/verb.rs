//! What a policy allows: verbs on names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What may be done to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// See that it is there, its versions, their contents, and who holds its locks.
    Read,
    /// Commit versions, remove it, tag its versions.
    Write,
    /// Take its locks.
    Lock,
    /// End locks of others.
    Break,
    /// See in the audit log who did what to it.
    Audit,
    /// Prune it, and ask what others may do with it. On all names: check everything that the daemon keeps, and manage
    /// its keys.
    Admin,
}

/// A text that is no verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no verb: it is read, write, lock, break, audit or admin")]
pub struct VerbError(String);

impl Verb {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Read, Self::Write, Self::Lock, Self::Break, Self::Audit, Self::Admin];

    /// The verb as a policy has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Lock => "lock",
            Self::Break => "break",
            Self::Audit => "audit",
            Self::Admin => "admin",
        }
    }

    /// What is needed besides, since an answer tells of what is there: a conflict names the present version, a refused
    /// lock its holder.
    pub fn needs(self) -> Option<Self> {
        match self {
            Self::Write | Self::Lock | Self::Break => Some(Self::Read),
            Self::Read | Self::Audit | Self::Admin => None,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = VerbError;
    fn from_str(text: &str) -> Result<Self, VerbError> {
        let verb = Self::ALL.into_iter().find(|verb| verb.as_str() == text);
        verb.ok_or_else(|| VerbError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_read_as_it_is_written() {
        for verb in Verb::ALL {
            assert_eq!(verb.as_str().parse(), Ok(verb));
        }
        assert!("Read".parse::<Verb>().is_err() && "".parse::<Verb>().is_err());
    }
}
