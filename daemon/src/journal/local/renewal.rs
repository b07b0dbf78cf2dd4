//! Closed log files written anew: a new file beside the old one, synced, and then renamed over it.
//!
//! Whatever fails on the way leaves the old file as it is, and nothing of the log depends on which of the two a crash
//! leaves: both hold the same records, and the new one less of their payloads. So a failure here never halts anybody.
//! What the directory of the log holds is changed by one at a time ([`LocalReader::hold_entries`]): else a sync of it
//! that fails here could be one that a new log file relies on.

use std::path::PathBuf;
use std::sync::Arc;

use stated_shared::Seq;

use super::super::limits::RECORD_LEN_MAX;
use super::super::{AppendError, Part, Parts, Record, Renewal};
use super::header::{HEADER_LEN_MAX, Header};
use super::reader::LocalReader;
use super::segment::{RENEWED_FILE, failed, file_name, refused, sync_dir};
use crate::disk::{Access, Disk, DiskFile};

/// Bytes that are written and synced at a time: a sync of more would keep those of new records waiting.
const PIECE_LEN: usize = 1 << 20;

/// The log files of one state directory.
pub(super) struct LocalParts {
    pub disk: Arc<dyn Disk>,
    pub log_dir: PathBuf,
    pub reader: Arc<LocalReader>,
    pub writable: bool,
}

struct LocalRenewal {
    disk: Arc<dyn Disk>,
    log_dir: PathBuf,
    reader: Arc<LocalReader>,
    part: Part,
    next: Seq,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Where the buffer begins.
    at: u64,
    buffer: Vec<u8>,
    /// Whether it has the old file's name, or may have.
    is_in_place: bool,
}

impl Parts for LocalParts {
    fn list(&self) -> Vec<Part> {
        self.reader.parts()
    }

    fn renew(&self, first: Seq) -> Result<Box<dyn Renewal>, AppendError> {
        if !self.writable {
            return Err(AppendError::ReadOnly);
        }
        let path = self.log_dir.join(RENEWED_FILE);
        let parts = self.reader.parts();
        let Some(part) = parts.into_iter().find(|part| part.first == first && part.is_closed) else {
            return Err(AppendError::NotClosed(first));
        };
        let file = self.disk.open(&path, Access::Replace).map_err(|source| refused(&path, source))?;
        Ok(Box::new(LocalRenewal {
            disk: Arc::clone(&self.disk),
            log_dir: self.log_dir.clone(),
            reader: Arc::clone(&self.reader),
            next: part.first,
            part,
            path,
            file,
            at: 0,
            buffer: Vec::with_capacity(PIECE_LEN),
            is_in_place: false,
        }))
    }
}

impl LocalRenewal {
    fn write(&mut self) -> Result<(), AppendError> {
        self.file.write_at(&self.buffer, self.at).map_err(|source| refused(&self.path, source))?;
        self.file.sync_data().map_err(|source| failed(&self.path, source))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Renewal for LocalRenewal {
    fn add(&mut self, record: &Record) -> Result<(), AppendError> {
        if record.seq != self.next || record.seq > self.part.last {
            return Err(AppendError::OutOfOrder { last: Seq(self.next.0 - 1), got: record.seq });
        }
        let Record { seq, mac, cut_bytes, ref sealed } = *record;
        if sealed.len() > RECORD_LEN_MAX {
            return Err(AppendError::TooLarge { len: sealed.len(), max: RECORD_LEN_MAX });
        }
        self.buffer.reserve(HEADER_LEN_MAX + sealed.len());
        Header { seq, len: sealed.len(), mac, cut_bytes }.encode_into(&mut self.buffer);
        self.buffer.extend_from_slice(sealed);
        self.next = seq.next();
        if self.buffer.len() >= PIECE_LEN { self.write() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), AppendError> {
        if self.next <= self.part.last {
            return Err(AppendError::OutOfOrder { last: Seq(self.next.0 - 1), got: self.part.last.next() });
        }
        self.write()?;
        self.file.sync_all().map_err(|source| failed(&self.path, source))?;
        let path = self.log_dir.join(file_name(self.part.first));
        let reader = Arc::clone(&self.reader);
        let _entries = reader.hold_entries();
        if let Err(source) = self.disk.rename(&self.path, &path) {
            let there = self.disk.stat(&path).and_then(|there| Ok(there.id == self.file.stat()?.id));
            if !there.is_ok_and(|is_ours| is_ours) {
                return Err(failed(&path, source));
            }
        }
        self.is_in_place = true;
        reader.renewed(self.part.first);
        sync_dir(&*self.disk, &self.log_dir)
    }
}

impl Drop for LocalRenewal {
    fn drop(&mut self) {
        if !self.is_in_place {
            // Its room is wanted back; where that fails the next one, or the next start, does it.
            let _ = self.disk.remove(&self.path);
        }
    }
}
