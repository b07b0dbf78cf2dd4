//! A lock that is given back when nobody has it any more.

use std::fmt;

use stated_shared::{Failure, Fence, Grant, LockId, Reply, Request};
use tokio::sync::{mpsc, oneshot, watch};

use super::driver::{Answer, Command};

/// A lock that is held; dropping it gives the lock back.
///
/// The guard keeps the session alive, so the lock outlives the last [`Client`](super::Client). Where the process or the
/// runtime ends without dropping it, the connection closes, and that ends the lock too. A lease, which nothing but its
/// time ends there, is given back by a drop as well.
#[must_use = "dropping it gives the lock back at once"]
pub struct LockGuard {
    grant: Grant,
    sender: mpsc::UnboundedSender<Command>,
    lost: watch::Receiver<Option<String>>,
    armed: bool,
}

impl LockGuard {
    pub(super) fn new(
        grant: Grant,
        sender: mpsc::UnboundedSender<Command>,
        lost: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { grant, sender, lost, armed: true }
    }

    /// The lock's ID, by which commits rely on it.
    pub fn id(&self) -> &LockId {
        &self.grant.id
    }

    /// The fencing token.
    pub fn fence(&self) -> Fence {
        self.grant.fence
    }

    /// All that was granted.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Whether the lock was broken or expired, as far as this client was told; `false` says no more than that.
    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Waits until the lock is broken or expires, and says why; for `select!` beside the work that it guards.
    ///
    /// Cancel safe: it may be dropped and called again at any time, and misses nothing.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the session ended".to_owned(),
        }
    }

    /// Gives the lock back, and waits until it is free.
    ///
    /// Cancel safe: a future that is dropped gives the lock back all the same. A lock that was lost before is answered
    /// well too, as long as the daemon remembers its ID: whether it was held to the end is what [`LockGuard::is_lost`]
    /// and the answers to its commits say.
    pub async fn release(mut self) -> Result<(), Failure> {
        let (answer, reply) = oneshot::channel();
        let request = Request::Unlock { id: self.grant.id.clone() };
        self.armed = false;
        // A driver that is gone has closed the connection, which gave the lock back.
        let asked = self.sender.send(Command::Ask { request, contents: Vec::new(), answer: Answer::Reply(answer) });
        match (asked, reply.await) {
            (Ok(()), Ok(result)) => match result?.0 {
                Reply::Done => Ok(()),
                other => Err(crate::client::unexpected(&other)),
            },
            _ => Err(super::ended()),
        }
    }

    /// Leaves the lock to the session (or a lease to its time) and forgets the guard.
    pub fn keep(mut self) -> Grant {
        self.armed = false;
        self.grant.clone()
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.armed {
            // As above: who cannot be told has given it back.
            let _ = self.sender.send(Command::Release(self.grant.id.clone()));
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("id", &self.grant.id).field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}
