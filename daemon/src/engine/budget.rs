//! Room for contents in memory.

use std::sync::Arc;

use stated_shared::limits::INLINE_CONTENT_LEN_MAX;
use stated_shared::{Failure, FailureKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the budget is counted in, so that a semaphore's permits suffice for any size. In bytes.
const PAGE_LEN: u64 = 4096;

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
}

#[derive(Debug, Clone)]
struct Lane {
    pages: Arc<Semaphore>,
    pages_max: u32,
}

/// Room for one request's contents; given back when dropped.
#[derive(Debug)]
pub struct ContentPermit {
    _pages: OwnedSemaphorePermit,
}

impl ContentBudget {
    /// A budget of this many bytes, and an eighth more for small contents.
    pub fn new(len_bytes: u64) -> Self {
        Self { large: Lane::new(len_bytes), small: Lane::new((len_bytes / SMALL_SHARE).max(SMALL_LEN_MAX)) }
    }

    /// Waits for room. `Err` where the whole budget would not do.
    ///
    /// To be asked for before anything is allocated, and never by one who holds room already: two such could wait for
    /// each other.
    pub async fn room(&self, len_bytes: u64) -> Result<ContentPermit, Failure> {
        let pages = u32::try_from(len_bytes.div_ceil(PAGE_LEN)).unwrap_or(u32::MAX);
        let lane = if len_bytes <= SMALL_LEN_MAX { &self.small } else { &self.large };
        if pages > lane.pages_max {
            let max = u64::from(lane.pages_max) * PAGE_LEN;
            let message = format!("content of {len_bytes} bytes is over the {max} that this daemon holds in memory");
            return Err(Failure::new(FailureKind::Conflict, message));
        }
        let room = Arc::clone(&lane.pages).acquire_many_owned(pages).await;
        let pages = room.map_err(|_| Failure::new(FailureKind::Internal, "the content budget is closed"))?;
        Ok(ContentPermit { _pages: pages })
    }
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
