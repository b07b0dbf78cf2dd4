//! Deciding prunes: which versions are kept, what they need, and what can go.
//!
//! A version is kept where any rule says so, and the newest one and the newest content always are. What a kept version is
//! patched from, directly or not, stays as well, unless the kept one was stored anew: this is decided when the event is,
//! so whatever was committed or tagged since the prune was planned is looked at.

use std::collections::BTreeSet;

use stated_shared::{Failure, PrunePage, PruneRow, Reply, Selector, Seq, StateName, Timestamp, Version};

use super::event::{Event, Moved, Payload, Pruned, PrunedState, What};
use super::{Context, Decision, Machine, States, Step, Unreadable, Verdict, VersionEntry};

/// Which versions are kept; each rule adds to the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many newest contents.
    pub last: Option<u64>,
    /// What was committed at this time or later.
    pub since: Option<Timestamp>,
    /// What has a tag.
    pub tagged: bool,
}

/// A prune whose kept versions were stored anew where they need it.
#[derive(Debug, Clone)]
pub struct PruneAsk {
    /// The rules.
    pub keep: Keep,
    /// The states.
    pub states: Vec<PrunedOf>,
    /// Where the client goes on, for the answer.
    pub next: Option<StateName>,
}

/// One state's part of a prune.
#[derive(Debug, Clone)]
pub struct PrunedOf {
    /// Which state.
    pub state: StateName,
    /// Versions stored anew, whose payloads are blobs already or get their places in the record.
    pub moved: Vec<Moved>,
}

/// What a prune of one state would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Versions that no rule keeps, as runs.
    pub dropped: Vec<(Version, Version)>,
    /// Versions that are kept and need one that is not, each with what it can be a patch from instead.
    pub moved: Vec<(Version, Option<Version>)>,
    /// How many contents are dropped.
    pub versions: u64,
    /// The bytes of their payloads.
    pub payload_bytes: u64,
}

/// Payloads that nothing needs any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blobs.
    pub blobs: Vec<String>,
    /// Those in records: which record, and their length.
    pub inline: Vec<(Seq, u64)>,
}

impl Freed {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.inline.is_empty()
    }
}

impl PruneAsk {
    /// The blobs that were written for it.
    pub fn blobs(&self) -> Vec<String> {
        let moved = self.states.iter().flat_map(|of| &of.moved);
        moved.filter_map(|moved| moved.payload.blob()).map(str::to_owned).collect()
    }

    /// Gives up storing anything anew: less is dropped then, and no room is needed.
    pub fn spare(&mut self) {
        self.states.iter_mut().for_each(|of| of.moved.clear());
    }
}

impl States {
    /// What a prune of a state comes to, if all that is to be stored anew can be.
    pub fn plan(&self, state: &StateName, keep: &Keep) -> Result<Plan, Unreadable> {
        let versions = &self.versions(state)?[..];
        let drops = drops(versions, &self.tagged_versions(state), keep);
        let mut plan = planned(versions, &drops);
        let content = |version: Version| versions[index(version)].kept();
        for (at, entry) in versions.iter().enumerate() {
            let Some(base) = entry.kept().and_then(|content| content.base) else { continue };
            if drops[at] || !drops[index(base)] {
                continue;
            }
            // The first on its own chain that is kept: so chains get no longer than they were.
            let on_chain = std::iter::successors(Some(base), |of| content(*of)?.base);
            plan.moved.push((Version(at as u64 + 1), on_chain.skip(1).find(|of| !drops[index(*of)])));
        }
        Ok(plan)
    }

    /// The event of a prune of a state, with as many of the moved versions as still fit; `None` where nothing is to do.
    fn pruned(&self, of: &PrunedOf, keep: &Keep) -> Result<Option<(PrunedState, Plan, u64)>, Unreadable> {
        let versions = &self.versions(&of.state)?[..];
        let mut drops = drops(versions, &self.tagged_versions(&of.state), keep);
        let wanted = drops.iter().filter(|drops| **drops).count() as u64;
        let is_good = |moved: &&Moved| {
            let stays = |version: Version| {
                let at = version.0.checked_sub(1).and_then(|at| usize::try_from(at).ok());
                at.is_some_and(|at| versions.get(at).is_some_and(|entry| entry.kept().is_some()) && !drops[at])
            };
            // One that needs it no more stays as it is.
            let needs = |at: usize| versions[at].kept()?.base.filter(|base| drops[index(*base)]);
            stays(moved.version)
                && needs(index(moved.version)).is_some()
                && moved.base.is_none_or(|base| base < moved.version && stays(base))
        };
        let moved: Vec<Moved> = of.moved.iter().filter(is_good).cloned().collect();
        // From the newest down, since a base is older than what is patched from it.
        for (at, entry) in versions.iter().enumerate().rev() {
            let version = Version(at as u64 + 1);
            let Some(content) = entry.kept().filter(|_| !drops[at]) else { continue };
            let base = moved.iter().find(|moved| moved.version == version).map_or(content.base, |moved| moved.base);
            if let Some(base) = base {
                drops[index(base)] = false;
            }
        }
        let plan = planned(versions, &drops);
        if plan.dropped.is_empty() {
            return Ok(None);
        }
        // What stays after all, since something else needs it, needs nothing to be stored anew for its sake.
        let moved = moved.into_iter().filter(|moved| {
            versions[index(moved.version)]
                .kept()
                .and_then(|content| content.base)
                .is_some_and(|base| drops[index(base)])
        });
        let state = PrunedState { state: of.state.clone(), dropped: plan.dropped.clone(), moved: moved.collect() };
        let needed = wanted - plan.versions;
        Ok(Some((state, plan, needed)))
    }

    /// Whether each of these payloads, told by version and record, is needed. What cannot be told is.
    pub fn needed<'a>(&self, payloads: impl Iterator<Item = (&'a StateName, Version, Seq)>) -> Vec<bool> {
        payloads
            .map(|(state, version, seq)| match self.select(state, &Selector::Version(version)) {
                Ok(Some((_, entry))) => entry.kept().is_some() && entry.payload_seq() == seq,
                Ok(None) | Err(_) => true,
            })
            .collect()
    }

    /// Shows the payloads in records that were given up: which record, and their length. One that was stored anew counts
    /// as being as long as its successor, which is a guess, and for nothing where that is a blob.
    pub fn given_up(&self, see: &mut dyn FnMut(Seq, u64)) -> Result<(), Unreadable> {
        self.each_once(&mut |entry| {
            let Some(Payload::Inline { len_bytes, .. }) = entry.content.as_ref().map(|content| &content.payload) else {
                return;
            };
            if entry.pruned.is_some() {
                see(entry.payload_seq(), *len_bytes);
            }
            if entry.moved.is_some() {
                see(entry.seq, *len_bytes);
            }
        })
    }

    /// What nothing needs any more once this event is folded in.
    pub fn freed(&self, event: &Pruned) -> Result<Freed, Unreadable> {
        let mut freed = Freed::default();
        for pruned in &event.states {
            let dropped = pruned.dropped.iter().flat_map(|(first, last)| (first.0..=last.0).map(Version));
            for version in dropped.chain(pruned.moved.iter().map(|moved| moved.version)) {
                let selected = self.select(&pruned.state, &Selector::Version(version))?;
                let Some((entry, content)) = selected.and_then(|(_, entry)| Some((entry, entry.kept()?))) else {
                    continue;
                };
                match &content.payload {
                    Payload::Blob { id, .. } => freed.blobs.push(id.clone()),
                    Payload::Inline { len_bytes, .. } => freed.inline.push((entry.payload_seq(), *len_bytes)),
                }
            }
        }
        Ok(freed)
    }
}

impl Machine {
    /// No lock is in its way: the newest version, which locks are about, is never touched.
    pub(super) fn decide_prune(&self, cx: &Context<'_>, ask: &PruneAsk) -> Result<Decision, Failure> {
        let mut states = Vec::new();
        let mut rows = Vec::new();
        for of in &ask.states {
            let Some((pruned, plan, needed)) = self.states.pruned(of, &ask.keep)? else { continue };
            rows.push(PruneRow { needed, ..row(&of.state, plan, pruned.moved.len()) });
            states.push(pruned);
        }
        let verdict = Verdict::Reply(Reply::Pruned(PrunePage { rows, next: ask.next.clone() }));
        let steps = if states.is_empty() {
            Vec::new()
        } else {
            let what = What::Pruned(Pruned { states });
            vec![Step::Record(Box::new(Event { at: cx.time.wall, actor: cx.actor.clone(), what }))]
        };
        Ok(Decision { steps, verdict })
    }
}

/// What is told of one state.
pub fn row(state: &StateName, plan: Plan, moved: usize) -> PruneRow {
    let Plan { dropped, versions, payload_bytes, .. } = plan;
    PruneRow { state: state.clone(), dropped, versions, payload_bytes, reencoded: moved as u64, needed: 0 }
}

/// Which versions have a content that no rule keeps.
fn drops(versions: &[&VersionEntry], tagged: &BTreeSet<Version>, keep: &Keep) -> Vec<bool> {
    let mut drops = vec![false; versions.len()];
    let mut contents = 0;
    for (at, entry) in versions.iter().enumerate().rev() {
        if entry.kept().is_none() {
            continue;
        }
        contents += 1;
        let kept = contents == 1
            || keep.last.is_some_and(|last| contents <= last)
            || keep.since.is_some_and(|since| entry.commit.at >= since)
            || keep.tagged && tagged.contains(&Version(at as u64 + 1));
        drops[at] = !kept;
    }
    drops
}

/// The runs of what is dropped, their count and bytes.
fn planned(versions: &[&VersionEntry], drops: &[bool]) -> Plan {
    let mut plan = Plan::default();
    for (at, entry) in versions.iter().enumerate().filter(|(at, _)| drops[*at]) {
        let version = Version(at as u64 + 1);
        plan.versions += 1;
        plan.payload_bytes += entry.content.as_ref().map_or(0, |content| content.payload.len_bytes());
        match plan.dropped.last_mut() {
            // Removals, and what is gone already, do not part a run.
            Some((_, last)) if versions[index(*last) + 1..at].iter().all(|entry| entry.kept().is_none()) => {
                *last = version
            }
            _ => plan.dropped.push((version, version)),
        }
    }
    plan
}

fn index(version: Version) -> usize {
    version.0 as usize - 1
}
