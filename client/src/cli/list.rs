//! `ls`: the states that exist.

use clap::Args;
use stated_shared::{Failure, Reply, Request, VersionInfo};

use super::views::VersionView;
use super::{Context, failure, table};

/// List states with their newest versions
#[derive(Debug, Args)]
#[command(after_help = "In a glob * stays between slashes and ** crosses them: statectl ls 'example/**'")]
pub(super) struct List {
    /// Only names that match
    glob: Option<String>,
}

impl List {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.connect()?;
        let mut after = None;
        let mut rows = Vec::new();
        loop {
            let page = match client.call(&Request::List { glob: self.glob.clone(), after })? {
                Reply::Versions(page) => page,
                _ => return Err(failure::unexpected()),
            };
            for info in &page.versions {
                if context.output.json {
                    context.output.print_object(&VersionView::from(info))?;
                } else {
                    rows.push(row(info));
                }
            }
            after = page.versions.last().map(|info| info.state.clone());
            if !page.more || after.is_none() {
                break;
            }
        }
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
