//! `diff`: what changed between two versions.

use clap::Args;
use stated_shared::{Failure, FailureKind, Reply, Request, Selector, StateName, Version};

use super::{Context, args, failure};
use crate::Client;
use crate::diff::{self, Change, Masking, Operation};

/// Show what changed between two versions
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl diff example/network             the newest version against the one before
  statectl diff example/network 3           version 3 against the newest
  statectl diff example/network 3 5 --exit-code

Terraform states are compared by resource, other JSON by path, other text by line. Sensitive values
show as (sensitive), as do all values of JSON that is no Terraform state, unless --show-sensitive.")]
pub(super) struct Diff {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
    /// The older version [default: the one before B]
    #[arg(value_name = "A", value_parser = args::version)]
    old: Option<Version>,
    /// The newer version [default: the newest]
    #[arg(value_name = "B", value_parser = args::version)]
    new: Option<Version>,
    /// Exit with 1 where they differ
    #[arg(long)]
    exit_code: bool,
    /// Show sensitive values too
    #[arg(long)]
    show_sensitive: bool,
}

impl Diff {
    pub(super) fn state(&self) -> &StateName {
        &self.state
    }

    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.connect()?;
        let new = match self.new {
            Some(version) => version,
            None => newest(&mut client, &self.state)?,
        };
        let old = self.old.unwrap_or(Version(new.0 - 1));
        let before = content(&mut client, &self.state, old)?;
        let after = content(&mut client, &self.state, new)?;
        let masking = if self.show_sensitive { Masking::None } else { Masking::Sensitive };
        let changes = diff::compare(before.as_deref(), after.as_deref(), masking);
        print(&changes, context)?;
        Ok(u8::from(self.exit_code && !changes.is_empty()))
    }
}

fn newest(client: &mut Client, state: &StateName) -> Result<Version, Failure> {
    match client.call(&Request::Log { state: state.clone(), before: None })? {
        Reply::Versions(page) => page
            .versions
            .first()
            .map(|info| info.version)
            .ok_or_else(|| Failure::new(FailureKind::NotFound, format!("no state is called {state}"))),
        _ => Err(failure::unexpected()),
    }
}

/// The bytes of a version; none for a removal, and before the first one.
fn content(client: &mut Client, state: &StateName, version: Version) -> Result<Option<Vec<u8>>, Failure> {
    if version.0 == 0 {
        return Ok(None);
    }
    let at = Selector::Version(version);
    let removed = match client.call(&Request::Show { state: state.clone(), at })? {
        Reply::Version(info) => info.content.is_none(),
        _ => return Err(failure::unexpected()),
    };
    if removed { Ok(None) } else { Ok(Some(client.get(state, at)?.1)) }
}

fn print(changes: &[Change], context: &Context) -> Result<(), Failure> {
    context.output.page();
    for change in changes {
        if context.output.json {
            context.output.print_object(change)?;
            continue;
        }
        let color = match change.op {
            Operation::Added => "32",
            Operation::Removed => "31",
            Operation::Changed => "33",
        };
        for line in change.lines() {
            let color = match line.as_bytes().first() {
                Some(b'+') => "32",
                Some(b'-') => "31",
                Some(b'@') => "36",
                Some(b' ') if change.is_text() => "0",
                _ => color,
            };
            context.output.print(&context.output.paint(color, &line))?;
        }
    }
    Ok(())
}
