//! The event log: an append-only sequence of sealed records, and the blobs they refer to.
//!
//! A journal sees opaque bytes. It knows no event, no name and no key; what a record holds and whether it is
//! genuine is told to it by the visitor of [`Journal`]'s `open`, which every implementation has.

pub mod limits;
mod local;
mod memory;
#[cfg(test)]
mod suite;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use stated_shared::{Digest, Seq};

#[cfg(fuzzing)]
pub use local::fuzz_header;
pub use local::{LocalJournal, LocalSnapshots, Loss, Presence, RESTORING_DIR, presence};
pub use memory::{Fault, Landed, MemoryJournal, MemoryStorage};

/// One durable append: a batch of events, sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number; dense from 1.
    pub seq: Seq,
    /// The chain's MAC at this record.
    pub mac: Digest,
    /// Bytes of its payloads that were given up, and are gone since it was written anew.
    pub cut_bytes: u64,
    /// A complete, standard age file.
    pub sealed: Vec<u8>,
}

/// Records that lie in one place, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The first of them.
    pub first: Seq,
    /// The last of them; the one before the first where there is none yet.
    pub last: Seq,
    /// What they take.
    pub len_bytes: u64,
    /// Whether no record is ever added to it.
    pub is_closed: bool,
}

/// What the visitor says of a genuine record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// More may follow, one of them torn.
    Batch,
    /// The daemon stopped in good order after it: nothing unsynced can follow.
    Closed,
}

/// A record that is known to be durable, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The record.
    pub seq: Seq,
    /// The chain's MAC at it.
    pub mac: Digest,
    /// Its file, relative to the state directory.
    pub file: String,
    /// Where it starts.
    pub offset_bytes: u64,
}

/// What opening may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// A torn last record is wiped, so that appending can go on.
    Repair,
    /// Nothing is; the journal refuses to append.
    ReadOnly,
}

/// How a log ended when it was opened, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// There is no record: the first start did not get that far.
    Empty,
    /// With the record of a clean stop.
    Closed,
    /// With a whole record and no clean stop.
    Open,
    /// With a part of a record that was never acknowledged.
    Torn {
        /// The number that it would have had.
        seq: Seq,
        /// The file, relative to the state directory.
        file: String,
        /// Where it starts.
        offset_bytes: u64,
    },
}

/// Sees every record in order while a journal opens, and says whether it is genuine.
///
/// A record that it refuses may be a torn one, after which the opening succeeds: refusing leaves the visitor as it was.
pub type Visitor<'a> = &'a mut dyn FnMut(&Record) -> Result<RecordKind, Unverified>;

/// The random name of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 16]);

/// An append-only log of sealed records that one owner writes.
///
/// An implementation owes, and the conformance suite checks:
///
/// 1. **Durable.** When `append` returns `Ok`, the record survives a crash of process and machine.
/// 2. **Whole.** After a crash a record is there byte for byte, or not at all; never in part.
/// 3. **Ordered.** If record n is there, so is every record before it. `append` takes exactly the next seq.
/// 4. **At most one open end.** Only the last append can be unacknowledged; opening drops it or keeps it whole.
/// 5. **Loud.** Whatever else the visitor refuses, or does not parse, is damage: `open` says where and changes nothing.
/// 6. **One owner.** While a journal is open no second one can be opened on the same storage.
/// 7. **Closed is closed.** What was closed has no open end: whatever is missing or partial there is damage.
/// 8. **Poisoned.** After an `append` failed with [`Fate::Halt`], every later one fails: the tail is unknown.
/// 9. **Steady reads.** What a reader returned once for a seq or a blob it returns until that is removed, or the part that
///    holds it is written anew.
/// 10. **Old or new.** A part that is written anew reads and opens as it was or as it shall be, whatever happens on the
///     way; nothing else is touched, and appending goes on.
pub trait Journal: Send {
    /// Makes room for a record whose sealed form has this length, so that the next append of it cannot fail for want
    /// of space. Cheap where there is room already.
    fn make_room(&mut self, len_bytes: usize) -> Result<(), AppendError>;

    /// Makes the record durable. `Err` obliges the caller as its [`AppendError::fate`] says.
    fn append(&mut self, record: &Record) -> Result<(), AppendError>;

    /// Whether [`Journal::append_from_reserve`] of a record of this length finds its room, although
    /// [`Journal::make_room`] found none.
    fn has_reserve(&self, len_bytes: usize) -> bool {
        let _ = len_bytes;
        false
    }

    /// As [`Journal::append`], for what must go through on a full disk (a release, a break, a prune): it may use the
    /// room that ordinary records leave.
    fn append_from_reserve(&mut self, record: &Record) -> Result<(), AppendError> {
        self.append(record)
    }

    /// The last durable record; 0 where there is none.
    fn last(&self) -> Seq;

    /// A view for other threads, good while the journal lives.
    fn reader(&self) -> Arc<dyn Reader>;

    /// The blobs beside the log.
    fn blobs(&self) -> Arc<dyn Blobs>;

    /// Closes the part that records are added to, so that it can be written anew; the next record begins another. Nothing
    /// happens where it has none.
    fn begin_part(&mut self) -> Result<(), AppendError>;

    /// The log in parts, for whoever writes them anew.
    fn parts(&self) -> Arc<dyn Parts>;

    /// Gives back what was reserved ahead. The caller has appended its Closed record before.
    fn close(self: Box<Self>) -> Result<(), AppendError>;
}

/// Reads durable records while the owner appends.
pub trait Reader: Send + Sync {
    /// The record of this number.
    fn record(&self, seq: Seq) -> Result<Record, ReadError>;

    /// The first record of a part; where the others lie is not looked for.
    fn first(&self, seq: Seq) -> Result<Record, ReadError> {
        self.record(seq)
    }

    /// The chain's MAC at the record of this number; the record itself is not read.
    fn mac(&self, seq: Seq) -> Result<Digest, ReadError> {
        self.record(seq).map(|record| record.mac)
    }

    /// How many bytes of its payloads are gone; the record itself is not read.
    fn cut_bytes(&self, seq: Seq) -> Result<u64, ReadError> {
        self.record(seq).map(|record| record.cut_bytes)
    }

    /// The record as the format has it in a log file: header line and age file.
    fn stored(&self, seq: Seq) -> Result<Vec<u8>, ReadError> {
        self.record(seq).map(|record| local::stored(&record))
    }

    /// Where the record lies, for a message about its damage: file relative to the directory, byte offset.
    fn place(&self, seq: Seq) -> (String, u64);

    /// Bytes of the log that hold records.
    fn len_bytes(&self) -> u64;

    /// Damage outside the records themselves: bytes after the last record that are not zero, files that do not belong
    /// to the log. Empty where all is well.
    fn check_layout(&self) -> Result<Vec<(String, u64, String)>, ReadError>;
}

/// The log in parts, of which all but the last are closed.
pub trait Parts: Send + Sync {
    /// All of them, the oldest first.
    fn list(&self) -> Vec<Part>;

    /// Whether no record is added any more to the part of this first record.
    fn is_closed(&self, first: Seq) -> bool {
        self.list().iter().all(|part| part.first != first || part.is_closed)
    }

    /// Begins to write the closed part of this first record anew; one at a time.
    fn renew(&self, first: Seq) -> Result<Box<dyn Renewal>, AppendError>;
}

/// A part that is being written anew. Dropping it leaves the part as it was.
///
/// No failure here concerns what the journal promises, so none halts it: the part is as it was, or as it shall be.
pub trait Renewal: Send {
    /// Adds the next record of the part: as it was, or with the same number and MAC and another age file.
    fn add(&mut self, record: &Record) -> Result<(), AppendError>;

    /// Puts what was written in the place of what was, once all of its records were added.
    fn finish(self: Box<Self>) -> Result<(), AppendError>;
}

/// Payloads too large for a batch. Their names are random: a content hash would leak equality.
pub trait Blobs: Send + Sync {
    /// Makes the blob durable under an unused name, with its directory and any new parents.
    fn write(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError>;

    /// Puts other bytes in the place of a blob's, durably: a crash leaves the one or the other. One thread at a time.
    fn replace(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError>;

    /// The blob's bytes.
    fn read(&self, id: BlobId) -> Result<Vec<u8>, ReadError>;

    /// At most so many of the blob's bytes, from one of them on; none behind its end.
    fn piece(&self, id: BlobId, offset_bytes: u64, len_max: usize) -> Result<Vec<u8>, ReadError> {
        let bytes = self.read(id)?;
        let start = usize::try_from(offset_bytes).map_or(bytes.len(), |start| start.min(bytes.len()));
        Ok(bytes[start..bytes.len().min(start.saturating_add(len_max))].to_vec())
    }

    /// The blob's length.
    fn len_bytes(&self, id: BlobId) -> Result<u64, ReadError> {
        self.read(id).map(|bytes| bytes.len() as u64)
    }

    /// Where the blob lies, relative to the directory.
    fn place(&self, id: BlobId) -> String;

    /// Removes an orphan; one that is absent is no error.
    fn remove(&self, id: BlobId) -> io::Result<()>;

    /// Every blob there is. One that a crash cut short may be among them: no record refers to it, so it is an orphan.
    fn list(&self) -> io::Result<Vec<BlobId>>;
}

/// What a failure means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Refuse this request; the journal is as before.
    Refuse,
    /// Exit and replay: what is durable is unknown to this process.
    Halt,
}

/// Why a record or blob did not become durable.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Over what the format allows.
    #[error("record of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// No room: nothing was changed.
    #[error("no room for {}", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// After a failed write or sync the tail is unknown, so a retry could lose data.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not the next number: a bug of the caller.
    #[error("record {got} cannot follow record {last}")]
    OutOfOrder {
        /// The last record there is.
        last: Seq,
        /// The record that was to follow.
        got: Seq,
    },
    /// No closed part begins with this record: a bug of the caller.
    #[error("no closed part of the log begins with record {0}")]
    NotClosed(Seq),
    /// It was opened with [`OpenMode::ReadOnly`].
    #[error("the journal was opened for reading only")]
    ReadOnly,
    /// An earlier append failed.
    #[error("the journal stopped at an earlier failure")]
    Poisoned,
}

impl AppendError {
    /// Whether the caller refuses this one request or the process must stop.
    pub fn fate(&self) -> Fate {
        match self {
            Self::TooLarge { .. } | Self::Full { .. } => Fate::Refuse,
            Self::Write { .. } | Self::OutOfOrder { .. } | Self::NotClosed(_) | Self::ReadOnly | Self::Poisoned => {
                Fate::Halt
            }
        }
    }
}

/// Why something durable could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there and not what was written.
    #[error("{file} is damaged at byte {offset_bytes}: {what}")]
    Damaged {
        /// The file, relative to the state directory.
        file: String,
        /// Where.
        offset_bytes: u64,
        /// How.
        what: String,
    },
}

/// Why a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("cannot open {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another journal has it open.
    #[error("{} is in use by another process", .0.display())]
    Busy(PathBuf),
    /// It is of a later format, or no repository at all.
    #[error("{} is not format 1 of a state directory: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A record that is known to have been durable is not there.
    #[error("record {seq} was durable and is not in {file} any more")]
    Lost {
        /// The record.
        seq: Seq,
        /// The file that held it, relative to the state directory.
        file: String,
    },
    /// A record is another than the one that is known to have been durable.
    #[error("record {seq} in {file} at byte {offset_bytes} is another than the one that was durable")]
    Rewritten {
        /// The record.
        seq: Seq,
        /// Its file, relative to the state directory.
        file: String,
        /// Where it starts.
        offset_bytes: u64,
    },
    /// Bytes that were durable are not what was written. Nothing was changed.
    #[error("{file} is damaged at byte {offset_bytes} (record {seq}): {what}")]
    Damaged {
        /// The file, relative to the state directory.
        file: String,
        /// The record that should be there.
        seq: Seq,
        /// Where it starts.
        offset_bytes: u64,
        /// How.
        what: String,
    },
}

/// What a visitor says of a record that it does not believe.
#[derive(Debug)]
pub struct Unverified(pub String);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}, {} bytes)", self.seq, self.sealed.len())
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no blob's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 lower-case hexadecimal digits")]
pub struct BlobIdError;

impl FromStr for BlobId {
    type Err = BlobIdError;
    fn from_str(text: &str) -> Result<Self, BlobIdError> {
        // The ids of the shared crate have this form and this one spelling.
        text.parse().map(|id: stated_shared::RepositoryId| Self(id.0)).map_err(|_| BlobIdError)
    }
}
