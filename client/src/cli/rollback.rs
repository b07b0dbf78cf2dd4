//! `rollback`: make an older version the newest again.

use std::collections::BTreeMap;

use clap::Args;
use stated_shared::{
    Bytes, Change, Commit, Content, Expect, Failure, FailureKind, LockId, Reply, Request, Selector, SerialRule,
    StateName, Version, VersionInfo,
};

use super::serial::with_serial;
use super::{Context, args, failure, put};
use crate::Client;

/// Make an older version the newest again; prints STATE@N
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl rollback example/network 3 -m 'the change of today was wrong'

A Terraform state gets the serial after the current one, so that a plan made before counts as
stale; the other bytes stay. It fails (65) if somebody writes in between.")]
pub(super) struct Rollback {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
    /// The version to go back to, or its tag
    #[arg(value_name = "N|TAG", value_parser = args::version_or_tag)]
    at: Selector,
    /// Keep every byte, also a Terraform state's serial
    #[arg(long)]
    exact: bool,
    /// The lock that this relies on [default: $STATED_LOCK_ID]
    #[arg(long, value_name = "ID", value_parser = LockId::parse)]
    lock: Option<LockId>,
    /// Why [default: rollback to N]
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

impl Rollback {
    pub(super) fn state(&self) -> &StateName {
        &self.state
    }

    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.connect()?;
        let present = Present::read(&mut client, &self.state)?;
        let (target, mut content) = client.get(&self.state, self.at)?;
        if target.content.is_none() {
            let message = format!("{}@{} is a removal", self.state, target.version);
            return Err(Failure::new(FailureKind::NotFound, message)
                .hint(format!("statectl rm {} removes it again", self.state)));
        }
        let is_terraform = target.content.as_ref().is_some_and(|content| content.serial.is_some());
        if let Some(serial) = present.serial
            && is_terraform
            && !self.exact
            && present.version != target.version
        {
            content = with_serial(&content, serial + 1)
                .map_err(|why| Failure::new(FailureKind::Conflict, format!("cannot renew the serial: {why}")))?;
        }
        let commit = Commit {
            changes: vec![Change {
                state: self.state,
                expect: if present.removed { Expect::Absent } else { Expect::Version(present.version) },
                content: Content::Inline(Bytes(content)),
            }],
            locks: args::relied_on(self.lock)?,
            message: Some(self.message.unwrap_or_else(|| format!("rollback to {}", target.version))),
            labels: BTreeMap::from([("rollback".to_owned(), target.version.to_string())]),
            // Who goes back means it, also over a lineage that came in by force.
            serials: SerialRule::Mark,
        };
        put::write(&mut client, commit, context)
    }
}

/// What the state is now.
struct Present {
    version: Version,
    removed: bool,
    /// The newest serial, also of the version before a removal.
    serial: Option<u64>,
}

impl Present {
    fn read(client: &mut Client, state: &StateName) -> Result<Self, Failure> {
        let mut newest: Option<VersionInfo> = None;
        let mut before = None;
        loop {
            let page = match client.call(&Request::Log { state: state.clone(), before })? {
                Reply::Versions(page) => page,
                _ => return Err(failure::unexpected()),
            };
            let serial = page.versions.iter().find_map(|info| info.content.as_ref()?.serial);
            before = page.versions.last().map(|info| info.version);
            newest = newest.or_else(|| page.versions.into_iter().next());
            let Some(newest) = &newest else {
                return Err(Failure::new(FailureKind::NotFound, format!("no state is called {state}")));
            };
            if serial.is_some() || !page.more {
                return Ok(Self { version: newest.version, removed: newest.content.is_none(), serial });
            }
        }
    }
}
