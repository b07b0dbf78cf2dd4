//! `rm`: remove a state, keeping its history.

use clap::Args;
use stated_shared::{Change, Commit, Content, Expect, Failure, LockId, SerialRule, StateName, Version};

use super::{Context, args, put};

/// Remove a state; its history stays and a rollback brings it back
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl rm example/network -m 'moved to example/net'
  statectl rollback example/network 3          brings it back

The removal is a version; everything before it stays.")]
pub(super) struct Remove {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
    /// Only if this is the newest version
    #[arg(long, value_name = "N", value_parser = args::version)]
    if_version: Option<Version>,
    /// The lock that this relies on [default: $STATED_LOCK_ID]
    #[arg(long, value_name = "ID", value_parser = LockId::parse)]
    lock: Option<LockId>,
    /// Why
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

impl Remove {
    pub(super) fn state(&self) -> &StateName {
        &self.state
    }

    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let expect = self.if_version.map_or(Expect::Any, Expect::Version);
        let commit = Commit {
            changes: vec![Change { state: self.state, expect, content: Content::Removed }],
            locks: args::relied_on(self.lock)?,
            message: self.message,
            labels: Default::default(),
            serials: SerialRule::Refuse,
        };
        put::write(&mut context.connect()?, commit, context)
    }
}
