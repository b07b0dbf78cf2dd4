//! `unlock`: end a lock of one's own.

use clap::Args;
use stated_shared::{Failure, LockId};

use super::Context;

/// End a lock of one's own, by its ID
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  id=$(statectl lock --ttl 1h example/network)
  statectl unlock \"$id\"

It is for locks of one's own user; statectl break ends those of others. A repeated unlock succeeds. Where
the lock belongs to a running command, that command gets SIGTERM, as after a break.")]
pub(super) struct Unlock {
    /// The lock's ID, as lock --ttl or locks print it
    #[arg(value_parser = LockId::parse)]
    id: LockId,
}

impl Unlock {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        context.connect()?.unlock(&self.id)?;
        Ok(0)
    }
}
