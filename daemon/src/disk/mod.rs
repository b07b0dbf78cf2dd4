//! Files whose durability is promised, behind a trait that a test can let fail.
//!
//! The operations are those that the state directory needs and no more, each as the kernel has it: nothing is durable
//! before it is synced, neither a file's bytes nor an entry of a directory. Files have mode 0600, directories 0700.

mod real;
#[cfg(test)]
pub(crate) mod sim;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;

/// A disk with one tree of directories.
pub trait Disk: Send + Sync {
    /// Opens a file, or makes it where the access says so.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a directory in one that exists; `AlreadyExists` where there is anything of that name.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames atomically; what had the new name is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames atomically; `AlreadyExists` where there is anything of the new name.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The entries of a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// What is there, symbolic links followed.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// Makes the entries of a directory durable: what was made in it, renamed or removed.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a directory until the lock is dropped, against every other process and within this one; `None` where it
    /// is locked already.
    fn lock_dir(&self, dir: &Path) -> io::Result<Option<DirLock>>;

    /// Reads a file, and no more than `len_max` bytes of it.
    fn read(&self, path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
        self.open(path, Access::Read)?.read(len_max)
    }
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads into the buffer; less than it takes only at the file's end.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of it, and may have written a part of it where it fails.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts the file, or lengthens it by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the bytes durable, and the length that it takes to find them. After `Err` nobody knows which are.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the bytes and everything else about the file durable, but not its entry in the directory.
    fn sync_all(&self) -> io::Result<()>;

    /// What it is now.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads from the start, and no more than `len_max` bytes.
    fn read(&self, len_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.stat()?.len.min(len_max) as usize];
        let len = self.read_at(&mut bytes, 0)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Fills the buffer; `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        if self.read_at(buffer, at)? < buffer.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// A directory's lock; given back when dropped.
pub type DirLock = Box<dyn Send + Sync>;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// One that exists, to be read.
    Read,
    /// One that exists, to be read and written.
    Write,
    /// A new one; `AlreadyExists` where there is anything of that name.
    New,
    /// A new one, or one that exists, emptied.
    Replace,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Dir,
    /// Something else: a link, a socket.
    Other,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
}

/// What a file is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode: equal for two paths or descriptors of one file.
    pub id: (u64, u64),
    /// Its length in bytes.
    pub len: u64,
}
