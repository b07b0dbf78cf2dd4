//! Terraform's lock-info document: what it asks for, and what it is told about a holder.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use stated_shared::limits::{LOCK_INFO_LEN_MAX, MESSAGE_LEN_MAX};
use stated_shared::{LockId, LockIdError, LockInfo, Timestamp};

/// Longest word that an operation becomes, in characters.
const OPERATION_LEN_MAX: usize = 64;

/// What Terraform sends with LOCK and UNLOCK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockDocument {
    /// The lock's ID, bare.
    pub id: LockId,
    /// The document as it was sent.
    pub text: String,
    /// `OperationTypeApply` and the like; empty where absent.
    operation: String,
    /// The caller's own words; empty where absent.
    info: String,
    /// When the lock was taken, as its taker says; empty where absent.
    created: String,
}

/// Why a body is no lock-info document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than a lock may carry.
    #[error("a lock-info document has at most {LOCK_INFO_LEN_MAX} bytes")]
    TooLong,
    /// Not a JSON object of this form.
    #[error("the body is not a lock-info document")]
    Form(#[source] serde_json::Error),
    /// An ID that cannot be one.
    #[error(transparent)]
    Id(#[from] LockIdError),
}

impl LockDocument {
    /// Reads the document. Its ID may come back decorated, as [`refusal`] printed it.
    pub fn parse(body: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Form {
            #[serde(rename = "ID")]
            id: String,
            #[serde(default)]
            operation: String,
            #[serde(default)]
            info: String,
            #[serde(default)]
            created: String,
        }
        if body.len() > LOCK_INFO_LEN_MAX {
            return Err(DocumentError::TooLong);
        }
        let form: Form = serde_json::from_slice(body).map_err(DocumentError::Form)?;
        let id = LockId::parse(bare(&form.id))?;
        // What parsed as JSON is UTF-8.
        let text = String::from_utf8_lossy(body).into_owned();
        Ok(Self { id, text, operation: form.operation, info: form.info, created: form.created })
    }

    /// What for, in a word: `OperationTypeApply` is `apply`.
    pub fn operation(&self) -> String {
        let word = self.operation.strip_prefix("OperationType").unwrap_or(&self.operation).to_lowercase();
        let word: String = word.chars().filter(|c| !c.is_control()).take(OPERATION_LEN_MAX).collect();
        if word.is_empty() { "lock".to_owned() } else { word }
    }

    /// What for, in the caller's words.
    pub fn reason(&self) -> Option<String> {
        let mut end = self.info.len().min(MESSAGE_LEN_MAX);
        while !self.info.is_char_boundary(end) {
            end -= 1;
        }
        (end > 0).then(|| self.info[..end].to_owned())
    }

    /// Whether it names nothing but an ID: OpenTofu's force-unlock, which did not take the lock.
    pub fn is_forced(&self) -> bool {
        self.created.is_empty() || self.created.starts_with("0001-01-01T")
    }
}

/// A body is a document whose fields are within their limits, or none; a path decodes to what encodes to it again.
#[cfg(fuzzing)]
pub fn fuzz_bodies(bytes: &[u8]) {
    if let Ok(document) = LockDocument::parse(bytes) {
        assert!(
            document.operation().chars().count().clamp(1, OPERATION_LEN_MAX) == document.operation().chars().count()
        );
        assert!(document.reason().is_none_or(|reason| (1..=MESSAGE_LEN_MAX).contains(&reason.len())));
        let id = LockDocument::parse(json!({ "ID": format!("{} held by alice", document.id) }).to_string().as_bytes());
        assert_eq!(id.expect("a decorated ID").id, document.id);
    }
    if let Some(name) = std::str::from_utf8(bytes).ok().and_then(super::percent::decode) {
        assert_eq!(super::percent::decode(&super::percent::encode_path(&name)), Some(name));
    }
}

/// The ID of a text that may go on after it.
pub fn bare(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// The document that a refused LOCK is answered with: the holder's own, its ID decorated.
///
/// Terraform up to 1.14 prints nothing of the body but the ID, so the truth goes there.
pub fn refusal(holders: &[LockInfo], waiters: u32, now: Timestamp) -> Option<String> {
    let holder = holders.first()?;
    Some(with_id(holder, decorated(holder, holders.len(), waiters, now)))
}

/// The holder's document with its ID bare, for clients that compare it.
pub fn of_holder(holder: &LockInfo) -> String {
    with_id(holder, holder.id.to_string())
}

fn with_id(holder: &LockInfo, id: String) -> String {
    let mut document = match holder.info.as_deref().map(serde_json::from_str) {
        Some(Ok(Value::Object(document))) => document,
        _ => made_up(holder),
    };
    document.insert("ID".to_owned(), id.into());
    Value::Object(document).to_string()
}

/// The document of a holder that did not come through a gateway.
fn made_up(holder: &LockInfo) -> Map<String, Value> {
    let since = UNIX_EPOCH + Duration::from_millis(holder.since.0);
    let document = json!({
        "Operation": holder.operation,
        "Info": holder.reason.as_deref().unwrap_or_default(),
        "Who": holder.who().to_string(),
        "Version": "",
        "Created": humantime::format_rfc3339_millis(since).to_string(),
        "Path": holder.name,
    });
    match document {
        Value::Object(document) => document,
        _ => Map::new(),
    }
}

/// `<uuid> held by alice@build-7 (pid 4211) for apply since 3m12s, 2 waiting`.
fn decorated(holder: &LockInfo, holders: usize, waiters: u32, now: Timestamp) -> String {
    let since = elapsed(now.0.saturating_sub(holder.since.0));
    let mut text = format!("{} held by {} for {} since {since}", holder.id, holder.who(), holder.operation);
    if holders > 1 {
        let _ = write!(text, ", and {} more", holders - 1);
    }
    if waiters > 0 {
        let _ = write!(text, ", {waiters} waiting");
    }
    text
}

/// `45s`, `3m12s`, `2h5m`, `4d3h`.
fn elapsed(ms: u64) -> String {
    let s = ms / 1000;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, _, _) => format!("{d}d{h}h"),
    }
}

#[cfg(test)]
mod tests {
    use stated_shared::{Actor, Epoch, Fence, LockKind, SessionId, StateName};

    use super::*;

    const ID: &str = "9f2c41aa-0000-4000-8000-000000000001";

    fn holder(info: Option<&str>) -> LockInfo {
        LockInfo {
            name: StateName::parse("prod").unwrap(),
            kind: LockKind::Exclusive,
            id: LockId::parse(ID).unwrap(),
            fence: Fence { epoch: Epoch(1), n: 1 },
            holder: Actor {
                uid: 1000,
                gid: 1000,
                pid: Some(99),
                user: Some("alice".into()),
                comm: None,
                exe: None,
                host: "build-7".into(),
                session: SessionId([0; 16]),
            },
            since: Timestamp(1_000_000),
            operation: "apply".into(),
            reason: None,
            info: info.map(str::to_owned),
            under: None,
            process: Some(4211),
            expires: None,
            waiters: 2,
        }
    }

    #[test]
    fn a_refusal_tells_the_truth_in_the_id() {
        let info = format!(r#"{{"ID":"{ID}","Operation":"OperationTypeApply","Who":"alice@laptop","Created":"x"}}"#);
        let body = refusal(&[holder(Some(&info))], 2, Timestamp(1_192_000)).unwrap();
        let document: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(document["ID"], format!("{ID} held by alice@build-7 (pid 4211) for apply since 3m12s, 2 waiting"));
        assert_eq!(document["Who"], "alice@laptop");
        assert_eq!(LockDocument::parse(body.as_bytes()).unwrap().id.as_str(), ID, "it comes back as the bare one");
    }

    #[test]
    fn a_holder_of_another_kind_gets_a_document_too() {
        let body = refusal(&[holder(None), holder(None)], 0, Timestamp(1_000_500)).unwrap();
        let document: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(document["ID"], format!("{ID} held by alice@build-7 (pid 4211) for apply since 0s, and 1 more"));
        assert_eq!(document["Who"], "alice@build-7 (pid 4211)");
        assert_eq!(document["Created"], "1970-01-01T00:16:40.000Z");
        assert_eq!(refusal(&[], 0, Timestamp(0)), None);
    }

    #[test]
    fn operations_become_words() {
        let operation = |word: &str| {
            LockDocument::parse(json!({"ID": "a", "Operation": word}).to_string().as_bytes()).unwrap().operation()
        };
        assert_eq!(operation("OperationTypeApply"), "apply");
        assert_eq!(operation("state-mv"), "state-mv");
        assert_eq!(operation("migration source state"), "migration source state");
        assert_eq!(operation(""), "lock");
    }

    #[test]
    fn only_a_document_with_nothing_but_an_id_is_forced() {
        let forced = |body: &str| LockDocument::parse(body.as_bytes()).unwrap().is_forced();
        assert!(forced(r#"{"ID":"a b c","Operation":"","Created":"0001-01-01T00:00:00Z"}"#));
        assert!(!forced(r#"{"ID":"a","Created":"2026-11-23T12:00:00.5Z"}"#));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for body in ["", "[]", "{}", r#"{"ID":7}"#, r#"{"ID":""}"#, r#"{"ID":"ü"}"#] {
            assert!(LockDocument::parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn spans_are_short() {
        let spans = [0, 59_999, 192_000, 7_500_000, 356_400_000].map(elapsed);
        assert_eq!(spans, ["0s", "59s", "3m12s", "2h5m", "4d3h"]);
    }
}
