//! `audit`: who did what.

use clap::Args;
use comfy_table::Color;
use stated_shared::{AuditEntry, AuditFilter, Failure, FailureKind, Reply, Request, Timestamp};

use super::views::{self, AuditView};
use super::{Context, args, failure, table, users};

/// List who did what, oldest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl audit --since 2h
  statectl audit --name 'example/**' --outcome denied
  statectl audit --json --since 2026-11-01 | jq .actor.uid")]
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
        let mut client = context.connect()?;
        let mut after = None;
        let mut rows = Vec::new();
        loop {
            let page = match client.call(&Request::Audit { filter: filter.clone(), after })? {
                Reply::Audit(page) => page,
                _ => return Err(failure::unexpected()),
            };
            for entry in &page.entries {
                if context.output.json {
                    context.output.print_object(&AuditView::from(entry))?;
                } else {
                    rows.push(row(entry));
                }
            }
            // A page that does not go on would be asked for ever.
            if page.next.is_none() || page.next <= after {
                break;
            }
            after = page.next;
        }
        let headings = ["SEQ", "TIME", "WHO", "VERB", "NAME", "OUTCOME", "COUNT", "NOTE"];
        let refused = |column, text: &str| (column == 5 && text != "ok").then_some(Color::Red);
        table::print_marked(&context.output, &headings, &[0, 6], rows, refused)?;
        Ok(0)
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
