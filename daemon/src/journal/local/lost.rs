//! What is cut off a damaged log: moved to `lost/`, never deleted.
//!
//! Each step is durable before the next, and the log is cut last but for the snapshots that prove the loss. So whoever
//! is interrupted finds the same damage again, or a log that ends before it and the directory in `lost/` that says why.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use stated_shared::Seq;

use super::blobs::{BLOB_DIR, walk};
use super::segment::{LOG_DIR, file_name, parse_file_name};
use super::snapshots::{LocalSnapshots, SNAP_DIR, relative};

/// The directory of what was cut off, within the state directory.
const LOST_DIR: &str = "lost";

/// A loss that somebody accepts: the log without the records from `seq` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The first record that is lost.
    pub seq: Seq,
    /// Where it lies or should, where that is known: its file, relative to the state directory, and the offset there.
    pub at: Option<(String, u64)>,
    /// Snapshots that do not fit the log, whatever their record.
    pub snapshots: Vec<Seq>,
}

impl Loss {
    /// Moves the lost part away and leaves a log that ends before it. May be repeated after a crash.
    ///
    /// Returns the directory that holds what was cut off, relative to the state directory.
    pub fn cut(&self, state_dir: &Path) -> io::Result<String> {
        // A new one each time: what an earlier attempt moved stays where it is.
        let aside = self.make_aside(state_dir)?;
        let to = state_dir.join(&aside);
        let log_dir = state_dir.join(LOG_DIR);
        let mut firsts = Vec::new();
        for entry in fs::read_dir(&log_dir)? {
            firsts.extend(parse_file_name(&entry?.file_name().to_string_lossy()));
        }
        firsts.sort_unstable();
        // From the end: what is left is always the beginning of a log.
        for first in firsts.iter().rev().filter(|first| **first >= self.seq) {
            move_durably(&log_dir.join(file_name(*first)), &to, &file_name(*first))?;
        }
        let last = firsts.iter().rfind(|first| **first < self.seq);
        if let (Some(last), Some((file, offset_bytes))) = (last, &self.at)
            && format!("{LOG_DIR}/{}", file_name(*last)) == *file
        {
            cut_file(&log_dir.join(file_name(*last)), *offset_bytes, &to)?;
        }
        for seq in LocalSnapshots::new(state_dir).list()?.0 {
            if seq >= self.seq || self.snapshots.contains(&seq) {
                move_durably(&state_dir.join(relative(seq)), &to, &format!("{SNAP_DIR}-{:016x}.age", seq.0))?;
            }
        }
        Ok(aside)
    }

    /// The directory of a loss that was accepted at this record, and that no record tells of yet if it is the next.
    pub fn pending(state_dir: &Path, seq: Seq) -> io::Result<Option<String>> {
        let entries = match fs::read_dir(state_dir.join(LOST_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        let prefix = format!("{:016x}-", seq.0);
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            found.extend(name.strip_prefix(&prefix).and_then(|n| n.parse::<u32>().ok()));
        }
        Ok(found.into_iter().max().map(|n| format!("{LOST_DIR}/{prefix}{n}")))
    }

    /// Moves the blobs that no version needs to where the lost part is: it may have needed them.
    pub fn set_aside_blobs(state_dir: &Path, aside: &str, needed: &BTreeSet<&str>) -> io::Result<()> {
        let mut orphans = Vec::new();
        walk(state_dir, &mut |place, id| {
            if id.is_some_and(|id| !needed.contains(id.to_string().as_str())) {
                orphans.extend(id.map(|id| (place, id)));
            }
        })?;
        for (place, id) in orphans {
            move_durably(&state_dir.join(place), &state_dir.join(aside), &format!("{BLOB_DIR}-{id}.age"))?;
        }
        Ok(())
    }

    /// Makes the directory that says that the loss is accepted, relative to the state directory.
    pub fn make_aside(&self, state_dir: &Path) -> io::Result<String> {
        let lost = state_dir.join(LOST_DIR);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&lost)?;
        sync(state_dir)?;
        // One record may be lost more than once: a number tells the losses apart.
        for n in 1_u32.. {
            let aside = format!("{LOST_DIR}/{:016x}-{n}", self.seq.0);
            match fs::DirBuilder::new().mode(0o700).create(state_dir.join(&aside)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made?;
                    sync(&lost)?;
                    return Ok(aside);
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Copies what follows `at` to where the lost part is, and then cuts it off.
fn cut_file(path: &Path, at: u64, to: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    if at == 0 || file.metadata()?.len() <= at {
        return Ok(());
    }
    file.seek(SeekFrom::Start(at))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let copy = to.join(format!("{name}.log.from-{at}"));
    let mut copied = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&copy)?;
    io::copy(&mut Read::by_ref(&mut file), &mut copied)?;
    copied.sync_all()?;
    sync(to)?;
    // A file that ends where a record ends was trimmed: nothing in it is torn.
    file.set_len(at)?;
    file.sync_all()
}

/// Moves a file to this directory, under this name.
fn move_durably(from: &Path, to: &Path, name: &str) -> io::Result<()> {
    fs::rename(from, to.join(name))?;
    sync(to)?;
    from.parent().map_or(Ok(()), sync)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
