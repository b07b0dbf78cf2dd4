//! One batch: steps get their lines and places, become durable together, and then the answers go out.

use std::collections::BTreeMap;
use std::sync::Arc;

use stated_shared::{Digest, Failure, FailureKind, LockId, Notice, Reply, SessionId, StateName, Version};
use tokio::sync::oneshot;

use super::{Halt, Owner};
use crate::engine::budget::{ContentPermit, HeldContent};
use crate::engine::delta::Bases;
use crate::engine::follower::Durable;
use crate::engine::newest::NewestContent;
use crate::engine::outbox::Outbox;
use crate::engine::record::{self, Draft};
use crate::engine::service::Opened;
use crate::journal::{AppendError, Fate, RecordKind};
use crate::machine::event::{Event, Payload, PrunedState, What};
use crate::machine::{Divergence, Freed, Motion, Step};

/// How long to wait before something that found no room on the disk is tried again.
const NO_ROOM_RETRY_MS: u64 = 1000;

/// What is told once the batch is durable.
#[allow(clippy::large_enum_variant, reason = "nearly all are replies, and a box for each would only cost")]
pub(super) enum Told {
    Reply(Arc<dyn Outbox>, u64, Result<Reply, Failure>),
    Notice(Arc<dyn Outbox>, Notice),
    Run(Box<dyn FnOnce() + Send>),
    /// To a connection that may have gone meanwhile: then nobody else would close it.
    Opened(SessionId, oneshot::Sender<Result<Opened, Failure>>, Result<Opened, Failure>),
}

#[derive(Default)]
pub(super) struct Batch {
    pub draft: Draft,
    pub told: Vec<Told>,
    /// The events themselves, for whoever follows the journal.
    pub events: Vec<Event>,
    /// Something in it goes through on a full disk, into room that other records leave free.
    pub is_urgent: bool,
    pub rooms: Vec<ContentPermit>,
    /// New contents, kept for whoever wants them next once they are durable.
    pub fresh: Vec<Fresh>,
    /// What nothing needs once the batch is durable.
    pub freed: Freed,
    /// Whether an event of it ends a grant, so that others may follow once it is durable.
    pub frees: bool,
    /// Grants that events of the batch broke: out of the table once the events are durable.
    pub struck: Vec<LockId>,
}

/// A version's content that will be durable with the batch; without its bytes where it is too large to be kept.
pub(super) struct Fresh {
    state: StateName,
    version: Version,
    sha256: Digest,
    bytes: Option<Vec<u8>>,
}

/// The new contents among prepared steps.
pub(super) fn fresh(prepared: &Prepared, mut contents: BTreeMap<StateName, Vec<u8>>) -> impl Iterator<Item = Fresh> {
    let changes = prepared.steps.iter().filter_map(|step| match step {
        Step::Record(event) => match &event.what {
            What::Committed(committed) => Some(&committed.changes),
            _ => None,
        },
        Step::Move(_) => None,
    });
    changes.flatten().filter_map(move |change| {
        let sha256 = change.content.as_ref()?.sha256;
        let bytes = contents.remove(&change.state);
        Some(Fresh { state: change.state.clone(), version: change.version, sha256, bytes })
    })
}

/// Steps whose events have their lines and whose payloads have their places.
#[derive(Default)]
pub(super) struct Prepared {
    pub steps: Vec<Step>,
    pub lines: Vec<Vec<u8>>,
    pub payloads: Vec<Vec<u8>>,
    pub payloads_len: usize,
}

impl Prepared {
    /// Whether all of its events let others go on or make room.
    fn is_release(&self) -> bool {
        self.steps.iter().all(|step| match step {
            Step::Record(event) => event.what.is_release(),
            Step::Move(_) => true,
        })
    }
}

impl Owner {
    /// Gives payloads their places in the record and events their lines; changes nothing yet.
    pub(super) fn prepare(&self, steps: Vec<Step>, payloads: BTreeMap<StateName, Vec<u8>>) -> Prepared {
        self.prepare_moved(steps, payloads, BTreeMap::new())
    }

    /// As [`Owner::prepare`], with the payloads that a prune moves.
    pub(super) fn prepare_moved(
        &self,
        mut steps: Vec<Step>,
        mut payloads: BTreeMap<StateName, Vec<u8>>,
        mut moved: BTreeMap<(StateName, Version), Vec<u8>>,
    ) -> Prepared {
        let mut prepared = Prepared::default();
        let start = self.batch.draft.payloads_len();
        for step in &mut steps {
            let Step::Record(event) = step else { continue };
            if let What::Committed(committed) = &mut event.what {
                for change in &mut committed.changes {
                    let inline = change.content.as_mut().map(|content| &mut content.payload);
                    if let (Some(Payload::Inline { offset_bytes, .. }), Some(bytes)) =
                        (inline, payloads.remove(&change.state))
                    {
                        *offset_bytes = (start + prepared.payloads_len) as u64;
                        prepared.payloads_len += bytes.len();
                        prepared.payloads.push(bytes);
                    }
                }
            }
            if let What::Pruned(pruned) = &mut event.what {
                for PrunedState { state, moved: places, .. } in &mut pruned.states {
                    for place in places {
                        if let (Payload::Inline { offset_bytes, .. }, Some(bytes)) =
                            (&mut place.payload, moved.remove(&(state.clone(), place.version)))
                        {
                            *offset_bytes = (start + prepared.payloads_len) as u64;
                            prepared.payloads_len += bytes.len();
                            prepared.payloads.push(bytes);
                        }
                    }
                }
            }
            prepared.lines.push(record::line(event));
        }
        prepared.steps = steps;
        prepared
    }

    pub(super) fn make_room(&mut self, prepared: &Prepared) -> Result<(), AppendError> {
        if prepared.lines.is_empty() {
            return Ok(());
        }
        let more = prepared.payloads_len + prepared.lines.iter().map(Vec::len).sum::<usize>();
        let len = self.batch.draft.sealed_len_max(more);
        let made = self.parts.journal.make_room(len);
        if made.as_ref().is_err_and(|error| error.fate() == Fate::Refuse)
            && prepared.is_release()
            && self.parts.journal.has_reserve(len)
        {
            self.batch.is_urgent = true;
            return Ok(());
        }
        if matches!(made, Err(AppendError::Full { .. })) {
            self.no_room_until = Some(self.time.boottime_ms + NO_ROOM_RETRY_MS);
        }
        made
    }

    pub(super) fn fold(&mut self, prepared: Prepared) -> Result<(), Halt> {
        let seq = self.parts.journal.last().next();
        for step in prepared.steps {
            match step {
                Step::Record(event) => {
                    if let What::Pruned(pruned) = &event.what {
                        let freed = self.parts.machine.states().freed(pruned).map_err(Divergence::from)?;
                        self.batch.freed.blobs.extend(freed.blobs);
                        self.batch.freed.inline.extend(freed.inline);
                    }
                    self.parts.machine.apply(seq, &event)?;
                    let unsettles = match &event.what {
                        What::Broken(broken) => {
                            self.batch.struck.extend(broken.grants.iter().map(|grant| grant.id.clone()));
                            true
                        }
                        What::LeaseEnded(_) | What::LeaseRenewed(_) | What::LeaseGranted(_) => true,
                        _ => false,
                    };
                    self.unsettled |= unsettles;
                    self.batch.frees |= matches!(event.what, What::Broken(_) | What::LeaseEnded(_));
                    self.batch.events.push(*event);
                }
                Step::Move(motion) => self.turn(motion),
            }
        }
        self.batch.draft.add(&prepared.lines, prepared.payloads);
        Ok(())
    }

    pub(super) fn turn(&mut self, motion: Motion) {
        // A grant alone lets nobody pass and ends nothing, unless its process is gone already: then its watch says so.
        self.unsettled |= !matches!(motion, Motion::Granted(_) | Motion::Queued(_) | Motion::Bound { .. });
        self.parts.machine.follow(&motion);
        let seq = self.parts.journal.last();
        self.parts.book.record(&motion, self.parts.machine.locks(), seq);
    }

    /// Makes the ends durable that the batch tells of, before others are granted what they free: a grant is written down at
    /// once, and a crash in between would leave both.
    pub(super) fn settle_frees(&mut self) -> Result<(), Halt> {
        if self.batch.frees { self.finish(RecordKind::Batch) } else { Ok(()) }
    }

    /// Writes down the grants that these steps begin, which is what lets them begin.
    pub(super) fn admit(&mut self, prepared: &Prepared) -> Result<(), Failure> {
        let seq = self.parts.journal.last();
        for step in &prepared.steps {
            if let Step::Move(Motion::Granted(grant)) = step {
                self.parts.book.admit(grant, seq).map_err(|error| {
                    let message = format!("the lock could not be written down beside the socket: {error}");
                    Failure::new(FailureKind::Storage, message)
                        .hint("make room there, then try again (df shows the disk)")
                })?;
            }
        }
        Ok(())
    }

    /// Keeps a content that is durable now, where there is room for it.
    fn keep(&self, fresh: Fresh) {
        let Fresh { state, version, sha256, bytes } = fresh;
        let newest = self.parts.budget.newest();
        // A later change of the same batch may have overtaken it.
        // One that does not read is told to whoever needs it.
        let bases = Bases::of(self.parts.machine.states(), &state).ok().flatten();
        let bases = bases.filter(|bases| bases.newest() == version);
        let Some(bases) = bases else { return };
        let room = bytes.as_ref().and_then(|bytes| self.parts.budget.room_at_once(bytes.len() as u64));
        match (bytes, room) {
            (Some(bytes), Some(room)) => {
                let bytes = HeldContent::new(bytes, Some(room));
                newest.put(&state, NewestContent { version, sha256, bases, bytes });
            }
            _ => newest.forget(&state),
        }
    }

    /// Makes the batch durable, then answers.
    pub(super) fn finish(&mut self, kind: RecordKind) -> Result<(), Halt> {
        let mut batch = std::mem::take(&mut self.batch);
        let mut durable = None;
        if !batch.draft.is_empty() {
            let seq = self.parts.journal.last().next();
            let record = batch.draft.seal(&self.parts.vault, self.parts.head, seq, kind)?;
            if batch.is_urgent {
                self.parts.journal.append_from_reserve(&record)?;
            } else {
                self.parts.journal.append(&record)?;
            }
            self.parts.head = record.mac;
            self.parts.watermark.rise(seq, record.mac);
            let len_bytes = record.sealed.len() as u64;
            durable = Some(Durable { seq, head: record.mac, kind, len_bytes, events: batch.events });
            self.parts.vault.give_back(record.sealed);
            batch.draft.clear();
        }
        // Before the answers: who hears of a version may ask for it at once.
        drop(batch.rooms);
        for fresh in batch.fresh {
            self.keep(fresh);
        }
        // Memory that is given back and asked for again costs more than what is done in it.
        self.batch.draft = batch.draft;
        for id in batch.struck {
            if self.parts.machine.locks().grant(&id).is_none() {
                self.parts.book.remove(&id, self.parts.journal.last());
            }
        }
        for told in batch.told {
            match told {
                Told::Reply(outbox, number, mut result) => {
                    if let Ok(Reply::Committed(committed)) = &mut result
                        && committed.seq == Some(self.parts.journal.last())
                    {
                        committed.head = Some(self.parts.head);
                    }
                    outbox.reply(number, result);
                }
                Told::Notice(outbox, notice) => outbox.notice(notice),
                Told::Run(run) => run(),
                Told::Opened(session, done, opened) => {
                    if let Err(Ok(Opened { connection, .. })) = done.send(opened) {
                        self.close_session(session, connection);
                    }
                }
            }
        }
        // After the answers: nobody waits for these.
        if !batch.freed.is_empty() {
            self.parts.reclaim.free(batch.freed);
        }
        if let Some(durable) = durable {
            self.parts.follower.gather(durable, self.time.boottime_ms);
        }
        if self.parts.vault.wants_preparation() {
            self.parts.preparation.begin();
        }
        // Nothing follows the last record.
        if kind == RecordKind::Batch
            && let Some(done) = self.begins_part.take()
        {
            match self.parts.journal.begin_part() {
                Err(error) if error.fate() == Fate::Halt => return Err(error.into()),
                Err(error) => tracing::info!(%error, "no new part of the log is begun"),
                Ok(()) => {}
            }
            done();
        }
        Ok(())
    }
}
