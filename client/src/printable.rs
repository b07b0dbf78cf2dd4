//! Text of others on one's own terminal.

/// Escapes control characters: what somebody else wrote must not drive this terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\t' | '\n') { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_visible() {
        assert_eq!(printable("a\x1b[2J\u{9b}\tb"), "a\\u{1b}[2J\\u{9b}\tb");
    }
}
