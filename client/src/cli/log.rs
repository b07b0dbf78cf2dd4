//! `log`: the versions of a state.

use clap::Args;
use stated_shared::{Failure, Reply, Request, StateName, VersionInfo};

use super::views::VersionView;
use super::{Context, failure, table};

/// List a state's versions, newest first
#[derive(Debug, Args)]
pub(super) struct Log {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
}

impl Log {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.connect()?;
        let mut before = None;
        let mut rows = Vec::new();
        loop {
            let page = match client.call(&Request::Log { state: self.state.clone(), before })? {
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
            before = page.versions.last().map(|info| info.version);
            if !page.more || before.is_none() {
                break;
            }
        }
        let headings = ["VERSION", "SIZE", "SERIAL", "CHANGED", "BY", "MESSAGE"];
        table::print(&context.output, &headings, &[0, 1, 2], rows)?;
        Ok(0)
    }
}

fn row(info: &VersionInfo) -> Vec<String> {
    let serial = info.content.as_ref().and_then(|content| content.serial);
    let forced = if info.forced { "[forced] " } else { "" };
    vec![
        info.version.to_string(),
        table::version_size(info),
        serial.map_or_else(String::new, |serial| serial.to_string()),
        table::ago(info.time),
        info.actor.to_string(),
        format!("{forced}{}", info.message.as_deref().unwrap_or_default()),
    ]
}
