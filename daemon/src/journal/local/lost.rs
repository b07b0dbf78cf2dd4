//! What is cut off a damaged log: moved to `lost/`, never deleted.
//!
//! Each step is durable before the next, and the log is cut last but for the snapshots that prove the loss. So whoever
//! is interrupted finds the same damage again, or a log that ends before it and the directory in `lost/` that says why.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use stated_shared::Seq;

use super::blobs::{BLOB_DIR, walk};
use super::segment::{LOG_DIR, file_name, parse_file_name};
use super::snapshots::{LocalSnapshots, SNAP_DIR, relative};
use crate::disk::{Access, Disk};

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
    pub fn cut(&self, disk: &Arc<dyn Disk>, state_dir: &Path) -> io::Result<String> {
        // A new one each time: what an earlier attempt moved stays where it is.
        let aside = self.make_aside(&**disk, state_dir)?;
        let to = state_dir.join(&aside);
        let log_dir = state_dir.join(LOG_DIR);
        let mut firsts = Vec::new();
        for entry in disk.list(&log_dir)? {
            firsts.extend(parse_file_name(&entry.name.to_string_lossy()));
        }
        firsts.sort_unstable();
        // From the end: what is left is always the beginning of a log.
        for first in firsts.iter().rev().filter(|first| **first >= self.seq) {
            move_durably(&**disk, &log_dir.join(file_name(*first)), &to, &file_name(*first))?;
        }
        let last = firsts.iter().rfind(|first| **first < self.seq);
        if let (Some(last), Some((file, offset_bytes))) = (last, &self.at)
            && format!("{LOG_DIR}/{}", file_name(*last)) == *file
        {
            cut_file(&**disk, &log_dir.join(file_name(*last)), *offset_bytes, &to)?;
        }
        for seq in LocalSnapshots::new(Arc::clone(disk), state_dir).list()?.0 {
            if seq >= self.seq || self.snapshots.contains(&seq) {
                move_durably(&**disk, &state_dir.join(relative(seq)), &to, &format!("{SNAP_DIR}-{:016x}.age", seq.0))?;
            }
        }
        Ok(aside)
    }

    /// The directory of a loss that was accepted at this record, and that no record tells of yet if it is the next.
    pub fn pending(disk: &dyn Disk, state_dir: &Path, seq: Seq) -> io::Result<Option<String>> {
        let entries = match disk.list(&state_dir.join(LOST_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        let prefix = format!("{:016x}-", seq.0);
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.name.to_string_lossy().into_owned();
            found.extend(name.strip_prefix(&prefix).and_then(|n| n.parse::<u32>().ok()));
        }
        Ok(found.into_iter().max().map(|n| format!("{LOST_DIR}/{prefix}{n}")))
    }

    /// Moves the blobs that no version needs to where the lost part is: it may have needed them.
    pub fn set_aside_blobs(disk: &dyn Disk, state_dir: &Path, aside: &str, needed: &BTreeSet<&str>) -> io::Result<()> {
        let mut orphans = Vec::new();
        walk(disk, state_dir, &mut |place, id| {
            if id.is_some_and(|id| !needed.contains(id.to_string().as_str())) {
                orphans.extend(id.map(|id| (place, id)));
            }
        })?;
        for (place, id) in orphans {
            move_durably(disk, &state_dir.join(place), &state_dir.join(aside), &format!("{BLOB_DIR}-{id}.age"))?;
        }
        Ok(())
    }

    /// Makes the directory that says that the loss is accepted, relative to the state directory.
    pub fn make_aside(&self, disk: &dyn Disk, state_dir: &Path) -> io::Result<String> {
        let lost = state_dir.join(LOST_DIR);
        match disk.create_dir(&lost) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => disk.sync_dir(state_dir)?,
        }
        // One record may be lost more than once: a number tells the losses apart.
        for n in 1_u32.. {
            let aside = format!("{LOST_DIR}/{:016x}-{n}", self.seq.0);
            match disk.create_dir(&state_dir.join(&aside)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made?;
                    disk.sync_dir(&lost)?;
                    return Ok(aside);
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Copies what follows `at` to where the lost part is, and then cuts it off.
fn cut_file(disk: &dyn Disk, path: &Path, at: u64, to: &Path) -> io::Result<()> {
    let file = disk.open(path, Access::Write)?;
    let len = file.stat()?.len;
    if at == 0 || len <= at {
        return Ok(());
    }
    let mut rest = vec![0; (len - at) as usize];
    file.read_exact_at(&mut rest, at)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let copied = disk.open(&to.join(format!("{name}.log.from-{at}")), Access::Replace)?;
    copied.write_at(&rest, 0)?;
    copied.sync_all()?;
    disk.sync_dir(to)?;
    // A file that ends where a record ends was trimmed: nothing in it is torn.
    file.set_len(at)?;
    file.sync_all()
}

/// Moves a file to this directory, under this name.
fn move_durably(disk: &dyn Disk, from: &Path, to: &Path, name: &str) -> io::Result<()> {
    disk.rename(from, &to.join(name))?;
    disk.sync_dir(to)?;
    from.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}
