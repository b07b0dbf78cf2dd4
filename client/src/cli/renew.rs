//! `renew`: extend a lease.

use std::time::Duration;

use clap::Args;
use stated_shared::{Failure, LockId, Reply, Request};

use super::views::{self, GrantView};
use super::{Context, args, failure};

/// Extend a lease; prints when it ends
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl renew \"$id\" --ttl 2h")]
pub(super) struct Renew {
    /// The lease's ID
    #[arg(value_parser = LockId::parse)]
    id: LockId,
    /// How long from now [default: as long as it was taken for]
    #[arg(long, value_name = "DUR", value_parser = args::duration)]
    ttl: Option<Duration>,
}

impl Renew {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let request = Request::Renew { id: self.id, ttl_ms: self.ttl.map(args::milliseconds) };
        let grant = match context.connect()?.call(&request)? {
            Reply::Granted(grant) => grant,
            _ => return Err(failure::unexpected()),
        };
        if context.output.json {
            context.output.print_object(&GrantView::from(&grant))?;
        } else if let Some(expires) = grant.expires {
            context.output.print(&views::time(expires))?;
        }
        Ok(0)
    }
}
