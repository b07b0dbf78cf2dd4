//! JSON by path, down to the leaves.

use std::collections::BTreeSet;

use serde_json::Value;

use super::mask::{is_telling, looks_secret, names_secret};
use super::{Change, Masking};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Compares documents of unknown meaning: every value is taken for a secret.
pub(super) fn compare(old: Option<&Value>, new: Option<&Value>, masking: Masking) -> Vec<Change> {
    let mut leaves = Leaves { address: None, masking, all_secret: true, secret_paths: &[], changes: Vec::new() };
    leaves.compare(&mut Vec::new(), old, new, false);
    leaves.changes
}

/// Walks two values at once and collects the leaves that differ.
pub(super) struct Leaves<'a> {
    /// What the changes are told to be in.
    pub(super) address: Option<&'a str>,
    pub(super) masking: Masking,
    /// Whether every value is a secret.
    pub(super) all_secret: bool,
    /// Paths below which everything is secret.
    pub(super) secret_paths: &'a [Vec<Step>],
    pub(super) changes: Vec<Change>,
}

impl Leaves<'_> {
    /// Compares what is at a path; `secret` is what the way there already says.
    pub(super) fn compare(&mut self, path: &mut Vec<Step>, old: Option<&Value>, new: Option<&Value>, secret: bool) {
        if old == new {
            return;
        }
        let secret = secret
            || self.secret_paths.iter().any(|secret| path == secret)
            || [old, new].into_iter().flatten().any(names_secret);
        match (old, new) {
            (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) if !is_empty(old) || !is_empty(new) => {
                let keys: BTreeSet<&String> =
                    [old, new].into_iter().flatten().filter_map(Value::as_object).flat_map(|map| map.keys()).collect();
                let at = |value: Option<&'_ Value>, key: &str| value.and_then(|value| value.get(key)).cloned();
                for key in keys {
                    let (old, new) = (at(old, key), at(new, key));
                    path.push(Step::Key(key.clone()));
                    self.compare(path, old.as_ref(), new.as_ref(), secret || is_telling(key));
                    path.pop();
                }
            }
            (Some(Value::Array(_)) | None, Some(Value::Array(_)) | None) if !is_empty(old) || !is_empty(new) => {
                let items = |value: Option<&'_ Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
                let (old, new) = (items(old), items(new));
                for index in 0..old.len().max(new.len()) {
                    path.push(Step::Index(index));
                    self.compare(path, old.get(index), new.get(index), secret);
                    path.pop();
                }
            }
            _ => self.leaf(path, old, new, secret),
        }
    }

    fn leaf(&mut self, path: &[Step], old: Option<&Value>, new: Option<&Value>, secret: bool) {
        // A value of another form on one side may hold a secret deeper than where it changes its form.
        let secret = secret
            || self.all_secret
            || self.secret_paths.iter().any(|secret| secret.starts_with(path))
            || [old, new].into_iter().flatten().any(holds_secret);
        let hidden = secret && self.masking == Masking::Sensitive;
        self.changes.push(Change::of_values(self.address, write(path), old, new, hidden));
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
        None => true,
    }
}

fn holds_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            names_secret(value) || map.iter().any(|(key, value)| is_telling(key) || holds_secret(value))
        }
        Value::Array(items) => items.iter().any(holds_secret),
        value => looks_secret(value),
    }
}

/// `a.b[0]["odd key"]`; the whole document is `(document)`.
pub(super) fn write(path: &[Step]) -> String {
    if path.is_empty() {
        return "(document)".to_owned();
    }
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) if is_plain(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Key(key) => text.push_str(&format!("[{}]", Value::from(key.as_str()))),
        }
    }
    text
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(old: Value, new: Value, masking: Masking) -> Vec<String> {
        compare(Some(&old), Some(&new), masking).iter().flat_map(Change::lines).collect()
    }

    #[test]
    fn leaves_are_told_by_path() {
        let old = json!({"a": {"b": [1, 2, {"c d": true}]}, "gone": "x"});
        let new = json!({"a": {"b": [1, 3, {"c d": false}, 4]}, "new": null});
        assert_eq!(
            lines(old, new, Masking::None),
            ["~ a.b[1]: 2 → 3", r#"~ a.b[2]["c d"]: true → false"#, "+ a.b[3]: 4", r#"- gone: "x""#, "+ new: null"]
        );
    }

    #[test]
    fn every_value_of_unknown_json_is_hidden() {
        let changes = lines(json!({"a": 1, "b": [2]}), json!({"a": 3, "b": {"c": 4}}), Masking::Sensitive);
        assert_eq!(changes, ["~ a: (sensitive) → changed", "~ b: (sensitive) → changed"]);
    }

    #[test]
    fn another_form_is_one_change() {
        assert_eq!(lines(json!({"a": []}), json!({"a": {}}), Masking::None), ["~ a: [] → {}"]);
        assert_eq!(lines(json!([]), json!([1]), Masking::None), ["+ [0]: 1"]);
        assert_eq!(lines(json!(1), json!({"a": 1}), Masking::None), [r#"~ (document): 1 → {"a":1}"#]);
    }

    #[test]
    fn an_empty_container_that_comes_is_told() {
        assert_eq!(lines(json!({}), json!({"a": {}, "b": []}), Masking::None), ["+ a: {}", "+ b: []"]);
    }

    #[test]
    fn a_whole_document_comes_leaf_by_leaf() {
        let changes = compare(None, Some(&json!({"a": {"b": 1}})), Masking::None);
        assert_eq!(changes[0].lines(), ["+ a.b: 1"]);
    }
}
