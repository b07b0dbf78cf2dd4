//! The policy in force, which every decision asks for anew.

use std::sync::{Arc, PoisonError, RwLock};

use stated_shared::{PolicyInfo, Timestamp};

use super::{Mode, Policy};

/// The policy in force, and what is to be told of it.
#[derive(Debug)]
pub struct Policies {
    /// Where its file is, which need not exist.
    file: String,
    now: RwLock<Now>,
}

#[derive(Debug)]
struct Now {
    policy: Arc<Policy>,
    loaded: Option<Timestamp>,
    error: Option<String>,
}

impl Policies {
    /// One policy; `loaded` is when its file was read, where there is one.
    pub fn new(policy: Policy, file: String, loaded: Option<Timestamp>) -> Self {
        Self { file, now: RwLock::new(Now { policy: Arc::new(policy), loaded, error: None }) }
    }

    /// Of a daemon that nobody but its owner and root may use.
    pub fn of_owner(owner: u32) -> Self {
        Self::new(Policy::without_rules(Mode::User { owner }), String::new(), None)
    }

    /// The policy in force.
    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner).policy)
    }

    /// Lets another policy count from now on.
    pub fn replace(&self, policy: Policy, loaded: Option<Timestamp>) {
        let now = Now { policy: Arc::new(policy), loaded, error: None };
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Keeps the policy, since its file, as it is now, is none.
    pub fn keep(&self, error: String) {
        self.now.write().unwrap_or_else(PoisonError::into_inner).error = Some(error);
    }

    /// What is to be told of it, all of it.
    pub fn told(&self) -> PolicyInfo {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        PolicyInfo {
            mode: now.policy.mode().to_string(),
            file: self.file.clone(),
            rules: now.policy.rule_count() as u64,
            loaded: now.loaded,
            error: now.error.clone(),
            unknown: now.policy.unknown().to_vec(),
        }
    }
}
