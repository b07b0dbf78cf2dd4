//! Whether a request keeps the limits of the protocol.

use std::collections::BTreeMap;
use std::collections::HashSet;

use stated_shared::limits::{
    CHANGES_WAIT_MS_MAX, COMMIT_CHANGES_MAX, COMMIT_LEN_MAX, CONTENT_LEN_MAX, INLINE_CONTENT_LEN_MAX, LABEL_LEN_MAX,
    LABELS_MAX, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, LOCK_INFO_LEN_MAX, LOCK_NAMES_MAX, MESSAGE_LEN_MAX, NAME_LEN_MAX,
    PARTS_MAX, RECIPIENT_LEN_MAX, RECIPIENTS_MAX, SEMAPHORE_SLOTS_MAX,
};
use stated_shared::{Commit, Content, Failure, FailureKind, Lock, LockKind, Part, Rekey, Request, Wait};

/// Checks what decoding does not. `Err` is a refusal of this one request.
///
/// Names and lock IDs have their form already; whether they exist is not asked here.
pub(super) fn validate(request: &Request) -> Result<(), Failure> {
    match request {
        Request::Commit(commit) => validate_commit(commit),
        Request::Lock(lock) => validate_lock(lock),
        Request::Renew { ttl_ms, .. } => ttl_ms.map_or(Ok(()), validate_ttl),
        Request::List { glob, .. } | Request::Locks { glob, .. } => validate_glob(glob.as_deref()),
        Request::Audit { filter, .. } => {
            validate_glob(filter.glob.as_deref())?;
            validate_len("verb", filter.verb.as_deref(), LABEL_LEN_MAX)?;
            validate_len("outcome", filter.outcome.as_deref(), LABEL_LEN_MAX)
        }
        Request::Changes { glob, wait_ms, .. } => {
            if *wait_ms > CHANGES_WAIT_MS_MAX {
                return Err(usage(format!("changes are waited for {CHANGES_WAIT_MS_MAX} ms at most, not {wait_ms}")));
            }
            validate_glob(glob.as_deref())
        }
        Request::Prune(prune) => {
            if prune.keep_last.is_none() && prune.keep_within_ms.is_none() && !prune.keep_tagged {
                return Err(usage("a prune needs a rule that keeps something"));
            }
            if prune.keep_last == Some(0) {
                return Err(usage("the newest content of a state is always kept: the least is 1"));
            }
            validate_glob(prune.glob.as_deref())
        }
        Request::Access(check) => validate_len("user", Some(&check.user), LABEL_LEN_MAX),
        Request::Tag(_)
        | Request::Backup(_)
        | Request::Get { .. }
        | Request::Show { .. }
        | Request::Log { .. }
        | Request::Bind { .. }
        | Request::Unlock { .. }
        | Request::Break { .. }
        | Request::Status
        | Request::Keys => Ok(()),
        Request::Rekey(Rekey::Add(keys) | Rekey::Remove(keys)) => {
            validate_count("recipients", keys.len(), 1, RECIPIENTS_MAX)?;
            keys.iter().try_for_each(|key| validate_len("recipient", Some(key), RECIPIENT_LEN_MAX))
        }
        Request::Rekey(Rekey::Rotate) => Ok(()),
        Request::Verify { read_data: Some(Part { n, of }) }
            if !(1..=PARTS_MAX).contains(of) || !(1..=*of).contains(n) =>
        {
            Err(usage(format!("{n}/{of} is no part: it is 1/{PARTS_MAX} to {PARTS_MAX}/{PARTS_MAX}")))
        }
        Request::Verify { .. } => Ok(()),
    }
}

/// The bytes that a commit's contents have in memory, and those of them that follow in chunks.
pub(super) fn content_lens(commit: &Commit) -> (u64, u64) {
    let lens = commit.changes.iter().map(|change| match &change.content {
        Content::Removed => (0, 0),
        Content::Inline(bytes) => (bytes.0.len() as u64, 0),
        Content::Streamed { size_bytes } => (*size_bytes, *size_bytes),
    });
    // What a hostile request announces may add up to more than a number can hold.
    lens.fold((0, 0), |sum: (u64, u64), len| (sum.0.saturating_add(len.0), sum.1.saturating_add(len.1)))
}

fn validate_commit(commit: &Commit) -> Result<(), Failure> {
    validate_count("changes", commit.changes.len(), 1, COMMIT_CHANGES_MAX)?;
    validate_count("locks", commit.locks.len(), 0, LOCK_NAMES_MAX)?;
    validate_count("labels", commit.labels.len(), 0, LABELS_MAX)?;
    validate_len("message", commit.message.as_deref(), MESSAGE_LEN_MAX)?;
    validate_labels(&commit.labels)?;
    let mut names = HashSet::with_capacity(commit.changes.len());
    for change in &commit.changes {
        if !names.insert(&change.state) {
            return Err(usage(format!("a commit may change {} once only", change.state)));
        }
        match &change.content {
            Content::Removed => {}
            Content::Inline(bytes) if bytes.0.len() > INLINE_CONTENT_LEN_MAX => {
                let len = bytes.0.len();
                return Err(usage(format!("inline content may have {INLINE_CONTENT_LEN_MAX} bytes, this has {len}")));
            }
            Content::Streamed { size_bytes } if *size_bytes > CONTENT_LEN_MAX => {
                return Err(too_large(format!("a state may have {CONTENT_LEN_MAX} bytes, this has {size_bytes}")));
            }
            Content::Inline(_) | Content::Streamed { .. } => {}
        }
    }
    let (total, _) = content_lens(commit);
    if total > COMMIT_LEN_MAX {
        return Err(too_large(format!("a commit may have {COMMIT_LEN_MAX} bytes of content, this has {total}")));
    }
    Ok(())
}

fn validate_labels(labels: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (key, value) in labels {
        if key.is_empty() {
            return Err(usage("a label needs a key"));
        }
        validate_len("label key", Some(key), LABEL_LEN_MAX)?;
        validate_len("label value", Some(value), LABEL_LEN_MAX)?;
    }
    Ok(())
}

fn validate_lock(lock: &Lock) -> Result<(), Failure> {
    validate_count("names", lock.names.len(), 1, LOCK_NAMES_MAX)?;
    if let LockKind::Semaphore { slots } = lock.kind
        && !(1..=SEMAPHORE_SLOTS_MAX).contains(&slots)
    {
        return Err(usage(format!("a semaphore has 1 to {SEMAPHORE_SLOTS_MAX} slots, not {slots}")));
    }
    if let Wait::AtMost { ms } = lock.wait
        && ms > LEASE_TTL_MS_MAX
    {
        return Err(usage(format!("a lock may be waited for {LEASE_TTL_MS_MAX} ms, not {ms}")));
    }
    lock.ttl_ms.map_or(Ok(()), validate_ttl)?;
    if lock.operation.is_empty() || lock.operation.chars().any(char::is_control) {
        return Err(usage("a lock's operation is a word"));
    }
    validate_len("operation", Some(&lock.operation), LABEL_LEN_MAX)?;
    validate_len("reason", lock.reason.as_deref(), MESSAGE_LEN_MAX)?;
    validate_len("lock document", lock.info.as_deref(), LOCK_INFO_LEN_MAX)
}

fn validate_ttl(ms: u64) -> Result<(), Failure> {
    if (LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(&ms) {
        Ok(())
    } else {
        Err(usage(format!("a lease lasts {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} ms, not {ms}")))
    }
}

fn validate_glob(glob: Option<&str>) -> Result<(), Failure> {
    if glob == Some("") {
        return Err(usage("a glob may not be empty"));
    }
    validate_len("glob", glob, NAME_LEN_MAX)
}

fn validate_len(what: &str, text: Option<&str>, len_max: usize) -> Result<(), Failure> {
    match text {
        Some(text) if text.len() > len_max => {
            Err(usage(format!("the {what} may have {len_max} bytes, this one has {}", text.len())))
        }
        _ => Ok(()),
    }
}

fn validate_count(what: &str, count: usize, min: usize, max: usize) -> Result<(), Failure> {
    if (min..=max).contains(&count) {
        Ok(())
    } else {
        Err(usage(format!("a request has {min} to {max} {what}, not {count}")))
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

fn too_large(message: String) -> Failure {
    Failure::new(FailureKind::Conflict, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use stated_shared::{AuditFilter, Bytes, Change, Expect, LockId, SerialRule, StateName};

    use super::*;

    fn change(name: &str, content: Content) -> Change {
        Change { state: StateName::parse(name).unwrap(), expect: Expect::Any, content }
    }

    fn commit(edit: impl FnOnce(&mut Commit)) -> Request {
        let mut commit = Commit {
            changes: vec![change("a", Content::Removed)],
            locks: vec![],
            message: None,
            labels: BTreeMap::new(),
            serials: SerialRule::Refuse,
        };
        edit(&mut commit);
        Request::Commit(commit)
    }

    fn lock(edit: impl FnOnce(&mut Lock)) -> Request {
        let mut lock = Lock { wait: Wait::No, ..Lock::exclusive([StateName::parse("a").unwrap()], "lock") };
        edit(&mut lock);
        Request::Lock(lock)
    }

    fn text(len: usize) -> Option<String> {
        Some("x".repeat(len))
    }

    fn changes(count: usize) -> Vec<Change> {
        (0..count).map(|n| change(&n.to_string(), Content::Removed)).collect()
    }

    fn names(count: usize) -> BTreeSet<StateName> {
        (0..count).map(|n| StateName::parse(&n.to_string()).unwrap()).collect()
    }

    fn labels(count: usize) -> BTreeMap<String, String> {
        (0..count).map(|n| (n.to_string(), String::new())).collect()
    }

    fn label(key_len: usize, value_len: usize) -> BTreeMap<String, String> {
        BTreeMap::from([("k".repeat(key_len), "v".repeat(value_len))])
    }

    fn streamed(sizes: &[u64]) -> Vec<Change> {
        let sized =
            |(n, size_bytes): (usize, &u64)| change(&n.to_string(), Content::Streamed { size_bytes: *size_bytes });
        sizes.iter().enumerate().map(sized).collect()
    }

    fn inline(len: usize) -> Vec<Change> {
        vec![change("a", Content::Inline(Bytes(vec![0; len])))]
    }

    fn renew(ttl_ms: u64) -> Request {
        Request::Renew { id: LockId::parse("x").unwrap(), ttl_ms: Some(ttl_ms) }
    }

    fn list(glob: usize) -> Request {
        Request::List { glob: text(glob), after: None }
    }

    fn audit(verb: usize, outcome: usize) -> Request {
        let filter = AuditFilter { verb: text(verb), outcome: text(outcome), ..AuditFilter::default() };
        Request::Audit { filter, after: None }
    }

    #[test]
    fn every_limit_holds_at_its_edge() {
        type Made = fn(usize) -> Request;
        // What is limited; how a request is made of a number; the last good number; what is said of the next one.
        let table: [(&str, Made, usize, FailureKind); 20] = [
            ("changes", |n| commit(|c| c.changes = changes(n)), COMMIT_CHANGES_MAX, FailureKind::Usage),
            ("locks", |n| commit(|c| c.locks = vec![LockId::parse("x").unwrap(); n]), 64, FailureKind::Usage),
            ("message", |n| commit(|c| c.message = text(n)), MESSAGE_LEN_MAX, FailureKind::Usage),
            ("labels", |n| commit(|c| c.labels = labels(n)), LABELS_MAX, FailureKind::Usage),
            ("label key", |n| commit(|c| c.labels = label(n, 0)), LABEL_LEN_MAX, FailureKind::Usage),
            ("label value", |n| commit(|c| c.labels = label(1, n)), LABEL_LEN_MAX, FailureKind::Usage),
            ("inline", |n| commit(|c| c.changes = inline(n)), INLINE_CONTENT_LEN_MAX, FailureKind::Usage),
            ("streamed", |n| commit(|c| c.changes = streamed(&[n as u64])), 1 << 30, FailureKind::Conflict),
            ("total", |n| commit(|c| c.changes = streamed(&[1 << 29, n as u64])), 1 << 29, FailureKind::Conflict),
            ("names", |n| lock(|l| l.names = names(n)), LOCK_NAMES_MAX, FailureKind::Usage),
            ("slots", |n| lock(|l| l.kind = LockKind::Semaphore { slots: n as u32 }), 65536, FailureKind::Usage),
            ("ttl", |n| lock(|l| l.ttl_ms = Some(n as u64)), LEASE_TTL_MS_MAX as usize, FailureKind::Usage),
            ("wait", |n| lock(|l| l.wait = Wait::AtMost { ms: n as u64 }), 31_622_400_000, FailureKind::Usage),
            ("operation", |n| lock(|l| l.operation = "x".repeat(n)), LABEL_LEN_MAX, FailureKind::Usage),
            ("reason", |n| lock(|l| l.reason = text(n)), MESSAGE_LEN_MAX, FailureKind::Usage),
            ("info", |n| lock(|l| l.info = text(n)), LOCK_INFO_LEN_MAX, FailureKind::Usage),
            ("renewal", |n| renew(n as u64), LEASE_TTL_MS_MAX as usize, FailureKind::Usage),
            ("glob", list, NAME_LEN_MAX, FailureKind::Usage),
            ("verb", |n| audit(n, 0), LABEL_LEN_MAX, FailureKind::Usage),
            ("outcome", |n| audit(0, n), LABEL_LEN_MAX, FailureKind::Usage),
        ];
        for (what, made, last_good, kind) in table {
            assert_eq!(validate(&made(last_good)), Ok(()), "{what}");
            assert_eq!(validate(&made(last_good + 1)).map_err(|failure| failure.kind), Err(kind), "{what}");
        }
    }

    #[test]
    fn what_has_no_form_is_refused() {
        let twice =
            || vec![change("a", Content::Removed), change("b", Content::Removed), change("a", Content::Removed)];
        let table = [
            ("no change", commit(|c| c.changes = vec![])),
            ("a state twice", commit(|c| c.changes = twice())),
            ("an empty label key", commit(|c| c.labels = label(0, 1))),
            ("no name", lock(|l| l.names = names(0))),
            ("no slot", lock(|l| l.kind = LockKind::Semaphore { slots: 0 })),
            ("a short lease", lock(|l| l.ttl_ms = Some(LEASE_TTL_MS_MIN - 1))),
            ("no operation", lock(|l| l.operation = String::new())),
            ("an operation of two lines", lock(|l| l.operation = "a\nb".to_owned())),
            ("a short renewal", renew(0)),
            ("an empty glob", list(0)),
        ];
        for (what, request) in table {
            assert_eq!(validate(&request).map_err(|failure| failure.kind), Err(FailureKind::Usage), "{what}");
        }
    }

    #[test]
    fn sizes_that_overflow_are_too_large() {
        let request = commit(|c| c.changes = streamed(&[u64::MAX, u64::MAX]));
        assert_eq!(validate(&request).unwrap_err().kind, FailureKind::Conflict);
        let Request::Commit(commit) = request else { unreachable!() };
        assert_eq!(content_lens(&commit), (u64::MAX, u64::MAX));
    }
}
