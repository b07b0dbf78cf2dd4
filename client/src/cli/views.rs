//! The JSON objects that are printed; their field names are stable and only ever added to.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use stated_shared::{
    Actor, AuditEntry, ChangeEntry, CommittedState, Grant, LockInfo, LockKind, PruneRow, TagName, Timestamp,
    VersionInfo,
};

/// RFC 3339 in UTC, with milliseconds.
pub(super) fn time(time: Timestamp) -> String {
    // Past the year 9999 the formatter panics; a daemon may send anything.
    const LAST: u64 = 253_402_300_799_999;
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(time.0.min(LAST));
    humantime::format_rfc3339_millis(time).to_string()
}

#[derive(Serialize)]
pub(super) struct ActorView<'a> {
    uid: u32,
    gid: u32,
    pid: Option<u32>,
    comm: Option<&'a str>,
    exe: Option<&'a str>,
    host: &'a str,
    user: Option<&'a str>,
    session: String,
}

impl<'a> From<&'a Actor> for ActorView<'a> {
    fn from(actor: &'a Actor) -> Self {
        Self {
            uid: actor.uid,
            gid: actor.gid,
            pid: actor.pid,
            comm: actor.comm.as_deref(),
            exe: actor.exe.as_deref(),
            host: &actor.host,
            user: actor.user.as_deref(),
            session: actor.session.to_string(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct VersionView<'a> {
    state: &'a str,
    version: u64,
    sha256: Option<String>,
    size: Option<u64>,
    time: String,
    actor: ActorView<'a>,
    message: Option<&'a str>,
    tags: Vec<&'a str>,
    serial: Option<u64>,
    lineage: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
    forced: bool,
    removed: bool,
    pruned: bool,
}

impl<'a> From<&'a VersionInfo> for VersionView<'a> {
    fn from(info: &'a VersionInfo) -> Self {
        let content = info.content.as_ref();
        Self {
            state: info.state.as_str(),
            version: info.version.0,
            sha256: content.map(|content| content.sha256.to_string()),
            size: content.map(|content| content.size_bytes),
            time: time(info.time),
            actor: (&info.actor).into(),
            message: info.message.as_deref(),
            tags: info.tags.iter().map(TagName::as_str).collect(),
            serial: content.and_then(|content| content.serial),
            lineage: content.and_then(|content| content.lineage.as_deref()),
            labels: &info.labels,
            forced: info.forced,
            removed: content.is_none(),
            pruned: info.pruned.is_some(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct PruneView<'a> {
    state: &'a str,
    /// The first and last of each run.
    dropped: Vec<(u64, u64)>,
    versions: u64,
    bytes: u64,
    reencoded: u64,
    needed: u64,
}

impl<'a> From<&'a PruneRow> for PruneView<'a> {
    fn from(row: &'a PruneRow) -> Self {
        Self {
            state: row.state.as_str(),
            dropped: row.dropped.iter().map(|(first, last)| (first.0, last.0)).collect(),
            versions: row.versions,
            bytes: row.payload_bytes,
            reencoded: row.reencoded,
            needed: row.needed,
        }
    }
}

/// How a lock is written: `exclusive`, `shared`, `semaphore:N`.
pub(super) fn kind(kind: LockKind) -> String {
    match kind {
        LockKind::Exclusive => "exclusive".to_owned(),
        LockKind::Shared => "shared".to_owned(),
        LockKind::Semaphore { slots } => format!("semaphore:{slots}"),
    }
}

#[derive(Serialize)]
pub(super) struct LockView<'a> {
    name: &'a str,
    kind: String,
    id: &'a str,
    fence: String,
    holder: ActorView<'a>,
    since: String,
    operation: &'a str,
    reason: Option<&'a str>,
    waiters: u32,
    expires: Option<String>,
    under: Option<&'a str>,
    process: Option<u32>,
}

impl<'a> From<&'a LockInfo> for LockView<'a> {
    fn from(info: &'a LockInfo) -> Self {
        Self {
            name: info.name.as_str(),
            kind: kind(info.kind),
            id: info.id.as_str(),
            fence: info.fence.to_string(),
            holder: (&info.holder).into(),
            since: time(info.since),
            operation: &info.operation,
            reason: info.reason.as_deref(),
            waiters: info.waiters,
            expires: info.expires.map(time),
            under: info.under.as_ref().map(|id| id.as_str()),
            process: info.process,
        }
    }
}

#[derive(Serialize)]
pub(super) struct AuditView<'a> {
    seq: u64,
    time: String,
    actor: ActorView<'a>,
    verb: &'a str,
    name: Option<&'a str>,
    version: Option<u64>,
    outcome: &'a str,
    count: u64,
    note: Option<&'a str>,
}

impl<'a> From<&'a AuditEntry> for AuditView<'a> {
    fn from(entry: &'a AuditEntry) -> Self {
        Self {
            seq: entry.seq.0,
            time: time(entry.time),
            actor: (&entry.actor).into(),
            verb: &entry.verb,
            name: entry.name.as_ref().map(|name| name.as_str()),
            version: entry.version.map(|version| version.0),
            outcome: &entry.outcome,
            count: entry.count,
            note: entry.note.as_deref(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ChangeView<'a> {
    seq: u64,
    time: String,
    actor: ActorView<'a>,
    verb: &'a str,
    state: &'a str,
    version: u64,
    tag: Option<&'a str>,
    sha256: Option<String>,
    size: Option<u64>,
    serial: Option<u64>,
    lineage: Option<&'a str>,
    message: Option<&'a str>,
}

impl<'a> From<&'a ChangeEntry> for ChangeView<'a> {
    fn from(entry: &'a ChangeEntry) -> Self {
        let content = entry.content.as_ref();
        Self {
            seq: entry.seq.0,
            time: time(entry.time),
            actor: (&entry.actor).into(),
            verb: &entry.verb,
            state: entry.state.as_str(),
            version: entry.version.0,
            tag: entry.tag.as_ref().map(TagName::as_str),
            sha256: content.map(|content| content.sha256.to_string()),
            size: content.map(|content| content.size_bytes),
            serial: content.and_then(|content| content.serial),
            lineage: content.and_then(|content| content.lineage.as_deref()),
            message: entry.message.as_deref(),
        }
    }
}

/// What a commit left of a state.
#[derive(Serialize)]
pub(super) struct CommittedView<'a> {
    state: &'a str,
    version: u64,
    changed: bool,
}

impl<'a> From<&'a CommittedState> for CommittedView<'a> {
    fn from(committed: &'a CommittedState) -> Self {
        Self { state: committed.state.as_str(), version: committed.version.0, changed: committed.changed }
    }
}

/// What a lock request got.
#[derive(Serialize)]
pub(super) struct GrantView<'a> {
    id: &'a str,
    fence: String,
    under: Option<&'a str>,
    expires: Option<String>,
}

impl<'a> From<&'a Grant> for GrantView<'a> {
    fn from(grant: &'a Grant) -> Self {
        Self {
            id: grant.id.as_str(),
            fence: grant.fence.to_string(),
            under: grant.under.as_ref().map(|id| id.as_str()),
            expires: grant.expires.map(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_never_panic() {
        assert_eq!(time(Timestamp(1_500)), "1970-01-01T00:00:01.500Z");
        assert_eq!(time(Timestamp(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }
}
