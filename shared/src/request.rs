//! What a client may ask. Imperative; no type here is recursive or of size zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{BackupStep, Bytes, LockId, Selector, Seq, StateName, TagName, Timestamp, Verb, Version};

/// One request; every one carries a number of its session and may be pipelined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Write one or many states, all or none. Answered by `Reply::Committed`.
    Commit(Commit),
    /// Read one version's content. Answered by `Reply::Fetched`, then chunk frames.
    Get {
        /// Which state.
        state: StateName,
        /// Which version of it.
        at: Selector,
    },
    /// Read one version's facts without its content. Answered by `Reply::Version`.
    Show {
        /// Which state.
        state: StateName,
        /// Which version of it.
        at: Selector,
    },
    /// The newest version of each state whose name matches, without removed ones. `Reply::Versions`.
    List {
        /// `*` stays in a part, `**` crosses; all where absent.
        glob: Option<String>,
        /// Continue after this name.
        after: Option<StateName>,
    },
    /// The versions of one state, newest first. `Reply::Versions`.
    Log {
        /// Which state.
        state: StateName,
        /// Continue with versions older than this.
        before: Option<Version>,
    },
    /// Take a lock. `Reply::Granted`, after a `Notice::Queued` where it must wait.
    Lock(Lock),
    /// Tie a session lock to a process. `Reply::Done`.
    Bind {
        /// The grant.
        id: LockId,
        /// What keeps it.
        hold: Hold,
        /// The process.
        process: ProcessRef,
    },
    /// End a grant of one's own. `Reply::Done`, also for the ID that a name was last released with.
    Unlock {
        /// The grant.
        id: LockId,
    },
    /// Extend a lease. `Reply::Granted` with the new end.
    Renew {
        /// The lease.
        id: LockId,
        /// The new TTL from now, in milliseconds; the lease's own where absent.
        ttl_ms: Option<u64>,
    },
    /// End somebody's grant. `Reply::Broken`, naming what was broken.
    Break {
        /// A name that it holds.
        name: StateName,
        /// Break only this grant, so that a newer one is not hit.
        id: Option<LockId>,
    },
    /// Who holds what: a row for each name of each grant. `Reply::Locks`.
    Locks {
        /// Only names that match.
        glob: Option<String>,
        /// Continue after this name and ID.
        after: Option<(StateName, LockId)>,
    },
    /// The journal as an audit log, oldest first. `Reply::Audit`.
    Audit {
        /// Which entries.
        filter: AuditFilter,
        /// Continue after this entry: (record, index in it).
        after: Option<(Seq, u32)>,
    },
    /// Read everything up to the watermark and check it. `Reply::Verified`.
    Verify {
        /// Read this part of the payloads too, not only the journal's records.
        read_data: Option<Part>,
    },
    /// The daemon's own facts. `Reply::Status`.
    Status,
    /// Give a version a tag, or take it away. `Reply::Version` with the version that has, or had, the tag.
    Tag(Tag),
    /// What changed since a record, oldest first; waits for a change where there is none. `Reply::Changes`.
    Changes {
        /// Only names that match.
        glob: Option<String>,
        /// After this place: (record, index in it).
        after: (Seq, u32),
        /// How long to wait, in milliseconds, at most [`crate::limits::CHANGES_WAIT_MS_MAX`]; then the page is empty.
        wait_ms: u64,
    },
    /// Give up contents of old versions, a page of states at a time. `Reply::Pruned`.
    Prune(Prune),
    /// What the policy in force decides, and why. `Reply::Access`.
    Access(AccessCheck),
    /// Whose keys open the keyring, and how far a rotation is. `Reply::Keys`.
    Keys,
    /// Seal the keyring to others, or make new keys for all data. `Reply::Rekeyed`.
    Rekey(Rekey),
    /// A step of a backup. `Reply::Backup`, or `Reply::Done` at its end.
    Backup(BackupStep),
}

/// A question about somebody's rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessCheck {
    /// A user's name, or else their number. Others than oneself takes `admin` on the name.
    pub user: String,
    /// What they would do.
    pub verb: Verb,
    /// To which name; whether something has it does not matter.
    pub state: StateName,
}

/// What becomes of the keyring: a new one, of the next generation. Recipients are as `age` and OpenSSH write public keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rekey {
    /// These open it too. Those that do already change nothing.
    Add(Vec<String>),
    /// These open it no more: what they took before they have, and until the next rotation its keys are the same.
    Remove(Vec<String>),
    /// It has a new identity and chain key; all that lies there is sealed to it by and by.
    Rotate,
}

/// Which contents are given up. A version is kept where any rule says so; the newest content of a state always is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Only states whose names match; all where absent.
    pub glob: Option<String>,
    /// Continue after this name.
    pub after: Option<StateName>,
    /// Keep so many of the newest contents of each state.
    pub keep_last: Option<u64>,
    /// Keep what was committed within so many milliseconds.
    pub keep_within_ms: Option<u64>,
    /// Keep what has a tag.
    pub keep_tagged: bool,
    /// Only say what would be given up.
    pub dry_run: bool,
}

/// A tag on its way to a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Which state.
    pub state: StateName,
    /// The word.
    pub tag: TagName,
    /// The version that shall have it; none shall where absent.
    pub at: Option<Selector>,
    /// Whether it may be taken from another version.
    pub moves: bool,
}

/// One or many states written at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// At least one; names are distinct.
    pub changes: Vec<Change>,
    /// Grants that the commit relies on; one that is gone refuses it.
    pub locks: Vec<LockId>,
    /// What the author says of it.
    pub message: Option<String>,
    /// Machine-readable remarks of the client.
    pub labels: BTreeMap<String, String>,
    /// What a foreign lineage or an older serial means.
    pub serials: SerialRule,
}

impl Commit {
    /// Writes one state, on no condition, as Terraform's own tools would: what does not follow is refused.
    pub fn put(state: StateName, content: Vec<u8>) -> Self {
        let change = Change { state, expect: Expect::Any, content: Content::Inline(Bytes(content)) };
        Self {
            changes: vec![change],
            locks: Vec::new(),
            message: None,
            labels: BTreeMap::new(),
            serials: SerialRule::Refuse,
        }
    }
}

/// A Terraform state that does not follow the one it replaces (foreign lineage, older serial).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SerialRule {
    /// Refuse it.
    Refuse,
    /// Accept and mark it in the version: forced, or checked by Terraform itself.
    Mark,
}

/// One state's part of a commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which state.
    pub state: StateName,
    /// What must be true of it now.
    pub expect: Expect,
    /// What it shall be.
    pub content: Content,
}

/// A commit's condition on the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// No condition.
    Any,
    /// The state does not exist, or is removed.
    Absent,
    /// The newest version has this number.
    Version(Version),
}

/// New content of a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// The state is removed; its history stays.
    Removed,
    /// The bytes themselves, at most [`crate::limits::INLINE_CONTENT_LEN_MAX`] on the wire.
    Inline(Bytes),
    /// This many bytes follow in chunk frames of the request's number, in the order of the changes.
    Streamed {
        /// Their count.
        size_bytes: u64,
    },
}

/// A request for a lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// The grant's ID where the requester draws it: asking again with it is answered with the same grant.
    pub id: Option<LockId>,
    /// All of them or none.
    pub names: BTreeSet<StateName>,
    /// How they are locked.
    pub kind: LockKind,
    /// Whether to queue.
    pub wait: Wait,
    /// A lease of this many milliseconds instead of a session lock.
    pub ttl_ms: Option<u64>,
    /// What for, in a word: `apply`, `lock`.
    pub operation: String,
    /// What for, in the holder's words.
    pub reason: Option<String>,
    /// The lock document of a foreign protocol, kept and given back as it is.
    pub info: Option<String>,
    /// A grant of the same user: where it covers all the names, this one nests in it.
    pub under: Option<LockId>,
    /// What keeps a session lock.
    pub hold: Hold,
    /// The process of `hold`, where it exists already.
    pub process: Option<ProcessRef>,
}

impl Lock {
    /// An exclusive lock of the session, for which is waited as long as it takes.
    pub fn exclusive(names: impl IntoIterator<Item = StateName>, operation: &str) -> Self {
        Self {
            id: None,
            names: names.into_iter().collect(),
            kind: LockKind::Exclusive,
            wait: Wait::Forever,
            ttl_ms: None,
            operation: operation.to_owned(),
            reason: None,
            info: None,
            under: None,
            hold: Hold::Connection,
            process: None,
        }
    }
}

/// How a name is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// One holder.
    Exclusive,
    /// Any number of holders, no exclusive one; while held nobody commits.
    Shared,
    /// At most `slots` holders; guards no commits.
    Semaphore {
        /// The least of the holders' and the requester's counts.
        slots: u32,
    },
}

/// Whether a lock request queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// Refuse at once where it is busy.
    No,
    /// Queue until granted or disconnected.
    Forever,
    /// Queue at most this long.
    AtMost {
        /// In milliseconds.
        ms: u64,
    },
}

/// What keeps a session lock, besides its holder not having ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// The connection: the lock ends with it.
    Connection,
    /// Either of connection and process: it ends when both are gone.
    ConnectionOrProcess,
    /// The process: it ends when that is gone, whatever the connection does.
    Process,
}

/// A process that a lock is tied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessRef {
    /// A pidfd that comes with this frame (`SCM_RIGHTS`).
    Descriptor,
    /// A process ID in the daemon's PID namespace; the client keeps the process alive until the answer.
    Pid(u32),
}

/// Which audit entries are wanted; every condition given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFilter {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Names that match this glob.
    pub glob: Option<String>,
    /// This verb.
    pub verb: Option<String>,
    /// This user.
    pub uid: Option<u32>,
    /// This outcome.
    pub outcome: Option<String>,
}

/// The n-th of so many parts of all payloads: who reads one after the other has read everything.
///
/// A part has every so-manyth run of 64 versions of a state; a version stays in its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 1.
    pub n: u32,
    /// Their number.
    pub of: u32,
}

impl Part {
    /// Everything.
    pub const ALL: Self = Self { n: 1, of: 1 };
}
