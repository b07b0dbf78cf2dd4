//! What the journal stores: every event, with the JSON form that it has for ever.
//!
//! These types are not the wire's. A change here needs a new fixture in `tests/fixtures/`, never an edited one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stated_shared as wire;
use stated_shared::{
    Digest, Epoch, Fence, Generation, LockId, LockKind, RepositoryId, Seq, SessionId, StateName, TagName, Timestamp,
    Version,
};

/// Something that happened, by whom and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When: wall-clock time of the daemon's host.
    pub at: Timestamp,
    /// By whom.
    pub actor: Arc<Actor>,
    /// What.
    pub what: What,
}

/// The kinds of event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The first event: the repository came to be.
    Founded(Founded),
    /// The daemon started.
    Opened(Opened),
    /// States were written.
    Committed(Committed),
    /// A lease began.
    LeaseGranted(Box<LeaseGranted>),
    /// A lease was extended.
    LeaseRenewed(LeaseRenewed),
    /// A lease ended by itself or by its holder.
    LeaseEnded(LeaseEnded),
    /// A grant was ended by somebody with the right to.
    Broken(Broken),
    /// Something that changed nothing durable: a read, a session lock, a refusal.
    Observed(Observed),
    /// The daemon stopped in good order.
    Closed(Closed),
    /// A version got a tag, or lost it.
    Tagged(Tagged),
    /// Somebody started the daemon without the end of the log, which was lost or damaged.
    LossAccepted(LossAccepted),
    /// Contents of old versions were given up; what is known of the versions stays.
    Pruned(Pruned),
    /// Old reads, locks and unlocks were summed up; the records that told of them may be emptied.
    Summarized(Summarized),
    /// Another keyring counts from this record on.
    Rekeyed(Rekeyed),
    /// All that former keys had sealed is sealed to those of the keyring.
    Resealed(Resealed),
    /// The directory was made of a backup, or of a copy: what came after this record elsewhere is not known here.
    Restored(Restored),
}

/// See [`What::Founded`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Founded {
    /// Drawn at the first start.
    pub repository: RepositoryId,
    /// The keyring that counts.
    pub generation: Generation,
    /// SHA-256 of its file.
    pub keyring: Digest,
}

/// See [`What::Opened`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// This start's epoch: `max(last + 1, wall-clock seconds)`.
    pub epoch: Epoch,
    /// The host's boot: deadlines of leases mean something in one boot only.
    pub boot: BootId,
    /// `CLOCK_BOOTTIME` at the start, in milliseconds.
    pub boottime_ms: u64,
    /// The daemon's version.
    pub version: String,
}

/// See [`What::Committed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// The request's number in the session of the actor, so that a retry is answered and not applied twice.
    pub number: u64,
    /// The new versions.
    pub changes: Vec<Change>,
    /// States of the request that already had the content asked for, with their version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<(StateName, Version)>,
    /// What the author said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Remarks of the client.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The fences it was made under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fences: Vec<(LockId, Fence)>,
}

/// One state's new version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which state.
    pub state: StateName,
    /// The new version.
    pub version: Version,
    /// Its content; absent where it is a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Whether it has a lower serial or another lineage than its predecessor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

/// The facts of a content, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// SHA-256 of the content.
    pub sha256: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// Terraform's serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<u64>,
    /// Terraform's lineage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// Its bytes, as one zstd frame.
    pub payload: Payload,
    /// The earlier version of the same state whose content the frame is a patch from; absent where it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Version>,
}

/// Where a payload lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// In the payload area of the same record.
    Inline {
        /// From the area's start.
        offset_bytes: u64,
        /// Its length.
        len_bytes: u64,
    },
    /// In a blob.
    Blob {
        /// The blob's random name.
        id: String,
        /// The length of the zstd frame.
        len_bytes: u64,
    },
}

/// See [`What::LeaseGranted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseGranted {
    /// The request's number in the session of the actor.
    pub number: u64,
    /// The grant.
    pub id: LockId,
    /// The names held.
    pub names: BTreeSet<StateName>,
    /// How.
    pub kind: Kind,
    /// Its fencing token.
    pub fence: Fence,
    /// Its time to live.
    pub ttl_ms: u64,
    /// `CLOCK_BOOTTIME` of its end in the boot of the last `opened`.
    pub deadline_boottime_ms: u64,
    /// What for, in a word.
    pub operation: String,
    /// What for, in the holder's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A foreign protocol's lock document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// The grant it nests in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<LockId>,
}

/// See [`What::LeaseRenewed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseRenewed {
    /// The request's number in the session of the actor.
    pub number: u64,
    /// The lease.
    pub id: LockId,
    /// Its time to live from now on.
    pub ttl_ms: u64,
    /// `CLOCK_BOOTTIME` of its end in the boot of the last `opened`.
    pub deadline_boottime_ms: u64,
}

/// See [`What::LeaseEnded`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseEnded {
    /// The lease.
    pub id: LockId,
    /// Its names, for whoever reads the audit log.
    pub names: BTreeSet<StateName>,
    /// Whether its time ran out; else its holder ended it.
    pub expired: bool,
}

/// See [`What::Broken`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Broken {
    /// The request's number in the session of the actor.
    pub number: u64,
    /// The grants that ended: the one meant, and those that nested in it.
    pub grants: Vec<BrokenGrant>,
}

/// A grant that was broken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokenGrant {
    /// Its ID.
    pub id: LockId,
    /// Its names.
    pub names: BTreeSet<StateName>,
    /// How they were held.
    pub kind: Kind,
    /// Its fencing token.
    pub fence: Fence,
    /// Who held it.
    pub holder: Actor,
    /// Since when.
    pub since: Timestamp,
    /// What for, in a word.
    pub operation: String,
    /// What for, in the holder's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See [`What::Observed`]. Runs of equal ones are one event with a count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// `get`, `lock`, `unlock`, `commit` …
    pub verb: String,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<StateName>,
    /// The version read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// `ok`, or the kind of the refusal.
    pub outcome: String,
    /// How many in a row.
    pub count: u64,
}

/// What was read and locked needs to be told one by one for a while only; whatever else was observed stays.
pub fn ages(verb: &str, outcome: &str) -> bool {
    outcome == "ok" && matches!(verb, "get" | "lock" | "unlock")
}

/// See [`What::Closed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closed {}

/// See [`What::Tagged`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tagged {
    /// The request's number in the session of the actor.
    pub number: u64,
    /// Which state.
    pub state: StateName,
    /// The tag.
    pub tag: TagName,
    /// The version that has it from now on, or that had it.
    pub version: Version,
    /// Whether it was taken away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// See [`What::Rekeyed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rekeyed {
    /// The request's number in the session of the actor.
    pub number: u64,
    /// The keyring that counts.
    pub generation: Generation,
    /// The SHA-256 of its file.
    pub keyring: Digest,
    /// Public keys that open it, and did not open the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    /// Public keys that opened the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Whether its keys are new: this record is the first that is chained with them, and sealed to them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotated: bool,
}

/// See [`What::Resealed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resealed {
    /// The keyring.
    pub generation: Generation,
}

/// See [`What::LossAccepted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossAccepted {
    /// The first record that is not there any more; the one of this number tells of the loss.
    pub seq: Seq,
    /// What is left of the lost part, relative to the state directory.
    pub aside: String,
}

/// See [`What::Pruned`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pruned {
    /// Each once.
    pub states: Vec<PrunedState>,
}

/// What was given up of one state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrunedState {
    /// Which state.
    pub state: StateName,
    /// Versions whose contents are gone, as first and last of each run, in their order. Removals among them, and what
    /// was pruned before, are as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<(Version, Version)>,
    /// Versions that were patches from those, stored anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
}

/// A version's content in another form and at another place; it is the same content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Which version.
    pub version: Version,
    /// Its bytes now; an inline payload is in the record of this event.
    pub payload: Payload,
    /// What it is a patch from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Version>,
}

/// See [`What::Summarized`]. A part of the log has as many as keep each of them short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summarized {
    /// The first record of the part of the log.
    pub part: Seq,
    /// The last record that was looked at: none of the part up to there is looked at again.
    pub last: Seq,
    /// The records that are summed up, as first and last of each run, in their order. No other may be emptied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<(Seq, Seq)>,
    /// What they told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<SummarizedOf>,
}

/// What one user did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummarizedOf {
    /// Effective user ID.
    pub uid: u32,
    /// Effective group ID.
    pub gid: u32,
    /// The user's name at the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The daemon's host.
    pub host: String,
    /// Each verb and name once.
    pub deeds: Vec<SummarizedDeed>,
}

/// Equal deeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummarizedDeed {
    /// `get`, `lock` or `unlock`.
    pub verb: String,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<StateName>,
    /// How often.
    pub count: u64,
    /// When last.
    pub last: Timestamp,
}

/// See [`What::Restored`]. Nobody has served the directory since then until the next `opened`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// An epoch above all that may have been given before: the next start takes one above this.
    pub epoch: Epoch,
    /// The last record that was restored.
    pub seq: Seq,
    /// Where what was there before is, relative to the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
}

impl Payload {
    /// The length of the zstd frame.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Inline { len_bytes, .. } | Self::Blob { len_bytes, .. } => *len_bytes,
        }
    }

    /// What it takes in a record.
    pub fn inline_len_bytes(&self) -> u64 {
        match self {
            Self::Inline { len_bytes, .. } => *len_bytes,
            Self::Blob { .. } => 0,
        }
    }

    /// The blob that holds it, where one does.
    pub fn blob(&self) -> Option<&str> {
        match self {
            Self::Blob { id, .. } => Some(id),
            Self::Inline { .. } => None,
        }
    }
}

impl PrunedState {
    /// Whether a version is in a run of the dropped ones.
    pub fn drops(&self, version: Version) -> bool {
        let after = self.dropped.partition_point(|(first, _)| *first <= version);
        after.checked_sub(1).is_some_and(|run| version <= self.dropped[run].1)
    }
}

/// The stored form of a lock's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One holder.
    Exclusive,
    /// Many holders, no writer.
    Shared,
    /// At most `slots` holders.
    Semaphore {
        /// Their number.
        slots: u32,
    },
}

impl From<&Content> for wire::ContentInfo {
    fn from(content: &Content) -> Self {
        Self {
            sha256: content.sha256,
            size_bytes: content.size_bytes,
            serial: content.serial,
            lineage: content.lineage.clone(),
        }
    }
}

impl What {
    /// The blobs that it stores.
    pub fn blobs(&self) -> Vec<&str> {
        match self {
            Self::Committed(committed) => {
                let contents = committed.changes.iter().filter_map(|change| change.content.as_ref());
                contents.filter_map(|content| content.payload.blob()).collect()
            }
            Self::Pruned(pruned) => {
                let moved = pruned.states.iter().flat_map(|state| &state.moved);
                moved.filter_map(|moved| moved.payload.blob()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it makes room or lets others go on, and so must go through on a full disk.
    pub fn is_release(&self) -> bool {
        match self {
            Self::LeaseEnded(_) | Self::Broken(_) | Self::Pruned(_) => true,
            Self::Founded(_)
            | Self::Opened(_)
            | Self::Committed(_)
            | Self::LeaseGranted(_)
            | Self::LeaseRenewed(_)
            | Self::Observed(_)
            | Self::Closed(_)
            | Self::Tagged(_)
            | Self::LossAccepted(_)
            | Self::Summarized(_)
            | Self::Rekeyed(_)
            | Self::Resealed(_)
            | Self::Restored(_) => false,
        }
    }
}

impl From<LockKind> for Kind {
    fn from(kind: LockKind) -> Self {
        match kind {
            LockKind::Exclusive => Self::Exclusive,
            LockKind::Shared => Self::Shared,
            LockKind::Semaphore { slots } => Self::Semaphore { slots },
        }
    }
}

impl From<Kind> for LockKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Exclusive => Self::Exclusive,
            Kind::Shared => Self::Shared,
            Kind::Semaphore { slots } => Self::Semaphore { slots },
        }
    }
}

/// One boot of the host, as the kernel names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// Who did it, as the kernel and the client said at the time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// Effective user ID.
    pub uid: u32,
    /// Effective group ID.
    pub gid: u32,
    /// Process ID, where visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The user's name at the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Command name, where visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// The program as the client called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The daemon's host.
    pub host: String,
    /// The session.
    pub session: SessionId,
}

impl From<wire::Actor> for Actor {
    fn from(actor: wire::Actor) -> Self {
        let wire::Actor { uid, gid, pid, user, comm, exe, host, session } = actor;
        Self { uid, gid, pid, user, comm, exe, host, session }
    }
}

impl From<&Actor> for wire::Actor {
    fn from(actor: &Actor) -> Self {
        let Actor { uid, gid, pid, user, comm, exe, host, session } = actor.clone();
        Self { uid, gid, pid, user, comm, exe, host, session }
    }
}
