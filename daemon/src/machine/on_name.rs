//! One name's part of the locks: who holds it, and who waits for it, counted so that no question looks at all of them.

use std::collections::{BTreeMap, BTreeSet};

use stated_shared::{Fence, LockId, LockKind};

use super::locks::{Grant, Ticket, Waiter};

/// The grants on one name.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Holders {
    /// In the order of their fences, so the earliest first.
    ids: BTreeSet<(Fence, LockId)>,
    count: Count,
}

/// Grants by kind.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Count {
    exclusive: usize,
    shared: usize,
    /// How many semaphores' grants name each number of slots.
    slots: BTreeMap<u32, usize>,
}

/// The requests that wait for one name.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Queue {
    /// By the grant that they nest in: one lane does not wait for another.
    lanes: BTreeMap<Option<LockId>, Lane>,
    len: u32,
}

/// Requests that line up among themselves.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Lane {
    all: BTreeSet<Ticket>,
    /// All but the shared ones: what a shared request lines up behind.
    firm: BTreeSet<Ticket>,
}

impl Holders {
    pub fn insert(&mut self, grant: &Grant) {
        if self.ids.insert((grant.fence, grant.id.clone())) {
            self.count.add(grant.kind);
        }
    }

    pub fn remove(&mut self, grant: &Grant) {
        if self.ids.remove(&(grant.fence, grant.id.clone())) {
            self.count.subtract(grant.kind);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn contains(&self, grant: &Grant) -> bool {
        self.ids.contains(&(grant.fence, grant.id.clone()))
    }

    pub fn ids(&self) -> impl Iterator<Item = &LockId> {
        self.ids.iter().map(|(_, id)| id)
    }

    /// How many there are of each kind, besides these.
    pub fn count_without(&self, left_out: &[&Grant]) -> Count {
        let mut count = self.count.clone();
        left_out.iter().filter(|grant| self.contains(grant)).for_each(|grant| count.subtract(grant.kind));
        count
    }
}

impl Count {
    fn add(&mut self, kind: LockKind) {
        match kind {
            LockKind::Exclusive => self.exclusive += 1,
            LockKind::Shared => self.shared += 1,
            LockKind::Semaphore { slots } => *self.slots.entry(slots).or_default() += 1,
        }
    }

    fn subtract(&mut self, kind: LockKind) {
        match kind {
            LockKind::Exclusive => self.exclusive -= 1,
            LockKind::Shared => self.shared -= 1,
            LockKind::Semaphore { slots } => {
                if let Some(count) = self.slots.get_mut(&slots) {
                    *count -= 1;
                    if *count == 0 {
                        self.slots.remove(&slots);
                    }
                }
            }
        }
    }

    /// Whether one more semaphore's grant with this number of slots would be too many; the least number counts.
    pub fn is_full(&self, slots: u32) -> bool {
        let least = self.slots.first_key_value().map_or(slots, |(least, _)| slots.min(*least));
        self.slots.values().sum::<usize>() >= least as usize
    }

    /// Whether a request of this kind finds somebody in its way.
    pub fn blocks(&self, kind: LockKind) -> bool {
        let LockKind::Semaphore { slots } = kind else {
            let shares = kind == LockKind::Shared;
            return self.exclusive > 0 || !self.slots.is_empty() || self.shared > 0 && !shares;
        };
        self.exclusive > 0 || self.shared > 0 || self.is_full(slots)
    }
}

impl Queue {
    pub fn insert(&mut self, waiter: &Waiter) {
        let lane = self.lanes.entry(waiter.grant.under.clone()).or_default();
        lane.all.insert(waiter.ticket);
        if waiter.grant.kind != LockKind::Shared {
            lane.firm.insert(waiter.ticket);
        }
        self.len += 1;
    }

    pub fn remove(&mut self, waiter: &Waiter) {
        let Some(lane) = self.lanes.get_mut(&waiter.grant.under) else { return };
        self.len -= u32::from(lane.all.remove(&waiter.ticket));
        lane.firm.remove(&waiter.ticket);
        if lane.all.is_empty() {
            self.lanes.remove(&waiter.grant.under);
        }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.values()
    }

    /// Those that this request lines up behind, whatever their tickets: all of its lane, or but the shared ones.
    pub fn line_of(&self, wanted: &Grant) -> Option<&BTreeSet<Ticket>> {
        let lane = self.lanes.get(&wanted.under)?;
        Some(if wanted.kind == LockKind::Shared { &lane.firm } else { &lane.all })
    }
}

impl Lane {
    /// First come first.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.all.iter().copied()
    }
}
