//! Snapshots: `snap/<seq>.age`, the last two; what is in them is the engine's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stated_shared::Seq;

use super::super::limits::SNAPSHOT_LEN_MAX;
use crate::disk::{Access, Disk, Kind};

/// The directory of the snapshots, within the state directory.
pub(super) const SNAP_DIR: &str = "snap";
/// A snapshot that is being written.
const NEXT_SNAPSHOT: &str = "next.tmp";

/// The snapshots of one state directory: a cache, of which any part may be missing.
#[derive(Clone)]
pub struct LocalSnapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl LocalSnapshots {
    /// Of this state directory.
    pub fn new(disk: Arc<dyn Disk>, state_dir: &Path) -> Self {
        Self { disk, dir: state_dir.to_path_buf() }
    }

    /// The records at which there are snapshots, the newest first; and what else lies beside them.
    pub fn list(&self) -> io::Result<(Vec<Seq>, Vec<String>)> {
        let entries = match self.disk.list(&self.dir.join(SNAP_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            entries => entries?,
        };
        let (mut seqs, mut strays) = (Vec::new(), Vec::new());
        for entry in entries {
            let name = entry.name.to_string_lossy().into_owned();
            match parse_file_name(&name).filter(|_| entry.kind == Kind::File) {
                Some(seq) => seqs.push(seq),
                None if name == NEXT_SNAPSHOT => {}
                None => strays.push(format!("{SNAP_DIR}/{name}")),
            }
        }
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        Ok((seqs, strays))
    }

    /// Where a snapshot lies, relative to the state directory.
    pub fn place(&self, seq: Seq) -> String {
        relative(seq)
    }

    /// The bytes of one.
    pub fn read(&self, seq: Seq) -> io::Result<Vec<u8>> {
        let bytes = self.disk.read(&self.dir.join(relative(seq)), SNAPSHOT_LEN_MAX + 1)?;
        if bytes.len() as u64 > SNAPSHOT_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than any snapshot"));
        }
        Ok(bytes)
    }

    /// Removes one. Not synced: whoever finds it again after a crash does so again.
    pub fn remove(&self, seq: Seq) -> io::Result<()> {
        self.disk.remove(&self.dir.join(relative(seq)))
    }

    /// Makes one durable, then removes all but it and `keep`.
    ///
    /// `Err` leaves the ones there are: a cache is not worth a request.
    pub fn write(&self, seq: Seq, sealed: &[u8], keep: Option<Seq>) -> io::Result<()> {
        if sealed.len() as u64 > SNAPSHOT_LEN_MAX {
            return Err(io::Error::other(format!("a snapshot of {} bytes is over the limit", sealed.len())));
        }
        let snap = self.dir.join(SNAP_DIR);
        match self.disk.create_dir(&snap) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
            Ok(()) => self.disk.sync_dir(&self.dir)?,
        }
        let next = snap.join(NEXT_SNAPSHOT);
        let written = self.write_synced(&next, sealed);
        if written.is_err() {
            // Its room is wanted back; where that fails the next one takes its place.
            let _ = self.disk.remove(&next);
        }
        written?;
        self.disk.rename(&next, &self.dir.join(relative(seq)))?;
        self.disk.sync_dir(&snap)?;
        for old in self.list()?.0.into_iter().filter(|old| *old != seq && Some(*old) != keep) {
            // Not synced: one that comes back after a crash goes with the next snapshot.
            self.disk.remove(&self.dir.join(relative(old)))?;
        }
        Ok(())
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.open(path, Access::Replace)?;
        file.write_at(bytes, 0)?;
        file.sync_all()
    }
}

pub(super) fn relative(seq: Seq) -> String {
    format!("{SNAP_DIR}/{:016x}.age", seq.0)
}

fn parse_file_name(name: &str) -> Option<Seq> {
    let seq = Seq(u64::from_str_radix(name.strip_suffix(".age")?, 16).ok()?);
    (relative(seq).strip_prefix(SNAP_DIR)?.strip_prefix('/')? == name).then_some(seq)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn the_one_to_keep_and_the_new_one_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = LocalSnapshots::new(Arc::new(RealDisk), dir.path());
        assert_eq!(snapshots.list().unwrap(), (Vec::new(), Vec::new()));
        for (seq, keep) in [(5, None), (9, Some(5)), (300, Some(9))] {
            snapshots.write(Seq(seq), &seq.to_be_bytes(), keep.map(Seq)).unwrap();
        }
        assert_eq!(snapshots.list().unwrap().0, [Seq(300), Seq(9)]);
        assert_eq!(snapshots.read(Seq(300)).unwrap(), 300_u64.to_be_bytes());
        // One that did not verify makes room for its successor.
        snapshots.write(Seq(301), b"x", Some(Seq(9))).unwrap();
        assert_eq!(snapshots.list().unwrap().0, [Seq(301), Seq(9)]);
    }

    #[test]
    fn what_a_killed_daemon_left_is_no_snapshot_and_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = LocalSnapshots::new(Arc::new(RealDisk), dir.path());
        snapshots.write(Seq(5), b"five", None).unwrap();
        // Killed before the rename, and between the rename and the removal.
        fs::write(dir.path().join("snap/next.tmp"), b"half of").unwrap();
        fs::write(dir.path().join(relative(Seq(3))), b"three").unwrap();
        fs::write(dir.path().join("snap/00f.age"), b"stray").unwrap();
        let (seqs, strays) = snapshots.list().unwrap();
        assert_eq!((seqs, strays), (vec![Seq(5), Seq(3)], vec!["snap/00f.age".to_owned()]));
        snapshots.write(Seq(7), b"seven", Some(Seq(5))).unwrap();
        assert_eq!(snapshots.list().unwrap().0, [Seq(7), Seq(5)]);
        assert_eq!(snapshots.read(Seq(7)).unwrap(), b"seven");
    }

    #[test]
    fn a_snapshot_that_cannot_be_written_leaves_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = LocalSnapshots::new(Arc::new(RealDisk), dir.path());
        snapshots.write(Seq(5), b"five", None).unwrap();
        fs::create_dir(dir.path().join("snap/next.tmp")).unwrap();
        assert!(snapshots.write(Seq(6), b"six", None).is_err());
        assert_eq!(snapshots.list().unwrap().0, [Seq(5)]);
    }
}
