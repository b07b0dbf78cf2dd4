//! `show`: the facts of one version.

use clap::Args;
use stated_shared::{Failure, Reply, Request, Selector, StateName};

use super::views::{self, VersionView};
use super::{Context, args, failure, table};
use crate::printable::printable;

/// Show a version's facts without its content
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl show example/network
  statectl show example/network@3 --json | jq -r .sha256")]
pub(super) struct Show {
    /// The state, or one version of it
    #[arg(value_name = "STATE[@N|@TAG]", value_parser = args::selector)]
    state: (StateName, Selector),
}

impl Show {
    pub(super) fn state(&self) -> &StateName {
        &self.state.0
    }

    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let (state, at) = self.state;
        let info = match context.connect()?.call(&Request::Show { state, at })? {
            Reply::Version(info) => info,
            _ => return Err(failure::unexpected()),
        };
        if context.output.json {
            context.output.print_object(&VersionView::from(&info))?;
            return Ok(0);
        }
        context.output.page();
        let mut lines = vec![
            ("version", format!("{}@{}", info.state, info.version)),
            ("time", format!("{} ({})", views::time(info.time), table::ago(info.time))),
            ("by", info.actor.to_string()),
        ];
        if let Some(exe) = &info.actor.exe {
            lines.push(("program", format!("{exe} (as it says)")));
        }
        match &info.content {
            None => lines.push(("content", "removed".to_owned())),
            Some(content) => {
                lines.push(("size", format!("{} ({} bytes)", table::size(content.size_bytes), content.size_bytes)));
                lines.push(("sha256", content.sha256.to_string()));
                lines.extend(content.serial.map(|serial| ("serial", serial.to_string())));
                lines.extend(content.lineage.clone().map(|lineage| ("lineage", lineage)));
            }
        }
        if let Some(pruned) = info.pruned {
            lines.push(("pruned", format!("{} ({})", views::time(pruned), table::ago(pruned))));
        }
        if info.forced {
            lines.push(("forced", "took an older serial or another lineage".to_owned()));
        }
        lines.extend(info.tags.iter().map(|tag| ("tag", tag.to_string())));
        lines.extend(info.message.clone().map(|message| ("message", message)));
        lines.extend(info.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
        for (key, value) in lines {
            let key = context.output.paint("1", &format!("{key:<8}"));
            context.output.print(&format!("{key} {}", printable(&value)))?;
        }
        Ok(0)
    }
}
