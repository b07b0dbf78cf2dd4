//! `put`: write a version.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use stated_shared::limits::CONTENT_LEN_MAX;
use stated_shared::{
    Bytes, Change, Commit, CommittedState, Content, Expect, Failure, FailureKind, LockId, SerialRule, StateName,
    Version,
};

use super::views::CommittedView;
use super::{Context, args, failure};
use crate::Client;

/// Write a version; prints STATE@N
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl put example/network terraform.tfstate -m 'import'
  generate | statectl put example/list --if-version 3
  statectl lock example/list -- sh -c 'edit list && statectl put example/list list'

Identical content makes no new version. Terraform content with a foreign lineage or an older
serial is refused (65) unless --force.")]
pub(super) struct Put {
    /// The state's name
    #[arg(value_parser = StateName::parse)]
    state: StateName,
    /// The content's file; - or none for standard input
    file: Option<PathBuf>,
    /// Only if this is the newest version
    #[arg(long, value_name = "N", value_parser = args::version)]
    if_version: Option<Version>,
    /// Only if the state does not exist
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Accept a foreign lineage or an older serial
    #[arg(long)]
    force: bool,
    /// The lock that this relies on [default: $STATED_LOCK_ID]
    #[arg(long, value_name = "ID", value_parser = LockId::parse)]
    lock: Option<LockId>,
    /// Why
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

impl Put {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let content = read(self.file)?;
        let expect = match self.if_version {
            Some(version) => Expect::Version(version),
            None if self.if_absent => Expect::Absent,
            None => Expect::Any,
        };
        let commit = Commit {
            changes: vec![Change { state: self.state, expect, content: Content::Inline(Bytes(content)) }],
            locks: args::relied_on(self.lock)?,
            message: self.message,
            labels: Default::default(),
            serials: if self.force { SerialRule::Mark } else { SerialRule::Refuse },
        };
        write(&mut context.connect()?, commit, context)
    }
}

/// The content of a file, or of standard input.
pub(super) fn read(file: Option<PathBuf>) -> Result<Vec<u8>, Failure> {
    let (source, name): (Box<dyn Read>, String) = match file {
        Some(path) if path.as_os_str() != "-" => {
            let name = path.display().to_string();
            (Box::new(File::open(&path).map_err(|error| failure::file("open", &path, &error))?), name)
        }
        _ => (Box::new(std::io::stdin().lock()), "standard input".to_owned()),
    };
    let mut content = Vec::new();
    source
        .take(CONTENT_LEN_MAX + 1)
        .read_to_end(&mut content)
        .map_err(|error| failure::local(format!("read {name}"), &error))?;
    if content.len() as u64 > CONTENT_LEN_MAX {
        let message = format!("{name} is longer than a content may be ({CONTENT_LEN_MAX} bytes)");
        return Err(Failure::new(FailureKind::Usage, message));
    }
    Ok(content)
}

/// Commits one change and prints the version that it left.
pub(super) fn write(client: &mut Client, commit: Commit, context: &Context) -> Result<u8, Failure> {
    let committed = client.commit(commit)?;
    committed.states.iter().try_for_each(|state| print(state, context))?;
    Ok(0)
}

/// Prints `STATE@N`, or the object that stands for it.
pub(super) fn print(state: &CommittedState, context: &Context) -> Result<(), Failure> {
    if context.output.json {
        return context.output.print_object(&CommittedView::from(state));
    }
    context.output.print(&format!("{}@{}", state.state, state.version))
}
