//! `log`: the versions of a state.

use clap::Args;
use comfy_table::Color;
use stated_shared::{Failure, Request, StateName, VersionInfo};

use super::{Context, table, versions};

/// Marks a version that took an older serial or another lineage.
const FORCED: &str = "[forced] ";

/// Marks a version whose content was given up.
const PRUNED: &str = "[pruned] ";

/// List a state's versions, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl log example/network
  statectl log example/network --json | jq -r .message

A removal is a version too. [forced] marks what took an older serial or another lineage,
[pruned] what has no content any more.")]
pub(super) struct Log {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
}

impl Log {
    pub(super) fn state(&self) -> &StateName {
        &self.state
    }

    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let ask = |last: Option<&VersionInfo>| Request::Log {
            state: self.state.clone(),
            before: last.map(|info| info.version),
        };
        let rows = versions::print_json_or_rows(context, ask, row)?;
        let headings = ["VERSION", "SIZE", "SERIAL", "CHANGED", "BY", "MESSAGE"];
        table::print_marked(&context.output, &headings, &[0, 1, 2], rows, |column, text| match column {
            1 if text == table::REMOVED => Some(Color::Red),
            5 if text.starts_with(PRUNED) => Some(Color::DarkGrey),
            5 if text.starts_with(FORCED) => Some(Color::Yellow),
            _ => None,
        })?;
        Ok(0)
    }
}

fn row(info: &VersionInfo) -> Vec<String> {
    let serial = info.content.as_ref().and_then(|content| content.serial);
    let forced = if info.forced { FORCED } else { "" };
    let pruned = if info.pruned.is_some() { PRUNED } else { "" };
    let tags: String = info.tags.iter().map(|tag| format!("[{tag}] ")).collect();
    vec![
        info.version.to_string(),
        table::version_size(info),
        serial.map_or_else(String::new, |serial| serial.to_string()),
        table::ago(info.time),
        info.actor.to_string(),
        format!("{pruned}{tags}{forced}{}", info.message.as_deref().unwrap_or_default()),
    ]
}
