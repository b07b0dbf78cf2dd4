//! A file that decides about rights: read only where nobody else can have written it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::own_uid;

/// The bit of a directory in which everybody may write, but only owners may rename and remove.
const STICKY: u32 = 0o1000;

/// A text, and where and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardedFile {
    /// The text.
    pub text: String,
    /// When it was changed last.
    pub modified: Option<SystemTime>,
}

/// Why such a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum GuardedFileError {
    /// Others can write it, or put another in its place.
    #[error("{} {problem}", path.display())]
    Exposed {
        /// The file, or a directory above it.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The command that mends it.
        mend: String,
    },
    /// It is a directory, a pipe, or the like.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// It is too long to be read.
    #[error("{} has over {len_max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        len_max: usize,
    },
    /// It is not text.
    #[error("{} is not UTF-8", .0.display())]
    NotText(PathBuf),
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl GuardedFile {
    /// Reads it; `None` where there is no such file.
    ///
    /// Like `sshd` with the keys that let somebody in: file and directories, up to the root, must belong to root or to
    /// the daemon's user, and nobody else may write them. What a symbolic link refers to is judged, and where the link is.
    pub fn read(path: &Path, len_max: usize) -> Result<Option<Self>, GuardedFileError> {
        let failed = |source: io::Error| GuardedFileError::Io { path: path.to_owned(), source };
        let Some(real) = place(path)? else { return Ok(None) };
        // The directories let nobody put another in its place from here on. A pipe would wait for its writer.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(&real).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(GuardedFileError::NotAFile(path.to_owned()));
        }
        judge(&real, &metadata)?;
        let text = read_text(&file, path, len_max)?;
        Ok(Some(Self { text, modified: metadata.modified().ok() }))
    }
}

/// Finds the program that a path names, and judges it and its place as [`GuardedFile::read`] does.
pub fn guarded_program(path: &Path) -> Result<PathBuf, GuardedFileError> {
    let failed = |source: io::Error| GuardedFileError::Io { path: path.to_owned(), source };
    let real = place(path)?.ok_or_else(|| failed(ErrorKind::NotFound.into()))?;
    let metadata = fs::metadata(&real).map_err(failed)?;
    if !metadata.is_file() {
        return Err(GuardedFileError::NotAFile(path.to_owned()));
    }
    judge(&real, &metadata)?;
    Ok(real)
}

/// Where a file really is, after the judgement of all directories on the way there; `None` where there is none.
fn place(path: &Path) -> Result<Option<PathBuf>, GuardedFileError> {
    let failed = |source: io::Error| GuardedFileError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = fs::canonicalize(parent).map_err(failed)?;
    let real = fs::canonicalize(path).map_err(failed)?;
    for directory in place.ancestors().chain(real.ancestors().skip(1)) {
        judge(directory, &fs::metadata(directory).map_err(failed)?)?;
    }
    Ok(Some(real))
}

fn read_text(file: &File, path: &Path, len_max: usize) -> Result<String, GuardedFileError> {
    let mut bytes = Vec::new();
    let read = file.take(len_max as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|source| GuardedFileError::Io { path: path.to_owned(), source })?;
    if bytes.len() > len_max {
        return Err(GuardedFileError::TooLong { path: path.to_owned(), len_max });
    }
    String::from_utf8(bytes).map_err(|_| GuardedFileError::NotText(path.to_owned()))
}

fn judge(path: &Path, metadata: &Metadata) -> Result<(), GuardedFileError> {
    match problem(metadata.uid(), metadata.mode(), metadata.is_dir(), own_uid()) {
        None => Ok(()),
        Some((problem, mend)) => {
            let mend = format!("{mend} {}", path.display());
            Err(GuardedFileError::Exposed { path: path.to_owned(), problem, mend })
        }
    }
}

fn problem(uid: u32, mode: u32, is_dir: bool, own: u32) -> Option<(String, &'static str)> {
    if uid != 0 && uid != own {
        return Some((format!("belongs to uid {uid}, neither to root nor to the daemon's user"), "chown root"));
    }
    let protects = is_dir && mode & STICKY != 0;
    if mode & 0o022 != 0 && !protects {
        return Some((format!("may be written by others (mode {:03o})", mode & 0o7777), "chmod go-w"));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_roots_or_ones_own_and_nobody_else_may_write_it() {
        for (uid, mode, is_dir) in [(0, 0o644, false), (7, 0o600, false), (0, 0o755, true), (0, 0o1777, true)] {
            assert_eq!(problem(uid, mode, is_dir, 7), None, "{uid} {mode:o}");
        }
        for (uid, mode, is_dir) in
            [(8, 0o600, false), (7, 0o620, false), (0, 0o602, false), (0, 0o775, true), (0, 0o1622, false)]
        {
            assert!(problem(uid, mode, is_dir, 7).is_some(), "{uid} {mode:o}");
        }
    }

    #[test]
    fn it_is_read_where_it_is_guarded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(GuardedFile::read(&path, 8).unwrap(), None);
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(GuardedFile::read(&path, 8).unwrap().unwrap().text, "text");
        assert!(matches!(GuardedFile::read(&path, 3), Err(GuardedFileError::TooLong { .. })));
        let link = dir.path().join("l");
        std::os::unix::fs::symlink("f", &link).unwrap();
        assert_eq!(GuardedFile::read(&link, 8).unwrap().unwrap().text, "text");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o664)).unwrap();
        let error = GuardedFile::read(&link, 8).unwrap_err();
        assert!(error.to_string().ends_with("f may be written by others (mode 664)"), "{error}");
        assert!(matches!(GuardedFile::read(dir.path(), 8), Err(GuardedFileError::NotAFile(_))));
        fs::write(&path, [0xff]).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(GuardedFile::read(&path, 8), Err(GuardedFileError::NotText(_))));
    }

    #[test]
    fn a_directory_in_which_others_may_write_is_no_place_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::write(open.join("f"), "text").unwrap();
        fs::set_permissions(open.join("f"), PermissionsExt::from_mode(0o600)).unwrap();
        // It is judged where the link is, too.
        std::os::unix::fs::symlink(open.join("f"), dir.path().join("l")).unwrap();
        fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        for path in [open.join("f"), dir.path().join("l")] {
            assert!(matches!(GuardedFile::read(&path, 8), Err(GuardedFileError::Exposed { .. })));
        }
        fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).unwrap();
        assert!(GuardedFile::read(&open.join("f"), 8).unwrap().is_some());
    }
}
