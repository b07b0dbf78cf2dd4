//! Appending: one write into durable zeros and one sync a record.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use stated_shared::Seq;

use super::super::limits::{FILL_AHEAD_LEN_MAX, FILL_RECORDS, RECORD_LEN_MAX, RESERVE_LEN, SEGMENT_LEN};
use super::super::{AppendError, Fate, Record};
use super::header::{HEADER_LEN_MAX, Header};
use super::reader::LocalReader;
use super::segment::{Segment, failed};
use super::tail::lacks_a_sector;
use crate::disk::Disk;

/// A buffer larger than this is given back after its record.
const BUFFER_KEPT_LEN: usize = 1 << 20;

/// The owner's half of the log: where the next record goes.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    pub(super) log_dir: PathBuf,
    pub(super) segment: Segment,
    pub(super) reader: Arc<LocalReader>,
    pub(super) last: Seq,
    /// Bytes of the last record that this process wrote.
    last_len: u64,
    pub(super) buffer: Vec<u8>,
    pub(super) poisoned: bool,
    /// When a new file is begun; tests make it small.
    pub(super) segment_len: u64,
}

impl Writer {
    pub fn new(disk: Arc<dyn Disk>, log_dir: PathBuf, segment: Segment, reader: Arc<LocalReader>) -> Self {
        let last = reader.last();
        Self {
            disk,
            log_dir,
            segment,
            reader,
            last,
            last_len: 0,
            buffer: Vec::with_capacity(64 << 10),
            poisoned: false,
            segment_len: SEGMENT_LEN,
        }
    }

    /// Sees to it that the next record, if it is no longer than this, finds its room.
    pub fn prepare(&mut self, len: usize) -> Result<(), AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        if len > RECORD_LEN_MAX {
            return Err(AppendError::TooLarge { len, max: RECORD_LEN_MAX });
        }
        let begun = if self.segment.end >= self.segment_len { self.begin_segment(self.last.next()) } else { Ok(()) };
        let to = self.segment.end + (HEADER_LEN_MAX + len) as u64 + RESERVE_LEN;
        let prepared = begun.and_then(|()| self.fill(to));
        self.poisoned = prepared.as_ref().is_err_and(|error| error.fate() == Fate::Halt);
        prepared
    }

    /// Goes on in a new file, where this one has a record.
    pub fn begin_part(&mut self) -> Result<(), AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        if self.segment.end == 0 {
            return Ok(());
        }
        let reader = Arc::clone(&self.reader);
        let _tail = reader.hold_tail();
        let begun = self.begin_segment(self.last.next());
        self.poisoned = begun.as_ref().is_err_and(|error| error.fate() == Fate::Halt);
        begun
    }

    /// Whether a record no longer than this fits into what is zero-filled already, the reserve included.
    pub fn has_reserve(&self, len: usize) -> bool {
        !self.poisoned
            && len <= RECORD_LEN_MAX
            && self.segment.end + ((HEADER_LEN_MAX + len) as u64) < self.segment.filled
    }

    /// Appends; with `reserve` into the room that other records leave free.
    pub fn append(&mut self, record: &Record, reserve: bool) -> Result<(), AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        if record.seq != self.last.next() {
            return Err(AppendError::OutOfOrder { last: self.last, got: record.seq });
        }
        if record.sealed.len() > RECORD_LEN_MAX {
            return Err(AppendError::TooLarge { len: record.sealed.len(), max: RECORD_LEN_MAX });
        }
        let appended = self.append_checked(record, reserve);
        self.poisoned = appended.as_ref().is_err_and(|error| error.fate() == Fate::Halt);
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_LEN);
        appended
    }

    fn append_checked(&mut self, record: &Record, reserve: bool) -> Result<(), AppendError> {
        self.buffer.clear();
        self.buffer.reserve(HEADER_LEN_MAX + record.sealed.len());
        let header = Header { seq: record.seq, len: record.sealed.len(), mac: record.mac, cut_bytes: record.cut_bytes };
        header.encode_into(&mut self.buffer);
        self.buffer.extend_from_slice(&record.sealed);

        // A reader's look at the layout waits for this, so that it sees no file or record half-made.
        let reader = Arc::clone(&self.reader);
        let _tail = reader.hold_tail();
        self.make_room(record.seq, reserve)?;
        let at = self.segment.end;
        debug_assert!(at + (self.buffer.len() as u64) < self.segment.filled);
        self.write_and_sync(at).map_err(|source| failed(&self.segment.path, source))?;
        self.segment.end = at + self.buffer.len() as u64;
        self.last = record.seq;
        self.last_len = self.buffer.len() as u64;
        self.reader.push(at, self.segment.end);
        Ok(())
    }

    /// Sees to it that the record fits into durable zeros, here or in a new file.
    fn make_room(&mut self, seq: Seq, reserve: bool) -> Result<(), AppendError> {
        let len = self.buffer.len() as u64;
        let fits = |segment: &Segment| segment.end + len < segment.filled;
        // A sector's part that is zeros by chance would look lost, and so excuse another byte's damage as a torn
        // record. A new file moves the sectors' borders.
        let ambiguous = self.segment.end > 0 && lacks_a_sector(&self.buffer, self.segment.end);
        if self.segment.end >= self.segment_len || ambiguous {
            match self.begin_segment(seq) {
                Err(AppendError::Full { .. }) if reserve && !ambiguous && fits(&self.segment) => return Ok(()),
                other => other?,
            }
        }
        if reserve && fits(&self.segment) {
            return Ok(());
        }
        self.fill(self.segment.end + len + if reserve { 0 } else { RESERVE_LEN })
    }

    /// Sees to durable zeros up to `to`, and where some must be made, for more records like the last one: each would
    /// pay for a sync of its own else. On a full disk for as much as is asked.
    fn fill(&mut self, to: u64) -> Result<(), AppendError> {
        let ahead = (self.last_len * FILL_RECORDS).min(FILL_AHEAD_LEN_MAX);
        if to < self.segment.filled || ahead == 0 {
            return self.segment.fill(to);
        }
        match self.segment.fill(to + ahead) {
            Err(AppendError::Full { .. }) => self.segment.fill(to),
            other => other,
        }
    }

    fn begin_segment(&mut self, first: Seq) -> Result<(), AppendError> {
        let reader = Arc::clone(&self.reader);
        let _entries = reader.hold_entries();
        let next = Segment::create(&*self.disk, &self.log_dir, first)?;
        // Only now: until the new file is there, the old one's fill is the reserve.
        self.segment.trim()?;
        self.reader.begin_segment(first, Arc::clone(&next.file));
        self.segment = next;
        Ok(())
    }

    fn write_and_sync(&mut self, at: u64) -> io::Result<()> {
        self.segment.file.write_at(&self.buffer, at)?;
        self.segment.file.sync_data()
    }

    /// Trims the fill.
    pub fn close(mut self) -> Result<(), AppendError> {
        let reader = Arc::clone(&self.reader);
        let _tail = reader.hold_tail();
        match self.segment.end {
            _ if self.poisoned => Err(AppendError::Poisoned),
            // A log file without a record keeps its fill: an empty one is damage.
            0 => Ok(()),
            _ => self.segment.trim(),
        }
    }
}
