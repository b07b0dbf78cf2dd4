//! Format 1 on a local disk: log files that are zero-filled ahead, one age file a record, and blobs beside them.
//!
//! `docs/format.md` is the format. The rules that keep it true:
//!
//! - A record is written into durable zeros only, in one write, and synced before anyone hears of it.
//! - A log file is exactly as long as its records (after a clean stop) or a multiple of the fill; only the latter may
//!   end in a torn record.
//! - A closed log file is written anew beside the old one, and renamed over it once it is durable.
//! - A failed write or sync poisons the journal: nothing is retried, the process replays.
//!
//! Guarantee 6 is kept by a `flock` on the directory `log`, which the journal holds until it is dropped; it works
//! between processes as within one, and a read-only journal takes it too. The daemon's LOCK is somebody else's and comes before.

mod append;
mod blobs;
mod format;
mod header;
mod index;
mod lost;
mod open;
mod reader;
mod renewal;
mod segment;
mod snapshots;
mod tail;

use std::path::Path;
use std::sync::Arc;

use stated_shared::{RepositoryId, Seq};

use super::{AppendError, Blobs, Ended, Journal, Mark, OpenError, OpenMode, Parts, Reader, Record, Visitor};
use append::Writer;
use blobs::LocalBlobs;
pub use format::{Presence, RESTORING_DIR, presence};
use header::Header;
#[cfg(fuzzing)]
pub use header::fuzz_header;
pub use lost::Loss;
use reader::LocalReader;
use renewal::LocalParts;
pub use snapshots::LocalSnapshots;

use crate::disk::{DirLock, Disk};

/// The journal of one state directory.
pub struct LocalJournal {
    writer: Option<Writer>,
    reader: Arc<LocalReader>,
    blobs: Arc<LocalBlobs>,
    parts: Arc<LocalParts>,
    ended: Ended,
    /// Held for its lock.
    _log_dir: DirLock,
}

impl LocalJournal {
    /// Makes an empty journal: `log/` with a zero-filled file, `blob/`, and last `FORMAT`.
    ///
    /// `dir` exists. A directory in which an earlier `create` was interrupted is completed; whatever already holds a
    /// record or a blob without a `FORMAT` is damage, and left alone.
    pub fn create(disk: &dyn Disk, dir: &Path, repository: RepositoryId) -> Result<(), OpenError> {
        format::create(disk, dir, repository)
    }

    /// Opens what [`LocalJournal::create`] made; `visit` sees every record in order.
    ///
    /// `Err` means that nothing was changed. The journal of a first start that died before its first record has none:
    /// that is so only while its one log file holds zeros (or a torn record 1), never where a file is missing.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        repository: RepositoryId,
        mode: OpenMode,
        visit: Visitor<'_>,
    ) -> Result<Self, OpenError> {
        open::open(disk, dir, repository, mode, None, visit)
    }

    /// As [`LocalJournal::open`], from a record on that is known to be durable: `visit` sees that one and what follows.
    ///
    /// Files before it are not even opened; what is damaged there is found by whoever reads it.
    /// [`OpenError::Lost`] and [`OpenError::Rewritten`] say that the log is not the one that the mark was made of.
    pub fn open_from(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        repository: RepositoryId,
        mode: OpenMode,
        mark: &Mark,
        visit: Visitor<'_>,
    ) -> Result<Self, OpenError> {
        open::open(disk, dir, repository, mode, Some(mark), visit)
    }

    /// Begins a new log file far earlier than usual, so that a test meets it often.
    #[cfg(test)]
    pub(crate) fn shorten_segments(&mut self, segment_len: u64) {
        self.writer.as_mut().expect("it was opened to be written").segment_len = segment_len;
    }

    /// How the log ended when it was opened.
    pub fn ended(&self) -> &Ended {
        &self.ended
    }
}

/// A record as it lies in a log file.
pub(super) fn stored(record: &Record) -> Vec<u8> {
    let Record { seq, mac, cut_bytes, sealed } = record;
    let mut bytes = Vec::with_capacity(header::HEADER_LEN_MAX + sealed.len());
    Header { seq: *seq, len: sealed.len(), mac: *mac, cut_bytes: *cut_bytes }.encode_into(&mut bytes);
    bytes.extend_from_slice(sealed);
    bytes
}

impl Journal for LocalJournal {
    fn make_room(&mut self, len_bytes: usize) -> Result<(), AppendError> {
        self.writer.as_mut().ok_or(AppendError::ReadOnly)?.prepare(len_bytes)
    }

    fn append(&mut self, record: &Record) -> Result<(), AppendError> {
        self.writer.as_mut().ok_or(AppendError::ReadOnly)?.append(record, false)
    }

    fn has_reserve(&self, len_bytes: usize) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.has_reserve(len_bytes))
    }

    fn append_from_reserve(&mut self, record: &Record) -> Result<(), AppendError> {
        self.writer.as_mut().ok_or(AppendError::ReadOnly)?.append(record, true)
    }

    fn last(&self) -> Seq {
        self.reader.last()
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.reader.clone()
    }

    fn blobs(&self) -> Arc<dyn Blobs> {
        self.blobs.clone()
    }

    fn begin_part(&mut self) -> Result<(), AppendError> {
        self.writer.as_mut().ok_or(AppendError::ReadOnly)?.begin_part()
    }

    fn parts(&self) -> Arc<dyn Parts> {
        self.parts.clone()
    }

    fn close(self: Box<Self>) -> Result<(), AppendError> {
        self.writer.map_or(Ok(()), Writer::close)
    }
}

#[cfg(test)]
mod tests;
