//! How much of the audit log one user's denials may take.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stated_shared::StateName;
use tokio::time::Instant;

use super::limits::DENIALS_NAMED_MAX;

/// What a user's denials are counted in.
const SPAN: Duration = Duration::from_secs(1);
/// Users that are counted; over this the count starts anew.
const USERS_MAX: usize = 4096;

/// The denials of each user within the last span.
#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<HashMap<u32, (Instant, u32)>>);

impl Denials {
    /// The names with which a denial is noted. Without them, it is one with the user's other denials of that second.
    pub fn named(&self, uid: u32, names: Vec<StateName>) -> Vec<StateName> {
        let now = Instant::now();
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS_MAX && !users.contains_key(&uid) {
            users.clear();
        }
        let (since, count) = users.entry(uid).or_insert((now, 0));
        if now.duration_since(*since) >= SPAN {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(names.len().max(1) as u32);
        if *count <= DENIALS_NAMED_MAX { names } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_are_noted_by_name_in_a_second() {
        let denials = Denials::default();
        let name = || vec![StateName::parse("a").unwrap()];
        for _ in 0..DENIALS_NAMED_MAX {
            assert_eq!(denials.named(1, name()), name());
        }
        assert_eq!(denials.named(1, name()), []);
        assert_eq!(denials.named(2, name()), name(), "another user's are counted apart");
        tokio::time::advance(SPAN).await;
        assert_eq!(denials.named(1, name()), name());
    }
}
