//! The last record of a directory that was restored, by which its next start knows that it was.

use std::sync::Arc;

use stated_shared::{Epoch, Seq, Timestamp};

use super::owner::Halt;
use super::record::{self, Draft};
use super::start::Replay;
use crate::journal::{Journal, RecordKind};
use crate::machine::event::{Actor, Closed, Event, LeaseEnded, Restored, What};

/// Bytes of events after which a record is closed: each lease may have many long names.
const RECORD_LEN_MAX: usize = 1 << 20;

/// A log that was put back, whole and verified, and that nobody serves yet.
pub struct Returned {
    /// Replayed.
    pub replay: Replay,
    /// To be written.
    pub journal: Box<dyn Journal>,
    /// Who restores it.
    pub actor: stated_shared::Actor,
    /// The time.
    pub now: Timestamp,
    /// The last epoch that anything else tells of.
    pub seen: Epoch,
    /// Where what was there before will be, relative to the state directory.
    pub aside: Option<String>,
}

/// What the log tells of its restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The last record that was restored.
    pub seq: Seq,
    /// Above every epoch that was given before.
    pub epoch: Epoch,
    /// Leases that ended with it.
    pub leases: usize,
}

/// Makes the restore durable as an event, and closes the log.
///
/// A lease of the log may have ended since, and its names may be somebody else's in what this takes the place of: none is
/// held any more, and no fence of before is ever given again.
pub fn tell(returned: Returned) -> Result<Told, Halt> {
    let Returned { replay, mut journal, actor, now, seen, aside } = returned;
    let (vault, mut head) = (replay.vault(), replay.head());
    let machine = replay.machine();
    let actor = Arc::new(Actor::from(actor));
    let event = |what| Event { at: now, actor: Arc::clone(&actor), what };
    let seq = journal.last();
    let epoch = machine.epoch().max(seen).of_restore(now.0 / 1000);
    let leases = machine.locks().grants().map(|grant| {
        let (id, names) = (grant.id.clone(), grant.names.clone());
        event(What::LeaseEnded(LeaseEnded { id, names, expired: false }))
    });
    let first = event(What::Restored(Restored { epoch, seq, aside }));
    let events = std::iter::once(first).chain(leases).chain([event(What::Closed(Closed {}))]);
    let mut draft = Draft::default();
    let mut append = |draft: &mut Draft, kind| -> Result<(), Halt> {
        let record = draft.seal(&vault, head, journal.last().next(), kind)?;
        journal.make_room(record.sealed.len())?;
        journal.append(&record)?;
        head = record.mac;
        draft.clear();
        Ok(())
    };
    for event in events {
        draft.add(&[record::line(&event)], Vec::new());
        if draft.len() >= RECORD_LEN_MAX {
            append(&mut draft, RecordKind::Batch)?;
        }
    }
    append(&mut draft, RecordKind::Closed)?;
    journal.close()?;
    Ok(Told { seq, epoch, leases: machine.locks().grant_count() })
}
