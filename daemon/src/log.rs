//! How the daemon's own lines look on its standard error.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Where systemd says that a standard stream leads to its journal: `DEVICE:INODE` of what the stream is.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// A line for the journal, which has its own time, and takes the priority from the line's beginning.
struct ForJournal(Format<Full, ()>);

/// Begins to write events; `STATED_LOG` says which.
pub fn init() {
    let filter = EnvFilter::try_from_env("STATED_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    match leads_to_journal() {
        true => {
            let format = tracing_subscriber::fmt::format().with_target(false).with_level(false).without_time();
            lines.event_format(ForJournal(format)).init();
        }
        false => lines.with_target(false).init(),
    }
}

fn leads_to_journal() -> bool {
    let (Some(told), Ok(stderr)) = (std::env::var_os(JOURNAL_STREAM), rustix::fs::fstat(io::stderr())) else {
        return false;
    };
    told.to_str() == Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // As syslog(3) numbers them.
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(ctx, writer, event)
    }
}
