//! What the daemon answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Actor, BackupPart, Digest, Epoch, Fence, Generation, LockId, LockKind, RepositoryId, Seq, StateName, TagName,
    Timestamp, Verb, Version,
};

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The commit is durable, or nothing had to change.
    Committed(Committed),
    /// The version's facts; its content follows in chunk frames.
    Fetched(Fetched),
    /// A version's facts.
    Version(VersionInfo),
    /// Versions.
    Versions(VersionPage),
    /// The lock is held.
    Granted(Grant),
    /// Done; nothing to add.
    Done,
    /// What was broken, a row for each name.
    Broken(Vec<LockInfo>),
    /// Locks.
    Locks(LockPage),
    /// Audit entries.
    Audit(AuditPage),
    /// What a verification found.
    Verified(Verified),
    /// The daemon's own facts.
    Status(Box<StatusInfo>),
    /// What changed.
    Changes(ChangePage),
    /// What was given up, or would be.
    Pruned(PrunePage),
    /// What the policy decides.
    Access(AccessInfo),
    /// The keyring.
    Keys(Keys),
    /// The generation of the keyring that counts from now on.
    Rekeyed(Generation),
    /// A part of a backup.
    Backup(BackupPart),
}

/// What the policy in force decides of somebody, a verb and a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessInfo {
    /// Whether they may.
    pub allowed: bool,
    /// Who.
    pub uid: u32,
    /// Their name in the daemon's user database.
    pub user: Option<String>,
    /// Their groups: of oneself the connection's, by the kernel's word, of others those of the user database.
    pub gids: Vec<u32>,
    /// What they would do.
    pub verb: Verb,
    /// To which name.
    pub state: StateName,
    /// The rule that gives the verb, by its place in the file, from 1; absent where none does.
    pub rule: Option<u64>,
    /// The line in which that rule begins.
    pub line: Option<u64>,
    /// The verb that they lack: the one that was asked for, or one that it needs.
    pub missing: Option<Verb>,
    /// Why, in words.
    pub why: String,
}

/// Whose keys open the keyring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Its generation.
    pub generation: Generation,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
    /// How far what lies there is sealed to it, where a rotation is not through.
    pub resealing: Option<Resealing>,
}

/// One recipient of the keyring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The public key, as `age` or OpenSSH writes it.
    pub key: String,
    /// How people tell it: an age key by itself, an SSH key as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// Whether the daemon itself opens the keyring with it.
    pub is_own: bool,
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealing {
    /// Parts of the log and blobs that are looked through.
    pub done: u64,
    /// All of them; 0 where they are not counted yet.
    pub total: u64,
    /// Those that could not be read or written, and stay as they are; a verification names what is damaged.
    pub left: u64,
}

/// A durable commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The record that holds it; absent where nothing changed.
    pub seq: Option<Seq>,
    /// In the order of the changes.
    pub states: Vec<CommittedState>,
    /// The chain's MAC at that record, which a client may pin; absent where an answer is given again.
    pub head: Option<Digest>,
}

/// What a commit left of one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedState {
    /// Which state.
    pub state: StateName,
    /// Its newest version now.
    pub version: Version,
    /// Whether that version is new; identical content makes none.
    pub changed: bool,
}

/// One version of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Which state.
    pub state: StateName,
    /// Which version.
    pub version: Version,
    /// Its content; absent where the version is a removal.
    pub content: Option<ContentInfo>,
    /// When it was committed.
    pub time: Timestamp,
    /// Who committed it.
    pub actor: Actor,
    /// What the author said.
    pub message: Option<String>,
    /// Remarks of the client.
    pub labels: BTreeMap<String, String>,
    /// Whether it took a lower serial or another lineage than its predecessor's.
    pub forced: bool,
    /// Its tags, in their order.
    pub tags: Vec<TagName>,
    /// When its content was given up.
    pub pruned: Option<Timestamp>,
}

/// The facts of a content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentInfo {
    /// SHA-256 of the bytes.
    pub sha256: Digest,
    /// Their count.
    pub size_bytes: u64,
    /// Terraform's serial, where the content is a Terraform state.
    pub serial: Option<u64>,
    /// Terraform's lineage, where the content is a Terraform state.
    pub lineage: Option<String>,
}

/// Announces a content of `version.content.size_bytes` bytes in chunk frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The version that follows.
    pub version: VersionInfo,
}

/// A page of versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionPage {
    /// The rows.
    pub versions: Vec<VersionInfo>,
    /// Whether there are more; ask again after the last row.
    pub more: bool,
}

/// A lock that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What ends or renews it.
    pub id: LockId,
    /// Its fencing token; a nested grant has its parent's.
    pub fence: Fence,
    /// The grant it nests in.
    pub under: Option<LockId>,
    /// When a lease ends, unless renewed.
    pub expires: Option<Timestamp>,
}

/// One name of one grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockInfo {
    /// The locked name.
    pub name: StateName,
    /// How.
    pub kind: LockKind,
    /// The grant's ID.
    pub id: LockId,
    /// The grant's fence.
    pub fence: Fence,
    /// Who holds it.
    pub holder: Actor,
    /// Since when.
    pub since: Timestamp,
    /// What for, in a word.
    pub operation: String,
    /// What for, in the holder's words.
    pub reason: Option<String>,
    /// The lock document of a foreign protocol.
    pub info: Option<String>,
    /// The grant it nests in.
    pub under: Option<LockId>,
    /// The process that it is tied to, where its ID is known.
    pub process: Option<u32>,
    /// When a lease ends, unless renewed.
    pub expires: Option<Timestamp>,
    /// How many requests wait for the name.
    pub waiters: u32,
}

impl LockInfo {
    /// Who holds it, with the process whose end ends the lock: the actor's own may be a wrapper's or a gateway's.
    pub fn who(&self) -> Actor {
        let mut who = self.holder.clone();
        who.pid = self.process.or(who.pid);
        who
    }

    /// `held by alice@build-7 (pid 4211) for apply since 3m12s, 2 waiting`.
    pub fn describe(&self, now: Timestamp) -> String {
        let age_s = now.0.saturating_sub(self.since.0) / 1000;
        let age = match age_s {
            0..60 => format!("{age_s}s"),
            60..3600 => format!("{}m{}s", age_s / 60, age_s % 60),
            3600..86_400 => format!("{}h{}m", age_s / 3600, age_s / 60 % 60),
            _ => format!("{}d{}h", age_s / 86_400, age_s / 3600 % 24),
        };
        format!("held by {} for {} since {age}, {} waiting", self.who(), self.operation, self.waiters)
    }
}

/// A page of locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockPage {
    /// The rows.
    pub locks: Vec<LockInfo>,
    /// Whether there are more; ask again after the last row.
    pub more: bool,
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The record that holds it.
    pub seq: Seq,
    /// Its place in the record.
    pub index: u32,
    /// When it happened; of a run of equal ones, the last.
    pub time: Timestamp,
    /// Who did it.
    pub actor: Actor,
    /// What was done: `commit`, `get`, `lock` …
    pub verb: String,
    /// To what.
    pub name: Option<StateName>,
    /// The version that was written or read.
    pub version: Option<Version>,
    /// `ok`, or the kind of the refusal.
    pub outcome: String,
    /// How many equal ones in a row this entry stands for.
    pub count: u64,
    /// More in words.
    pub note: Option<String>,
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The rows.
    pub entries: Vec<AuditEntry>,
    /// Where to go on; absent at the watermark.
    pub next: Option<(Seq, u32)>,
    /// The last record that was looked through: who follows the log goes on after it.
    pub upto: Seq,
}

/// A change of states, as a watcher hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEntry {
    /// The record that holds it.
    pub seq: Seq,
    /// Its place in the record.
    pub index: u32,
    /// What was done: `commit`, `rm`, `tag` or `untag`.
    pub verb: String,
    /// When.
    pub time: Timestamp,
    /// Who did it.
    pub actor: Actor,
    /// Which state.
    pub state: StateName,
    /// Which version of it: the new one, or the one that the tag is of.
    pub version: Version,
    /// The tag that was given or taken.
    pub tag: Option<TagName>,
    /// The new version's content.
    pub content: Option<ContentInfo>,
    /// What the author said.
    pub message: Option<String>,
}

/// A page of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangePage {
    /// The rows, oldest first.
    pub changes: Vec<ChangeEntry>,
    /// Where to go on: everything up to here was looked through.
    pub next: (Seq, u32),
}

/// A page of a prune: the states of which something was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunePage {
    /// The rows, in the order of their names.
    pub rows: Vec<PruneRow>,
    /// The last state that was looked at, to ask again after it; absent where there is none left.
    pub next: Option<StateName>,
}

/// What was given up of one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRow {
    /// Which state.
    pub state: StateName,
    /// The versions whose contents went, as first and last of each run.
    pub dropped: Vec<(Version, Version)>,
    /// Their count.
    pub versions: u64,
    /// The bytes that their contents took, compressed.
    pub payload_bytes: u64,
    /// How many kept versions were stored anew, since they were patches from what went.
    pub reencoded: u64,
    /// How many versions stay although no rule keeps them, since a kept one needs them and could not be stored anew.
    pub needed: u64,
}

/// What a verification read, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Records that verify.
    pub records: u64,
    /// Payloads whose bytes were read and compared.
    pub payloads: u64,
    /// The last record read.
    pub seq: Seq,
    /// The chain's MAC at that record.
    pub head: Digest,
    /// Everything that does not verify.
    pub damage: Vec<Damage>,
}

/// One thing that does not verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The file, relative to the state directory.
    pub file: String,
    /// The byte where the damaged record or payload starts, or the first that is wrong.
    pub offset_bytes: u64,
    /// What is wrong.
    pub what: String,
}

/// The daemon's own facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// The daemon's version.
    pub version: String,
    /// The daemon's process ID.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// When it started.
    pub started: Timestamp,
    /// The repository that it keeps.
    pub repository: RepositoryId,
    /// The state directory.
    pub state_dir: String,
    /// The socket.
    pub socket: String,
    /// This start's epoch.
    pub epoch: Epoch,
    /// The last durable record.
    pub seq: Seq,
    /// The chain's MAC at that record.
    pub head: Digest,
    /// The keyring in use.
    pub keyring: Generation,
    /// The recipients that the keyring is sealed to.
    pub recipients: Vec<String>,
    /// States that exist.
    pub states: u64,
    /// Versions kept.
    pub versions: u64,
    /// Bytes of the log files that hold records.
    pub log_bytes: u64,
    /// Grants, leases among them.
    pub grants: u64,
    /// Requests that wait for a lock.
    pub waiters: u64,
    /// Connected sessions.
    pub sessions: u64,
    /// What stays of old contents by the configuration, a section each; everything where there is none.
    pub retention: Vec<String>,
    /// How long reads, locks and unlocks are told one by one.
    pub audit: String,
    /// By which rules the daemon decides who may do what.
    pub policy: PolicyInfo,
    /// What an administrator should know: locks kept from before a restart, and the like.
    pub notes: Vec<String>,
}

/// The policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// `user`: its owner and root may do everything. `system`: what no rule gives is denied.
    pub mode: String,
    /// Its file, which need not exist.
    pub file: String,
    /// How many rules it has.
    pub rules: u64,
    /// When it was read; absent where there is no file.
    pub loaded: Option<Timestamp>,
    /// Why the file, as it is now, is not in force. In full for whoever may `admin` every name.
    pub error: Option<String>,
    /// Users and groups of its rules that the host does not know; told to whoever may `admin` every name.
    pub unknown: Vec<String>,
}

/// What the daemon says without being asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// The lock request of this number waits.
    Queued {
        /// The request.
        number: u64,
        /// Who is in its way.
        holders: Vec<LockInfo>,
        /// How many requests wait before it.
        ahead: u32,
    },
    /// A grant of this session was broken, expired, or ended with its process.
    LockLost {
        /// The grant.
        id: LockId,
        /// Why, in words.
        why: String,
    },
    /// The daemon stops; the session may be resumed at its successor.
    Closing,
}
