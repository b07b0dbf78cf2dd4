//! What each request needs, and what a refusal of it is called in the audit log.
//!
//! Both are a `match` without a rest, so that a new request does not build before somebody has said who may make it.

use stated_shared::{Request, StateName, Verb};

/// What a request needs.
#[derive(Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// This verb on each of these names.
    On(Verb, Vec<&'a StateName>),
    /// This verb on some name: its answer tells only of names on which one has it.
    Somewhere(Verb),
    /// This verb on every name.
    Everywhere(Verb),
    /// Nothing but to be known to the policy: its answer tells only of names that one may read, or of none.
    Known,
    /// Nothing: it is about one's own grants, or else is decided where the grants are known.
    Own,
}

/// What a request needs.
pub fn need(request: &Request) -> Need<'_> {
    match request {
        Request::Commit(commit) => Need::On(Verb::Write, commit.changes.iter().map(|change| &change.state).collect()),
        Request::Tag(tag) => Need::On(Verb::Write, vec![&tag.state]),
        Request::Get { state, .. } | Request::Show { state, .. } | Request::Log { state, .. } => {
            Need::On(Verb::Read, vec![state])
        }
        Request::Lock(lock) => Need::On(Verb::Lock, lock.names.iter().collect()),
        Request::Bind { .. } | Request::Unlock { .. } | Request::Renew { .. } | Request::Break { .. } => Need::Own,
        Request::List { .. } | Request::Locks { .. } | Request::Changes { .. } | Request::Status => Need::Known,
        // Of others, by whoever may `admin` the name: who they are is known where the user database is.
        Request::Access(_) => Need::Known,
        Request::Audit { .. } => Need::Somewhere(Verb::Audit),
        Request::Prune(_) => Need::Somewhere(Verb::Admin),
        // Of a backup all records and blobs are, of whatever names: sealed, yet one sees how much there is.
        Request::Verify { .. } | Request::Keys | Request::Rekey(_) | Request::Backup(_) => {
            Need::Everywhere(Verb::Admin)
        }
    }
}

/// What the audit log calls a request.
pub fn deed(request: &Request) -> &'static str {
    match request {
        Request::Commit(_) => "commit",
        Request::Get { .. } => "get",
        Request::Show { .. } => "show",
        Request::List { .. } => "ls",
        Request::Log { .. } => "log",
        Request::Lock(_) => "lock",
        Request::Bind { .. } => "bind",
        Request::Unlock { .. } => "unlock",
        Request::Renew { .. } => "renew",
        Request::Break { .. } => "break",
        Request::Locks { .. } => "locks",
        Request::Audit { .. } => "audit",
        Request::Verify { .. } => "verify",
        Request::Status => "status",
        Request::Tag(tag) if tag.at.is_none() => "untag",
        Request::Tag(_) => "tag",
        Request::Changes { .. } => "watch",
        Request::Prune(_) => "prune",
        Request::Access(_) => "access",
        Request::Keys => "keys",
        Request::Rekey(_) => "rekey",
        Request::Backup(_) => "backup",
    }
}
