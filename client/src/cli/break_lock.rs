//! `break`: end somebody's lock.

use clap::Args;
use stated_shared::{Failure, LockId, Reply, Request, StateName};

use super::{Context, failure, locks};

/// End somebody's lock; prints what was broken
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl break example/network 6f1c54a0-6d8c-4d35-9d1f-b5a1a8b1f7aa

Give the ID that statectl locks shows, and a lock taken in the meantime stays. The command that it was
taken for gets SIGTERM, unless it was started with --on-lost warn.")]
pub(super) struct Break {
    /// A name that it holds
    #[arg(value_parser = StateName::parse)]
    name: StateName,
    /// Break only this lock
    #[arg(value_parser = LockId::parse)]
    id: Option<LockId>,
}

impl Break {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let broken = match context.connect()?.call(&Request::Break { name: self.name, id: self.id })? {
            Reply::Broken(broken) => broken,
            _ => return Err(failure::unexpected()),
        };
        locks::print(&broken, context)?;
        Ok(0)
    }
}
