//! Grants and the queue of those who wait for one.
//!
//! A request is granted when no grant is in its way and no earlier waiting request that conflicts with it: first in,
//! first out, and nobody starves. All names of a request are granted at once or none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use stated_shared::limits::GRANTS_MAX;
use stated_shared::{Fence, Hold, LockId, LockInfo, LockKind, SessionId, StateName, Timestamp};

use super::event::Actor;

/// The place of a request in the queue; grows with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A held lock, on one or several names.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Grant {
    /// What ends or renews it.
    pub id: LockId,
    /// The names held.
    pub names: BTreeSet<StateName>,
    /// How.
    pub kind: LockKind,
    /// Its fencing token; its parent's where it nests.
    pub fence: Fence,
    /// Who holds it, and in which session.
    pub holder: Actor,
    /// The request that took it, in the holder's session.
    pub number: u64,
    /// Since when.
    pub since: Timestamp,
    /// What for, in a word.
    pub operation: String,
    /// What for, in the holder's words.
    pub reason: Option<String>,
    /// A foreign protocol's lock document.
    pub info: Option<String>,
    /// The grant it nests in.
    pub under: Option<LockId>,
    /// How long it lasts.
    pub tenure: Tenure,
    /// Its holder is done with it, but grants that nest in it are not.
    pub ending: bool,
}

/// How long a grant lasts.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Tenure {
    /// As long as connection or process, as `hold` says.
    Session {
        /// What keeps it.
        hold: Hold,
        /// The holder's connection.
        link: Link,
        /// The holder's own process: ID and start time in clock ticks since boot, where known.
        peer: Option<(u32, u64)>,
        /// The process that it is tied to.
        process: Option<Tie>,
    },
    /// Until a time.
    Lease {
        /// From grant or renewal to the end.
        ttl_ms: u64,
        /// `CLOCK_BOOTTIME` of the end.
        deadline_boottime_ms: u64,
    },
}

/// The connection of a session lock's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Link {
    /// Open.
    Up,
    /// The daemon was away and the holder has not come back yet.
    Awaited,
    /// Closed by the holder.
    Down,
}

/// A process that a lock is tied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tie {
    /// Its ID and start time in clock ticks since boot, where it shares a PID namespace with the daemon.
    pub mark: Option<(u32, u64)>,
    /// Whether it is gone.
    pub gone: bool,
}

/// A lock request that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiter {
    /// Its place.
    pub ticket: Ticket,
    /// The grant that it will be.
    pub grant: Grant,
    /// `CLOCK_BOOTTIME` after which it waits no more.
    pub deadline_boottime_ms: Option<u64>,
}

/// What is remembered of a grant that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Released {
    /// Who held it.
    pub uid: u32,
    /// Its fence: one ID may have been granted more than once.
    pub fence: Fence,
}

/// All grants and waiters.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Locks {
    grants: BTreeMap<LockId, Grant>,
    holders: BTreeMap<StateName, Vec<LockId>>,
    waiters: BTreeMap<Ticket, Waiter>,
    queues: BTreeMap<StateName, BTreeSet<Ticket>>,
    released: BTreeMap<LockId, Released>,
    released_order: VecDeque<LockId>,
    next_ticket: u64,
}

impl Locks {
    /// The live grant of this ID.
    pub fn grant(&self, id: &LockId) -> Option<&Grant> {
        self.grants.get(id)
    }

    /// Every live grant.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    /// How many grants there are.
    pub fn grant_count(&self) -> usize {
        self.grants.len()
    }

    /// The live grants on a name.
    pub fn on<'a>(&'a self, name: &StateName) -> impl Iterator<Item = &'a Grant> + use<'a> {
        self.holders.get(name).into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    /// The live grants that nest directly in this one.
    pub fn nested<'a>(&'a self, id: &LockId) -> impl Iterator<Item = &'a Grant> + use<'a> {
        let id = id.clone();
        // A nested grant holds names of its parent, so the holders of one parent's names are the ones to look at.
        let names = self.grants.get(&id).map(|grant| &grant.names);
        let ids: BTreeSet<&LockId> =
            names.into_iter().flatten().filter_map(|name| self.holders.get(name)).flatten().collect();
        ids.into_iter().filter_map(|id| self.grants.get(id)).filter(move |grant| grant.under.as_ref() == Some(&id))
    }

    /// The last grant of this ID that ended, while that is remembered.
    pub fn released(&self, id: &LockId) -> Option<Released> {
        self.released.get(id).copied()
    }

    /// What is remembered of grants that ended; the one that is forgotten first comes first.
    pub(super) fn released_in_order(&self) -> impl Iterator<Item = (&LockId, Released)> {
        self.released_order.iter().filter_map(|id| Some((id, *self.released.get(id)?)))
    }

    /// The names with several holders, with these in the order of their grants.
    pub(super) fn shared_names(&self) -> impl Iterator<Item = (&StateName, &[LockId])> {
        self.holders.iter().filter(|(_, ids)| ids.len() > 1).map(|(name, ids)| (name, ids.as_slice()))
    }

    /// Puts the holders of a name into the order of their grants; whether they are the holders.
    pub(super) fn order(&mut self, name: &StateName, ids: Vec<LockId>) -> bool {
        let Some(holders) = self.holders.get_mut(name) else { return false };
        let same = holders.iter().collect::<BTreeSet<_>>() == ids.iter().collect() && holders.len() == ids.len();
        if same {
            *holders = ids;
        }
        same
    }

    /// Every waiting request, first in the queue first.
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values()
    }

    /// How many requests wait.
    pub fn waiter_count(&self) -> usize {
        self.waiters.len()
    }

    /// How many requests wait for a name.
    pub fn queue_len(&self, name: &StateName) -> u32 {
        self.queues.get(name).map_or(0, |queue| queue.len() as u32)
    }

    /// The ticket that the next waiter gets.
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.next_ticket)
    }

    /// The grants in the way of these names, besides the ones that the request nests in.
    pub fn in_the_way<'a>(&'a self, wanted: &'a Grant) -> Vec<&'a Grant> {
        let ancestors = self.ancestors(wanted.under.as_ref());
        let mut found: Vec<&Grant> = Vec::new();
        for name in &wanted.names {
            let others = || self.on(name).filter(|grant| !ancestors.contains(&&grant.id));
            let full = match wanted.kind {
                LockKind::Semaphore { slots } => {
                    let least = others().filter_map(|grant| slots_of(grant.kind)).fold(slots, u32::min);
                    others().filter(|grant| slots_of(grant.kind).is_some()).count() >= least as usize
                }
                LockKind::Exclusive | LockKind::Shared => false,
            };
            for grant in others() {
                let conflicts = match (slots_of(wanted.kind), slots_of(grant.kind)) {
                    (Some(_), Some(_)) => full,
                    _ => conflict(wanted.kind, grant.kind),
                };
                if conflicts && !found.iter().any(|other| other.id == grant.id) {
                    found.push(grant);
                }
            }
        }
        found
    }

    /// How many waiting requests, with an earlier ticket than `before`, this one has to let pass.
    pub fn ahead(&self, wanted: &Grant, before: Ticket) -> usize {
        let mut ahead = BTreeSet::new();
        for name in &wanted.names {
            for ticket in self.queues.get(name).into_iter().flat_map(|queue| queue.range(..before)) {
                let other = &self.waiters[ticket].grant;
                // Whoever waits outside of a grant waits for that grant: what nests in it must not wait for them.
                if other.under == wanted.under && lines_up(wanted.kind, other.kind) {
                    ahead.insert(ticket);
                }
            }
        }
        ahead.len()
    }

    /// The first waiting request that nothing is in the way of any more.
    pub fn next_grantable(&self) -> Option<&Waiter> {
        // What earlier requests wait for, strongest kind a name and parent: later ones let them pass.
        let mut claimed: BTreeMap<(&StateName, Option<&LockId>), LockKind> = BTreeMap::new();
        for waiter in self.waiters.values() {
            let wanted = &waiter.grant;
            let key = |name| (name, wanted.under.as_ref());
            let passes = |name| claimed.get(&key(name)).is_none_or(|kind| !lines_up(wanted.kind, *kind));
            if wanted.names.iter().all(passes) && self.in_the_way(wanted).is_empty() {
                return Some(waiter);
            }
            for name in &wanted.names {
                let claim = claimed.entry(key(name)).or_insert(wanted.kind);
                // Two kinds waiting for one name: whatever comes later lines up behind at least one of them.
                if *claim != wanted.kind {
                    *claim = LockKind::Exclusive;
                }
            }
        }
        None
    }

    /// The rows of a grant, one a name.
    pub fn rows<'a>(&'a self, grant: &'a Grant, time: Time) -> impl Iterator<Item = LockInfo> + use<'a> {
        grant.names.iter().map(move |name| self.row(grant, name, time))
    }

    /// The rows after a name and ID, in that order.
    pub fn list<'a>(
        &'a self,
        after: Option<&'a (StateName, LockId)>,
        time: Time,
    ) -> impl Iterator<Item = LockInfo> + use<'a> {
        let start = after.map_or(Bound::Unbounded, |(name, _)| Bound::Included(name));
        self.holders.range::<StateName, _>((start, Bound::Unbounded)).flat_map(move |(name, ids)| {
            let mut ids: Vec<&LockId> = ids.iter().collect();
            ids.sort();
            let rest = move |id: &&LockId| after.is_none_or(|(n, last)| n != name || *id > last);
            ids.into_iter().filter(rest).filter_map(|id| self.grants.get(id)).map(move |g| self.row(g, name, time))
        })
    }

    fn row(&self, grant: &Grant, name: &StateName, time: Time) -> LockInfo {
        LockInfo {
            name: name.clone(),
            kind: grant.kind,
            id: grant.id.clone(),
            fence: grant.fence,
            holder: (&grant.holder).into(),
            since: grant.since,
            operation: grant.operation.clone(),
            reason: grant.reason.clone(),
            info: grant.info.clone(),
            under: grant.under.clone(),
            process: match &grant.tenure {
                Tenure::Session { process: Some(tie), .. } => tie.mark.map(|(pid, _)| pid),
                _ => None,
            },
            expires: grant.expires(time),
            waiters: self.queue_len(name),
        }
    }

    /// This grant and all that it nests in.
    fn ancestors<'a>(&'a self, first: Option<&'a LockId>) -> Vec<&'a LockId> {
        std::iter::successors(first, |id| self.grants.get(id)?.under.as_ref()).collect()
    }

    pub(super) fn insert(&mut self, grant: Grant) {
        for name in &grant.names {
            self.holders.entry(name.clone()).or_default().push(grant.id.clone());
        }
        self.grants.insert(grant.id.clone(), grant);
    }

    pub(super) fn remove(&mut self, id: &LockId) {
        let Some(grant) = self.grants.remove(id) else { return };
        for name in &grant.names {
            if let Some(ids) = self.holders.get_mut(name) {
                ids.retain(|other| other != id);
                if ids.is_empty() {
                    self.holders.remove(name);
                }
            }
        }
        self.remember(id, Released { uid: grant.holder.uid, fence: grant.fence });
    }

    pub(super) fn remember(&mut self, id: &LockId, released: Released) {
        if self.released.insert(id.clone(), released).is_none() {
            self.released_order.push_back(id.clone());
        }
        if self.released_order.len() > GRANTS_MAX
            && let Some(oldest) = self.released_order.pop_front()
        {
            self.released.remove(&oldest);
        }
    }

    pub(super) fn get_mut(&mut self, id: &LockId) -> Option<&mut Grant> {
        self.grants.get_mut(id)
    }

    pub(super) fn grants_mut(&mut self) -> impl Iterator<Item = &mut Grant> {
        self.grants.values_mut()
    }

    pub(super) fn queue(&mut self, waiter: Waiter) {
        for name in &waiter.grant.names {
            self.queues.entry(name.clone()).or_default().insert(waiter.ticket);
        }
        self.next_ticket = waiter.ticket.0 + 1;
        self.waiters.insert(waiter.ticket, waiter);
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        let Some(waiter) = self.waiters.remove(&ticket) else { return };
        for name in &waiter.grant.names {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.remove(&ticket);
                if queue.is_empty() {
                    self.queues.remove(name);
                }
            }
        }
    }
}

/// The two clocks, read at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Wall clock.
    pub wall: Timestamp,
    /// `CLOCK_BOOTTIME`, in milliseconds.
    pub boottime_ms: u64,
}

impl Grant {
    /// The session that took it.
    pub fn session(&self) -> SessionId {
        self.holder.session
    }

    /// When a lease ends, by the wall clock of now.
    pub fn expires(&self, time: Time) -> Option<Timestamp> {
        match self.tenure {
            Tenure::Lease { deadline_boottime_ms, .. } => {
                Some(Timestamp((time.wall.0 + deadline_boottime_ms).saturating_sub(time.boottime_ms)))
            }
            Tenure::Session { .. } => None,
        }
    }

    /// Whether connection and process leave nothing that keeps a session lock.
    pub fn is_abandoned(&self) -> bool {
        match &self.tenure {
            Tenure::Lease { .. } => false,
            Tenure::Session { hold, link, process, .. } => {
                let linked = *link != Link::Down;
                let running = process.as_ref().is_some_and(|tie| !tie.gone);
                match hold {
                    Hold::Connection => !linked,
                    Hold::ConnectionOrProcess => !linked && !running,
                    // Not tied yet, or never: the connection stands in.
                    Hold::Process => !running && (process.is_some() || !linked),
                }
            }
        }
    }
}

fn slots_of(kind: LockKind) -> Option<u32> {
    match kind {
        LockKind::Semaphore { slots } => Some(slots),
        LockKind::Exclusive | LockKind::Shared => None,
    }
}

/// Whether two holders exclude each other; two semaphores do by count only.
fn conflict(one: LockKind, other: LockKind) -> bool {
    !matches!(
        (one, other),
        (LockKind::Shared, LockKind::Shared) | (LockKind::Semaphore { .. }, LockKind::Semaphore { .. })
    )
}

/// Whether a request lines up behind an earlier one for the same name. Two that want slots do.
fn lines_up(later: LockKind, earlier: LockKind) -> bool {
    !matches!((later, earlier), (LockKind::Shared, LockKind::Shared))
}
