//! The journal in memory, for tests of whatever stands on one.
//!
//! A [`MemoryStorage`] outlives its journals: dropping a journal is a crash, opening the storage again is the restart.
//! Guarantee 6 is kept by a flag in the storage.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stated_shared::Seq;

use super::limits::RECORD_LEN_MAX;
use super::{
    AppendError, BlobId, Blobs, Ended, Fate, Journal, OpenError, OpenMode, Part, Parts, ReadError, Reader, Record,
    RecordKind, Renewal, Visitor,
};

/// What goes wrong in the next append, for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no room; nothing changes.
    Full,
    /// Write or sync fails, and this much of the record has reached the storage.
    Sync(Landed),
}

/// How much of a record survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landed {
    /// Nothing.
    Nothing,
    /// A part of it, which opening must not show.
    Part,
    /// All of it, though nobody was told.
    Whole,
}

/// What survives a crash; clones share it.
#[derive(Clone, Default)]
pub struct MemoryStorage(Arc<Mutex<Contents>>);

#[derive(Default, Clone)]
struct Contents {
    records: Vec<Record>,
    /// Where parts begin, but for the first one.
    parts: Vec<Seq>,
    /// A record that a crash cut short lies after the last one.
    torn: bool,
    /// The last journal was closed and nothing was appended since.
    closed_at: Option<Seq>,
    blobs: BTreeMap<BlobId, Vec<u8>>,
    open: bool,
    fault: Option<Fault>,
}

impl MemoryStorage {
    /// Storage without a record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next append fail.
    pub fn fail_next_append(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// Flips one bit of a record that is there.
    pub fn flip(&self, seq: Seq) {
        if let Some(record) = self.lock().records.get_mut(seq.0 as usize - 1) {
            record.sealed[0] ^= 1;
        }
    }

    /// Takes the last record away, as a lost write would.
    pub fn lose_last(&self) {
        self.lock().records.pop();
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A journal on a [`MemoryStorage`].
pub struct MemoryJournal {
    storage: MemoryStorage,
    mode: OpenMode,
    poisoned: bool,
    ended: Ended,
}

impl MemoryJournal {
    /// Opens the storage; `visit` sees every record in order.
    pub fn open(storage: &MemoryStorage, mode: OpenMode, visit: Visitor<'_>) -> Result<Self, OpenError> {
        let mut contents = storage.lock();
        if contents.open {
            return Err(OpenError::Busy(PathBuf::from("memory")));
        }
        let mut ended = Ended::Empty;
        for record in &contents.records {
            let kind = visit(record).map_err(|unverified| damaged(record.seq, &unverified.0))?;
            ended = if kind == RecordKind::Closed { Ended::Closed } else { Ended::Open };
        }
        let last = Seq(contents.records.len() as u64);
        if contents.closed_at.is_some_and(|closed_at| closed_at != last || contents.torn) {
            return Err(damaged(last.next(), "the log was closed with another record"));
        }
        if contents.torn {
            ended = Ended::Torn { seq: last.next(), file: "memory".to_owned(), offset_bytes: last.0 };
            contents.torn = mode == OpenMode::ReadOnly;
        }
        contents.open = true;
        Ok(Self { storage: storage.clone(), mode, poisoned: false, ended })
    }

    /// How the log ended when it was opened.
    pub fn ended(&self) -> &Ended {
        &self.ended
    }

    fn append_checked(&self, record: &Record) -> Result<(), AppendError> {
        let mut contents = self.storage.lock();
        let last = Seq(contents.records.len() as u64);
        if record.seq != last.next() {
            return Err(AppendError::OutOfOrder { last, got: record.seq });
        }
        if record.sealed.len() > RECORD_LEN_MAX {
            return Err(AppendError::TooLarge { len: record.sealed.len(), max: RECORD_LEN_MAX });
        }
        let path = PathBuf::from("memory");
        match contents.fault.take() {
            None => {}
            Some(Fault::Full) => return Err(AppendError::Full { path, source: io::ErrorKind::StorageFull.into() }),
            Some(Fault::Sync(landed)) => {
                contents.closed_at = None;
                contents.torn = landed == Landed::Part;
                if landed == Landed::Whole {
                    contents.records.push(record.clone());
                }
                return Err(AppendError::Write { path, source: io::Error::other("injected") });
            }
        }
        contents.closed_at = None;
        contents.records.push(record.clone());
        Ok(())
    }
}

impl Journal for MemoryJournal {
    /// Memory has room until it has none, which `append` finds out.
    fn make_room(&mut self, _len_bytes: usize) -> Result<(), AppendError> {
        if self.poisoned { Err(AppendError::Poisoned) } else { Ok(()) }
    }

    fn append(&mut self, record: &Record) -> Result<(), AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        if self.mode == OpenMode::ReadOnly {
            return Err(AppendError::ReadOnly);
        }
        let appended = self.append_checked(record);
        self.poisoned = appended.as_ref().is_err_and(|error| error.fate() == Fate::Halt);
        appended
    }

    fn last(&self) -> Seq {
        Seq(self.storage.lock().records.len() as u64)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.storage.clone())
    }

    fn blobs(&self) -> Arc<dyn Blobs> {
        Arc::new(self.storage.clone())
    }

    fn begin_part(&mut self) -> Result<(), AppendError> {
        let next = self.last().next();
        let mut contents = self.storage.lock();
        if next > Seq(1) && contents.parts.last() != Some(&next) {
            contents.parts.push(next);
        }
        Ok(())
    }

    fn parts(&self) -> Arc<dyn Parts> {
        Arc::new(self.storage.clone())
    }

    fn close(self: Box<Self>) -> Result<(), AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        if self.mode == OpenMode::Repair {
            self.storage.lock().closed_at = Some(self.last());
        }
        Ok(())
    }
}

impl Drop for MemoryJournal {
    fn drop(&mut self) {
        self.storage.lock().open = false;
    }
}

impl Reader for MemoryStorage {
    fn record(&self, seq: Seq) -> Result<Record, ReadError> {
        let index = seq.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let record = index.and_then(|index| self.lock().records.get(index).cloned());
        record.ok_or_else(|| ReadError::Missing(format!("record {seq}")))
    }

    fn place(&self, seq: Seq) -> (String, u64) {
        ("memory".to_owned(), seq.0.saturating_sub(1))
    }

    fn len_bytes(&self) -> u64 {
        self.lock().records.iter().map(|record| record.sealed.len() as u64).sum()
    }

    fn check_layout(&self) -> Result<Vec<(String, u64, String)>, ReadError> {
        Ok(Vec::new())
    }
}

struct MemoryRenewal {
    storage: MemoryStorage,
    part: Part,
    records: Vec<Record>,
}

impl Parts for MemoryStorage {
    fn list(&self) -> Vec<Part> {
        let contents = self.lock();
        let end = Seq(contents.records.len() as u64 + 1);
        let firsts: Vec<Seq> = std::iter::once(Seq(1)).chain(contents.parts.iter().copied()).collect();
        let part = |(at, first): (usize, &Seq)| {
            let next = firsts.get(at + 1).copied().unwrap_or(end);
            let records = &contents.records[first.0 as usize - 1..next.0 as usize - 1];
            let len_bytes = records.iter().map(|record| record.sealed.len() as u64).sum();
            Part { first: *first, last: Seq(next.0 - 1), len_bytes, is_closed: at + 1 < firsts.len() }
        };
        firsts.iter().enumerate().map(part).collect()
    }

    fn renew(&self, first: Seq) -> Result<Box<dyn Renewal>, AppendError> {
        let part = Parts::list(self).into_iter().find(|part| part.first == first && part.is_closed);
        let part = part.ok_or(AppendError::NotClosed(first))?;
        Ok(Box::new(MemoryRenewal { storage: self.clone(), part, records: Vec::new() }))
    }
}

impl Renewal for MemoryRenewal {
    fn add(&mut self, record: &Record) -> Result<(), AppendError> {
        let last = Seq(self.part.first.0 + self.records.len() as u64 - 1);
        if record.seq != last.next() || record.seq > self.part.last {
            return Err(AppendError::OutOfOrder { last, got: record.seq });
        }
        self.records.push(record.clone());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), AppendError> {
        let Part { first, last, .. } = self.part;
        if self.records.len() as u64 != last.0 + 1 - first.0 {
            let written = Seq(first.0 + self.records.len() as u64 - 1);
            return Err(AppendError::OutOfOrder { last: written, got: last.next() });
        }
        let place = first.0 as usize - 1..last.0 as usize;
        self.storage.lock().records.splice(place, self.records);
        Ok(())
    }
}

impl Blobs for MemoryStorage {
    fn write(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError> {
        match self.lock().blobs.entry(id) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(sealed.to_vec());
                Ok(())
            }
            std::collections::btree_map::Entry::Occupied(_) => {
                let path = PathBuf::from(Blobs::place(self, id));
                Err(AppendError::Write { path, source: io::ErrorKind::AlreadyExists.into() })
            }
        }
    }

    fn replace(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError> {
        self.lock().blobs.insert(id, sealed.to_vec());
        Ok(())
    }

    fn read(&self, id: BlobId) -> Result<Vec<u8>, ReadError> {
        self.lock().blobs.get(&id).cloned().ok_or_else(|| ReadError::Missing(Blobs::place(self, id)))
    }

    fn place(&self, id: BlobId) -> String {
        format!("blob {id}")
    }

    fn remove(&self, id: BlobId) -> io::Result<()> {
        self.lock().blobs.remove(&id);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<BlobId>> {
        Ok(self.lock().blobs.keys().copied().collect())
    }
}

fn damaged(seq: Seq, what: &str) -> OpenError {
    OpenError::Damaged { file: "memory".to_owned(), seq, offset_bytes: seq.0 - 1, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{self, Store};
    use super::*;

    impl Store for MemoryStorage {
        type Journal = MemoryJournal;

        fn create() -> Self {
            Self::new()
        }

        fn open(&self, mode: OpenMode, visit: Visitor<'_>) -> Result<MemoryJournal, OpenError> {
            MemoryJournal::open(self, mode, visit)
        }

        fn fail_next_append(&self, _: &mut MemoryJournal, fault: Fault) {
            self.fail_next_append(fault);
        }

        fn flip(&self, seq: Seq) {
            self.flip(seq);
        }

        fn lose_last(&self) {
            self.lose_last();
        }

        fn image(&self) -> Vec<(String, Vec<u8>)> {
            let contents = self.lock();
            let flags = (format!("{} {:?}", contents.torn, contents.closed_at), Vec::new());
            contents
                .records
                .iter()
                .map(|record| (record.mac.to_string(), record.sealed.clone()))
                .chain([flags])
                .collect()
        }
    }

    suite::conformance!(MemoryStorage);
}
