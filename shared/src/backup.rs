//! A backup on the wire: records and blobs as they are stored, sealed, a piece at a time.

use serde::{Deserialize, Serialize};

use crate::{BlobName, Bytes, Digest, RepositoryId, Seq};

/// One step of a backup; a session has at most one at a time.
///
/// From its beginning on nothing that it needs leaves the state directory, until it ends, its connection does, or it asks
/// for nothing for [`crate::limits::BACKUP_IDLE_MS_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupStep {
    /// Everything up to the last durable record is wanted. Answered by `BackupPart::Begun`.
    Begin {
        /// The repository and the record that the backup has already; refused where the journal is another one.
        has: Option<(RepositoryId, Seq, Digest)>,
    },
    /// The blobs that the versions need, in the order of their names. `BackupPart::Blobs`.
    Blobs {
        /// Continue after this one.
        after: Option<BlobName>,
    },
    /// Records, their header lines included. `BackupPart::Records`.
    Records {
        /// From this one on.
        from: Seq,
        /// Without so many bytes of it.
        offset_bytes: u64,
    },
    /// Bytes of a blob. `BackupPart::Blob`.
    Blob {
        /// Which.
        name: BlobName,
        /// From this byte on.
        offset_bytes: u64,
    },
    /// It is over. `Reply::Done`.
    End,
}

/// The answer to one step of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupPart {
    /// See [`BackupBegun`].
    Begun(BackupBegun),
    /// A page of blobs.
    Blobs {
        /// Each with its length in bytes; without one where it is missing.
        blobs: Vec<(BlobName, Option<u64>)>,
        /// Whether there are more; ask again after the last one.
        more: bool,
    },
    /// Some records, one after the other, or a piece of one that is long.
    Records {
        /// As they are stored.
        bytes: Bytes,
        /// Where to go on: the record, and how much of it was sent.
        next: (Seq, u64),
    },
    /// A piece of a blob, as it is stored.
    Blob(Bytes),
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupBegun {
    /// The repository.
    pub repository: RepositoryId,
    /// The last record.
    pub seq: Seq,
    /// The chain's MAC at that record.
    pub head: Digest,
    /// The small files of the state directory, by their paths in it: the keyrings, and `FORMAT`.
    pub files: Vec<(String, Bytes)>,
}
