//! `get`: read a version's content.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use stated_shared::{Failure, Selector, StateName};

use super::target::Target;
use super::views::VersionView;
use super::{Context, args, failure};
use crate::random::random;

/// Read a version's content
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl get example/network
  statectl get example/network@3 -o old.tfstate

With --json and -o the version's facts are printed.")]
pub(super) struct Get {
    /// The state, or one version of it
    #[arg(value_name = "STATE[@N|@TAG]", value_parser = args::selector)]
    state: (StateName, Selector),
    /// Write to this file, at once or not at all, readable by its owner only
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Get {
    pub(super) fn state(&self) -> &StateName {
        &self.state.0
    }

    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let (state, at) = self.state;
        let (version, content) = context.connect()?.get(&state, at)?;
        let path = self.output.unwrap_or_else(|| PathBuf::from("-"));
        let cannot = |error: io::Error| failure::file("write", &path, &error);
        match Target::of(&path).map_err(cannot)? {
            Target::Output => {
                context.output.print_bytes(&content)?;
                return Ok(0);
            }
            Target::Stream(mut stream) => stream.write_all(&content).map_err(cannot)?,
            Target::File(file) => replace(&file, &content).map_err(cannot)?,
        }
        if context.output.json {
            context.output.print_object(&VersionView::from(&version))?;
        }
        Ok(0)
    }
}

/// Writes beside the file and renames, so that nobody reads a half of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{:016x}", u64::from_ne_bytes(random()?)));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = fill(file, content).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn fill(mut file: File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        assert!(replace(&directory.path().join("no/such"), b"").is_err());
    }
}
