//! What changed between two contents: pure, and careful with secrets.
//!
//! **Invariant:** unless asked to show everything, no value leaves here that a Terraform state marks as sensitive,
//! that a key's name gives away, or that stands in JSON of unknown meaning. That it changed is always told.

mod json;
mod mask;
mod terraform;
mod text;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::printable::printable;

pub(crate) use mask::Masking;

/// What happened to one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    Added,
    Removed,
    Changed,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Change {
    pub(crate) op: Operation,
    /// The Terraform resource instance or output that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// Where, in that or in the document: `tags.Name`, `rules[0].port`; parts in round brackets are not the document's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) old: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) new: Option<Value>,
    /// Whether the values are hidden.
    pub(crate) sensitive: bool,
    /// A piece of a unified diff, where the contents are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

impl Change {
    fn new(op: Operation, address: Option<&str>, path: impl Into<String>) -> Self {
        Self {
            op,
            address: address.map(str::to_owned),
            path: path.into(),
            old: None,
            new: None,
            sensitive: false,
            text: None,
        }
    }

    /// A difference of two values, hidden where they are sensitive.
    fn of_values(
        address: Option<&str>,
        path: impl Into<String>,
        old: Option<&Value>,
        new: Option<&Value>,
        sensitive: bool,
    ) -> Self {
        let op = match (old, new) {
            (None, _) => Operation::Added,
            (_, None) => Operation::Removed,
            _ => Operation::Changed,
        };
        let shown = |value: &Value| if sensitive { Value::from(mask::HIDDEN) } else { value.clone() };
        Self { old: old.map(shown), new: new.map(shown), sensitive, ..Self::new(op, address, path) }
    }

    /// Whether this is a piece of a unified diff.
    pub(crate) fn is_text(&self) -> bool {
        self.text.is_some()
    }

    /// The difference for people; control characters of the contents are escaped.
    pub(crate) fn lines(&self) -> Vec<String> {
        if let Some(text) = &self.text {
            return text.lines().map(printable).collect();
        }
        let sign = match self.op {
            Operation::Added => '+',
            Operation::Removed => '-',
            Operation::Changed => '~',
        };
        let place = match (&self.address, self.path.as_str()) {
            (Some(address), "") => address.clone(),
            (Some(address), path) => format!("{address}  {path}"),
            (None, path) => path.to_owned(),
        };
        let show = |value: &Value| match value {
            Value::String(text) if self.sensitive && text == mask::HIDDEN => text.clone(),
            value => value.to_string(),
        };
        let values = match (&self.old, &self.new) {
            (Some(old), Some(new)) if self.sensitive && old == new => format!(": {} → changed", show(old)),
            (Some(old), Some(new)) => format!(": {} → {}", show(old), show(new)),
            (Some(value), None) | (None, Some(value)) => format!(": {}", show(value)),
            (None, None) => String::new(),
        };
        vec![printable(&format!("{sign} {place}{values}"))]
    }
}

/// Compares two contents; `None` is a state that does not exist.
pub(crate) fn compare(old: Option<&[u8]>, new: Option<&[u8]>, masking: Masking) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    let changes = match Document::pair(old, new) {
        Document::Terraform(old, new) => terraform::compare(&old, &new, masking),
        Document::Json(old, new) => json::compare(old.as_ref(), new.as_ref(), masking),
        Document::Text(old, new) => text::compare(old, new, masking),
        Document::Opaque => vec![opaque(old, new)],
    };
    if changes.is_empty() {
        // The bytes differ and what they mean does not.
        return vec![Change::new(Operation::Changed, None, "(formatting)")];
    }
    changes
}

/// What two contents are, taken together.
enum Document<'a> {
    Terraform(Value, Value),
    Json(Option<Value>, Option<Value>),
    Text(&'a str, &'a str),
    Opaque,
}

impl<'a> Document<'a> {
    fn pair(old: Option<&'a [u8]>, new: Option<&'a [u8]>) -> Self {
        let parse = |bytes: Option<&[u8]>| bytes.map(serde_json::from_slice::<Value>).transpose();
        if let (Ok(old), Ok(new)) = (parse(old), parse(new)) {
            let is_terraform = |value: &Option<Value>| value.as_ref().is_none_or(terraform::is_state);
            if is_terraform(&old) && is_terraform(&new) {
                return Self::Terraform(old.unwrap_or_default(), new.unwrap_or_default());
            }
            return Self::Json(old, new);
        }
        let readable = |bytes: Option<&'a [u8]>| {
            let text = std::str::from_utf8(bytes.unwrap_or_default()).ok()?;
            // Text that begins like JSON may hold anything anywhere, and it was no JSON.
            let unclear = text.contains('\0') || text.trim_start().starts_with(['{', '[']);
            (!unclear).then_some(text)
        };
        match (readable(old), readable(new)) {
            (Some(old), Some(new)) => Self::Text(old, new),
            _ => Self::Opaque,
        }
    }
}

/// Sizes and hashes, where nothing more can be said.
fn opaque(old: Option<&[u8]>, new: Option<&[u8]>) -> Change {
    let describe = |bytes: &[u8]| {
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Value::from(format!("{} bytes, sha256 {hash}", bytes.len()))
    };
    let (old, new) = (old.map(describe), new.map(describe));
    Change::of_values(None, "(content)", old.as_ref(), new.as_ref(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_have_no_changes() {
        assert_eq!(compare(Some(b"x"), Some(b"x"), Masking::Sensitive), []);
        assert_eq!(compare(None, None, Masking::Sensitive), []);
    }

    #[test]
    fn bytes_that_mean_the_same_are_told_apart() {
        let changes = compare(Some(b"{\"a\":1}"), Some(b"{ \"a\": 1 }"), Masking::Sensitive);
        assert_eq!(changes[0].lines(), ["~ (formatting)"]);
    }

    #[test]
    fn binaries_show_sizes_and_hashes_only() {
        let changes = compare(Some(b"\0secret"), Some(b"\xff"), Masking::None);
        let line = changes[0].lines().concat();
        assert!(line.starts_with("~ (content): \"7 bytes, sha256 "), "{line}");
        assert!(!line.contains("secret"));
    }

    #[test]
    fn broken_json_is_not_shown_as_text() {
        let changes = compare(Some(b"{\"a\": \"hunter2\","), Some(b"{\"a\": \"hunter3\","), Masking::Sensitive);
        assert!(!format!("{changes:?}").contains("hunter"));
    }

    #[test]
    fn a_content_cannot_drive_the_terminal() {
        let changes = compare(Some(b"a\n"), Some(b"\x1b[2J\n"), Masking::Sensitive);
        assert!(changes.iter().flat_map(Change::lines).all(|line| !line.contains('\x1b')));
    }

    #[test]
    fn a_hidden_change_still_tells_that_it_changed() {
        let changes = compare(Some(br#"{"a":"x"}"#), Some(br#"{"a":"y"}"#), Masking::Sensitive);
        assert_eq!(changes[0].lines(), ["~ a: (sensitive) → changed"]);
        let line = serde_json::to_string(&changes[0]).unwrap();
        assert_eq!(line, r#"{"op":"changed","path":"a","old":"(sensitive)","new":"(sensitive)","sensitive":true}"#);
    }
}
