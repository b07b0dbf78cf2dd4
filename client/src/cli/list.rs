//! `ls`: the states that exist.

use clap::Args;
use stated_shared::{Failure, Request, VersionInfo};

use super::{Context, table, versions};

/// List states with their newest versions
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl ls
  statectl ls 'example/**' --json | jq -r .state

In a glob * stays between slashes and ** crosses them.")]
pub(super) struct List {
    /// Only names that match
    glob: Option<String>,
}

impl List {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let ask = |last: Option<&VersionInfo>| Request::List {
            glob: self.glob.clone(),
            after: last.map(|info| info.state.clone()),
        };
        let rows = versions::print_json_or_rows(context, ask, row)?;
        table::print(&context.output, &["STATE", "VERSION", "SIZE", "CHANGED", "BY"], &[1, 2], rows)?;
        Ok(0)
    }
}

fn row(info: &VersionInfo) -> Vec<String> {
    vec![
        info.state.to_string(),
        info.version.to_string(),
        table::version_size(info),
        table::ago(info.time),
        info.actor.to_string(),
    ]
}
