//! Folding steps into the machine.

use stated_shared::{CommittedState, Epoch, LockId, LockInfo, Reply, Seq};

use super::answers::Answer;
use super::event::{Event, Summarized, What};
use super::locks::{Grant, Released, Tenure, Tie};
use super::states::PruneEntry;
use super::{Divergence, Machine, Motion, Summed};

/// A lease of the same boot never ends sooner than this after a start: its holder gets time to renew.
const LEASE_GRACE_MS: u64 = 30_000;

impl Machine {
    /// Folds one journaled event into the machine.
    ///
    /// `Err` means journal and build disagree; callers stop, and never skip the event.
    pub fn apply(&mut self, seq: Seq, event: &Event) -> Result<(), Divergence> {
        self.seq = seq;
        let (actor, uid, session) = (&event.actor, event.actor.uid, event.actor.session);
        match &event.what {
            What::Founded(founded) => {
                if self.repository.is_some() {
                    return Err(Divergence("a repository is founded once".to_owned()));
                }
                self.repository = Some(founded.repository);
                self.keyring = Some((founded.generation, founded.keyring));
            }
            What::Opened(opened) => {
                self.advance(opened.epoch)?;
                self.is_restored = false;
                let same_boot = opened.boot == self.boot;
                self.boot = opened.boot.clone();
                self.locks.alter_leases(|tenure| {
                    if let Tenure::Lease { ttl_ms, deadline_boottime_ms } = tenure {
                        *deadline_boottime_ms = if same_boot {
                            (*deadline_boottime_ms).max(opened.boottime_ms + LEASE_GRACE_MS)
                        } else {
                            opened.boottime_ms + *ttl_ms
                        };
                    }
                });
            }
            What::Committed(committed) => {
                self.states.apply(seq, event.at, actor, committed)?;
                let new = committed.changes.iter().map(|change| CommittedState {
                    state: change.state.clone(),
                    version: change.version,
                    changed: true,
                });
                let old = committed.unchanged.iter().map(|(state, version)| CommittedState {
                    state: state.clone(),
                    version: *version,
                    changed: false,
                });
                let reply = Reply::Committed(stated_shared::Committed {
                    seq: Some(seq),
                    states: new.chain(old).collect(),
                    head: None,
                });
                self.answers.put(event.at, session, uid, committed.number, Answer::Reply(reply));
            }
            What::LeaseGranted(lease) => {
                self.fences = self.fences.max(lease.fence.n);
                self.locks.insert(Grant {
                    id: lease.id.clone(),
                    names: lease.names.clone(),
                    kind: lease.kind.into(),
                    fence: lease.fence,
                    holder: actor.clone(),
                    number: lease.number,
                    since: event.at,
                    operation: lease.operation.clone(),
                    reason: lease.reason.clone(),
                    info: lease.info.clone(),
                    under: lease.under.clone(),
                    tenure: Tenure::Lease { ttl_ms: lease.ttl_ms, deadline_boottime_ms: lease.deadline_boottime_ms },
                    ending: false,
                });
                self.answers.put(event.at, session, uid, lease.number, Answer::Lease(lease.id.clone()));
            }
            What::LeaseRenewed(renewed) => {
                let (ttl_ms, deadline_boottime_ms) = (renewed.ttl_ms, renewed.deadline_boottime_ms);
                let new = Tenure::Lease { ttl_ms, deadline_boottime_ms };
                if !self.locks.alter(&renewed.id, |tenure, _| *tenure = new) {
                    return Err(Divergence(format!("lease {} is renewed but not held", renewed.id)));
                }
                self.answers.put(event.at, session, uid, renewed.number, Answer::Lease(renewed.id.clone()));
            }
            What::LeaseEnded(ended) => self.locks.remove(&ended.id),
            What::Broken(broken) => {
                let rows = broken.grants.iter().flat_map(|grant| {
                    grant.names.iter().map(|name| LockInfo {
                        name: name.clone(),
                        kind: grant.kind.into(),
                        id: grant.id.clone(),
                        fence: grant.fence,
                        holder: (&grant.holder).into(),
                        since: grant.since,
                        operation: grant.operation.clone(),
                        reason: grant.reason.clone(),
                        info: None,
                        under: None,
                        process: None,
                        expires: None,
                        waiters: 0,
                    })
                });
                self.answers.put(event.at, session, uid, broken.number, Answer::Reply(Reply::Broken(rows.collect())));
                // A session lock of an earlier start is not in a machine that is replayed; that it was broken counts.
                for grant in &broken.grants {
                    self.locks.remove(&grant.id);
                    self.locks.remember(&grant.id, Released { uid: grant.holder.uid, fence: grant.fence });
                }
            }
            What::Observed(observed) => {
                if observed.verb == "lock"
                    && let Some(name) = &observed.name
                {
                    self.locked_before.insert(name.clone());
                }
            }
            What::Closed(_) => {}
            What::Tagged(tagged) => {
                self.states.tag(tagged)?;
                let answer = Answer::Tagged(tagged.state.clone(), tagged.version);
                self.answers.put(event.at, session, uid, tagged.number, answer);
            }
            What::Pruned(pruned) => {
                self.states.prune(seq, PruneEntry { at: event.at, actor: actor.clone() }, pruned)?;
            }
            What::LossAccepted(accepted) => {
                self.loss = Some(accepted.clone());
            }
            What::Summarized(summarized) => self.sum_up(seq, summarized),
            What::Rekeyed(rekeyed) => {
                let generation = rekeyed.generation;
                if self.keyring.is_none_or(|(present, _)| generation != present.next()) {
                    return Err(Divergence(format!("keyring {generation} does not follow the one that counts")));
                }
                self.keyring = Some((generation, rekeyed.keyring));
                // One that was not through has the rest to do all the same.
                if rekeyed.rotated || self.resealing.is_some() {
                    self.resealing = Some(generation);
                }
                self.answers.put(event.at, session, uid, rekeyed.number, Answer::Rekeyed(generation));
            }
            What::Resealed(resealed) => {
                // Of the one before a later rotation it says nothing.
                self.resealing = self.resealing.filter(|generation| *generation != resealed.generation);
            }
            What::Restored(restored) => {
                self.advance(restored.epoch)?;
                self.is_restored = true;
            }
        }
        Ok(())
    }

    /// No fence of an epoch before this one comes again.
    fn advance(&mut self, epoch: Epoch) -> Result<(), Divergence> {
        if epoch <= self.epoch {
            return Err(Divergence(format!("epoch {epoch} follows {}", self.epoch)));
        }
        self.epoch = epoch;
        self.fences = 0;
        Ok(())
    }

    /// Whoever meets the summary instead of what is summed up must know as much.
    fn sum_up(&mut self, seq: Seq, summarized: &Summarized) {
        let deeds = summarized.by.iter().flat_map(|of| &of.deeds).filter(|deed| deed.verb == "lock");
        self.locked_before.extend(deeds.filter_map(|deed| deed.name.clone()));
        let Summarized { part, last, .. } = *summarized;
        match &mut self.summed {
            Some(summed) if summed.part == part => {
                summed.last = summed.last.max(last);
                if summed.told.last() != Some(&seq) {
                    summed.told.push(seq);
                }
            }
            // Of records whose summary was lost.
            Some(summed) if last <= summed.last => {}
            summed => *summed = Some(Summed { part, last, told: vec![seq] }),
        }
    }

    /// Folds a change of session locks or of the queue into the machine.
    pub fn follow(&mut self, motion: &Motion) {
        match motion {
            Motion::Queued(waiter) => self.locks.queue((**waiter).clone()),
            Motion::Left(ticket) => self.locks.leave(*ticket),
            Motion::Granted(grant) => {
                if grant.fence.epoch == self.epoch {
                    self.fences = self.fences.max(grant.fence.n);
                }
                self.locks.insert((**grant).clone());
            }
            Motion::Bound { id, hold, tie } => self.bind(id, *hold, *tie),
            Motion::Linked(session, new) => self.locks.alter_session(*session, |tenure| {
                if let Tenure::Session { link, .. } = tenure {
                    *link = *new;
                }
            }),
            Motion::ProcessGone(id) => {
                self.locks.alter(id, |tenure, _| {
                    if let Tenure::Session { process: Some(tie), .. } = tenure {
                        tie.gone = true;
                    }
                });
            }
            Motion::Ending(id) => {
                self.locks.alter(id, |_, ending| *ending = true);
            }
            Motion::Ended(id) => self.locks.remove(id),
            Motion::Frozen(frozen) => {
                self.frozen = *frozen;
                self.locks.stir_all();
            }
            Motion::Forgotten(session) => self.answers.forget(*session),
            Motion::Remembered(id, released) => self.locks.remember(id, *released),
        }
    }

    fn bind(&mut self, id: &LockId, new_hold: stated_shared::Hold, tie: Tie) {
        self.locks.alter(id, |tenure, _| {
            if let Tenure::Session { hold, process, .. } = tenure {
                *hold = new_hold;
                *process = Some(tie);
            }
        });
    }
}
