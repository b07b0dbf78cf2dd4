//! Where a user wants data written: what is there decides how.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;

/// Links in a row that are followed, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// A place for data.
pub(super) enum Target {
    /// Standard output, by `-` or any other name such as `/dev/stdout`.
    Output,
    /// A device, pipe or the like, opened: written to, never replaced.
    Stream(File),
    /// A file, or where one shall be: replaced whole by one beside it. Links are followed, and stay.
    File(PathBuf),
}

impl Target {
    /// What a path that a user named leads to.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Output);
        }
        match fs::metadata(path) {
            Ok(found) if is_output(&found) => Ok(Self::Output),
            Ok(found) if !found.is_file() => Ok(Self::Stream(OpenOptions::new().write(true).open(path)?)),
            Ok(_) => Ok(Self::File(fs::canonicalize(path)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::File(follow(path)?)),
            Err(error) => Err(error),
        }
    }
}

/// Whether this is what standard output leads to.
fn is_output(found: &Metadata) -> bool {
    fstat(io::stdout()).is_ok_and(|output| (output.st_dev, output.st_ino) == (found.dev(), found.ino()))
}

/// Follows links to a file that is not there yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(to) => path = path.with_file_name(to),
            Err(_) => return Ok(path),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The file that is replaced.
    fn file(path: &Path) -> Option<PathBuf> {
        match Target::of(path).unwrap() {
            Target::File(path) => Some(path),
            Target::Output | Target::Stream(_) => None,
        }
    }

    #[test]
    fn links_lead_to_the_file_that_is_replaced() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().canonicalize().unwrap().join(name);
        fs::create_dir(at("d")).unwrap();
        symlink("d/second", at("first")).unwrap();
        symlink(at("file"), at("d/second")).unwrap();
        assert_eq!(file(&at("first")), Some(at("file")), "it is not there yet");
        fs::write(at("file"), "").unwrap();
        assert_eq!(file(&at("first")), Some(at("file")));
        symlink("loop", at("loop")).unwrap();
        assert!(Target::of(&at("loop")).is_err());
    }

    #[test]
    fn devices_are_written_to_and_standard_output_has_many_names() {
        let room = tempfile::tempdir().unwrap();
        let (zero, output) = (room.path().join("zero"), room.path().join("output"));
        symlink("/dev/zero", &zero).unwrap();
        symlink("/proc/self/fd/1", &output).unwrap();
        assert!(matches!(Target::of(&zero).unwrap(), Target::Stream(_)));
        assert!(matches!(Target::of(&output).unwrap(), Target::Output));
        assert!(matches!(Target::of(Path::new("-")).unwrap(), Target::Output));
    }
}
