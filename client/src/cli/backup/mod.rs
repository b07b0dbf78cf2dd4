//! `backup`: everything that the daemon keeps, sealed as it is, in a directory or a file.

mod archive;
mod directory;
mod fetch;
mod mark;

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use stated_shared::{Failure, FailureKind};

use self::directory::Directory;
use super::target::Target;
use super::{Context, table};

/// Copy everything that the daemon keeps, sealed as it is, while it goes on
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl backup /backup/stated                    a directory; the next time only what is new
  statectl backup /backup/stated.tar                one file; a whole one each time
  statectl backup - | aws s3 cp - s3://bucket/stated.tar

What ends in .tar, or is a file, is a file in the form of tar; a device or pipe is written to. No key is needed, and nothing is decrypted: keep the
key elsewhere. The directory is one that stated verify --state-dir reads. Back again: statectl restore.")]
pub(super) struct Backup {
    /// A directory, a file, or - for standard output
    #[arg(value_name = "DIR|FILE")]
    to: PathBuf,
}

#[derive(Serialize)]
struct BackupView {
    repository: String,
    seq: u64,
    head: String,
    records: u64,
    blobs: u64,
    bytes: u64,
    missing: u64,
}

impl Backup {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let to = &self.to;
        let is_tar = to == Path::new("-") || to.extension().is_some_and(|extension| extension == "tar");
        let target = match !to.is_dir() && (is_tar || to.exists()) {
            true => Some(Target::of(to).map_err(|error| directory::failed("open", to, &error))?),
            false => None,
        };
        let is_output = matches!(target, Some(Target::Output));
        let (fetched, mark) = match target {
            Some(Target::Output) => {
                archive::to_stream(&mut context.connect()?, &mut io::stdout().lock(), Path::new("standard output"))?
            }
            Some(Target::Stream(mut stream)) => archive::to_stream(&mut context.connect()?, &mut stream, to)?,
            Some(Target::File(file)) => archive::to_file(&mut context.connect()?, &file)?,
            None => {
                let directory = Directory::open(to)?;
                directory.update(&mut context.connect()?)?
            }
        };
        let view = BackupView {
            repository: mark.repository.to_string(),
            seq: mark.seq.0,
            head: mark.head.to_string(),
            records: fetched.records,
            blobs: fetched.blobs,
            bytes: fetched.bytes,
            missing: fetched.missing,
        };
        let told = format!(
            "up to record {} (head {}): {} records and {} blobs were fetched, {}",
            view.seq,
            view.head,
            view.records,
            view.blobs,
            table::size(view.bytes)
        );
        match (is_output, context.output.json) {
            // Standard output is the backup's.
            (true, _) => context.output.say(&told),
            (false, true) => context.output.print_object(&view)?,
            (false, false) => context.output.print(&told)?,
        }
        if fetched.missing == 0 {
            return Ok(0);
        }
        let message = format!("{} blobs are missing in the state directory, and so in the backup", fetched.missing);
        Err(Failure::new(FailureKind::Storage, message)
            .hint("all else is in it; see which versions that concerns with: statectl verify --read-data"))
    }
}
