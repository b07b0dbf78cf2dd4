//! The pager: long output on a terminal, a screen at a time.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use signal_hook::consts::SIGINT;

/// What is shown with where nothing else is named.
const DEFAULT: &str = "less";
/// How `less` behaves where nobody said: it ends where all fits, shows colours, and leaves the screen alone (as git has it).
const LESS: &str = "FRX";
/// The screen where the terminal does not tell its size.
const ROWS: usize = 24;
/// The screen's width where the terminal does not tell its size.
const COLUMNS: usize = 80;

/// A command that shows what it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pager {
    line: String,
}

impl Pager {
    /// `$STATED_PAGER`, `$PAGER` or `less`; none where it is empty or `cat`.
    pub(super) fn of_environment() -> Option<Self> {
        let named = ["STATED_PAGER", "PAGER"].into_iter().find_map(std::env::var_os);
        Self::named(named.map(|line| line.to_string_lossy().into_owned()))
    }

    fn named(line: Option<String>) -> Option<Self> {
        let line = line.unwrap_or_else(|| DEFAULT.to_owned());
        (!line.trim().is_empty() && line.trim() != "cat").then_some(Self { line })
    }

    /// Shows the text and returns once its reader is done; `false` where there is no such program.
    pub(super) fn show(&self, text: &[u8]) -> io::Result<bool> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.line).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            command.env("LESS", LESS);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        // An interrupt is the pager's: without this process it would fight the shell for the terminal. A handler and
        // not SIG_IGN, which it would have inherited.
        let _ = signal_hook::flag::register(SIGINT, Arc::default());
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(text) {
                // Its reader has enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                result => result?,
            }
        }
        // What the shell says of a program that is not there, or that may not run.
        Ok(!matches!(child.wait()?.code(), Some(126 | 127)))
    }
}

/// Whether the text is longer than the screen.
pub(super) fn overflows(text: &[u8]) -> bool {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let or = |told: Option<u16>, default: usize| told.map(usize::from).filter(|&told| told > 0).unwrap_or(default);
    lines(text, or(size.map(|size| size.ws_col), COLUMNS)) >= or(size.map(|size| size.ws_row), ROWS)
}

/// The lines of a terminal that the text takes.
fn lines(text: &[u8], columns: usize) -> usize {
    let text = String::from_utf8_lossy(text);
    text.lines().map(|line| width(line).max(1).div_ceil(columns)).sum()
}

/// The characters of a line, without colours.
fn width(line: &str) -> usize {
    let mut rest = line;
    let mut width = 0;
    while let Some((before, colour)) = rest.split_once("\x1b[") {
        width += before.chars().count();
        rest = colour.split_once('m').map_or("", |(_, after)| after);
    }
    width + rest.chars().count()
}

/// Whether somebody watches standard output.
pub(super) fn is_watched() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_or_cat_is_no_pager() {
        assert_eq!(Pager::named(Some(" ".into())), None);
        assert_eq!(Pager::named(Some("cat".into())), None);
        assert_eq!(Pager::named(None), Some(Pager { line: "less".into() }));
        assert_eq!(Pager::named(Some("more -s".into())), Some(Pager { line: "more -s".into() }));
    }

    #[test]
    fn a_pager_that_is_not_there_is_told_apart_from_one_that_fails() {
        assert!(!Pager { line: "/no/such/pager 2>&-".into() }.show(b"x").unwrap());
        assert!(Pager { line: "exit 3".into() }.show(b"x").unwrap());
        assert!(Pager { line: "cat >&-".into() }.show(&[b'x'; 1 << 20]).unwrap());
    }

    #[test]
    fn lines_are_counted_as_the_terminal_breaks_them() {
        assert_eq!(lines(b"a\n\nb\n", 80), 3);
        assert_eq!(lines(&[b'x'; 81], 80), 2);
        assert_eq!(lines(format!("\x1b[31m{}\x1b[0m", "x".repeat(80)).as_bytes(), 80), 1);
    }
}
