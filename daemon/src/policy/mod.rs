//! Who may do what to which names.
//!
//! A [`Policy`] is a mode and the rules of a file: principals, name globs, verbs. Rules add up, none takes anything
//! away, and what no rule gives is denied. A decision is about a name and never about whether something has it: so a
//! name that one may not read answers the same whether it is there or not. [`need`] says what each request needs;
//! [`Policies`] holds the policy in force, and whoever asks gets a [`View`] of it. The room opens no file: where the
//! text comes from, and when it is read anew, is the boot's business.

mod file;
mod in_force;
mod needs;
mod rule;
#[cfg(test)]
mod tests;
mod view;

use std::fmt;
use std::sync::Arc;

pub use file::{FILE_LEN_MAX, PolicyError};
pub use in_force::Policies;
pub use needs::{Need, deed, need};
use rule::Rule;
pub use view::{By, View};

/// What holds where no rule says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A user's daemon: its owner and root may do everything.
    User {
        /// The daemon's own user.
        owner: u32,
    },
    /// The system's daemon: root may `admin` every name, and that is all.
    System,
    /// Of a test that may run as root: nobody may do anything.
    #[cfg(test)]
    Closed,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User { .. } => "user",
            Self::System => "system",
            #[cfg(test)]
            Self::Closed => "closed",
        })
    }
}

/// Who asks, by the kernel's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    uid: u32,
    /// Sorted.
    gids: Vec<u32>,
}

impl Subject {
    /// A user with its groups, the effective one among them.
    pub fn new(uid: u32, mut gids: Vec<u32>) -> Self {
        gids.sort_unstable();
        gids.dedup();
        Self { uid, gids }
    }

    /// The user.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The groups, sorted.
    pub fn gids(&self) -> &[u32] {
        &self.gids
    }
}

/// The host's users and groups, asked when a file is read: rules hold numbers, as the kernel does.
pub trait Directory {
    /// The number of a user.
    fn uid(&self, user: &str) -> Option<u32>;
    /// The number of a group.
    fn gid(&self, group: &str) -> Option<u32>;
}

/// A mode and the rules that add to it.
#[derive(Debug)]
pub struct Policy {
    mode: Mode,
    rules: Vec<Rule>,
    /// Users and groups of the rules that the host does not know.
    unknown: Vec<String>,
}

impl Policy {
    /// No rule.
    pub fn without_rules(mode: Mode) -> Self {
        Self { mode, rules: Vec::new(), unknown: Vec::new() }
    }

    /// The rules of a file. `Err` says where and what is wrong with it, and nothing of it counts.
    pub fn parse(text: &str, mode: Mode, directory: &dyn Directory) -> Result<Self, PolicyError> {
        let (rules, unknown) = file::parse(text, directory)?;
        Ok(Self { mode, rules, unknown })
    }

    /// What holds without a rule.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many rules there are.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Users and groups of the rules that the host does not know: `user "alcie" (line 7)`.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// What of it is about somebody.
    pub fn view(self: &Arc<Self>, subject: Subject) -> View {
        View::new(Arc::clone(self), subject)
    }
}
