//! `watch`: follow what changes.

use clap::Args;
use stated_shared::limits::CHANGES_WAIT_MS_MAX;
use stated_shared::{ChangeEntry, Failure, Reply, Request, Seq};

use super::views::{self, ChangeView};
use super::{Context, failure, table};
use crate::printable::printable;

/// Follow changes of states as they become durable, until interrupted
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl watch 'prod/**'
  statectl watch --since 0 --json | jq .state     everything from the beginning on
  statectl watch prod/network --json | while read -r change; do make deploy; done

Each line is one commit, removal or tag. Its number (seq under --json) is what --since continues after, so
that a watcher that was stopped misses nothing. A restart of the daemon does not end it.")]
pub(super) struct Watch {
    /// Only names that match: * stays between slashes, ** crosses them
    glob: Option<String>,
    /// First what happened after this record; 0 is from the beginning [default: from now on]
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
}

impl Watch {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.connect()?;
        let since = match self.since {
            Some(seq) => Seq(seq),
            None => match client.call(&Request::Status)? {
                Reply::Status(status) => status.seq,
                _ => return Err(failure::unexpected()),
            },
        };
        let mut after = (since, u32::MAX);
        loop {
            let request = Request::Changes { glob: self.glob.clone(), after, wait_ms: CHANGES_WAIT_MS_MAX };
            let Reply::Changes(page) = client.call(&request)? else { return Err(failure::unexpected()) };
            for entry in &page.changes {
                if context.output.json {
                    context.output.print_object(&ChangeView::from(entry))?;
                } else {
                    context.output.print(&printable(&line(entry)))?;
                }
            }
            after = page.next;
        }
    }
}

/// `12 2026-11-23T10:00:00.000Z commit prod/network@7 by alice@build-7 (1.2 KiB): message`
fn line(entry: &ChangeEntry) -> String {
    let ChangeEntry { seq, verb, state, version, actor, .. } = entry;
    let time = views::time(entry.time);
    let tag = entry.tag.as_ref().map_or_else(String::new, |tag| format!(" {tag}"));
    let size =
        entry.content.as_ref().map_or_else(String::new, |content| format!(" ({})", table::size(content.size_bytes)));
    let message =
        entry.message.as_ref().map_or_else(String::new, |message| format!(": {}", message.replace('\n', " ")));
    format!("{seq} {time} {verb} {state}@{version}{tag} by {actor}{size}{message}")
}
