//! `diff`: what changed between two versions.

use clap::Args;
use stated_shared::{Failure, Reply, Request, Selector, StateName, Version};

use super::{Context, args, failure};
use crate::Client;
use crate::diff::{self, Change, Masking, Operation};

/// Show what changed between two versions
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl diff example/network             the newest version against the one before
  statectl diff example/network 3           version 3 against the newest
  statectl diff example/network 3 5 --exit-code
  statectl diff example/network release-7   the tagged version against the newest

Terraform states are compared by resource, other JSON by path, other text by line. Sensitive values
show as (sensitive), as do all values of JSON that is no Terraform state, unless --show-sensitive.")]
pub(super) struct Diff {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
    /// The older version, or its tag [default: the one before B]
    #[arg(value_name = "A", value_parser = args::version_or_tag)]
    old: Option<Selector>,
    /// The newer version, or its tag [default: the newest]
    #[arg(value_name = "B", value_parser = args::version_or_tag)]
    new: Option<Selector>,
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
        let (new, after) = content(&mut client, &self.state, self.new.unwrap_or(Selector::Newest))?;
        let before = match self.old {
            Some(at) => content(&mut client, &self.state, at)?.1,
            // Before the first version there is nothing.
            None if new.0 <= 1 => None,
            None => content(&mut client, &self.state, Selector::Version(Version(new.0 - 1)))?.1,
        };
        let masking = if self.show_sensitive { Masking::None } else { Masking::Sensitive };
        let changes = diff::compare(before.as_deref(), after.as_deref(), masking);
        print(&changes, context)?;
        Ok(u8::from(self.exit_code && !changes.is_empty()))
    }
}

/// A version and its bytes; none for a removal.
fn content(client: &mut Client, state: &StateName, at: Selector) -> Result<(Version, Option<Vec<u8>>), Failure> {
    let info = match client.call(&Request::Show { state: state.clone(), at })? {
        Reply::Version(info) => info,
        _ => return Err(failure::unexpected()),
    };
    let content = match info.content {
        Some(_) => Some(client.get(state, Selector::Version(info.version))?.1),
        None => None,
    };
    Ok((info.version, content))
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
