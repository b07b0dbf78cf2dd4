//! `FORMAT`: what the directory is, for people and for later versions; compared byte for byte.

use std::io;
use std::path::Path;

use stated_shared::{RepositoryId, Seq};

use super::super::OpenError;
use super::super::limits::FILL_LEN;
use super::blobs::BLOB_DIR;
use super::segment::{LOG_DIR, file_name, write_zeros};
use super::tail::is_zero;
use crate::disk::{Access, Disk};

pub(super) const FORMAT_FILE: &str = "FORMAT";
const FORMAT_TMP: &str = "FORMAT.tmp";
/// Where a restore prepares what it puts in the directory's place: without a `FORMAT` nothing may begin beside it.
pub const RESTORING_DIR: &str = "restoring";
const FIRST_LINE: &str = "stated state directory, format 1\n";
const REPOSITORY_LINE: &str = "repository ";
/// No `FORMAT` of any version is longer.
const FORMAT_LEN_MAX: u64 = 4096;

/// What a directory holds, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// No `FORMAT` and no log: [`super::LocalJournal::create`] may begin, or complete what it began.
    Absent,
    /// A repository of this format and id.
    Present(RepositoryId),
}

/// The whole of `FORMAT` for this repository.
pub(super) fn format_text(repository: RepositoryId) -> String {
    format!(
        "{FIRST_LINE}{REPOSITORY_LINE}{repository}\n\
         \n\
         Everything here opens with stock tools (age, zstd, jq) and one of the keys that the\n\
         keyring is sealed to. By hand:\n\
         \n\
         \x20   age -d -i my.key keys/1.age > repository.key\n\
         \x20   age -d -i repository.key blob/<xx>/<name>.age | zstd -d\n\
         \n\
         A file in log/ is a sequence of records, each one line \"stated1 <seq> <length> <mac>\n\
         <check>\" (numbers in hexadecimal), then an age file of that length: JSON lines, then\n\
         zstd frames at the offsets that those lines name. docs/recover.sh of the sources does\n\
         all of it: recover.sh STATE_DIR IDENTITY OUT_DIR\n"
    )
}

/// Whether there is a repository in `dir`, and which; nothing but `FORMAT` is believed to say so.
pub fn presence(disk: &dyn Disk, dir: &Path) -> Result<Presence, OpenError> {
    let path = dir.join(FORMAT_FILE);
    let text = match disk.read(&path, FORMAT_LEN_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_unfinished(disk, dir)?;
            return Ok(Presence::Absent);
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    let text = String::from_utf8_lossy(&text);
    let repository = text
        .strip_prefix(FIRST_LINE)
        .and_then(|rest| rest.strip_prefix(REPOSITORY_LINE)?.lines().next()?.parse().ok())
        .ok_or_else(|| OpenError::Format {
            path: path.clone(),
            what: format!("{:?}", text.lines().next().unwrap_or_default()),
        })?;
    check(disk, dir, repository)?;
    Ok(Presence::Present(repository))
}

/// Whether `FORMAT` is byte for byte what this repository's is.
pub(super) fn check(disk: &dyn Disk, dir: &Path, repository: RepositoryId) -> Result<(), OpenError> {
    let path = dir.join(FORMAT_FILE);
    let found = disk.read(&path, FORMAT_LEN_MAX).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let expected = format_text(repository).into_bytes();
    if found == expected {
        return Ok(());
    }
    if !found.starts_with(FIRST_LINE.as_bytes()) {
        let what = format!("{:?}", String::from_utf8_lossy(&found).lines().next().unwrap_or_default());
        return Err(OpenError::Format { path, what });
    }
    let same = found.iter().zip(&expected).take_while(|(found, expected)| found == expected).count();
    let what = format!("it is not the text of repository {repository}");
    Err(damaged(FORMAT_FILE, same as u64, &what))
}

/// Makes an empty journal, `FORMAT` last; each step may be repeated after a crash.
pub(super) fn create(disk: &dyn Disk, dir: &Path, repository: RepositoryId) -> Result<(), OpenError> {
    let format = dir.join(FORMAT_FILE);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io { path, source }
    };
    match disk.stat(&format) {
        Ok(_) => return Err(OpenError::Io { path: format, source: io::ErrorKind::AlreadyExists.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(&format)(source)),
    }
    check_unfinished(disk, dir)?;
    for path in [dir.join(LOG_DIR), dir.join(BLOB_DIR)] {
        match disk.create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&path)(source)),
            _ => {}
        }
    }
    let first = dir.join(LOG_DIR).join(file_name(Seq(1)));
    disk.open(&first, Access::Replace)
        .and_then(|file| write_zeros(&*file, 0, FILL_LEN).and_then(|()| file.sync_all()))
        .map_err(failed(&first))?;
    let tmp = dir.join(FORMAT_TMP);
    disk.open(&tmp, Access::Replace)
        .and_then(|file| file.write_at(format_text(repository).as_bytes(), 0).and_then(|()| file.sync_all()))
        .map_err(failed(&tmp))?;
    for path in [dir.join(LOG_DIR), dir.join(BLOB_DIR), dir.to_path_buf()] {
        disk.sync_dir(&path).map_err(failed(&path))?;
    }
    disk.rename(&tmp, &format).map_err(failed(&format))?;
    disk.sync_dir(dir).map_err(failed(dir))
}

/// Without a `FORMAT` there may be what an interrupted `create` left, and no more: the rest would be lost data.
fn check_unfinished(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    let without = "FORMAT is missing, and this is here";
    let restoring = dir.join(RESTORING_DIR);
    match disk.stat(&restoring) {
        Ok(_) => return Err(damaged(RESTORING_DIR, 0, "a restore was interrupted here: do it again")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(OpenError::Io { path: restoring, source }),
    }
    for (name, allowed) in [(LOG_DIR, Some(file_name(Seq(1)))), (BLOB_DIR, None)] {
        let path = dir.join(name);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let entries = match disk.list(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(source)),
        };
        for entry in entries {
            let file = format!("{name}/{}", entry.name.to_string_lossy());
            if allowed.as_deref().is_none_or(|allowed| entry.name != allowed) {
                return Err(damaged(&file, 0, without));
            }
            let bytes = disk.read(&path.join(&entry.name), FILL_LEN + 1).map_err(failed)?;
            if bytes.len() as u64 > FILL_LEN || !is_zero(&bytes) {
                return Err(damaged(&file, 0, without));
            }
        }
    }
    Ok(())
}

fn damaged(file: &str, offset_bytes: u64, what: &str) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), seq: Seq(1), offset_bytes, what: what.to_owned() }
}
