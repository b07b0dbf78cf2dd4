//! Grants and the queue of those who wait for one.
//!
//! A request is granted when no grant is in its way and no earlier waiting request that conflicts with it: first in,
//! first out, and nobody starves. All names of a request are granted at once or none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use stated_shared::limits::GRANTS_MAX;
use stated_shared::{Fence, Hold, LockId, LockInfo, LockKind, SessionId, StateName, Timestamp};

use super::access::Rights;
use super::event::Actor;
use super::on_name::{Holders, Lane, Queue};

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
    pub holder: Arc<Actor>,
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
    /// Asked once more when its turn comes.
    pub rights: Rights,
}

/// What is remembered of a grant that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Released {
    /// Who held it.
    pub uid: u32,
    /// Its fence: one ID may have been granted more than once.
    pub fence: Fence,
}

/// All grants and waiters, and what finds the ones that a question is about.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Locks {
    grants: BTreeMap<LockId, Grant>,
    holders: BTreeMap<StateName, Holders>,
    waiters: BTreeMap<Ticket, Waiter>,
    queues: BTreeMap<StateName, Queue>,
    released: BTreeMap<LockId, Released>,
    released_order: VecDeque<LockId>,
    next_ticket: u64,
    /// Grants by the request that took them.
    requests: BTreeMap<(SessionId, u64), BTreeSet<LockId>>,
    /// Grants by the grant that they nest in, be it live or not.
    nested: BTreeMap<LockId, BTreeSet<LockId>>,
    /// Grants that nothing keeps any more.
    over: BTreeSet<LockId>,
    /// Leases by their end.
    lease_ends: BTreeSet<(u64, LockId)>,
    /// Grants whose holder the daemon waits for.
    awaited: usize,
    /// Waiters by session.
    waiting: BTreeSet<(SessionId, Ticket)>,
    /// Waiters by the end of their time.
    wait_ends: BTreeSet<(u64, Ticket)>,
    /// Names that are waited for, and on which something ended since nobody could be granted there.
    stirred: BTreeSet<StateName>,
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

    /// The live grants on a name, earliest first.
    pub fn on<'a>(&'a self, name: &StateName) -> impl Iterator<Item = &'a Grant> + use<'a> {
        self.holders.get(name).into_iter().flat_map(Holders::ids).filter_map(|id| self.grants.get(id))
    }

    /// The live grants of a session.
    pub fn of_session(&self, session: SessionId) -> impl Iterator<Item = &Grant> {
        let ids = self.requests.range((session, 0)..=(session, u64::MAX)).flat_map(|(_, ids)| ids);
        ids.filter_map(|id| self.grants.get(id))
    }

    /// The live grant that a request of a session took.
    pub fn of_request(&self, session: SessionId, number: u64) -> Option<&Grant> {
        self.grants.get(self.requests.get(&(session, number))?.first()?)
    }

    /// The live grants that nest directly in this one, which must be live too.
    pub fn nested<'a>(&'a self, id: &LockId) -> impl Iterator<Item = &'a Grant> + use<'a> {
        let ids = self.nested.get(id).filter(|_| self.grants.contains_key(id));
        ids.into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    /// A grant that nothing keeps any more, or a lease whose time is over.
    pub fn next_over(&self, boottime_ms: u64) -> Option<&Grant> {
        let expired = || self.lease_ends.first().filter(|(end, _)| *end <= boottime_ms).map(|(_, id)| id);
        self.grants.get(self.over.first().or_else(expired)?)
    }

    /// When the next lease ends or the next waiter has waited for long enough, as `CLOCK_BOOTTIME`.
    pub fn next_deadline_boottime_ms(&self) -> Option<u64> {
        let lease = self.lease_ends.first().map(|(end, _)| *end);
        lease.into_iter().chain(self.wait_ends.first().map(|(end, _)| *end)).min()
    }

    /// How many grants are kept for a holder that has not come back after a restart yet.
    pub fn awaited_count(&self) -> usize {
        self.awaited
    }

    /// The last grant of this ID that ended, while that is remembered.
    pub fn released(&self, id: &LockId) -> Option<Released> {
        self.released.get(id).copied()
    }

    /// What is remembered of grants that ended; the one that is forgotten first comes first.
    pub(super) fn released_in_order(&self) -> impl Iterator<Item = (&LockId, Released)> {
        self.released_order.iter().filter_map(|id| Some((id, *self.released.get(id)?)))
    }

    /// The waiting requests of a session.
    pub fn waiting_of(&self, session: SessionId) -> impl Iterator<Item = &Waiter> {
        let all = self.waiting.range((session, Ticket(0))..=(session, Ticket(u64::MAX)));
        all.filter_map(|(_, ticket)| self.waiters.get(ticket))
    }

    /// The waiting requests whose time is over.
    pub fn timed_out(&self, boottime_ms: u64) -> impl Iterator<Item = &Waiter> {
        let ended = self.wait_ends.range(..=(boottime_ms, Ticket(u64::MAX)));
        ended.filter_map(|(_, ticket)| self.waiters.get(ticket))
    }

    /// Every waiting request, first in the queue first.
    #[cfg(test)]
    pub fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.values()
    }

    /// The same grants and waiters, found anew: what tests compare with.
    #[cfg(test)]
    pub(super) fn rebuilt(&self) -> Self {
        let mut rebuilt = Self::default();
        self.grants.values().for_each(|grant| rebuilt.insert(grant.clone()));
        self.waiters.values().for_each(|waiter| rebuilt.queue(waiter.clone()));
        (rebuilt.released, rebuilt.released_order) = (self.released.clone(), self.released_order.clone());
        (rebuilt.next_ticket, rebuilt.stirred) = (self.next_ticket, self.stirred.clone());
        rebuilt
    }

    /// How many requests wait.
    pub fn waiter_count(&self) -> usize {
        self.waiters.len()
    }

    /// How many requests wait for a name.
    pub fn queue_len(&self, name: &StateName) -> u32 {
        self.queues.get(name).map_or(0, Queue::len)
    }

    /// The ticket that the next waiter gets.
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.next_ticket)
    }

    /// Whether any grant is in the way of these names, besides the ones that the request nests in.
    pub fn is_in_the_way(&self, wanted: &Grant) -> bool {
        wanted.names.iter().any(|name| self.is_in_the_way_on(wanted, name))
    }

    fn is_in_the_way_on(&self, wanted: &Grant, name: &StateName) -> bool {
        let Some(holders) = self.holders.get(name) else { return false };
        holders.count_without(&self.ancestors(wanted.under.as_ref())).blocks(wanted.kind)
    }

    /// The grants in the way of these names, each once for every name.
    pub fn in_the_way<'a>(&'a self, wanted: &'a Grant) -> impl Iterator<Item = (&'a StateName, &'a Grant)> {
        let ancestors = self.ancestors(wanted.under.as_ref());
        wanted.names.iter().filter_map(|name| Some((name, self.holders.get(name)?))).flat_map(move |(name, holders)| {
            let is_full = slots_of(wanted.kind).is_some_and(|slots| holders.count_without(&ancestors).is_full(slots));
            let ancestors = ancestors.clone();
            let others = self.on(name).filter(move |grant| !ancestors.iter().any(|other| other.id == grant.id));
            let conflicts = move |grant: &&Grant| match (slots_of(wanted.kind), slots_of(grant.kind)) {
                (Some(_), Some(_)) => is_full,
                _ => conflict(wanted.kind, grant.kind),
            };
            others.filter(conflicts).map(move |grant| (name, grant))
        })
    }

    /// How many waiting requests a new one has to let pass.
    pub fn ahead(&self, wanted: &Grant) -> usize {
        let mut lines = wanted.names.iter().filter_map(|name| self.queues.get(name)?.line_of(wanted));
        let Some(first) = lines.next() else { return 0 };
        let Some(second) = lines.next() else { return first.len() };
        lines.fold(first | second, |union, line| &union | line).len()
    }

    /// Whether a waiting request has to let an earlier one pass.
    fn has_ahead(&self, waiter: &Waiter) -> bool {
        let first = |name| self.queues.get(name)?.line_of(&waiter.grant)?.first();
        waiter.grant.names.iter().filter_map(first).any(|first| *first < waiter.ticket)
    }

    /// The first waiting request on some name that nothing is in the way of any more.
    ///
    /// Looks only where something ended, and forgets a name on which it finds none.
    pub(super) fn next_grantable(&mut self) -> Option<&Waiter> {
        while let Some(name) = self.stirred.first() {
            if let Some(ticket) = self.grantable_on(name) {
                return self.waiters.get(&ticket);
            }
            self.stirred.pop_first();
        }
        None
    }

    fn grantable_on(&self, name: &StateName) -> Option<Ticket> {
        let in_lane = |lane: &Lane| {
            for waiter in lane.tickets().filter_map(|ticket| self.waiters.get(&ticket)) {
                if !self.has_ahead(waiter) && !self.is_in_the_way(&waiter.grant) {
                    return Some(waiter.ticket);
                }
                // Whoever comes later lines up behind this one, or finds the same grant in the way; but for shared
                // ones behind a shared one that waits for another name.
                if waiter.grant.kind != LockKind::Shared || self.is_in_the_way_on(&waiter.grant, name) {
                    return None;
                }
            }
            None
        };
        self.queues.get(name)?.lanes().filter_map(in_lane).min()
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
        self.holders.range::<StateName, _>((start, Bound::Unbounded)).flat_map(move |(name, holders)| {
            let mut ids: Vec<&LockId> = holders.ids().collect();
            ids.sort();
            let rest = move |id: &&LockId| after.is_none_or(|(n, last)| n != name || *id > last);
            ids.into_iter().filter(rest).filter_map(|id| self.grants.get(id)).map(move |g| self.row(g, name, time))
        })
    }

    pub(super) fn row(&self, grant: &Grant, name: &StateName, time: Time) -> LockInfo {
        LockInfo {
            name: name.clone(),
            kind: grant.kind,
            id: grant.id.clone(),
            fence: grant.fence,
            holder: (&*grant.holder).into(),
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

    /// How many grants lie around this one, and it.
    pub(super) fn depth(&self, grant: &Grant) -> usize {
        self.ancestors(Some(&grant.id)).len()
    }

    /// This grant and all that it nests in.
    fn ancestors(&self, first: Option<&LockId>) -> Vec<&Grant> {
        let grant = |id: Option<&LockId>| self.grants.get(id?);
        std::iter::successors(grant(first), |inner| grant(inner.under.as_ref())).collect()
    }

    pub(super) fn insert(&mut self, grant: Grant) {
        let id = grant.id.clone();
        for name in &grant.names {
            self.holders.entry(name.clone()).or_default().insert(&grant);
        }
        self.requests.entry((grant.session(), grant.number)).or_default().insert(id.clone());
        if let Some(parent) = &grant.under {
            self.nested.entry(parent.clone()).or_default().insert(id.clone());
        }
        self.grants.insert(id.clone(), grant);
        self.enter(&id);
        self.look_at_nested(&id);
    }

    pub(super) fn remove(&mut self, id: &LockId) {
        self.strike(id);
        let Some(grant) = self.grants.remove(id) else { return };
        for name in &grant.names {
            if let Some(holders) = self.holders.get_mut(name) {
                holders.remove(&grant);
                if holders.is_empty() {
                    self.holders.remove(name);
                }
            }
            self.stir(name);
        }
        remove_from(&mut self.requests, &(grant.session(), grant.number), id);
        if let Some(parent) = &grant.under {
            remove_from(&mut self.nested, parent, id);
        }
        self.look_at_nested(id);
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

    /// Changes how a grant lasts. `false` where there is no such grant.
    pub(super) fn alter(&mut self, id: &LockId, change: impl FnOnce(&mut Tenure, &mut bool)) -> bool {
        self.strike(id);
        let Some(grant) = self.grants.get_mut(id) else { return false };
        change(&mut grant.tenure, &mut grant.ending);
        self.enter(id);
        true
    }

    /// Changes how the grants of a session last.
    pub(super) fn alter_session(&mut self, session: SessionId, change: impl Fn(&mut Tenure)) {
        let ids: Vec<LockId> = self.of_session(session).map(|grant| grant.id.clone()).collect();
        for id in ids {
            self.alter(&id, |tenure, _| change(tenure));
        }
    }

    /// Changes how the leases last.
    pub(super) fn alter_leases(&mut self, change: impl Fn(&mut Tenure)) {
        for (_, id) in self.lease_ends.clone() {
            self.alter(&id, |tenure, _| change(tenure));
        }
    }

    /// Notes what depends on a grant's tenure, and on whether the grant that it nests in is live.
    fn enter(&mut self, id: &LockId) {
        let Some(grant) = self.grants.get(id) else { return };
        let is_orphaned = grant.under.as_ref().is_some_and(|parent| !self.grants.contains_key(parent));
        if is_orphaned || grant.is_abandoned() && !grant.ending {
            self.over.insert(id.clone());
        }
        match grant.tenure {
            Tenure::Lease { deadline_boottime_ms, .. } => {
                self.lease_ends.insert((deadline_boottime_ms, id.clone()));
            }
            Tenure::Session { link, .. } => self.awaited += usize::from(link == Link::Awaited),
        }
    }

    /// The reverse of [`Self::enter`].
    fn strike(&mut self, id: &LockId) {
        let Some(grant) = self.grants.get(id) else { return };
        self.over.remove(id);
        match grant.tenure {
            Tenure::Lease { deadline_boottime_ms, .. } => {
                self.lease_ends.remove(&(deadline_boottime_ms, id.clone()));
            }
            Tenure::Session { link, .. } => self.awaited -= usize::from(link == Link::Awaited),
        }
    }

    /// A grant began or ended: what nests in it has a parent now, or none.
    fn look_at_nested(&mut self, id: &LockId) {
        for nested in self.nested.get(id).cloned().into_iter().flatten() {
            self.strike(&nested);
            self.enter(&nested);
        }
    }

    /// Somebody who waits for the name may pass now.
    fn stir(&mut self, name: &StateName) {
        if self.queues.contains_key(name) {
            self.stirred.insert(name.clone());
        }
    }

    /// Everybody who waits may pass now.
    pub(super) fn stir_all(&mut self) {
        self.stirred = self.queues.keys().cloned().collect();
    }

    pub(super) fn queue(&mut self, waiter: Waiter) {
        for name in &waiter.grant.names {
            self.queues.entry(name.clone()).or_default().insert(&waiter);
        }
        self.waiting.insert((waiter.grant.session(), waiter.ticket));
        if let Some(end) = waiter.deadline_boottime_ms {
            self.wait_ends.insert((end, waiter.ticket));
        }
        self.next_ticket = waiter.ticket.0 + 1;
        self.waiters.insert(waiter.ticket, waiter);
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        let Some(waiter) = self.waiters.remove(&ticket) else { return };
        for name in &waiter.grant.names {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.remove(&waiter);
                if queue.len() == 0 {
                    self.queues.remove(name);
                    self.stirred.remove(name);
                }
            }
            self.stir(name);
        }
        self.waiting.remove(&(waiter.grant.session(), ticket));
        if let Some(end) = waiter.deadline_boottime_ms {
            self.wait_ends.remove(&(end, ticket));
        }
    }
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeSet<LockId>>, key: &K, id: &LockId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
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
