//! The newest contents of the states that were in use last, for whoever reads or patches them next.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stated_shared::{Digest, StateName, Version};

use super::budget::HeldContent;
use super::delta::Bases;

/// One content a state, the least recently used dropped first.
///
/// What is in here is durable, or was read from what is: it is put in by the owner after the append, or by a reader
/// that compared its SHA-256. Whoever takes it names version and SHA-256, so that an entry that another version has
/// overtaken is never taken for it.
#[derive(Debug)]
pub struct NewestContents {
    len_max: u64,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_state: HashMap<StateName, Entry>,
    by_use: BTreeMap<u64, StateName>,
    uses: u64,
    len: u64,
}

#[derive(Debug)]
struct Entry {
    newest: NewestContent,
    used: u64,
}

/// A state's newest content.
#[derive(Debug, Clone)]
pub struct NewestContent {
    /// Its version.
    pub version: Version,
    /// Its SHA-256.
    pub sha256: Digest,
    /// What the next version may be patched from.
    pub bases: Bases,
    /// Its bytes.
    pub bytes: Arc<HeldContent>,
}

impl NewestContents {
    /// Of at most this many bytes.
    pub fn new(len_max: u64) -> Self {
        Self { len_max, entries: Mutex::default() }
    }

    /// The newest content of a state that is at hand.
    pub fn get(&self, state: &StateName) -> Option<NewestContent> {
        let mut entries = self.entries();
        let Entries { by_state, by_use, uses, .. } = &mut *entries;
        let entry = by_state.get_mut(state)?;
        *uses += 1;
        by_use.remove(&entry.used);
        by_use.insert(*uses, state.clone());
        entry.used = *uses;
        Some(entry.newest.clone())
    }

    /// The content of exactly this version.
    pub fn version(&self, state: &StateName, version: Version, sha256: Digest) -> Option<Arc<HeldContent>> {
        let newest = self.get(state)?;
        (newest.version == version && newest.sha256 == sha256).then_some(newest.bytes)
    }

    /// Whether a content of this length may be kept.
    pub fn fits(&self, len: usize) -> bool {
        len as u64 <= self.len_max / 2
    }

    /// Keeps a content in place of an older one of its state.
    pub fn put(&self, state: &StateName, newest: NewestContent) {
        let mut entries = self.entries();
        if entries.by_state.get(state).is_some_and(|entry| entry.newest.version >= newest.version) {
            return;
        }
        entries.remove(state);
        if !self.fits(newest.bytes.len()) {
            return;
        }
        entries.uses += 1;
        entries.len += cost(&newest);
        let used = entries.uses;
        entries.by_use.insert(used, state.clone());
        entries.by_state.insert(state.clone(), Entry { newest, used });
        while entries.len > self.len_max && entries.remove_oldest() {}
    }

    /// Forgets a state whose newest content is not kept.
    pub fn forget(&self, state: &StateName) {
        self.entries().remove(state);
    }

    /// Makes room; false where nothing is left.
    pub fn drop_oldest(&self) -> bool {
        self.entries().remove_oldest()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing in here panics halfway.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn remove(&mut self, state: &StateName) {
        if let Some(entry) = self.by_state.remove(state) {
            self.by_use.remove(&entry.used);
            self.len -= cost(&entry.newest);
        }
    }

    fn remove_oldest(&mut self) -> bool {
        let Some((_, state)) = self.by_use.pop_first() else { return false };
        self.remove(&state);
        true
    }
}

/// What an entry counts: its pages of the budget.
fn cost(newest: &NewestContent) -> u64 {
    (newest.bytes.len() as u64).next_multiple_of(4096).max(4096)
}

#[cfg(test)]
mod tests {
    use super::super::budget::ContentBudget;
    use super::*;

    const LEN: usize = 1 << 20;

    fn name(n: u64) -> StateName {
        StateName::parse(&format!("s/{n}")).unwrap()
    }

    /// A content of 1 MiB that says which it is, in room of the budget.
    fn content(budget: &ContentBudget, version: u64, len: usize) -> NewestContent {
        let room = budget.room_at_once(len as u64).unwrap();
        NewestContent {
            version: Version(version),
            sha256: Digest([version as u8; 32]),
            bases: Bases::first(Version(version)),
            bytes: HeldContent::new(vec![version as u8; len], Some(room)),
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_nothing_goes_over_the_share() {
        // An eighth of it is 4 MiB.
        let budget = ContentBudget::new(32 << 20);
        let newest = budget.newest();
        for n in 1..=4 {
            newest.put(&name(n), content(&budget, 1, LEN));
        }
        assert!(newest.get(&name(1)).is_some());
        newest.put(&name(5), content(&budget, 1, LEN));
        let kept: Vec<u64> = (1..=5).filter(|n| newest.get(&name(*n)).is_some()).collect();
        assert_eq!(kept, [1, 3, 4, 5]);
        newest.put(&name(6), content(&budget, 1, 3 * LEN));
        assert!(newest.get(&name(6)).is_none(), "it is over half of the share");
    }

    #[test]
    fn only_the_version_that_is_asked_for_is_given_and_an_older_one_replaces_none() {
        let budget = ContentBudget::new(32 << 20);
        let newest = budget.newest();
        newest.put(&name(1), content(&budget, 7, LEN));
        newest.put(&name(1), content(&budget, 6, LEN));
        assert!(newest.version(&name(1), Version(7), Digest([7; 32])).is_some_and(|bytes| bytes[0] == 7));
        assert!(newest.version(&name(1), Version(6), Digest([6; 32])).is_none());
        assert!(newest.version(&name(1), Version(7), Digest([8; 32])).is_none());
        newest.forget(&name(1));
        assert!(newest.get(&name(1)).is_none());
    }

    #[tokio::test]
    async fn whoever_needs_room_gets_that_of_the_newest_contents() {
        let budget = ContentBudget::new(32 << 20);
        for n in 1..=4 {
            budget.newest().put(&name(n), content(&budget, 1, LEN));
        }
        assert!(budget.room_at_once(29 << 20).is_some());
        assert!(budget.newest().get(&name(1)).is_none(), "one had to go");
        assert!(budget.newest().get(&name(4)).is_some(), "and no more than had to");
        drop(budget.room(32 << 20).await.unwrap());
        assert!(budget.newest().get(&name(4)).is_none());
    }
}
