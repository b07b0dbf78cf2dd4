//! Text by line.

use similar::TextDiff;

use super::mask::{HIDDEN, is_telling};
use super::{Change, Masking, Operation};

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

/// One change a hunk of the unified diff.
pub(super) fn compare(old: &str, new: &str, masking: Masking) -> Vec<Change> {
    let diff = TextDiff::from_lines(old, new);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT_LINES);
    let mut changes = Vec::new();
    for hunk in unified.iter_hunks() {
        let whole = hunk.to_string();
        let mut sensitive = false;
        let mut lines = Vec::new();
        for line in whole.lines() {
            let shown = if masking == Masking::Sensitive && !line.starts_with("@@") { mask(line) } else { None };
            sensitive |= shown.is_some();
            lines.push(shown.unwrap_or_else(|| line.to_owned()));
        }
        let text = Some(lines.join("\n"));
        changes.push(Change { text, sensitive, ..Change::new(Operation::Changed, None, "(text)") });
    }
    changes
}

/// Hides what follows a telling name, as in `DB_PASSWORD=…` or `token: …`, and whole lines of key files.
fn mask(line: &str) -> Option<String> {
    if let Some(end) = line.find(['=', ':'])
        && is_telling(&line[..end])
    {
        return Some(format!("{} {HIDDEN}", &line[..=end]));
    }
    let sign = line.get(..1).unwrap_or_default();
    (is_telling(line) || is_key_material(line)).then(|| format!("{sign}{HIDDEN}"))
}

/// A long line of base64, as in key files.
fn is_key_material(line: &str) -> bool {
    let body = line.get(1..).unwrap_or_default().trim();
    body.len() >= 40 && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_in_hunks() {
        let changes = compare("a\nb\n", "a\nc\n", Masking::Sensitive);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].lines(), ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]);
    }

    #[test]
    fn telling_lines_are_hidden_also_around_a_change() {
        let changes = compare("DB_PASSWORD=x\nMODE=1\n", "DB_PASSWORD=x\nMODE=2\n", Masking::Sensitive);
        assert_eq!(changes[0].lines()[1..], [" DB_PASSWORD= (sensitive)", "-MODE=1", "+MODE=2"]);
        let key = format!("{}\n", "Ab1+".repeat(16));
        let changes = compare("", &key, Masking::Sensitive);
        assert_eq!(changes[0].lines()[1..], ["+(sensitive)"]);
        assert!(compare("", &key, Masking::None)[0].lines()[1].contains("Ab1+"));
    }
}
