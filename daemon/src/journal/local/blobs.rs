//! Blobs: `blob/<first two digits>/<32 digits>.age`, written once and durable before anything refers to them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{AppendError, BlobId, Blobs, ReadError};
use super::segment::{failed, refused, sync_dir};
use crate::disk::{Access, Disk, Kind};

/// The directory of the blobs, within the state directory.
pub(super) const BLOB_DIR: &str = "blob";

/// A blob that is to take another one's place, while it is being written.
const NEXT_BLOB: &str = "next.tmp";

/// The blobs of one state directory.
pub(super) struct LocalBlobs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    writable: bool,
    /// Which of the 256 directories this process made durable; one that a crashed process made may not be.
    synced: [AtomicBool; 256],
}

impl LocalBlobs {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, writable: bool) -> Self {
        Self { disk, dir: dir.to_path_buf(), writable, synced: [const { AtomicBool::new(false) }; 256] }
    }

    fn path(&self, id: BlobId) -> PathBuf {
        self.dir.join(relative(id))
    }

    fn unread(&self, id: BlobId, source: io::Error) -> ReadError {
        match source.kind() {
            io::ErrorKind::NotFound => ReadError::Missing(relative(id)),
            _ => ReadError::Read { path: self.path(id), source },
        }
    }

    fn write_new(&self, path: &Path, sealed: &[u8]) -> Result<(), AppendError> {
        let file = self.disk.open(path, Access::New).map_err(|source| refused(path, source))?;
        if let Err(source) = file.write_at(sealed, 0) {
            // Its room is wanted back; where that fails the sweep at the next start does it.
            let _ = self.disk.remove(path);
            return Err(refused(path, source));
        }
        file.sync_data().map_err(|source| failed(path, source))
    }
}

impl Blobs for LocalBlobs {
    fn write(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError> {
        if !self.writable {
            return Err(AppendError::ReadOnly);
        }
        let path = self.path(id);
        let shard = path.parent().expect("a blob lies in a directory");
        let synced = &self.synced[usize::from(id.0[0])];
        if !synced.load(Ordering::Acquire) {
            match self.disk.create_dir(shard) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(refused(shard, source)),
                _ => {}
            }
            sync_dir(&*self.disk, &self.dir.join(BLOB_DIR))?;
            synced.store(true, Ordering::Release);
        }
        self.write_new(&path, sealed)?;
        sync_dir(&*self.disk, shard)
    }

    fn replace(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError> {
        if !self.writable {
            return Err(AppendError::ReadOnly);
        }
        let next = self.dir.join(BLOB_DIR).join(NEXT_BLOB);
        let written = self.disk.open(&next, Access::Replace).and_then(|file| {
            file.write_at(sealed, 0)?;
            file.sync_data()
        });
        if let Err(source) = written {
            // Its room is wanted back; where that fails the next opening does it.
            let _ = self.disk.remove(&next);
            return Err(refused(&next, source));
        }
        let path = self.path(id);
        self.disk.rename(&next, &path).map_err(|source| refused(&path, source))?;
        sync_dir(&*self.disk, path.parent().expect("a blob lies in a directory"))
    }

    fn read(&self, id: BlobId) -> Result<Vec<u8>, ReadError> {
        self.disk.read(&self.path(id), u64::MAX).map_err(|source| self.unread(id, source))
    }

    fn piece(&self, id: BlobId, offset_bytes: u64, len_max: usize) -> Result<Vec<u8>, ReadError> {
        let failed = |source| self.unread(id, source);
        let file = self.disk.open(&self.path(id), Access::Read).map_err(failed)?;
        let left = file.stat().map_err(failed)?.len.saturating_sub(offset_bytes);
        let mut bytes = vec![0; usize::try_from(left).map_or(len_max, |left| left.min(len_max))];
        file.read_exact_at(&mut bytes, offset_bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn len_bytes(&self, id: BlobId) -> Result<u64, ReadError> {
        self.disk.stat(&self.path(id)).map(|stat| stat.len).map_err(|source| self.unread(id, source))
    }

    fn place(&self, id: BlobId) -> String {
        relative(id)
    }

    fn remove(&self, id: BlobId) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        }
        match self.disk.remove(&self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Not synced: one that comes back after a crash is swept again.
            _ => Ok(()),
        }
    }

    fn list(&self) -> io::Result<Vec<BlobId>> {
        let mut ids = Vec::new();
        walk(&*self.disk, &self.dir, &mut |_, id| ids.extend(id))?;
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Removes what a crash left of a blob that was to take another one's place.
pub(super) fn remove_next(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.remove(&dir.join(BLOB_DIR).join(NEXT_BLOB)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Adds what lies under `blob/` and is no blob.
pub(super) fn strays(disk: &dyn Disk, dir: &Path, found: &mut Vec<(String, u64, String)>) -> io::Result<()> {
    walk(disk, dir, &mut |place, id| {
        if id.is_none() {
            found.push((place, 0, "a file that is no blob".to_owned()));
        }
    })
}

/// Shows every entry under `blob/` and, where its name is one, the blob that it is.
pub(super) fn walk(disk: &dyn Disk, dir: &Path, see: &mut dyn FnMut(String, Option<BlobId>)) -> io::Result<()> {
    let blob_dir = dir.join(BLOB_DIR);
    for shard in disk.list(&blob_dir)? {
        let shard_name = shard.name.to_string_lossy().into_owned();
        if shard_name == NEXT_BLOB {
            continue;
        }
        if !(shard.kind == Kind::Dir && is_shard(&shard_name)) {
            see(format!("{BLOB_DIR}/{shard_name}"), None);
            continue;
        }
        for blob in disk.list(&blob_dir.join(&shard.name))? {
            let blob_name = blob.name.to_string_lossy();
            let place = format!("{BLOB_DIR}/{shard_name}/{blob_name}");
            let id = parse_file_name(&blob_name);
            let id = id.filter(|id| relative(*id) == place && blob.kind == Kind::File);
            see(place, id);
        }
    }
    Ok(())
}

fn relative(id: BlobId) -> String {
    let name = id.to_string();
    format!("{BLOB_DIR}/{}/{name}.age", &name[..2])
}

fn parse_file_name(name: &str) -> Option<BlobId> {
    name.strip_suffix(".age")?.parse().ok()
}

fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
