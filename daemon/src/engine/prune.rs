//! A prune before it is decided: versions that are kept and need one that is not are stored anew.
//!
//! It is planned beside the owner, on a copy of what the histories of some states share with theirs; what was committed
//! or tagged meanwhile is looked at when the prune is decided.

use std::sync::Arc;

use stated_shared::limits::PAGE_ROWS_MAX;
use stated_shared::{Failure, Prune, PrunePage, Reply, StateName, Timestamp, Verb, Version};

use super::commit::{COMMIT_INLINE_LEN_MAX, StagedBytes};
use super::delta::{self, Chain};
use super::handle::{Asked, Engine, Shared, blocking};
use super::owner::View;
use super::shown::{Matches, matcher};
use super::stage::{self, INLINE_PAYLOAD_LEN_MAX};
use crate::machine::event::{Moved, Payload};
use crate::machine::{Access, Ask, Keep, Machine, Plan, PruneAsk, PrunedOf, States, Unreadable, prune_row};

/// States of which one record tells that something of them was pruned.
const PAGE_STATES_MAX: usize = if PAGE_ROWS_MAX < 128 { PAGE_ROWS_MAX } else { 128 };
/// Bytes of their names and runs: without anything stored anew the record must go by the reserve of a full disk.
const PAGE_LEN_MAX: usize = 24 << 10;
/// Versions looked at for one page.
const PAGE_VERSIONS_MAX: u64 = 1 << 16;
/// Names looked at for one page.
const PAGE_NAMES_MAX: usize = 1 << 14;
/// States that the owner copies for one page; it does nothing else meanwhile.
const EXCERPT_STATES_MAX: usize = 512;
/// What a run takes in a record and in a row.
const RUN_LEN_MAX: usize = 48;

/// One page of a prune.
pub(super) struct Planned {
    keep: Keep,
    states: Vec<PlannedOf>,
    next: Option<StateName>,
}

struct PlannedOf {
    state: StateName,
    plan: Plan,
    /// For each version to be stored anew: itself and its present chain; what it can be a patch from, and its chain.
    moves: Vec<Move>,
}

struct Move {
    version: Version,
    chain: Chain,
    base: Option<(Version, Chain)>,
}

impl Engine {
    pub(super) async fn prune(&self, of: Asked, access: Arc<dyn Access>, prune: Prune) -> Result<(), Failure> {
        let matches = matcher(prune.glob.clone())?;
        let asker = Arc::clone(&access);
        // Its answer names them.
        let may = move |name: &str| asker.may(Verb::Admin, name) && asker.may(Verb::Read, name);
        let matches: Matches = Box::new(move |name| matches(name) && may(name));
        let dry_run = prune.dry_run;
        let planned = self.plan_prune(prune, matches).await?;
        if dry_run {
            return self.read(of, move |_, _| Ok(planned.told())).await;
        }
        let (ask, bytes) = self.stage_prune(planned).await?;
        self.change(of, access, Ask::Prune(ask), bytes, None, None).await
    }

    /// Looks through a page of the states that match.
    pub(super) async fn plan_prune(&self, prune: Prune, matches: Matches) -> Result<Planned, Failure> {
        let after = prune.after.clone();
        let excerpt =
            move |machine: &Machine, view: &View| (excerpt(machine.states(), after.as_ref(), &matches), view.time.wall);
        let (excerpt, now) = self.query(excerpt).await?;
        Ok(blocking(move || plan(&excerpt, &prune, now)).await??)
    }

    /// Stores anew what is kept and needs what is not.
    pub(super) async fn stage_prune(&self, planned: Planned) -> Result<(PruneAsk, StagedBytes), Failure> {
        let mut staging = Staging::default();
        let states = planned.states.into_iter();
        let mut asked = Vec::new();
        for PlannedOf { state, moves, .. } in states {
            let mut moved = Vec::new();
            for one in moves {
                let budget = &self.shared.budget;
                let len =
                    delta::load_len(&one.chain) + one.base.as_ref().map_or(0, |(_, chain)| delta::load_len(chain));
                let room = budget.room(len.min(budget.len_max())).await?;
                let (shared, name) = (Arc::clone(&self.shared), state.clone());
                let told;
                (staging, told) = blocking(move || {
                    let _room = room;
                    let told = shared.store_anew(&name, one, &mut staging);
                    (staging, told)
                })
                .await?;
                moved.extend(told);
            }
            asked.push(PrunedOf { state, moved });
        }
        let ask = PruneAsk { keep: planned.keep, states: asked, next: planned.next };
        Ok((ask, StagedBytes { moved: staging.payloads, ..StagedBytes::default() }))
    }
}

/// What was stored anew so far.
#[derive(Default)]
struct Staging {
    payloads: std::collections::BTreeMap<(StateName, Version), Vec<u8>>,
    inline_len: usize,
}

impl Shared {
    /// Stores a version anew; `None` where it cannot be, and what it needs must stay: that is no reason to drop nothing.
    fn store_anew(&self, state: &StateName, one: Move, staging: &mut Staging) -> Option<Moved> {
        let Move { version, chain, base } = one;
        let load = |chain: &Chain| {
            self.store
                .load(chain)
                .inspect_err(|(_, damage)| {
                    let (file, offset) = (&damage.file, damage.offset_bytes);
                    tracing::error!(file, offset, "a version cannot be read, so what it needs is not pruned");
                })
                .ok()
        };
        let bytes = load(&chain)?;
        let base = match &base {
            Some((version, chain)) => Some((*version, load(chain)?)),
            None => None,
        };
        let staged = stage::stage(&bytes, base.as_ref().map(|(version, base)| (*version, &base[..])));
        let staged = staged.inspect_err(|error| tracing::error!(%error, "a version cannot be stored anew")).ok()?;
        let len = staged.payload.len();
        let mut payload = staged.content.payload;
        if len <= INLINE_PAYLOAD_LEN_MAX && staging.inline_len + len <= COMMIT_INLINE_LEN_MAX {
            staging.inline_len += len;
            staging.payloads.insert((state.clone(), version), staged.payload);
        } else {
            let written = self.store.write_blob(&staged.payload);
            let id = written.inspect_err(|failure| tracing::warn!("{}", failure.message)).ok()?;
            payload = Payload::Blob { id: id.to_string(), len_bytes: len as u64 };
        }
        Some(Moved { version, payload, base: staged.content.base })
    }

    /// As a prune is staged, on this thread and beside the machine.
    #[cfg(test)]
    pub(super) fn prune_beside(
        &self,
        states: &States,
        prune: &Prune,
        matches: &Matches,
        now: Timestamp,
    ) -> (PruneAsk, StagedBytes) {
        let excerpt = excerpt(states, prune.after.as_ref(), matches);
        let Planned { keep, states, next } = plan(&excerpt, prune, now).expect("its history is readable");
        let mut staging = Staging::default();
        let of = |PlannedOf { state, moves, .. }: PlannedOf| {
            let moved = moves.into_iter().filter_map(|one| self.store_anew(&state, one, &mut staging)).collect();
            PrunedOf { state, moved }
        };
        let states = states.into_iter().map(of).collect();
        (PruneAsk { keep, states, next }, StagedBytes { moved: staging.payloads, ..StagedBytes::default() })
    }
}

/// Some states that match, as they are now.
struct Excerpt {
    states: States,
    /// The last name looked at, where there are more.
    next: Option<StateName>,
}

fn excerpt(states: &States, after: Option<&StateName>, matches: &Matches) -> Excerpt {
    let mut names = states.names(after);
    let mut last = None;
    // Of those that do not match there may be any number between two that do.
    let some = names.by_ref().take(PAGE_NAMES_MAX).inspect(|name| last = Some(*name));
    let chosen: Vec<&StateName> = some.filter(|name| matches(name.as_str())).take(EXCERPT_STATES_MAX).collect();
    let excerpt = states.excerpt(chosen);
    Excerpt { states: excerpt, next: if names.next().is_some() { last.cloned() } else { None } }
}

fn plan(excerpt: &Excerpt, prune: &Prune, now: Timestamp) -> Result<Planned, Unreadable> {
    let Excerpt { states, next } = excerpt;
    let keep = Keep {
        last: prune.keep_last,
        since: prune.keep_within_ms.map(|within_ms| Timestamp(now.0.saturating_sub(within_ms))),
        tagged: prune.keep_tagged,
    };
    let mut planned = Planned { keep, states: Vec::new(), next: next.clone() };
    let (mut len, mut versions) = (0, 0);
    let mut last: Option<&StateName> = None;
    for state in states.names(None) {
        if versions >= PAGE_VERSIONS_MAX || len >= PAGE_LEN_MAX || planned.states.len() == PAGE_STATES_MAX {
            planned.next = last.cloned();
            break;
        }
        last = Some(state);
        versions += states.newest(state).map_or(0, |(newest, _)| newest.0);
        let plan = states.plan(state, &keep)?;
        if plan.dropped.is_empty() {
            continue;
        }
        len += state.as_str().len() + RUN_LEN_MAX * plan.dropped.len();
        let chain = |version| delta::chain(states, state, version);
        let moves = plan.moved.iter().map(|&(version, base)| {
            let base = base.map(|base| Ok::<_, Unreadable>((base, chain(base)?))).transpose()?;
            Ok(Move { version, chain: chain(version)?, base })
        });
        let moves = moves.collect::<Result<_, Unreadable>>()?;
        planned.states.push(PlannedOf { state: state.clone(), plan, moves });
    }
    Ok(planned)
}

impl Planned {
    /// Whether nothing is to be done on this page.
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Where the next page goes on.
    pub(super) fn next(&self) -> Option<StateName> {
        self.next.clone()
    }

    /// What would be done.
    fn told(self) -> Reply {
        let row = |PlannedOf { state, plan, moves }: PlannedOf| prune_row(&state, plan, moves.len());
        Reply::Pruned(PrunePage { rows: self.states.into_iter().map(row).collect(), next: self.next })
    }
}
