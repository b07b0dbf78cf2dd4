//! Deciding commits: expectations, locks, serials.

use std::collections::BTreeMap;

use stated_shared::{Detail, Expect, Failure, FailureKind, LockId, LockKind, SerialRule, StateName, Version};

use super::event::{Change, Committed, Content, Event, What};
use super::locks::Grant;
use super::{Context, Decision, Machine, Step, Verdict};

/// A commit whose contents are staged: hashed, compressed, and durable where they are blobs.
#[derive(Debug, Clone)]
pub struct CommitAsk {
    /// At least one; names are distinct.
    pub changes: Vec<StagedChange>,
    /// Grants that it relies on.
    pub locks: Vec<LockId>,
    /// What the author says.
    pub message: Option<String>,
    /// Remarks of the client.
    pub labels: BTreeMap<String, String>,
    /// What a foreign lineage or an older serial means.
    pub serials: SerialRule,
}

/// One state's part of a commit.
#[derive(Debug, Clone)]
pub struct StagedChange {
    /// Which state.
    pub state: StateName,
    /// What must be true of it.
    pub expect: Expect,
    /// Its new content, whose payload is a blob already or gets its place in the record; absent to remove it.
    pub content: Option<Content>,
}

impl Machine {
    pub(super) fn decide_commit(&self, cx: &Context<'_>, ask: &CommitAsk) -> Result<Decision, Failure> {
        let fences = self.presented(cx, &ask.locks)?;
        for change in &ask.changes {
            self.guard(cx, &change.state, &ask.locks)?;
        }
        let mut changes = Vec::new();
        let mut unchanged = Vec::new();
        for change in &ask.changes {
            let current = self.states.newest(&change.state);
            let (version, existing) = match current {
                Some((version, entry)) => (version, entry.content.as_ref()),
                None => (Version(0), None),
            };
            let met = match change.expect {
                Expect::Any => true,
                Expect::Absent => existing.is_none(),
                Expect::Version(expected) => expected == version && version.0 > 0,
            };
            if !met {
                return Err(self.conflict(change, version));
            }
            match (&change.content, existing) {
                (None, None) => {
                    return Err(Failure::new(FailureKind::NotFound, format!("no state {}", change.state))
                        .hint("list the states with: statectl ls"));
                }
                (Some(new), Some(old)) if new.sha256 == old.sha256 => unchanged.push((change.state.clone(), version)),
                (new, old) => {
                    let forced = new.as_ref().zip(old).is_some_and(|(new, old)| goes_back(new, old));
                    if forced && ask.serials == SerialRule::Refuse {
                        return Err(self.goes_back(change, version));
                    }
                    // Chosen before it was dropped: the content is asked for once more.
                    let base = new.as_ref().and_then(|new| new.base);
                    if let Some(base) = base
                        && !self.states.is_kept(&change.state, base)?
                    {
                        return Ok(Decision { steps: Vec::new(), verdict: Verdict::Restage });
                    }
                    changes.push(Change {
                        state: change.state.clone(),
                        version: version.next(),
                        content: new.clone(),
                        forced,
                    });
                }
            }
        }
        if changes.is_empty() {
            let states = unchanged
                .into_iter()
                .map(|(state, version)| stated_shared::CommittedState { state, version, changed: false })
                .collect();
            let reply = stated_shared::Reply::Committed(stated_shared::Committed { seq: None, states, head: None });
            return Ok(Decision { steps: Vec::new(), verdict: Verdict::Reply(reply) });
        }
        let what = What::Committed(Committed {
            number: cx.number,
            changes,
            unchanged,
            message: ask.message.clone(),
            labels: ask.labels.clone(),
            fences,
        });
        let event = Event { at: cx.time.wall, actor: cx.actor.clone(), what };
        Ok(Decision { steps: vec![Step::Record(Box::new(event))], verdict: Verdict::Recall })
    }

    /// Every grant that the commit relies on must be live and the same user's: a lost lock fences its holder off.
    fn presented(&self, cx: &Context<'_>, ids: &[LockId]) -> Result<Vec<(LockId, stated_shared::Fence)>, Failure> {
        ids.iter()
            .map(|id| match self.locks.grant(id) {
                Some(grant) if grant.holder.uid == cx.actor.uid => Ok((id.clone(), grant.fence)),
                _ => Err(Failure::new(FailureKind::Busy, format!("the lock {id} is not held any more"))
                    .hint("see who holds what with: statectl locks")),
            })
            .collect()
    }

    /// A name under an exclusive lock takes commits of its innermost holder only; under a shared one, of nobody.
    fn guard(&self, cx: &Context<'_>, state: &StateName, presented: &[LockId]) -> Result<(), Failure> {
        if self.frozen && self.locked_before.contains(state) {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("{state} was locked before the daemon stopped, and its holder is not known yet"),
            )
            .hint("try again in half a minute"));
        }
        let holders: Vec<&Grant> =
            self.locks.on(state).filter(|grant| !matches!(grant.kind, LockKind::Semaphore { .. })).collect();
        let innermost =
            holders.iter().filter(|grant| !holders.iter().any(|other| other.under.as_ref() == Some(&grant.id)));
        for grant in innermost {
            let may = grant.kind == LockKind::Exclusive && presented.contains(&grant.id);
            if !may {
                let rows: Vec<_> = self.locks.rows(grant, cx.time).filter(|row| row.name == *state).collect();
                let who = rows.first().map(|row| row.describe(cx.time.wall)).unwrap_or_default();
                return Err(Failure::new(FailureKind::Busy, format!("{state} is locked: {who}"))
                    .hint(format!("see it with: statectl locks '{state}'"))
                    .detail(Detail::Held { holders: rows, waiters: self.locks.queue_len(state) }));
            }
        }
        Ok(())
    }

    fn conflict(&self, change: &super::StagedChange, version: Version) -> Failure {
        let state = &change.state;
        let current = self.states.newest(state).map(|(version, entry)| self.states.info(state, version, entry));
        let there = match &current {
            None => "does not exist".to_owned(),
            Some(info) if info.content.is_none() => format!("was removed by {} (version {version})", info.actor),
            Some(info) => format!("is at version {version} by {}", info.actor),
        };
        let expected = match change.expect {
            Expect::Any => "anything".to_owned(),
            Expect::Absent => "no such state".to_owned(),
            Expect::Version(expected) => format!("version {expected}"),
        };
        Failure::new(FailureKind::Conflict, format!("expected {expected}, but {state} {there}"))
            .hint(format!("see what changed with: statectl log '{state}'"))
            .detail(Detail::Current(current.map(Box::new)))
    }

    fn goes_back(&self, change: &super::StagedChange, version: Version) -> Failure {
        let state = &change.state;
        let current = self.states.newest(state).map(|(version, entry)| self.states.info(state, version, entry));
        let serial = |content: Option<(Option<u64>, Option<String>)>| match content {
            Some((Some(serial), Some(lineage))) => format!("serial {serial} of lineage {lineage}"),
            _ => "no serial".to_owned(),
        };
        let new = serial(change.content.as_ref().map(|content| (content.serial, content.lineage.clone())));
        let old = serial(
            current
                .as_ref()
                .and_then(|info| info.content.as_ref())
                .map(|content| (content.serial, content.lineage.clone())),
        );
        Failure::new(
            FailureKind::Conflict,
            format!("the Terraform state has {new}, but {state} version {version} has {old}"),
        )
        .hint("if it shall replace it all the same, say: statectl put --force")
        .detail(Detail::Current(current.map(Box::new)))
    }
}

/// Whether a Terraform state does not follow the one that it replaces.
fn goes_back(new: &Content, old: &Content) -> bool {
    match (new.serial.zip(new.lineage.as_ref()), old.serial.zip(old.lineage.as_ref())) {
        (Some((new_serial, new_lineage)), Some((old_serial, old_lineage))) => {
            new_lineage != old_lineage || new_serial < old_serial
        }
        _ => false,
    }
}
