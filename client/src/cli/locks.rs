//! `locks`: who holds what.

use clap::Args;
use stated_shared::{Failure, LockInfo, Reply, Request};

use super::views::{self, LockView};
use super::{Context, failure, table};
use crate::Client;

/// List locks: who holds what, since when, for what
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl locks
  statectl locks 'example/**' --json | jq -r .holder.user")]
pub(super) struct Locks {
    /// Only names that match; * stays between slashes, ** crosses them
    glob: Option<String>,
}

impl Locks {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        print(&list(&mut context.connect()?, self.glob)?, context)?;
        Ok(0)
    }
}

/// All locks on names that match, or on any.
pub(super) fn list(client: &mut Client, glob: Option<String>) -> Result<Vec<LockInfo>, Failure> {
    let mut after = None;
    let mut locks = Vec::new();
    loop {
        let page = match client.call(&Request::Locks { glob: glob.clone(), after })? {
            Reply::Locks(page) => page,
            _ => return Err(failure::unexpected()),
        };
        after = page.locks.last().map(|lock| (lock.name.clone(), lock.id.clone()));
        locks.extend(page.locks);
        if !page.more || after.is_none() {
            return Ok(locks);
        }
    }
}

/// Prints locks as a table or as one object a line.
pub(super) fn print(locks: &[LockInfo], context: &Context) -> Result<(), Failure> {
    if context.output.json {
        return locks.iter().try_for_each(|lock| context.output.print_object(&LockView::from(lock)));
    }
    let headings = ["NAME", "KIND", "HOLDER", "SINCE", "FOR", "ENDS", "WAITING", "ID"];
    table::print(&context.output, &headings, &[6], locks.iter().map(row).collect())
}

fn row(lock: &LockInfo) -> Vec<String> {
    let reason = lock.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    vec![
        lock.name.to_string(),
        views::kind(lock.kind),
        lock.who().to_string(),
        table::ago(lock.since),
        format!("{}{reason}", lock.operation),
        lock.expires.map_or_else(String::new, table::ago),
        lock.waiters.to_string(),
        lock.id.to_string(),
    ]
}
