//! The text while it is edited: a private file, in memory where that can be.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use stated_shared::StateName;
use tempfile::TempDir;

/// Filesystems that keep nothing on a disk: tmpfs and ramfs (statfs(2)).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// Longest part of a state's name that becomes a file's, in bytes.
const FILE_NAME_LEN_MAX: usize = 100;

/// A file that its owner alone can read, in a directory of its own, where an editor may put its own files too.
///
/// Dropping it overwrites and removes everything in the directory, but not in a panic, which decides nothing.
pub(super) struct Draft {
    directory: Option<TempDir>,
    path: PathBuf,
    in_memory: bool,
}

impl Draft {
    /// Writes the text for an editor.
    pub(super) fn create(state: &StateName, text: &[u8]) -> io::Result<Self> {
        let (directory, in_memory) = directory()?;
        let path = directory.path().join(file_name(state, text));
        let draft = Self { directory: Some(directory), path, in_memory };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.path)?;
        file.write_all(text)?;
        Ok(draft)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its text stays off the disks, but for swap.
    pub(super) fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Whether its text is another one; one that cannot be read may be.
    pub(super) fn differs_from(&self, text: &[u8]) -> bool {
        fs::read(&self.path).map_or(true, |found| found != text)
    }

    /// Whether an editor left files beside it, in which work may be: vim's swap file does, a backup (`text~`) does not.
    pub(super) fn has_files_beside(&self) -> bool {
        let Some(Ok(entries)) = self.directory.as_ref().map(fs::read_dir) else { return false };
        let is_work = |name: OsString| Some(&*name) != self.path.file_name() && !name.as_bytes().ends_with(b"~");
        entries.flatten().any(|entry| is_work(entry.file_name()))
    }

    /// Leaves it where it is, as the only copy of somebody's work.
    pub(super) fn keep(mut self) -> PathBuf {
        if let Some(directory) = self.directory.take() {
            let _ = directory.keep();
        }
        std::mem::take(&mut self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.directory.take().map(TempDir::keep);
        } else if let Some(directory) = &self.directory {
            // What cannot be overwritten is removed all the same, with the directory.
            let _ = overwrite_all(directory.path());
        }
    }
}

/// A new directory for its owner alone: of the first place that is in memory, else of the usual one.
fn directory() -> io::Result<(TempDir, bool)> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let places = runtime.into_iter().chain([PathBuf::from("/dev/shm")]);
    for place in places.filter(|place| is_in_memory(place)) {
        if let Ok(directory) = directory_in(&place) {
            return Ok((directory, true));
        }
    }
    Ok((directory_in(&std::env::temp_dir())?, false))
}

fn directory_in(place: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("statectl-edit-").permissions(Permissions::from_mode(0o700)).tempdir_in(place)
}

fn is_in_memory(place: &Path) -> bool {
    // The kernel's word is 32 bits wide; some targets extend its sign.
    rustix::fs::statfs(place).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u64 & 0xffff_ffff)))
}

/// A name by which an editor knows the kind of text: the state's last part where that is a plain one.
fn file_name(state: &StateName, text: &[u8]) -> String {
    let last = state.as_str().rsplit('/').next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_usable = last.len() <= FILE_NAME_LEN_MAX && last.chars().all(is_plain) && !last.starts_with(['.', '-']);
    let name = if is_usable { last } else { "state" };
    if !name.contains('.') && super::is_document(text) { format!("{name}.json") } else { name.to_owned() }
}

fn overwrite_all(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            overwrite_all(&entry.path())?;
        } else if kind.is_file() {
            let flags = OFlags::NOFOLLOW.bits().cast_signed();
            let mut file = OpenOptions::new().write(true).custom_flags(flags).open(entry.path())?;
            io::copy(&mut io::Read::take(io::repeat(0), entry.metadata()?.len()), &mut file)?;
            file.sync_data()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> StateName {
        StateName::parse(text).unwrap()
    }

    #[test]
    fn it_is_its_owners_alone_and_leaves_nothing() {
        let draft = Draft::create(&name("a/b"), b"secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let directory = draft.path().parent().unwrap().to_owned();
        assert_eq!((mode(draft.path()), mode(&directory)), (0o600, 0o700));
        // Another name of the file, as a witness of what is left in it.
        let witness = directory.with_extension("witness");
        fs::hard_link(draft.path(), &witness).unwrap();
        fs::write(directory.join("b~"), "secret").unwrap();
        drop(draft);
        assert!(!directory.exists());
        assert_eq!(fs::read(&witness).unwrap(), [0; 6]);
        fs::remove_file(witness).unwrap();
    }

    #[test]
    fn what_is_kept_stays() {
        let path = Draft::create(&name("a"), b"work").unwrap().keep();
        assert_eq!(fs::read(&path).unwrap(), b"work");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn work_is_told_from_what_was_there() {
        let draft = Draft::create(&name("a"), b"text").unwrap();
        let beside = |name: &str| draft.path().with_file_name(name);
        fs::write(beside("a~"), "older").unwrap();
        assert!(!draft.differs_from(b"text") && !draft.has_files_beside());
        fs::write(beside(".a.swp"), "work").unwrap();
        assert!(draft.has_files_beside());
        fs::write(draft.path(), "work").unwrap();
        assert!(draft.differs_from(b"text"));
        fs::remove_file(draft.path()).unwrap();
        assert!(draft.differs_from(b"text"));
    }

    #[test]
    fn names_become_plain_file_names() {
        for (state, text, expected) in [
            ("example/network", "{}", "network.json"),
            ("example/main.tfstate", "{}", "main.tfstate"),
            ("example/list", "one", "list"),
            ("a b", "", "state"),
            ("-rf", "", "state"),
            (".vimrc", "", "state"),
        ] {
            assert_eq!(file_name(&name(state), text.as_bytes()), expected);
        }
    }
}
