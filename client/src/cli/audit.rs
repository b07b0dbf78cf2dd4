//! `audit`: who did what.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io, thread};

use clap::Args;
use comfy_table::Color;
use stated_shared::{AuditEntry, AuditFilter, Failure, FailureKind, Reply, Request, Seq, Timestamp};

use super::views::{self, AuditView};
use super::{Context, args, failure, table, users};
use crate::printable::printable;

/// How often the log is asked for more. What is read and locked is in it a second later at most.
const POLL: Duration = Duration::from_secs(1);
/// After everything in a record.
const LAST_INDEX: u32 = u32::MAX - 1;

/// List who did what, oldest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl audit --since 2h
  statectl audit --name 'example/**' --outcome denied
  statectl audit --json --since 2026-11-01 | jq .actor.uid
  statectl audit --follow --json --cursor ~/.cache/audit >>audit.jsonl    goes on where it ended")]
pub(super) struct Audit {
    /// Not before: a time, a date, or how long ago
    #[arg(long, value_name = "TIME|DUR", value_parser = args::moment)]
    since: Option<Timestamp>,
    /// Not after: a time, a date, or how long ago
    #[arg(long, value_name = "TIME|DUR", value_parser = args::moment)]
    until: Option<Timestamp>,
    /// Only names that match
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,
    /// Only this verb: commit, get, lock …
    #[arg(long)]
    verb: Option<String>,
    /// Only this user, by name or uid
    #[arg(long)]
    user: Option<String>,
    /// Only this outcome: ok, or the kind of the refusal
    #[arg(long)]
    outcome: Option<String>,
    /// Go on with what comes, until interrupted
    #[arg(short, long, conflicts_with = "until")]
    follow: bool,
    /// Begin after what this file says was told, and keep it up to date
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
}

impl Audit {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let filter = AuditFilter {
            since: self.since,
            until: self.until,
            glob: self.name,
            verb: self.verb,
            uid: self.user.as_deref().map(uid).transpose()?,
            outcome: self.outcome,
        };
        let cursor = self.cursor.map(Cursor::open).transpose()?;
        let mut after = cursor.as_ref().and_then(|cursor| cursor.after);
        let mut client = context.connect()?;
        // Behind what it tells of: who was killed between prints that once more, and misses nothing.
        let told = |after: Option<(Seq, u32)>| match (&cursor, after) {
            (Some(cursor), Some(after)) => cursor.move_to(after),
            _ => Ok(()),
        };
        let is_table = !context.output.json && !self.follow;
        let mut rows = Vec::new();
        loop {
            let page = match client.call(&Request::Audit { filter: filter.clone(), after })? {
                Reply::Audit(page) => page,
                _ => return Err(failure::unexpected()),
            };
            for entry in &page.entries {
                if is_table {
                    rows.push(row(entry));
                } else if context.output.json {
                    context.output.print_object(&AuditView::from(entry))?;
                } else {
                    let cells: Vec<String> = row(entry).into_iter().filter(|cell| !cell.is_empty()).collect();
                    context.output.print(&printable(&cells.join(" ")))?;
                }
            }
            // A page that does not go on would be asked for ever.
            let next = page.next.filter(|next| Some(*next) > after);
            after = Some(next.unwrap_or((page.upto, LAST_INDEX)));
            if !is_table {
                told(after)?;
            }
            match next {
                Some(_) => {}
                None if self.follow => thread::sleep(POLL),
                None => break,
            }
        }
        let headings = ["SEQ", "TIME", "WHO", "VERB", "NAME", "OUTCOME", "COUNT", "NOTE"];
        let refused = |column, text: &str| (column == 5 && text != "ok").then_some(Color::Red);
        table::print_marked(&context.output, &headings, &[0, 6], rows, refused)?;
        if is_table {
            // A pager may have it still.
            context.output.finish()?;
            told(after)?;
        }
        Ok(0)
    }
}

/// A file that says how far the log was told: a record, or `RECORD:INDEX` within one.
struct Cursor {
    path: PathBuf,
    after: Option<(Seq, u32)>,
}

impl Cursor {
    fn open(path: PathBuf) -> Result<Self, Failure> {
        let after = match fs::read_to_string(&path) {
            Ok(text) => Some(Self::parse(text.trim_end()).ok_or_else(|| {
                Failure::new(FailureKind::Usage, format!("{} does not say how far the log was told", path.display()))
                    .hint("without the file everything is told from the beginning on")
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failure::file("read", &path, &error)),
        };
        Ok(Self { path, after })
    }

    fn parse(text: &str) -> Option<(Seq, u32)> {
        match text.split_once(':') {
            Some((seq, index)) => Some((Seq(seq.parse().ok()?), index.parse().ok()?)),
            None => Some((Seq(text.parse().ok()?), LAST_INDEX)),
        }
    }

    /// Whole or not at all.
    fn move_to(&self, (seq, index): (Seq, u32)) -> Result<(), Failure> {
        let text = if index == LAST_INDEX { format!("{seq}\n") } else { format!("{seq}:{index}\n") };
        let mut next = self.path.clone().into_os_string();
        next.push(".new");
        let written = fs::write(&next, text).and_then(|()| fs::rename(&next, &self.path));
        written.map_err(|error| failure::file("write", &self.path, &error))
    }
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let name = entry.name.as_ref().map_or(String::new(), |name| name.to_string());
    let version = entry.version.map_or(String::new(), |version| format!("@{version}"));
    vec![
        entry.seq.to_string(),
        views::time(entry.time),
        entry.actor.to_string(),
        entry.verb.clone(),
        format!("{name}{version}"),
        entry.outcome.clone(),
        entry.count.to_string(),
        entry.note.clone().unwrap_or_default(),
    ]
}

fn uid(user: &str) -> Result<u32, Failure> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    users::uid_of(user).ok_or_else(|| {
        Failure::new(FailureKind::Usage, format!("no user is called {user}")).hint("list the users with: getent passwd")
    })
}
