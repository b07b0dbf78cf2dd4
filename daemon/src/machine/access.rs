//! What whoever asks may do, where that is decided with what only the machine knows.

use std::fmt;
use std::sync::Arc;

use stated_shared::{Failure, FailureKind, PolicyInfo, StateName, Verb};

/// What somebody may do to which names, by the policy in force when it is asked.
///
/// The machine asks it while it decides, and keeps no answer: no event and no replay depends on one.
pub trait Access: fmt::Debug + Send + Sync {
    /// Whether they may do this to a name.
    fn may(&self, verb: Verb, name: &str) -> bool;

    /// Whether they may do this to every name.
    fn may_everywhere(&self, verb: Verb) -> bool;

    /// Their refusal, the same whether something has the name or not.
    fn denial(&self, verb: Verb, name: &str) -> Failure;

    /// What they may be told of the policy.
    fn policy(&self) -> PolicyInfo;
}

impl dyn Access {
    /// `Err` where they may not do this to all of the names.
    pub(super) fn check<'a>(&self, verb: Verb, names: impl IntoIterator<Item = &'a StateName>) -> Result<(), Failure> {
        match names.into_iter().map(StateName::as_str).find(|name| !self.may(verb, name)) {
            Some(name) => Err(self.denial(verb, name)),
            None => Ok(()),
        }
    }
}

/// What whoever waits for a lock may do.
#[derive(Clone)]
pub struct Rights(pub Arc<dyn Access>);

/// No part of what waits.
impl PartialEq for Rights {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rights")
    }
}

/// The daemon itself, which no policy is about.
#[derive(Debug, Clone, Copy)]
pub struct Itself;

impl Access for Itself {
    fn may(&self, _: Verb, _: &str) -> bool {
        true
    }

    fn may_everywhere(&self, _: Verb) -> bool {
        true
    }

    fn denial(&self, verb: Verb, name: &str) -> Failure {
        Failure::new(FailureKind::Denied, format!("the daemon may not {verb} {name}"))
    }

    fn policy(&self) -> PolicyInfo {
        PolicyInfo::default()
    }
}
