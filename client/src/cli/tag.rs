//! `tag`: give a version a name that stays.

use clap::Args;
use stated_shared::{Failure, Reply, Request, Selector, StateName, Tag, TagName};

use super::views::VersionView;
use super::{Context, args, failure};

/// Give a version a tag: STATE@TAG selects it then
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl tag example/network release-7        the newest version
  statectl tag example/network@3 before-move    version 3
  statectl get example/network@before-move

A tag starts with a letter and holds letters, digits, '.', '_' and '-'. It stays at its version until it is
moved (--force) or taken away (--delete). Tagging needs no lock.")]
pub(super) struct TagVerb {
    /// The state, or one version of it
    #[arg(value_name = "STATE[@N]", value_parser = args::selector)]
    state: (StateName, Selector),
    /// The tag
    #[arg(value_parser = TagName::parse)]
    tag: TagName,
    /// Take it from the version that has it
    #[arg(short, long, conflicts_with = "delete")]
    force: bool,
    /// Take the tag away; the version stays
    #[arg(short, long)]
    delete: bool,
}

impl TagVerb {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let (state, at) = self.state;
        let at = if self.delete { None } else { Some(at) };
        let tag = Tag { state, tag: self.tag, at, moves: self.force };
        let info = match context.connect()?.call(&Request::Tag(tag))? {
            Reply::Version(info) => info,
            _ => return Err(failure::unexpected()),
        };
        if context.output.json {
            context.output.print_object(&VersionView::from(&info))?;
        } else {
            context.output.print(&format!("{}@{}", info.state, info.version))?;
        }
        Ok(0)
    }
}
