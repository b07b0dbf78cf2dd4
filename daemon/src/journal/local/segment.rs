//! One log file: its name, its zero fill, and what may be written where.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stated_shared::Seq;

use super::super::AppendError;
use super::super::limits::FILL_LEN;
use crate::disk::{Access, Disk, DiskFile};

/// The directory of the log, within the state directory.
pub(super) const LOG_DIR: &str = "log";

/// The next log file while it is being filled.
pub(super) const NEXT_FILE: &str = "next.tmp";

/// A closed log file while it is being written anew.
pub(super) const RENEWED_FILE: &str = "renewed.tmp";

static ZEROS: [u8; FILL_LEN as usize] = [0; FILL_LEN as usize];

/// The file whose first record is `first`.
pub(super) fn file_name(first: Seq) -> String {
    format!("{:016x}.log", first.0)
}

/// The first record of a file of this name.
pub(super) fn parse_file_name(name: &str) -> Option<Seq> {
    let first = Seq(u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()?);
    (file_name(first) == name && first.0 > 0).then_some(first)
}

/// The log file that records are appended to.
pub(super) struct Segment {
    pub file: Arc<dyn DiskFile>,
    pub path: PathBuf,
    /// Where the last record ends.
    pub end: u64,
    /// Up to here the file holds durable zeros after `end`: a multiple of [`FILL_LEN`], or `end` where there are none.
    pub filled: u64,
}

impl Segment {
    /// Makes the file for records from `first` on, filled once and durable, its directory entry too.
    ///
    /// It gets its name when it is filled, so that no log file is ever short. After [`AppendError::Full`] there is none.
    pub fn create(disk: &dyn Disk, log_dir: &Path, first: Seq) -> Result<Self, AppendError> {
        let next = log_dir.join(NEXT_FILE);
        let file = disk.open(&next, Access::Replace).map_err(|source| refused(&next, source))?;
        let mut segment = Self { file, path: next, end: 0, filled: 0 };
        segment.fill(0).inspect_err(|_| {
            // Its room is wanted back; where that fails the next opening does it.
            let _ = disk.remove(&segment.path);
        })?;
        let path = log_dir.join(file_name(first));
        disk.rename(&segment.path, &path).map_err(|source| failed(&path, source))?;
        sync_dir(disk, log_dir)?;
        segment.path = path;
        Ok(segment)
    }

    /// Sees to durable zeros from `end` to more than `to`.
    ///
    /// `Full` leaves file and fill as they were. One sync, however many steps the zeros take.
    pub fn fill(&mut self, to: u64) -> Result<(), AppendError> {
        // Never up to `to` exactly: a file that ends where a record ends was trimmed by a clean stop.
        let target = (to + 1).next_multiple_of(FILL_LEN);
        if target <= self.filled {
            return Ok(());
        }
        if let Err(source) = write_zeros(&*self.file, self.filled, target) {
            let full = refused(&self.path, source);
            if matches!(full, AppendError::Full { .. }) {
                // The partial growth is taken back, and durably: the file's length says how it was left.
                self.file
                    .set_len(self.filled)
                    .and_then(|()| self.file.sync_data())
                    .map_err(|source| failed(&self.path, source))?;
            }
            return Err(full);
        }
        self.file.sync_data().map_err(|source| failed(&self.path, source))?;
        self.filled = target;
        Ok(())
    }

    /// Gives back the zero fill, durably.
    pub fn trim(&mut self) -> Result<(), AppendError> {
        let trimmed = self.file.set_len(self.end).and_then(|()| self.file.sync_all());
        trimmed.map_err(|source| failed(&self.path, source))?;
        self.filled = self.end;
        Ok(())
    }
}

/// Writes zeros over `from..to`, at most [`FILL_LEN`] at a time.
pub(super) fn write_zeros(file: &dyn DiskFile, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let len = (to - from).min(FILL_LEN);
        file.write_at(&ZEROS[..len as usize], from)?;
        from += len;
    }
    Ok(())
}

/// Makes the directory's entries durable.
pub(super) fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), AppendError> {
    disk.sync_dir(dir).map_err(|source| failed(dir, source))
}

/// A failure before anything that counts was written: a full disk refuses, everything else halts.
pub(super) fn refused(path: &Path, source: io::Error) -> AppendError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full { path, source },
        _ => AppendError::Write { path, source },
    }
}

/// A failure that leaves what is durable unknown.
pub(super) fn failed(path: &Path, source: io::Error) -> AppendError {
    AppendError::Write { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_has_one_spelling() {
        assert_eq!(file_name(Seq(0x1a2b)), "0000000000001a2b.log");
        assert_eq!(parse_file_name("0000000000001a2b.log"), Some(Seq(0x1a2b)));
        for stray in
            ["1a2b.log", "0000000000001A2B.log", "0000000000001a2b", "0000000000000000.log", "+000000000001a2b.log"]
        {
            assert_eq!(parse_file_name(stray), None, "{stray}");
        }
    }
}
