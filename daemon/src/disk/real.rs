//! The host's own file system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::{Access, DirLock, Disk, DiskFile, Entry, Kind, Stat};

/// The file systems of the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match access {
            Access::Read => &mut options,
            Access::Write => options.write(true),
            Access::New => options.write(true).create_new(true),
            Access::Replace => options.write(true).create(true).truncate(true),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let entry = |entry: fs::DirEntry| {
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_file() => Kind::File,
                Ok(kind) if kind.is_dir() => Kind::Dir,
                _ => Kind::Other,
            };
            Entry { name: entry.file_name(), kind }
        };
        fs::read_dir(dir)?.map(|read| read.map(entry)).collect()
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        fs::metadata(path).map(|metadata| stat(&metadata))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Option<DirLock>> {
        let file = File::open(dir)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut len = 0;
        while len < buffer.len() {
            match self.0.read_at(&mut buffer[len..], at + len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn stat(&self) -> io::Result<Stat> {
        self.0.metadata().map(|metadata| stat(&metadata))
    }
}

fn stat(metadata: &fs::Metadata) -> Stat {
    Stat { id: (metadata.dev(), metadata.ino()), len: metadata.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_new_replaced_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let missing = RealDisk.open(&path, Access::Write).err().unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        RealDisk.open(&path, Access::New).unwrap().write_at(b"abc", 1).unwrap();
        assert_eq!(RealDisk.open(&path, Access::New).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(RealDisk.read(&path, 99).unwrap(), b"\0abc");
        assert_eq!(RealDisk.read(&path, 3).unwrap(), b"\0ab");
        let file = RealDisk.open(&path, Access::Write).unwrap();
        assert_eq!(file.read_exact_at(&mut [0; 5], 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        RealDisk.open(&path, Access::Replace).unwrap();
        assert_eq!(file.stat().unwrap().len, 0);
        assert_eq!(file.stat().unwrap(), RealDisk.stat(&path).unwrap());
        assert!(RealDisk.open(&path, Access::Read).unwrap().write_at(b"x", 0).is_err());
    }

    #[test]
    fn a_new_name_is_not_another_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for path in [&a, &b] {
            RealDisk.open(path, Access::New).unwrap();
        }
        assert_eq!(RealDisk.rename_new(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        RealDisk.rename(&a, &b).unwrap();
        let entry = |name: &str, kind| Entry { name: name.into(), kind };
        RealDisk.create_dir(&a).unwrap();
        let mut entries = RealDisk.list(dir.path()).unwrap();
        entries.sort_by_key(|entry| entry.name.clone());
        assert_eq!(entries, [entry("a", Kind::Dir), entry("b", Kind::File)]);
    }
}
