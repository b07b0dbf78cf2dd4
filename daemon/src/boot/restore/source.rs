//! What a backup is read from: a directory, or a stream in the form of tar.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use stated_shared::{Failure, FailureKind};

use super::super::failure::storage;
use crate::host;

/// A block of tar.
const BLOCK_LEN: usize = 512;
/// What is copied at once.
const PIECE_LEN: usize = 1 << 20;
/// What a client's backup leaves until it is complete: with this in it, all of it counts.
const INCOMING: &str = "incoming";

/// Where the backup is.
pub(super) enum Source {
    Dir(PathBuf),
    Stream(String, Box<dyn Read>),
}

impl Source {
    /// `-` is standard input.
    pub fn open(from: &Path) -> Result<Self, Failure> {
        if from == Path::new("-") {
            return Ok(Self::Stream("standard input".to_owned(), Box::new(io::stdin())));
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                Failure::new(FailureKind::NotFound, format!("{} does not exist", from.display()))
                    .hint("name the directory or the file that statectl backup made")
            }
            _ => storage(from, "read", &error),
        };
        if !fs::metadata(from).map_err(failed)?.is_dir() {
            let file = File::open(from).map_err(failed)?;
            return Ok(Self::Stream(from.display().to_string(), Box::new(file)));
        }
        if host::is_locked(from).map_err(|error| storage(from, "look at the lock of", &error))? {
            let message = format!("a daemon serves {}: a copy of that would be no state of it", from.display());
            return Err(Failure::new(FailureKind::Busy, message)
                .hint("make a backup of it: statectl backup DIR, and restore that"));
        }
        Ok(Self::Dir(from.to_owned()))
    }

    /// Copies what is a state directory's, and nothing else, into a directory that is empty.
    pub fn copy_into(self, dir: &Path) -> Result<(), Failure> {
        let mut copy = Copy { dir, found_format: false };
        for name in ["keys", "log", "blob"] {
            make(&dir.join(name))?;
        }
        let name = match self {
            Self::Dir(from) => {
                copy.directory(&from)?;
                from.display().to_string()
            }
            Self::Stream(name, mut stream) => {
                let buffered: &mut dyn Read = &mut *stream;
                copy.stream(&name, buffered)?;
                name
            }
        };
        if !copy.found_format {
            let message = format!("{name} holds no complete backup: FORMAT, which comes last, is not in it");
            return Err(Failure::new(FailureKind::Conflict, message)
                .hint("complete it while its daemon runs: statectl backup DIR; or name another one"));
        }
        sync_all(dir)
    }
}

struct Copy<'a> {
    dir: &'a Path,
    found_format: bool,
}

impl Copy<'_> {
    fn directory(&mut self, from: &Path) -> Result<(), Failure> {
        let mut logs = vec![from.join("log")];
        let mut format = from.join("FORMAT");
        // What is in there is whole and durable, and on its way to the rest.
        if from.join(INCOMING).join("BACKUP").exists() {
            logs.push(from.join(INCOMING));
            if !format.exists() {
                format = from.join(INCOMING).join("FORMAT");
            }
        }
        let mut files = vec![("FORMAT".to_owned(), format)];
        for (dir, at) in [("keys", from.join("keys"))].into_iter().chain(logs.into_iter().map(|at| ("log", at))) {
            files.extend(list(&at)?.into_iter().map(|(name, path)| (format!("{dir}/{name}"), path)));
        }
        for (shard, at) in list(&from.join("blob"))?.into_iter().filter(|(_, at)| at.is_dir()) {
            files.extend(list(&at)?.into_iter().map(|(name, path)| (format!("blob/{shard}/{name}"), path)));
        }
        for (path, at) in files.into_iter().filter(|(path, _)| is_wanted(path)) {
            match File::open(&at) {
                Ok(mut file) => self.put(&path, &mut file, u64::MAX).map(drop)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound && path == "FORMAT" => {}
                Err(error) => return Err(storage(&at, "read", &error)),
            }
        }
        Ok(())
    }

    /// POSIX's ustar, as far as a backup uses it; other entries are passed over.
    fn stream(&mut self, name: &str, stream: &mut dyn Read) -> Result<(), Failure> {
        let cut = |error: io::Error| {
            let message = match error.kind() {
                io::ErrorKind::UnexpectedEof => format!("{name} is cut short"),
                _ => format!("cannot read {name}: {error}"),
            };
            Failure::new(FailureKind::Storage, message).hint("make another backup, or name another one")
        };
        loop {
            let mut header = [0; BLOCK_LEN];
            stream.read_exact(&mut header).map_err(cut)?;
            if header.iter().all(|byte| *byte == 0) {
                // Whoever writes it is not to be told of a broken pipe.
                let _ = io::copy(stream, &mut io::sink());
                return Ok(());
            }
            let (path, len) = entry(&header).ok_or_else(|| {
                Failure::new(FailureKind::Storage, format!("{name} is no backup in the form of tar, or is damaged"))
                    .hint("name the directory or the file that statectl backup made")
            })?;
            let read = match path.filter(|path| is_wanted(path)) {
                Some(path) => self.put(&path, stream, len)?,
                None => io::copy(&mut stream.take(len), &mut io::sink()).map_err(cut)?,
            };
            if read < len {
                return Err(cut(io::ErrorKind::UnexpectedEof.into()));
            }
            let padding = len.next_multiple_of(BLOCK_LEN as u64) - len;
            stream.read_exact(&mut vec![0; padding as usize]).map_err(cut)?;
        }
    }

    /// Writes a file, durably but for its name; gives the bytes that were there, at most `len`.
    fn put(&mut self, path: &str, from: &mut dyn Read, len: u64) -> Result<u64, Failure> {
        let at = self.dir.join(path);
        if path.starts_with("blob/") {
            make(at.parent().expect("a blob lies in a directory"))?;
        }
        let failed = |error: io::Error| storage(&at, "write", &error);
        // One that comes twice is another's: nothing is replaced.
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at);
        let mut file = open.map_err(failed)?;
        let (mut done, mut piece) = (0, vec![0; PIECE_LEN]);
        while done < len {
            let wanted = piece.len().min(usize::try_from(len - done).unwrap_or(usize::MAX));
            let read = from.read(&mut piece[..wanted]).map_err(|error| {
                Failure::new(FailureKind::Storage, format!("cannot read {path} of the backup: {error}"))
            })?;
            if read == 0 {
                break;
            }
            file.write_all(&piece[..read]).map_err(failed)?;
            done += read as u64;
        }
        file.sync_all().map_err(failed)?;
        self.found_format |= path == "FORMAT";
        Ok(done)
    }
}

/// The path, where it is a file's, and the length of an entry; `None` where this is none.
fn entry(header: &[u8; BLOCK_LEN]) -> Option<(Option<String>, u64)> {
    let number = |field: &[u8]| {
        let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
        u64::from_str_radix(text, 8).ok()
    };
    let sum: u64 =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if &header[257..262] != b"ustar" || number(&header[148..156])? != sum {
        return None;
    }
    let path = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
    let path = std::str::from_utf8(path).ok()?;
    let is_file = matches!(header[156], b'0' | 0) && header[345] == 0;
    let path = is_file.then(|| path.strip_prefix("./").unwrap_or(path).to_owned());
    Some((path, number(&header[124..136])?))
}

/// Whether a path is one of a state directory's, and worth to be restored: snapshots are made anew.
fn is_wanted(path: &str) -> bool {
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["FORMAT"] => true,
        ["keys", name] => {
            name.strip_suffix(".age").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        }
        ["log", name] => name.strip_suffix(".log").is_some_and(|first| hex(first, 16)),
        ["blob", shard, name] => hex(shard, 2) && name.strip_suffix(".age").is_some_and(|id| hex(id, 32)),
        _ => false,
    }
}

fn list(dir: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let failed = |error| storage(dir, "list", &error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let entries = entries.map(|entry| {
        let entry = entry.map_err(failed)?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
    });
    entries.collect()
}

fn make(dir: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(storage(dir, "make", &error)),
        _ => Ok(()),
    }
}

/// Makes the entries of a directory and of those below it durable.
fn sync_all(dir: &Path) -> Result<(), Failure> {
    for (_, path) in list(dir)?.into_iter().filter(|(_, path)| path.is_dir()) {
        sync_all(&path)?;
    }
    super::sync(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_state_directorys_is_taken() {
        let id = "00112233445566778899aabbccddeeff";
        let blob = format!("blob/00/{id}.age");
        for path in ["FORMAT", "keys/1.age", "log/0000000000000001.log", &blob] {
            assert!(is_wanted(path), "{path}");
        }
        let outside = format!("blob/../{id}.age");
        for path in
            ["", "/FORMAT", "LOCK", "BACKUP", "../FORMAT", "keys/../x.age", "keys/.age", "log/next.tmp", &outside]
        {
            assert!(!is_wanted(path), "{path}");
        }
    }
}
