//! Where things are printed: data on standard output, everything else on standard error.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use stated_shared::Failure;

use super::pager::{self, Pager};
use super::{Color, failure};
use crate::printable::printable;

/// How this process prints.
pub(super) struct Output {
    /// Whether data is printed as JSON.
    pub(super) json: bool,
    color_out: bool,
    color_err: bool,
    /// Who shows long lists, where anybody does.
    pager: Option<Pager>,
    /// What the pager shall show.
    paged: RefCell<Option<Vec<u8>>>,
}

impl Output {
    pub(super) fn new(json: bool, color: Color, no_pager: bool) -> Self {
        let pager = if json || no_pager || !pager::is_watched() { None } else { Pager::of_environment() };
        Self {
            json,
            color_out: color.shows_on(io::stdout().is_terminal()),
            color_err: color.shows_on(io::stderr().is_terminal()),
            pager,
            paged: RefCell::new(None),
        }
    }

    /// From here on data goes through the pager, where it is longer than the screen: for lists that people read.
    pub(super) fn page(&self) {
        if self.pager.is_some() {
            self.paged.borrow_mut().get_or_insert_default();
        }
    }

    /// Prints what was kept for the pager; to be called once at the end, also of what failed half-way.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        let Some(text) = self.paged.take() else { return Ok(()) };
        let shown = match &self.pager {
            Some(pager) if pager::overflows(&text) => {
                pager.show(&text).map_err(|error| failure::local("show this with a pager", &error))?
            }
            _ => false,
        };
        if shown { Ok(()) } else { self.print_bytes(&text) }
    }

    /// Prints data with a line end.
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        self.print_bytes(format!("{text}\n").as_bytes())
    }

    /// Prints data as it is.
    pub(super) fn print_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(paged) = &mut *self.paged.borrow_mut() {
            paged.extend_from_slice(bytes);
            return Ok(());
        }
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
        tell!("{start} {}", printable(message));
    }

    /// Tells a step that helps.
    pub(super) fn hint(&self, hint: &str) {
        let start = if self.color_err { "\x1b[36mhint:\x1b[0m" } else { "hint:" };
        tell!("{start} {}", printable(hint));
    }

    /// The text in a colour (an SGR parameter) where standard output shows colours.
    pub(super) fn paint(&self, sgr: &str, text: &str) -> String {
        if self.color_out { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Whether standard output shows colours.
    pub(super) fn colors(&self) -> bool {
        self.color_out
    }
}

impl Color {
    /// Whether colours are shown where this is, or is not, a terminal.
    pub(super) fn shows_on(self, terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                // https://no-color.org: set and not empty.
                let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                terminal && !forbidden && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}
