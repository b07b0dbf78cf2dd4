//! What both sides of the socket speak: ids, names, requests, replies, failures, frames and limits.
//!
//! Nothing here opens a file, reads a clock or knows tokio. The daemon's machine sees this crate and nothing else;
//! what the journal stores has types of its own in the daemon, so that the wire may change without the disk.

mod actor;
mod backup;
mod bytes;
mod failure;
mod ids;
pub mod limits;
mod name;
pub mod paths;
mod reply;
mod request;
mod verb;
pub mod wire;

pub use actor::Actor;
pub use backup::{BackupBegun, BackupPart, BackupStep};
pub use bytes::Bytes;
pub use failure::{Detail, Failure, FailureKind};
pub use ids::{
    BlobName, Digest, Epoch, Fence, Generation, LockId, LockIdError, ParseIdError, RepositoryId, Seq, SessionId,
    Timestamp, Version,
};
pub use name::{NameError, Selector, StateName, TagName, TagNameError};
pub use reply::{
    AccessInfo, AuditEntry, AuditPage, ChangeEntry, ChangePage, Committed, CommittedState, ContentInfo, Damage,
    Fetched, Grant, Keys, LockInfo, LockPage, Notice, PolicyInfo, PrunePage, PruneRow, Recipient, Reply, Resealing,
    StatusInfo, Verified, VersionInfo, VersionPage,
};
pub use request::{
    AccessCheck, AuditFilter, Change, Commit, Content, Expect, Hold, Lock, LockKind, Part, ProcessRef, Prune, Rekey,
    Request, SerialRule, Tag, Wait,
};
pub use verb::{Verb, VerbError};
