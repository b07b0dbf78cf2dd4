//! Room for contents in memory.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use stated_shared::limits::INLINE_CONTENT_LEN_MAX;
use stated_shared::{Failure, FailureKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;

use super::newest::NewestContents;

/// What the budget is counted in, so that a semaphore's permits suffice for any size. In bytes.
const PAGE_LEN: u64 = 4096;
/// What the newest contents may take of it at most: a share, and bytes.
const NEWEST_SHARE: u64 = 8;
const NEWEST_LEN_MAX: u64 = 256 << 20;

/// Contents up to this length have room of their own, in bytes: they never wait for large ones, which their peers may
/// be slow to send or to take.
const SMALL_LEN_MAX: u64 = INLINE_CONTENT_LEN_MAX as u64;
/// What the small ones have besides the budget, as its part.
const SMALL_SHARE: u64 = 8;

/// The bytes of content that the daemon holds in memory at most.
///
/// Who asks first is served first, so a large content waits its turn and is not starved by others.
#[derive(Debug, Clone)]
pub struct ContentBudget {
    large: Lane,
    small: Lane,
    newest: Arc<NewestContents>,
}

#[derive(Debug, Clone)]
struct Lane {
    pages: Arc<Semaphore>,
    pages_max: u32,
}

/// Room for one request's contents; given back when dropped.
#[derive(Debug)]
pub struct ContentPermit {
    pages: OwnedSemaphorePermit,
}

impl ContentPermit {
    /// Gives back what is over the room for this many bytes.
    pub(super) fn shrink(&mut self, len_bytes: u64) {
        let over = self.pages.num_permits().saturating_sub(usize::try_from(pages_of(len_bytes)).unwrap_or(usize::MAX));
        drop(self.pages.split(over));
    }
}

/// A content in memory, and its room as long as anyone holds it.
pub struct HeldContent {
    bytes: Vec<u8>,
    _room: Option<ContentPermit>,
}

impl HeldContent {
    /// Of these bytes, in this room.
    pub fn new(bytes: Vec<u8>, room: Option<ContentPermit>) -> Arc<Self> {
        Arc::new(Self { bytes, _room: room })
    }
}

impl Deref for HeldContent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Contents are secrets.
impl fmt::Debug for HeldContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldContent({} bytes)", self.bytes.len())
    }
}

impl ContentBudget {
    /// A budget of this many bytes, and an eighth more for small contents.
    pub fn new(len_bytes: u64) -> Self {
        let newest_len_max = (len_bytes / NEWEST_SHARE).min(NEWEST_LEN_MAX);
        Self {
            large: Lane::new(len_bytes),
            small: Lane::new((len_bytes / SMALL_SHARE).max(SMALL_LEN_MAX)),
            newest: Arc::new(NewestContents::new(newest_len_max)),
        }
    }

    /// The newest contents, which take room of this budget and leave it to whoever needs it.
    pub(super) fn newest(&self) -> &NewestContents {
        &self.newest
    }

    /// Waits for room. `Err` where the whole budget would not do.
    ///
    /// To be asked for before anything is allocated, and never by one who holds room already: two such could wait for
    /// each other.
    pub async fn room(&self, len_bytes: u64) -> Result<ContentPermit, Failure> {
        let lane = if len_bytes <= SMALL_LEN_MAX { &self.small } else { &self.large };
        let pages = pages_of(len_bytes);
        if pages > lane.pages_max {
            let max = self.len_max();
            let message = format!("content of {len_bytes} bytes is over the {max} that this daemon holds in memory");
            return Err(Failure::new(FailureKind::Conflict, message));
        }
        let mut room = pin!(unconstrained(Arc::clone(&lane.pages).acquire_many_owned(pages)));
        let room = poll_fn(|context| {
            loop {
                // Asked for first: whoever is in the queue gets what is let go of, and no content that is newer still.
                match room.as_mut().poll(context) {
                    Poll::Pending if self.newest.drop_oldest() => {}
                    polled => return polled,
                }
            }
        });
        let pages = room.await.map_err(|_| Failure::new(FailureKind::Internal, "the content budget is closed"))?;
        Ok(ContentPermit { pages })
    }

    /// Room without waiting, for what can be done without: also for one who holds room already.
    pub(super) fn room_at_once(&self, len_bytes: u64) -> Option<ContentPermit> {
        let Lane { pages: lane, pages_max } = &self.large;
        let pages = pages_of(len_bytes);
        while pages <= *pages_max && lane.available_permits() < pages as usize && self.newest.drop_oldest() {}
        let pages = Arc::clone(lane).try_acquire_many_owned(pages).ok()?;
        Some(ContentPermit { pages })
    }

    /// The most that can be asked for.
    pub(super) fn len_max(&self) -> u64 {
        u64::from(self.large.pages_max) * PAGE_LEN
    }
}

fn pages_of(len_bytes: u64) -> u32 {
    u32::try_from(len_bytes.div_ceil(PAGE_LEN).max(1)).unwrap_or(u32::MAX)
}

impl Lane {
    fn new(len_bytes: u64) -> Self {
        let pages_max = u32::try_from(len_bytes / PAGE_LEN).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        Self { pages: Arc::new(Semaphore::new(pages_max as usize)), pages_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_given_back_and_never_overdrawn() {
        let budget = ContentBudget::new(10 << 20);
        assert_eq!(budget.room(11 << 20).await.unwrap_err().kind, FailureKind::Conflict);
        assert!(budget.room(u64::MAX).await.is_err());
        let first = budget.room((6 << 20) + 1).await.unwrap();
        let mut second = at_once(budget.room(4 << 20));
        assert!(second.is_none());
        drop(first);
        second = at_once(budget.room(4 << 20));
        assert!(second.is_some());
        drop(second);
        budget.room(10 << 20).await.unwrap();
    }

    #[tokio::test]
    async fn small_contents_never_wait_for_large_ones() {
        let budget = ContentBudget::new(16 << 20);
        let large = budget.room(16 << 20).await.unwrap();
        assert!(at_once(budget.room(SMALL_LEN_MAX + 1)).is_none());
        let small = at_once(budget.room(SMALL_LEN_MAX));
        assert!(small.is_some());
        drop((large, small));
        assert!(at_once(budget.room(16 << 20)).is_some());
    }

    /// The outcome of a future that is polled once.
    fn at_once<T>(future: impl Future<Output = Result<T, Failure>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(result) => Some(result.unwrap()),
            std::task::Poll::Pending => None,
        }
    }
}
