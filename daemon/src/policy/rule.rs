//! One rule: whom it is about, which names, which verbs.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use stated_shared::Verb;

use super::Subject;

/// The glob that matches every name.
const EVERY_NAME: &str = "**";
/// The user that is everybody.
pub(super) const EVERYBODY: &str = "*";

/// Gives verbs on names to principals.
#[derive(Debug)]
pub(super) struct Rule {
    /// The line in which it begins.
    pub line: usize,
    pub who: Who,
    pub names: Names,
    pub verbs: Verbs,
}

/// Whom a rule is about: whoever is any of these.
#[derive(Debug, Default)]
pub(super) struct Who {
    pub everybody: bool,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    /// As the file has it: `user alice`, `group deploy`.
    pub told: Vec<String>,
}

/// Which names.
#[derive(Debug)]
pub(super) struct Names {
    globs: GlobSet,
    told: Vec<String>,
}

/// Some of the verbs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Verbs(u8);

impl Who {
    pub fn is(&self, subject: &Subject) -> bool {
        self.everybody
            || self.uids.contains(&subject.uid)
            || self.gids.iter().any(|gid| subject.gids.binary_search(gid).is_ok())
    }
}

impl Names {
    /// `Err` is the glob that is none, by its place, and why.
    pub fn new(told: Vec<String>) -> Result<Self, (usize, String)> {
        let mut globs = GlobSetBuilder::new();
        for (at, glob) in told.iter().enumerate() {
            let built = GlobBuilder::new(glob).literal_separator(true).build();
            globs.add(built.map_err(|error| (at, error.kind().to_string()))?);
        }
        // Each of them was built alone: together they can only be too large.
        let globs = globs.build().map_err(|error| (0, error.kind().to_string()))?;
        Ok(Self { globs, told })
    }

    pub fn match_name(&self, name: &str) -> bool {
        self.are_all() || self.globs.is_match(name)
    }

    pub fn are_all(&self) -> bool {
        self.told.iter().any(|glob| glob == EVERY_NAME)
    }
}

impl Verbs {
    pub fn with(self, verb: Verb) -> Self {
        Self(self.0 | Self::bit(verb))
    }

    pub fn have(self, verb: Verb) -> bool {
        self.0 & Self::bit(verb) != 0
    }

    fn bit(verb: Verb) -> u8 {
        1 << verb as u8
    }
}
