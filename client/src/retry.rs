//! How long a lost connection is waited for, and how often it is tried.

use std::time::{Duration, Instant};

use stated_shared::limits::RETRY_MS_MAX;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Growing pauses between attempts.
#[derive(Debug, Clone)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self { next: PAUSE_MIN }
    }

    /// The pause before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// How long one request goes on without an answer.
///
/// The daemon remembers answers only so long after the end of a session: a retry after that could be applied twice.
#[derive(Debug)]
pub(crate) enum Bound {
    /// From the first loss on.
    SinceLoss(Option<Instant>),
    /// Time without a connection only: waiting for a lock may take days, and asking again for it is harmless.
    Disconnected(Duration),
}

impl Bound {
    const MAX: Duration = Duration::from_millis(RETRY_MS_MAX);

    pub(crate) fn new(waits_for_lock: bool) -> Self {
        if waits_for_lock { Self::Disconnected(Duration::ZERO) } else { Self::SinceLoss(None) }
    }

    /// The connection was lost now: until when another may be sought.
    pub(crate) fn lost(&mut self, now: Instant) -> Instant {
        match self {
            Self::SinceLoss(first) => *first.get_or_insert(now) + Self::MAX,
            Self::Disconnected(spent) => now + Self::MAX.saturating_sub(*spent),
        }
    }

    /// It took this long to have a connection again.
    pub(crate) fn resumed(&mut self, took: Duration) {
        if let Self::Disconnected(spent) = self {
            *spent += took;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_counts_from_its_first_loss() {
        let start = Instant::now();
        let mut bound = Bound::new(false);
        assert_eq!(bound.lost(start), start + Bound::MAX);
        bound.resumed(Duration::from_secs(3));
        assert_eq!(bound.lost(start + Duration::from_secs(20)), start + Bound::MAX);
    }

    #[test]
    fn waiting_for_a_lock_counts_disconnected_time_only() {
        let start = Instant::now();
        let mut bound = Bound::new(true);
        assert_eq!(bound.lost(start), start + Bound::MAX);
        bound.resumed(Duration::from_secs(3));
        let later = start + Duration::from_secs(3600);
        assert_eq!(bound.lost(later), later + Bound::MAX - Duration::from_secs(3));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pauses = Pauses::new();
        let all: Vec<_> = (0..8).map(|_| pauses.next()).collect();
        assert_eq!((all[0], all[1], all[7]), (PAUSE_MIN, PAUSE_MIN * 2, PAUSE_MAX));
    }
}
