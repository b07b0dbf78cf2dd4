//! What a gateway needs of the daemon.

use std::os::fd::BorrowedFd;

use stated_shared::{
    Commit, Committed, Failure, Grant, Lock, LockId, LockInfo, Selector, StateName, Version, VersionInfo, VersionPage,
};

/// The daemon, as narrow as the foreign protocols need it.
///
/// Every call blocks until the daemon answered, over restarts of it too; they are called from threads that may wait.
/// Each may be repeated after a lost answer: a lock by its ID, a commit because equal content makes no version, an
/// unlock because the ID of a name's last release is remembered.
pub trait Backend: Send + Sync + 'static {
    /// A version and its bytes; a removal has content `None` in its facts.
    fn get(&self, state: &StateName, at: Selector) -> Result<(VersionInfo, Vec<u8>), Failure>;

    /// A version's facts.
    fn show(&self, state: &StateName, at: Selector) -> Result<VersionInfo, Failure>;

    /// The newest version of each state that matches and is not removed, by name; one page after this name.
    fn list(&self, glob: &str, after: Option<StateName>) -> Result<VersionPage, Failure>;

    /// The versions of one state, newest first; one page of those before this one.
    fn log(&self, state: &StateName, before: Option<Version>) -> Result<VersionPage, Failure>;

    /// Writes.
    fn commit(&self, commit: Commit) -> Result<Committed, Failure>;

    /// Takes a lock without waiting, tied to the process of the descriptor where there is one.
    fn lock(&self, lock: &Lock, pidfd: Option<BorrowedFd<'_>>) -> Result<Grant, Failure>;

    /// Extends a lease by its own TTL.
    fn renew(&self, id: &LockId) -> Result<(), Failure>;

    /// Ends a grant of this user.
    fn unlock(&self, id: &LockId) -> Result<(), Failure>;

    /// Ends somebody's grant.
    fn break_lock(&self, name: &StateName, id: &LockId) -> Result<(), Failure>;

    /// Who holds the name.
    fn holders(&self, name: &StateName) -> Result<Vec<LockInfo>, Failure>;
}

/// A glob that matches this text: what has a meaning in globs matches any one character.
pub fn literal_glob(text: &str) -> String {
    text.chars().map(|c| if "*?[]{}!\\".contains(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_glob_characters_is_found() {
        assert_eq!(literal_glob("a/b*c[1]"), "a/b?c?1?");
    }
}
