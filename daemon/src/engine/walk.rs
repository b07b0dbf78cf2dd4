//! The records of a closed part of the log, one after the other, each opened and compared with the chain.

use stated_shared::{Digest, Seq};

use super::record::{self, Opened};
use super::rewrite::NotRewritten;
use super::store::Store;
use crate::journal::{Part, ReadError, Record};

/// Records that are read before others go first.
pub(super) const STEP_RECORDS_MAX: usize = 64;
/// Their bytes, but for the last one.
pub(super) const STEP_LEN_MAX: usize = 1 << 20;

/// A way through a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// The record that is next.
    pub next: Seq,
    last: Seq,
    /// The MAC before the next record.
    prev: Digest,
}

impl Walk {
    /// Begins with this record of the part.
    pub fn begin(store: &Store, part: Part, from: Seq) -> Result<Self, ReadError> {
        let prev = match from.0 {
            0 | 1 => Digest::ZERO,
            from => store.reader.mac(Seq(from - 1))?,
        };
        Ok(Self { next: from, last: part.last, prev })
    }

    /// Whether all were read.
    pub fn is_done(&self) -> bool {
        self.next > self.last
    }

    /// The next record; there is one.
    pub fn read(&mut self, store: &Store) -> Result<(Record, Opened), NotRewritten> {
        let seq = self.next;
        let record = store.reader.record(seq)?;
        let opened = record::open(&store.vault, self.prev, &record)
            .map_err(|unverified| NotRewritten::Damaged(seq, unverified))?;
        self.prev = record.mac;
        self.next = seq.next();
        Ok((record, opened))
    }
}
