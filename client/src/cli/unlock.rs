//! `unlock`: end a lock of one's own.

use clap::Args;
use stated_shared::{Failure, LockId};

use super::Context;

/// End a lock of one's own, by its ID
#[derive(Debug, Args)]
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
