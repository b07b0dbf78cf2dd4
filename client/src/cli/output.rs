//! Where things are printed: data on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use stated_shared::Failure;

use super::{Color, failure};
use crate::printable::printable;

/// How this process prints.
pub(super) struct Output {
    /// Whether data is printed as JSON.
    pub(super) json: bool,
    color_out: bool,
    color_err: bool,
}

impl Output {
    pub(super) fn new(json: bool, color: Color) -> Self {
        // https://no-color.org: set and not empty.
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let wanted = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !forbidden,
        };
        Self { json, color_out: wanted(io::stdout().is_terminal()), color_err: wanted(io::stderr().is_terminal()) }
    }

    /// Prints data with a line end.
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        self.print_bytes(format!("{text}\n").as_bytes())
    }

    /// Prints data as it is.
    pub(super) fn print_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // Whoever read this has enough (`statectl log | head`): end as the signal would.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(128 + 13),
            result => result.map_err(|error| failure::local("write to standard output", &error)),
        }
    }

    /// Prints one object as one line.
    pub(super) fn print_object(&self, object: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(object).map_err(|error| failure::local("write JSON", &error.into()))?;
        self.print(&line)
    }

    /// Tells the user something.
    pub(super) fn say(&self, message: &str) {
        let start = if self.color_err { "\x1b[1;31mstatectl:\x1b[0m" } else { "statectl:" };
        eprintln!("{start} {}", printable(message));
    }

    /// Tells a step that helps.
    pub(super) fn hint(&self, hint: &str) {
        let start = if self.color_err { "\x1b[36mhint:\x1b[0m" } else { "hint:" };
        eprintln!("{start} {}", printable(hint));
    }

    /// The text in a colour (an SGR parameter) where standard output shows colours.
    pub(super) fn paint(&self, sgr: &str, text: &str) -> String {
        if self.color_out { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
