//! `FORMAT`: what the directory is, for people and for later versions; compared byte for byte.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use stated_shared::{RepositoryId, Seq};

use super::super::OpenError;
use super::super::limits::FILL_LEN;
use super::blobs::BLOB_DIR;
use super::segment::{LOG_DIR, file_name, sync_dir, write_zeros};
use super::tail::is_zero;

pub(super) const FORMAT_FILE: &str = "FORMAT";
const FORMAT_TMP: &str = "FORMAT.tmp";
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
pub fn presence(dir: &Path) -> Result<Presence, OpenError> {
    let path = dir.join(FORMAT_FILE);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(FORMAT_LEN_MAX).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_unfinished(dir)?;
            return Ok(Presence::Absent);
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    }
    let text = String::from_utf8_lossy(&text);
    let repository = text
        .strip_prefix(FIRST_LINE)
        .and_then(|rest| rest.strip_prefix(REPOSITORY_LINE)?.lines().next()?.parse().ok())
        .ok_or_else(|| OpenError::Format {
            path: path.clone(),
            what: format!("{:?}", text.lines().next().unwrap_or_default()),
        })?;
    check(dir, repository)?;
    Ok(Presence::Present(repository))
}

/// Whether `FORMAT` is byte for byte what this repository's is.
pub(super) fn check(dir: &Path, repository: RepositoryId) -> Result<(), OpenError> {
    let path = dir.join(FORMAT_FILE);
    let mut found = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(FORMAT_LEN_MAX).read_to_end(&mut found));
    read.map_err(|source| OpenError::Io { path: path.clone(), source })?;
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
pub(super) fn create(dir: &Path, repository: RepositoryId) -> Result<(), OpenError> {
    let format = dir.join(FORMAT_FILE);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io { path, source }
    };
    if format.try_exists().map_err(failed(&format))? {
        return Err(OpenError::Io { path: format, source: io::ErrorKind::AlreadyExists.into() });
    }
    check_unfinished(dir)?;
    for name in [LOG_DIR, BLOB_DIR] {
        let path = dir.join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed(&path))?;
    }
    let first = dir.join(LOG_DIR).join(file_name(Seq(1)));
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&first);
    opened.and_then(|file| write_zeros(&file, 0, FILL_LEN).and_then(|()| file.sync_all())).map_err(failed(&first))?;
    let tmp = dir.join(FORMAT_TMP);
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp);
    opened
        .and_then(|mut file| file.write_all(format_text(repository).as_bytes()).and_then(|()| file.sync_all()))
        .map_err(failed(&tmp))?;
    for path in [dir.join(LOG_DIR), dir.join(BLOB_DIR), dir.to_path_buf()] {
        sync_dir(&path).map_err(|error| failed(&path)(io::Error::other(error)))?;
    }
    fs::rename(&tmp, &format).map_err(failed(&format))?;
    sync_dir(dir).map_err(|error| failed(dir)(io::Error::other(error)))
}

/// Without a `FORMAT` there may be what an interrupted `create` left, and no more: the rest would be lost data.
fn check_unfinished(dir: &Path) -> Result<(), OpenError> {
    let without = "FORMAT is missing, and this is here";
    for (name, allowed) in [(LOG_DIR, Some(file_name(Seq(1)))), (BLOB_DIR, None)] {
        let path = dir.join(name);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(source)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let file = format!("{name}/{}", entry.file_name().to_string_lossy());
            let expected = allowed.as_deref().is_some_and(|allowed| entry.file_name() == allowed);
            if !expected || entry.metadata().map_err(failed)?.len() > FILL_LEN {
                return Err(damaged(&file, 0, without));
            }
            if !is_zero(&fs::read(entry.path()).map_err(failed)?) {
                return Err(damaged(&file, 0, without));
            }
        }
    }
    Ok(())
}

fn damaged(file: &str, offset_bytes: u64, what: &str) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), seq: Seq(1), offset_bytes, what: what.to_owned() }
}
