//! Deciding locks: take, tie, end, renew, break; and what ends by itself.

use std::sync::Arc;

use stated_shared::limits::{GRANTS_MAX, NESTING_MAX, WAITERS_MAX};
use stated_shared::{
    Detail, Failure, FailureKind, Hold, Lock, LockId, LockKind, Notice, Reply, SessionId, StateName, Verb, Wait,
};

use super::access::Rights;
use super::event::{Actor, Broken, BrokenGrant, Event, LeaseEnded, LeaseGranted, LeaseRenewed, What};
use super::locks::{Grant, Link, Tenure, Ticket, Tie, Time, Waiter};
use super::{Context, Decision, Machine, Motion, Step, Verdict};

/// Rows that a refusal has at most.
const HOLDERS_TOLD_MAX: usize = 32;

/// A request for a lock, with what only the daemon can tell of it.
#[derive(Debug, Clone)]
pub struct LockAsk {
    /// As it was asked.
    pub lock: Lock,
    /// The process that it is to be tied to, where that exists already.
    pub tie: Option<Tie>,
    /// The requester's own process: ID and start time, where known.
    pub peer: Option<(u32, u64)>,
}

/// A waiting request whose turn it is.
#[derive(Debug)]
pub struct Passed {
    /// Whose.
    pub session: SessionId,
    /// Which request.
    pub number: u64,
    /// Its place in the queue.
    pub ticket: Ticket,
    /// To be folded in before it is told.
    pub steps: Vec<Step>,
    /// The grant's ID.
    pub id: LockId,
    /// The grant that it may not become any more, and the refusal.
    pub denied: Option<(Grant, Failure)>,
}

impl Machine {
    pub(super) fn decide_lock(&self, cx: &Context<'_>, ask: &LockAsk) -> Result<Decision, Failure> {
        if let Some(existing) = self.asked_before(cx, ask)? {
            let reply = self.granted(&existing.id, cx.time)?;
            return Ok(Decision { steps: Vec::new(), verdict: Verdict::Reply(reply) });
        }
        let parent = self.parent(cx, ask)?;
        let tenure = match ask.lock.ttl_ms {
            Some(ttl_ms) => Tenure::Lease { ttl_ms, deadline_boottime_ms: cx.time.boottime_ms + ttl_ms },
            None => Tenure::Session { hold: ask.lock.hold, link: Link::Up, peer: ask.peer, process: ask.tie },
        };
        let wanted = Grant {
            id: ask.lock.id.clone().unwrap_or_else(|| LockId::from_random(cx.drawn)),
            names: ask.lock.names.clone(),
            kind: ask.lock.kind,
            fence: parent.map_or_else(|| self.next_fence(), |parent| parent.fence),
            holder: cx.actor.clone(),
            number: cx.number,
            since: cx.time.wall,
            operation: ask.lock.operation.clone(),
            reason: ask.lock.reason.clone(),
            info: ask.lock.info.clone(),
            under: parent.map(|parent| parent.id.clone()),
            tenure,
            ending: false,
        };
        let ahead = self.locks.ahead(&wanted);
        if ahead == 0 && !self.frozen && !self.locks.is_in_the_way(&wanted) {
            if self.locks.grant_count() >= GRANTS_MAX {
                return Err(Failure::new(
                    FailureKind::Busy,
                    format!("{GRANTS_MAX} locks are held, and that is the limit"),
                ));
            }
            let (reply, steps) = (self.reply_of(&wanted, cx.time), begin(wanted, cx.time));
            return Ok(Decision { steps, verdict: Verdict::Reply(reply) });
        }
        if let Some((_, own)) = self.locks.in_the_way(&wanted).find(|(_, grant)| grant.session() == cx.actor.session) {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("this session holds the lock {} on the same name, so waiting would never end", own.id),
            )
            .hint("a shared lock is not upgraded: end it, then ask for the other"));
        }
        let holders = self.holders_in_the_way(&wanted, cx.time);
        let deadline_boottime_ms = match ask.lock.wait {
            Wait::No | Wait::Forever => None,
            Wait::AtMost { ms } => Some(cx.time.boottime_ms.saturating_add(ms)),
        };
        if matches!(ask.lock.wait, Wait::No | Wait::AtMost { ms: 0 }) {
            return Err(self.busy(&wanted, holders, cx.time));
        }
        if self.locks.waiter_count() >= WAITERS_MAX {
            return Err(Failure::new(FailureKind::Busy, format!("{WAITERS_MAX} requests wait, and that is the limit")));
        }
        let rights = Rights(Arc::clone(cx.access));
        let waiter = Waiter { ticket: self.locks.next_ticket(), grant: wanted, deadline_boottime_ms, rights };
        let notice = Notice::Queued { number: cx.number, holders, ahead: ahead as u32 };
        Ok(Decision { steps: vec![Step::Move(Motion::Queued(Box::new(waiter)))], verdict: Verdict::Wait(notice) })
    }

    /// The grant that this very request, or one with the same ID of one's own, got before: a lost answer is asked again.
    fn asked_before(&self, cx: &Context<'_>, ask: &LockAsk) -> Result<Option<&Grant>, Failure> {
        match ask.lock.id.as_ref().and_then(|id| self.locks.grant(id)) {
            Some(grant)
                if grant.holder.uid == cx.actor.uid && grant.names == ask.lock.names && grant.kind == ask.lock.kind =>
            {
                Ok(Some(grant))
            }
            Some(grant) => {
                let rows = self.locks.rows(grant, cx.time).filter(|row| cx.access.may(Verb::Read, row.name.as_str()));
                let rows: Vec<_> = rows.collect();
                Err(Failure::new(FailureKind::Busy, format!("the ID {} is another lock's", grant.id))
                    .detail(Detail::Held { holders: rows, waiters: 0 }))
            }
            None => Ok(self.locks.of_request(cx.actor.session, cx.number)),
        }
    }

    /// The grant that a request nests in: it must be live, the same user's, and cover all the names or none.
    fn parent(&self, cx: &Context<'_>, ask: &LockAsk) -> Result<Option<&Grant>, Failure> {
        let Some(id) = &ask.lock.under else { return Ok(None) };
        let Some(parent) = self.locks.grant(id).filter(|grant| grant.holder.uid == cx.actor.uid) else {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("the lock {id}, under which this runs, is not held any more"),
            )
            .hint("see who holds what with: statectl locks"));
        };
        let covered = ask.lock.names.iter().filter(|name| parent.names.contains(*name)).count();
        if covered == 0 {
            return Ok(None);
        }
        let strong_enough = match (parent.kind, ask.lock.kind) {
            (LockKind::Exclusive, _) | (LockKind::Shared, LockKind::Shared) => true,
            (LockKind::Semaphore { .. }, LockKind::Semaphore { .. }) => true,
            (LockKind::Shared | LockKind::Semaphore { .. }, _) => false,
        };
        if covered < ask.lock.names.len() || !strong_enough {
            let why = if strong_enough { "covers only some of these names" } else { "is of a weaker kind" };
            return Err(Failure::new(
                FailureKind::Busy,
                format!("the lock {id}, under which this runs, {why}, so waiting would never end"),
            )
            .hint("take all the names, in the stronger kind, with the outer lock"));
        }
        if self.locks.depth(parent) >= NESTING_MAX {
            let message =
                format!("the lock {id} is the {NESTING_MAX}th of locks within locks, and no more are given in it");
            return Err(
                Failure::new(FailureKind::Usage, message).hint("end one of them first; see them with: statectl locks")
            );
        }
        Ok(Some(parent))
    }

    pub(super) fn decide_bind(&self, cx: &Context<'_>, id: &LockId, hold: Hold, tie: Tie) -> Result<Decision, Failure> {
        let grant = self.own(cx, id)?;
        if matches!(grant.tenure, Tenure::Lease { .. }) {
            return Err(Failure::new(
                FailureKind::Usage,
                format!("the lock {id} is a lease: it is not tied to a process"),
            ));
        }
        let motion = Motion::Bound { id: id.clone(), hold, tie };
        Ok(Decision { steps: vec![Step::Move(motion)], verdict: Verdict::Reply(Reply::Done) })
    }

    pub(super) fn decide_unlock(&self, cx: &Context<'_>, id: &LockId) -> Result<Decision, Failure> {
        if self.locks.grant(id).is_none()
            && self.locks.released(id).is_some_and(|released| released.uid == cx.actor.uid)
        {
            return Ok(Decision { steps: Vec::new(), verdict: Verdict::Reply(Reply::Done) });
        }
        let grant = self.own(cx, id)?;
        let steps = self.end(grant, cx.time, cx.actor);
        Ok(Decision { steps, verdict: Verdict::Reply(Reply::Done) })
    }

    pub(super) fn decide_renew(&self, cx: &Context<'_>, id: &LockId, ttl_ms: Option<u64>) -> Result<Decision, Failure> {
        let grant = self.own(cx, id)?;
        let Tenure::Lease { ttl_ms: last_ttl_ms, .. } = grant.tenure else {
            return Err(Failure::new(
                FailureKind::Usage,
                format!("the lock {id} is no lease: it lasts as long as its holder"),
            ));
        };
        let ttl_ms = ttl_ms.unwrap_or(last_ttl_ms);
        let what = What::LeaseRenewed(LeaseRenewed {
            number: cx.number,
            id: id.clone(),
            ttl_ms,
            deadline_boottime_ms: cx.time.boottime_ms + ttl_ms,
        });
        Ok(Decision { steps: vec![record(cx.time, cx.actor, what)], verdict: Verdict::Recall })
    }

    pub(super) fn decide_break(
        &self,
        cx: &Context<'_>,
        name: &StateName,
        id: Option<&LockId>,
    ) -> Result<Decision, Failure> {
        let mut meant: Vec<&Grant> = self.locks.on(name).filter(|grant| id.is_none_or(|id| grant.id == *id)).collect();
        if !cx.access.may(Verb::Break, name.as_str()) {
            // Their own grants are theirs to end; of others, and of whether there are any, they hear nothing.
            meant.retain(|grant| grant.holder.uid == cx.actor.uid);
            if meant.is_empty() {
                return Err(cx.access.denial(Verb::Break, name.as_str()));
            }
        }
        if meant.is_empty() {
            let what = match id {
                Some(id) => format!("the lock {id} is not held on {name}"),
                None => format!("nobody holds {name}"),
            };
            return Err(Failure::new(FailureKind::NotFound, what).hint("see who holds what with: statectl locks"));
        }
        let mut grants: Vec<&Grant> = Vec::new();
        for grant in meant {
            let others = grant.holder.uid != cx.actor.uid;
            if others && !grant.names.iter().all(|name| cx.access.may(Verb::Break, name.as_str())) {
                let message =
                    format!("the lock {} holds other names too, which uid {} may not break", grant.id, cx.actor.uid);
                return Err(Failure::new(FailureKind::Denied, message).hint("ask whoever may, or the holder"));
            }
            for ended in self.with_nested(grant) {
                if !grants.iter().any(|other| other.id == ended.id) {
                    grants.push(ended);
                }
            }
        }
        let grants = grants
            .into_iter()
            .map(|grant| BrokenGrant {
                id: grant.id.clone(),
                names: grant.names.clone(),
                kind: grant.kind.into(),
                fence: grant.fence,
                holder: Actor::clone(&grant.holder),
                since: grant.since,
                operation: grant.operation.clone(),
                reason: grant.reason.clone(),
            })
            .collect();
        let what = What::Broken(Broken { number: cx.number, grants });
        Ok(Decision { steps: vec![record(cx.time, cx.actor, what)], verdict: Verdict::Recall })
    }

    /// A waiting request that can be granted now. To be called until there is none.
    ///
    /// Changes nothing but where it looks the next time.
    pub fn next_passed(&mut self, time: Time) -> Option<Passed> {
        if self.frozen {
            return None;
        }
        let waiter = self.locks.next_grantable()?;
        let (ticket, mut grant, rights) = (waiter.ticket, waiter.grant.clone(), waiter.rights.clone());
        grant.since = time.wall;
        if grant.under.is_none() {
            grant.fence = self.next_fence();
        }
        if let Tenure::Lease { ttl_ms, deadline_boottime_ms } = &mut grant.tenure {
            *deadline_boottime_ms = time.boottime_ms + *ttl_ms;
        }
        let (session, number, id) = (grant.session(), grant.number, grant.id.clone());
        let mut steps = vec![Step::Move(Motion::Left(ticket))];
        // Since it began to wait the policy may have changed.
        let denied = rights.0.check(Verb::Lock, &grant.names).err().map(|failure| (grant.clone(), failure));
        // Two may wait with one ID: the later one gets the grant of the earlier where it may.
        if denied.is_none() && self.locks.grant(&id).is_none() {
            steps.extend(begin(grant, time));
        }
        Some(Passed { session, number, ticket, steps, id, denied })
    }

    /// The waiting requests whose time is over.
    pub fn timed_out(&self, time: Time) -> Vec<TimedOut> {
        let timed_out = self.locks.timed_out(time.boottime_ms).map(|waiter| {
            let holders = self.holders_in_the_way(&waiter.grant, time);
            let failure = self.busy(&waiter.grant, holders, time);
            TimedOut { wanted: waiter.grant.clone(), left: Motion::Left(waiter.ticket), failure }
        });
        timed_out.collect()
    }

    /// The rows of who is in the way, as many as a person reads.
    fn holders_in_the_way(&self, wanted: &Grant, time: Time) -> Vec<stated_shared::LockInfo> {
        let in_the_way = self.locks.in_the_way(wanted).take(HOLDERS_TOLD_MAX);
        in_the_way.map(|(name, grant)| self.locks.row(grant, name, time)).collect()
    }

    /// What follows when a session's connection is closed by its holder.
    pub fn unlink(&self, session: SessionId) -> Vec<Step> {
        let left = self.locks.waiting_of(session);
        let mut steps: Vec<Step> = left.map(|waiter| Step::Move(Motion::Left(waiter.ticket))).collect();
        if self.locks.of_session(session).next().is_some() {
            steps.push(Step::Move(Motion::Linked(session, Link::Down)));
        }
        steps
    }

    /// Grants that nothing keeps any more: ended one after the other until there is none.
    pub fn next_over(&self, time: Time, daemon: &Arc<Actor>) -> Option<Over> {
        let grant = self.locks.next_over(time.boottime_ms)?;
        let expired = matches!(grant.tenure, Tenure::Lease { .. });
        // Time that ran out, and a parent that is gone, take what nests along; a holder that left waits for it.
        if expired || grant.under.is_some() && !grant.is_abandoned() {
            // One at a time: all at once could be more than a record holds.
            let inner = self.innermost(grant);
            return Some(Over { steps: vec![over(inner, time, daemon, expired)], expired, grant: inner.clone() });
        }
        Some(Over { steps: self.end(grant, time, daemon), expired, grant: grant.clone() })
    }

    /// The next moment at which something ends by itself, as `CLOCK_BOOTTIME`.
    pub fn next_deadline_boottime_ms(&self) -> Option<u64> {
        self.locks.next_deadline_boottime_ms()
    }

    /// The reply for a live grant; a failure where it has ended.
    pub fn granted(&self, id: &LockId, time: Time) -> Result<Reply, Failure> {
        match self.locks.grant(id) {
            Some(grant) => Ok(self.reply_of(grant, time)),
            None => Err(Failure::new(FailureKind::NotFound, format!("the lock {id} was granted, and has ended since"))),
        }
    }

    fn reply_of(&self, grant: &Grant, time: Time) -> Reply {
        Reply::Granted(stated_shared::Grant {
            id: grant.id.clone(),
            fence: grant.fence,
            under: grant.under.clone(),
            expires: grant.expires(time),
        })
    }

    fn own(&self, cx: &Context<'_>, id: &LockId) -> Result<&Grant, Failure> {
        let grant = self.locks.grant(id);
        if let Some(grant) = grant.filter(|grant| grant.holder.uid == cx.actor.uid) {
            return Ok(grant);
        }
        // Of another user's grant is told by a name that one may read, or nothing.
        let seen = grant
            .and_then(|grant| Some((grant, grant.names.iter().find(|name| cx.access.may(Verb::Read, name.as_str()))?)));
        match seen {
            None => Err(Failure::new(FailureKind::NotFound, format!("the lock {id} is not held"))
                .hint("see who holds what with: statectl locks")),
            Some((grant, name)) => Err(Failure::new(
                FailureKind::Denied,
                format!("the lock {id} is held by another user, {}", Holder(grant)),
            )
            .hint(format!("end it against the holder's will with: statectl break '{name}' {id}"))),
        }
    }

    fn busy(&self, wanted: &Grant, holders: Vec<stated_shared::LockInfo>, time: Time) -> Failure {
        let waiters = wanted.names.iter().map(|name| self.locks.queue_len(name)).max().unwrap_or(0);
        let message = match holders.first() {
            None if self.frozen => {
                "locks are not granted yet: the daemon stopped without telling who held them".to_owned()
            }
            Some(row) => format!("{} is {}", row.name, row.describe(time.wall)),
            None => {
                let name = wanted.names.first().map(StateName::as_str).unwrap_or_default();
                format!("{name} is free, but {waiters} waiting requests come first")
            }
        };
        let hint = match holders.first() {
            Some(row) => format!(
                "wait for it with -w 10m, or end it against the holder's will with: statectl break '{}'",
                row.name
            ),
            None => "wait for it with -w 10m".to_owned(),
        };
        Failure::new(FailureKind::Busy, message).hint(hint).detail(Detail::Held { holders, waiters })
    }

    /// Ends a grant whose holder is done with it: at once, or with the last grant that nests in it.
    fn end(&self, grant: &Grant, time: Time, actor: &Arc<Actor>) -> Vec<Step> {
        if self.locks.nested(&grant.id).next().is_some() {
            return vec![Step::Move(Motion::Ending(grant.id.clone()))];
        }
        let mut steps = vec![over(grant, time, actor, false)];
        let mut ended = grant;
        while let Some(parent) = ended.under.as_ref().and_then(|id| self.locks.grant(id)) {
            let last = self.locks.nested(&parent.id).all(|other| other.id == ended.id);
            if !parent.ending || !last {
                break;
            }
            steps.push(over(parent, time, actor, false));
            ended = parent;
        }
        steps
    }

    /// A grant and everything that nests in it, each behind what nests in it.
    fn with_nested<'a>(&'a self, grant: &'a Grant) -> Vec<&'a Grant> {
        let mut found = Vec::new();
        let mut left = vec![grant];
        while let Some(outer) = left.pop() {
            found.push(outer);
            left.extend(self.locks.nested(&outer.id));
        }
        found.reverse();
        found
    }

    /// A grant within this one in which nothing nests; itself where nothing does.
    fn innermost<'a>(&'a self, grant: &'a Grant) -> &'a Grant {
        let mut inner = grant;
        while let Some(next) = self.locks.nested(&inner.id).next() {
            inner = next;
        }
        inner
    }
}

/// A request that waited long enough.
#[derive(Debug)]
pub struct TimedOut {
    /// The grant that it did not become.
    pub wanted: Grant,
    /// To be folded in before the refusal is told.
    pub left: Motion,
    /// The refusal.
    pub failure: Failure,
}

/// A grant that ends by itself.
#[derive(Debug)]
pub struct Over {
    /// To be folded in.
    pub steps: Vec<Step>,
    /// Whether a lease's time ran out, or else the holder went.
    pub expired: bool,
    /// The grant, as it was.
    pub grant: Grant,
}

/// The step with which a grant begins.
fn begin(grant: Grant, time: Time) -> Vec<Step> {
    let Tenure::Lease { ttl_ms, deadline_boottime_ms } = grant.tenure else {
        return vec![Step::Move(Motion::Granted(Box::new(grant)))];
    };
    let what = What::LeaseGranted(Box::new(LeaseGranted {
        number: grant.number,
        id: grant.id,
        names: grant.names,
        kind: grant.kind.into(),
        fence: grant.fence,
        ttl_ms,
        deadline_boottime_ms,
        operation: grant.operation,
        reason: grant.reason,
        info: grant.info,
        under: grant.under,
    }));
    vec![record(time, &grant.holder, what)]
}

/// The step with which a grant ends.
fn over(grant: &Grant, time: Time, actor: &Arc<Actor>, expired: bool) -> Step {
    match grant.tenure {
        Tenure::Session { .. } => Step::Move(Motion::Ended(grant.id.clone())),
        Tenure::Lease { .. } => {
            let ended = LeaseEnded { id: grant.id.clone(), names: grant.names.clone(), expired };
            record(time, actor, What::LeaseEnded(ended))
        }
    }
}

fn record(time: Time, actor: &Arc<Actor>, what: What) -> Step {
    Step::Record(Box::new(Event { at: time.wall, actor: Arc::clone(actor), what }))
}

struct Holder<'a>(&'a Grant);

impl std::fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        stated_shared::Actor::from(&*self.0.holder).fmt(f)
    }
}
