//! What a gateway lives for: a child, the locks that it took, the requests that it is at.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stated_shared::{LockId, StateName};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::model::FindOwner;
use super::owner::Owner;

/// A lock that was taken through this gateway.
#[derive(Debug, Clone)]
pub struct Held {
    /// The state that it locks.
    pub state: StateName,
    /// What for, in a word.
    pub operation: String,
    /// The process that it is tied to; a lease where absent, which lives without a gateway too.
    pub process: Option<Owner>,
}

/// Lost locks that are remembered; each guards against one process that does not know of its loss yet.
const LOST_MAX: usize = 1024;

/// The work of one gateway.
#[derive(Debug, Default)]
pub struct Work {
    now: Mutex<Present>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Present {
    /// The run that started the gateway may still name a child.
    attended: bool,
    child: Option<Owner>,
    locks: BTreeMap<LockId, Held>,
    /// Locks that were taken from their holders, which may still write as if they had them.
    lost: BTreeMap<LockId, Held>,
    /// Requests that are not answered, and connections that are not closed.
    open: usize,
}

/// A connection or a request that keeps the gateway alive.
#[derive(Debug)]
pub struct Busy(Arc<Work>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|now| now.open -= 1);
    }
}

impl Work {
    /// The work of a run, which is attended from the start.
    pub fn attended() -> Self {
        let work = Self::default();
        work.change(|now| now.attended = true);
        work
    }

    /// The child of the run.
    pub fn child(&self) -> Option<Owner> {
        self.present().child.clone()
    }

    /// Makes the process the child of the run.
    pub fn has_child(&self, child: Owner) {
        self.change(|now| now.child = Some(child));
    }

    /// The run is over, or nobody knows of it any more.
    pub fn is_left(&self) {
        self.change(|now| now.attended = false);
    }

    /// A lock was taken.
    pub fn locked(&self, id: LockId, held: Held) {
        self.change(|now| {
            now.lost.retain(|lost, was| *lost != id && (was.state != held.state || was.pid() != held.pid()));
            now.locks.insert(id, held)
        });
    }

    /// A lock was given back by its holder.
    pub fn unlocked(&self, id: &LockId) {
        self.change(|now| {
            now.lost.remove(id);
            now.locks.remove(id)
        });
    }

    /// A lock was broken, or ended by itself.
    pub fn lost(&self, id: &LockId) {
        self.change(|now| {
            if let Some(held) = now.locks.remove(id) {
                if now.lost.len() == LOST_MAX {
                    now.lost.pop_first();
                }
                now.lost.insert(id.clone(), held);
            }
        });
    }

    /// The grant that a write without a lock ID relies on: the one that the writer took for this state through this
    /// gateway, also where that was lost meanwhile, so that the daemon refuses the write.
    ///
    /// The writer is the process that took it, or a descendant of that; where no process could be told it is whoever
    /// cannot be told either. `find` is asked only where there is such a grant at all.
    pub fn relied_on(&self, state: &StateName, find: FindOwner<'_>) -> Option<LockId> {
        let (candidates, child) = {
            let now = self.present();
            // What is held comes before what was lost.
            let all = now.locks.iter().chain(&now.lost).filter(|(_, held)| held.state == *state);
            let all: Vec<_> = all.map(|(id, held)| (id.clone(), held.process.clone())).collect();
            (all, now.child.as_ref().map(|child| child.pid))
        };
        if candidates.is_empty() {
            return None;
        }
        let writer = find();
        let is_writers = |process: &Option<Owner>| match (process, &writer) {
            (Some(process), Some(writer)) => writer.is_or_descends_from(process.pid),
            (Some(process), None) => Some(process.pid) == child,
            (None, writer) => writer.is_none(),
        };
        candidates.into_iter().find(|(_, process)| is_writers(process)).map(|(id, _)| id)
    }

    /// A lock that was taken here and not given back.
    pub fn held(&self, id: &LockId) -> Option<Held> {
        self.present().locks.get(id).cloned()
    }

    /// Counts a connection or a request, until the result is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.change(|now| now.open += 1);
        Busy(Arc::clone(self))
    }

    /// Returns once there is nothing left to live for.
    ///
    /// The child is gone, and every process that holds a lock, and every connection is closed: a process that lost
    /// its parents keeps its gateway as long as it speaks to it.
    pub async fn over(&self) {
        loop {
            let changed = self.changed.notified();
            let (over, processes) = {
                let now = self.present();
                let is_idle = now.child.is_none() && now.locks.values().all(|held| held.process.is_none());
                (!now.attended && is_idle && now.open == 0, now.processes())
            };
            if over {
                return;
            }
            let mut ends = JoinSet::new();
            for process in processes {
                ends.spawn(ended(process));
            }
            tokio::select! {
                () = changed => {}
                pid = first(&mut ends) => self.forget(pid),
            }
            // A descriptor can be awaited once at a time.
            ends.shutdown().await;
        }
    }

    /// The daemon frees the locks of a process that is gone by itself.
    fn forget(&self, pid: u32) {
        self.change(|now| {
            now.child.take_if(|child| child.pid == pid);
            now.locks.retain(|_, held| held.pid() != Some(pid));
            now.lost.retain(|_, held| held.pid() != Some(pid));
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Present) -> T) {
        change(&mut self.present());
        self.changed.notify_one();
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }
}

impl Present {
    /// Every process that counts, once.
    fn processes(&self) -> Vec<Owner> {
        let held = self.locks.values().chain(self.lost.values());
        let all = held.filter_map(|held| held.process.as_ref()).chain(&self.child);
        let by_pid: BTreeMap<u32, &Owner> = all.map(|process| (process.pid, process)).collect();
        by_pid.into_values().cloned().collect()
    }
}

/// The first process that ends. One whose end cannot be awaited counts as living: serving on is the lesser evil.
async fn first(ends: &mut JoinSet<io::Result<u32>>) -> u32 {
    loop {
        match ends.join_next().await {
            Some(Ok(Ok(pid))) => return pid,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

async fn ended(process: Owner) -> io::Result<u32> {
    let pidfd: Arc<OwnedFd> = process.pidfd;
    #[expect(deprecated, reason = "unsound for types that lie about their descriptor; an OwnedFd keeps it open")]
    let gone = AsyncFd::try_with_interest(pidfd, Interest::READABLE)?;
    let _ = gone.readable().await?;
    Ok(process.pid)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::task::Poll;

    use super::*;

    fn child() -> (Child, Owner) {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let owner = Owner::open(child.id()).unwrap();
        (child, owner)
    }

    fn held(process: Option<Owner>) -> Held {
        Held { state: StateName::parse("prod").unwrap(), operation: "apply".into(), process }
    }

    /// Lets the future run as far as it can now.
    async fn is_over(work: &Work) -> bool {
        let mut over = std::pin::pin!(work.over());
        std::future::poll_fn(|context| Poll::Ready(over.as_mut().poll(context).is_ready())).await
    }

    /// Lets the task run as far as it can now.
    async fn still_runs(task: &mut tokio::task::JoinHandle<()>) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        !task.is_finished()
    }

    #[tokio::test]
    async fn work_is_over_when_child_locks_and_requests_are() {
        let work = Arc::new(Work::attended());
        assert!(!is_over(&work).await, "the child may still come");
        let (mut process, owner) = child();
        work.has_child(owner);
        work.is_left();
        let (mut holder, lock_owner) = child();
        let id = LockId::parse("a").unwrap();
        work.locked(id.clone(), held(Some(lock_owner)));
        work.locked(LockId::parse("lease").unwrap(), held(None));
        let busy = work.begin();

        process.kill().unwrap();
        process.wait().unwrap();
        let mut over = tokio::spawn({
            let work = Arc::clone(&work);
            async move { work.over().await }
        });
        while work.child().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(still_runs(&mut over).await, "a lock is held");
        work.unlocked(&id);
        assert!(still_runs(&mut over).await, "a request is not answered");
        drop(busy);
        over.await.unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
    }

    #[tokio::test]
    async fn a_lock_of_a_dead_process_is_forgotten() {
        let work = Work::default();
        let (mut process, owner) = child();
        work.has_child(owner.clone());
        work.locked(LockId::parse("a").unwrap(), held(Some(owner.clone())));
        work.locked(LockId::parse("b").unwrap(), held(Some(owner)));
        assert!(!is_over(&work).await);
        // The end of its input ends it.
        drop(process.stdin.take());
        work.over().await;
        process.wait().unwrap();
    }
}
