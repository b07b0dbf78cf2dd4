//! What a gateway needs of the daemon.

use std::os::fd::BorrowedFd;

use stated_shared::{Commit, Committed, Failure, Grant, Lock, LockId, LockInfo, StateName, VersionInfo};

/// The daemon, as narrow as the foreign protocols need it.
///
/// Every call blocks until the daemon answered, over restarts of it too; they are called from threads that may wait.
/// Each may be repeated after a lost answer: a lock by its ID, a commit because equal content makes no version, an
/// unlock because the ID of a name's last release is remembered.
pub trait Backend: Send + Sync + 'static {
    /// The newest version and its bytes; a removal has content `None` in its facts.
    fn get(&self, state: &StateName) -> Result<(VersionInfo, Vec<u8>), Failure>;

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
