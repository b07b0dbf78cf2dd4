//! The state directory's lock: one daemon a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs4::TryLockError;
use rustix::fs::{OFlags, fstatfs};
use stated_shared::{Failure, FailureKind};

use super::process::Process;
use super::user::host_name;

/// The file's name in the state directory.
const FILE_NAME: &str = "LOCK";
/// What of the file is read for a message, in bytes.
const OWNER_LEN_MAX: u64 = 512;
/// How often the file may be replaced under our eyes before that is an error.
const ATTEMPTS_MAX: usize = 5;

/// Filesystems whose locks are the server's word, or nobody's.
const NETWORK_FILESYSTEMS: [(u64, &str); 5] =
    [(0x6969, "NFS"), (0x517b, "SMB"), (0xff53_4d42, "CIFS"), (0xfe53_4d42, "SMB2"), (0x0102_1997, "9P")];

/// An exclusive lock on a state directory, held until dropped.
///
/// The file is never unlinked: whoever waits for a lock on an unlinked file gets one that guards nothing. The descriptor
/// is close-on-exec, since a child that inherited it would keep the lock.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
    path: PathBuf,
}

/// Why the directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryLockError {
    /// Another daemon has it.
    #[error("state directory {} is in use by {owner}", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who, as far as the file tells.
        owner: String,
    },
    /// Its locks could not be relied on.
    #[error("state directory {} is on {filesystem}, whose locks cannot be relied on", dir.display())]
    Network {
        /// The directory.
        dir: PathBuf,
        /// What it is on.
        filesystem: &'static str,
    },
    /// Somebody keeps replacing the file.
    #[error("{} is replaced while it is being locked", path.display())]
    Replaced {
        /// The lock file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DirectoryLockError {
    /// The error as it is told to a user.
    pub fn failure(&self) -> Failure {
        match self {
            Self::InUse { .. } => Failure::new(FailureKind::Busy, self.to_string())
                .hint("ask the running daemon (`statectl verify`; `statectl doctor` says where it listens), or stop it first, by SIGTERM"),
            Self::Network { .. } => Failure::new(FailureKind::Config, self.to_string())
                .hint("put the state directory on a local filesystem (`--state-dir`)"),
            Self::Replaced { .. } => Failure::new(FailureKind::Storage, self.to_string()),
            Self::Io { source, .. } => Failure::new(FailureKind::Storage, format!("{self}: {source}")),
        }
    }
}

/// Whether a daemon has this directory's lock. Looks and takes nothing: the directory may be read only.
pub fn is_locked(dir: &Path) -> io::Result<bool> {
    let file = match File::open(dir.join(FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match fs4::FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl DirectoryLock {
    /// Takes the lock without waiting, and writes into the file who has it.
    pub fn acquire(dir: &Path) -> Result<Self, DirectoryLockError> {
        let path = dir.join(FILE_NAME);
        let failed = |source| DirectoryLockError::Io { path: path.clone(), source };
        for _ in 0..ATTEMPTS_MAX {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)
                .map_err(failed)?;
            let magic = fstatfs(&file).map_err(|errno| failed(errno.into()))?.f_type;
            if let Some(filesystem) = network_filesystem(magic as u64) {
                return Err(DirectoryLockError::Network { dir: dir.to_owned(), filesystem });
            }
            // By its full name: std's method of the same name would win otherwise, and fs4 be bypassed in silence.
            match fs4::FileExt::try_lock(&file) {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(DirectoryLockError::InUse { dir: dir.to_owned(), owner: owner(&mut file) });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let lock = Self { file, path: path.clone() };
            // A file that was replaced between open and lock guards nothing.
            if lock.is_held().map_err(failed)? {
                lock.write_owner().map_err(failed)?;
                return Ok(lock);
            }
        }
        Err(DirectoryLockError::Replaced { path })
    }

    /// Whether the locked file still is the one in the directory. Where it isn't, a second daemon may be running.
    pub fn is_held(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::symlink_metadata(&self.path) {
            Ok(theirs) => Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write_owner(&self) -> io::Result<()> {
        let pid = std::process::id();
        let start = Process::own().ok().and_then(|process| process.start());
        let start = start.map_or_else(|| "unknown".to_owned(), |start| start.to_string());
        let text = format!("pid {pid}\nstart {start}\nhost {}\n", host_name());
        // First the text, then the length: a reader in between sees a name, and maybe the end of an older one.
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }
}

/// The network filesystem that a directory is on: its locks could not be relied on there.
pub fn network_filesystem_of(dir: &Path) -> io::Result<Option<&'static str>> {
    Ok(network_filesystem(rustix::fs::statfs(dir)?.f_type as u64))
}

fn network_filesystem(magic: u64) -> Option<&'static str> {
    // The kernel's word is 32 bits wide; some targets extend its sign.
    let magic = magic & 0xffff_ffff;
    NETWORK_FILESYSTEMS.iter().find_map(|(known, name)| (*known == magic).then_some(*name))
}

/// Whom the file names. Only for a message: the lock is what counts.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    if file.take(OWNER_LEN_MAX).read_to_string(&mut text).is_err() {
        return "another process".to_owned();
    }
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)).filter(|value| !value.chars().any(char::is_control))
    };
    match (value("pid "), value("host ")) {
        (Some(pid), Some(host)) if host != host_name() => format!("stated (pid {pid} on {host})"),
        (Some(pid), _) => format!("stated (pid {pid})"),
        // It has the lock, and has not written its name yet.
        (None, _) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        let error = DirectoryLock::acquire(dir.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("state directory {} is in use by stated (pid {})", dir.path().display(), std::process::id())
        );
        assert_eq!(error.failure().kind.exit_code(), 75);
        drop(lock);
        assert!(dir.path().join("LOCK").exists());
        DirectoryLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_replaced_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        assert!(lock.is_held().unwrap());
        fs::remove_file(dir.path().join("LOCK")).unwrap();
        assert!(!lock.is_held().unwrap());
        fs::write(dir.path().join("LOCK"), "").unwrap();
        assert!(!lock.is_held().unwrap());
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("LOCK")).unwrap();
        assert!(matches!(DirectoryLock::acquire(dir.path()), Err(DirectoryLockError::Io { .. })));
    }

    #[test]
    fn the_descriptor_is_not_inherited() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(dir.path()).unwrap();
        let flags = rustix::io::fcntl_getfd(&lock.file).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn network_filesystems_are_known_by_their_magic() {
        assert_eq!(network_filesystem(0x6969), Some("NFS"));
        assert_eq!(network_filesystem(0xffff_ffff_ff53_4d42), Some("CIFS"));
        assert_eq!(network_filesystem(0xef53), None, "ext4");
    }
}
