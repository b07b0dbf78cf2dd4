//! Tables and words for people.

use std::time::{Duration, SystemTime};

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use stated_shared::{Failure, LockInfo, Timestamp, VersionInfo};

use super::output::Output;
use crate::printable::printable;

/// What stands for the size of a removal.
pub(super) const REMOVED: &str = "removed";

/// Prints rows under headings, without borders, through the pager; nothing where there are no rows.
pub(super) fn print(
    output: &Output,
    headings: &[&str],
    numbers: &[usize],
    rows: Vec<Vec<String>>,
) -> Result<(), Failure> {
    print_marked(output, headings, numbers, rows, |_, _| None)
}

/// As [`print`], with a colour for some cells, by their column and text.
pub(super) fn print_marked(
    output: &Output,
    headings: &[&str],
    numbers: &[usize],
    rows: Vec<Vec<String>>,
    mark: impl Fn(usize, &str) -> Option<Color>,
) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    output.page();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty();
    if output.colors() {
        table.enforce_styling();
    }
    table.set_header(headings.iter().map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
    let cell = |(column, text): (usize, String)| {
        // A cell is one line, whatever somebody wrote into a message.
        let cell = Cell::new(printable(&text).replace('\n', " "));
        match mark(column, &text) {
            Some(color) => cell.fg(color),
            None => cell,
        }
    };
    table.add_rows(rows.into_iter().map(|row| row.into_iter().enumerate().map(cell).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for &number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output.print(&table.trim_fmt())
}

/// How long ago, in at most two units: `3m 12s ago`.
pub(super) fn ago(time: Timestamp) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(time.0.min(u64::MAX / 2));
    match SystemTime::now().duration_since(time) {
        Ok(ago) if ago < Duration::from_secs(1) => "now".to_owned(),
        Ok(ago) => format!("{} ago", short(ago)),
        Err(ahead) => format!("in {}", short(ahead.duration())),
    }
}

/// A duration in its two largest units.
pub(super) fn short(duration: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Bytes in a readable unit.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The size of a version's content, or that it is a removal.
pub(super) fn version_size(info: &VersionInfo) -> String {
    info.content.as_ref().map_or_else(|| REMOVED.to_owned(), |content| size(content.size_bytes))
}

/// Who holds a lock, for what, since when.
pub(super) fn holder(lock: &LockInfo) -> String {
    let reason = lock.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    format!("{} held by {} for {}{reason} since {}", lock.name, lock.who(), lock.operation, ago(lock.since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!((size(0), size(1023), size(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
        assert_eq!(short(Duration::from_secs(3_723)), "1h 2m");
    }

    #[test]
    fn any_time_can_be_told() {
        assert!(ago(Timestamp(u64::MAX)).starts_with("in "));
        assert!(ago(Timestamp(0)).ends_with(" ago"));
    }
}
