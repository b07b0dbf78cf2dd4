//! A closed part of the log written anew: without the payloads that were given up, with what was summed up emptied, or
//! sealed to other keys.
//!
//! Every record of the part is opened and its MAC compared on the way, and the new form of one is opened once more before
//! it is written: what is damaged is left as it is, for a verification to name, and nothing is lost by this.

use stated_shared::Seq;

use super::record::{self, InlinePayload, Opened};
use super::store::Store;
use super::summary::Runs;
use super::walk::{STEP_LEN_MAX, STEP_RECORDS_MAX, Walk};
use crate::journal::{AppendError, Fate, Part, Parts, ReadError, Record, Renewal, Unverified};
use crate::vault::SealError;

/// A part that is being written anew.
pub(super) struct Rewriting {
    store: Store,
    renewal: Box<dyn Renewal>,
    walk: Walk,
    anew: Anew,
    /// Bytes that are gone from it.
    pub cut_bytes: u64,
}

/// What a part is written anew for, besides the payloads that were given up.
#[derive(Debug, Default)]
pub(super) struct Anew {
    /// What of it was summed up.
    pub summed_up: Runs,
    /// Whether all of it is to be sealed to the keys in use.
    pub reseals: bool,
}

/// Some records of it, as they are.
pub(super) struct Piece {
    records: Vec<(Record, Opened)>,
    /// The payloads that are in them, each with its record.
    pub payloads: Vec<(Seq, InlinePayload)>,
}

/// Why a part is not written anew: it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum NotRewritten {
    /// It could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record is not what was written.
    #[error("record {0} is damaged: {what}", what = .1.0)]
    Damaged(Seq, Unverified),
    /// A record was not the same in its new form: a bug of ours.
    #[error("record {0} would not be what it was")]
    Another(Seq),
    /// A record could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl NotRewritten {
    /// Whether there may be room another time.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Append(error) if error.fate() == Fate::Refuse)
    }
}

impl Rewriting {
    pub fn begin(store: &Store, parts: &dyn Parts, part: Part, anew: Anew) -> Result<Self, NotRewritten> {
        let walk = Walk::begin(store, part, part.first)?;
        let renewal = parts.renew(part.first)?;
        Ok(Self { store: store.clone(), renewal, walk, anew, cut_bytes: 0 })
    }

    /// The next records; `None` after the last one.
    pub fn read(&mut self) -> Result<Option<Piece>, NotRewritten> {
        let mut piece = Piece { records: Vec::new(), payloads: Vec::new() };
        let mut len = 0;
        while !self.walk.is_done() && piece.records.len() < STEP_RECORDS_MAX && len < STEP_LEN_MAX {
            let (record, opened) = self.walk.read(&self.store)?;
            let payloads = opened.inline_payloads();
            let there = payloads.filter(|payload| !opened.is_gone(payload.offset_bytes, payload.len_bytes));
            piece.payloads.extend(there.map(|payload| (record.seq, payload)));
            len += record.sealed.len();
            piece.records.push((record, opened));
        }
        Ok((!piece.records.is_empty()).then_some(piece))
    }

    /// Writes them without what is not needed, `is_needed` having a word for each of their payloads, and empties those
    /// that were summed up.
    pub fn write(&mut self, piece: &Piece, is_needed: &[bool]) -> Result<(), NotRewritten> {
        let payloads = || piece.payloads.iter().zip(is_needed);
        for (record, opened) in &piece.records {
            if self.anew.summed_up.holds(record.seq) && opened.ages() {
                self.empty(record, opened)?;
                continue;
            }
            let of_it = || payloads().filter(|((seq, _), _)| *seq == record.seq);
            let gone = of_it().filter(|(_, is_needed)| !**is_needed);
            let gone: Vec<_> = gone.map(|((_, payload), _)| (payload.offset_bytes, payload.len_bytes)).collect();
            let Some(cut) = opened.cut(&self.store.vault, record, &gone)? else {
                self.keep(record, opened)?;
                continue;
            };
            let again = record::open_unchained(&self.store.vault, &cut).ok().filter(|again| again.tells_as(opened));
            let is_same = |again: &Opened| {
                of_it().all(|((_, InlinePayload { offset_bytes, len_bytes, .. }), is_needed)| {
                    let kept = again.payload(*offset_bytes, *len_bytes);
                    kept == opened.payload(*offset_bytes, *len_bytes).filter(|_| *is_needed)
                })
            };
            if !again.as_ref().is_some_and(is_same) {
                return Err(NotRewritten::Another(record.seq));
            }
            self.renewal.add(&cut)?;
            self.cut_bytes += cut.cut_bytes - record.cut_bytes;
        }
        Ok(())
    }

    fn empty(&mut self, record: &Record, opened: &Opened) -> Result<(), NotRewritten> {
        let emptied = opened.empty(&self.store.vault, record)?;
        let again = record::open_unchained(&self.store.vault, &emptied);
        if !again.is_ok_and(|again| again.is_rest_of(opened)) {
            return Err(NotRewritten::Another(record.seq));
        }
        self.renewal.add(&emptied)?;
        self.cut_bytes += emptied.cut_bytes;
        Ok(())
    }

    fn keep(&mut self, record: &Record, opened: &Opened) -> Result<(), NotRewritten> {
        if !self.anew.reseals {
            return Ok(self.renewal.add(record)?);
        }
        let resealed = opened.reseal(&self.store.vault, record)?;
        if !record::open_unchained(&self.store.vault, &resealed).is_ok_and(|again| again.is_same(opened)) {
            return Err(NotRewritten::Another(record.seq));
        }
        Ok(self.renewal.add(&resealed)?)
    }

    /// Puts it in the old one's place, where it is another.
    pub fn finish(self) -> Result<u64, NotRewritten> {
        if self.cut_bytes > 0 || self.anew.reseals {
            self.renewal.finish()?;
        }
        Ok(self.cut_bytes)
    }
}
