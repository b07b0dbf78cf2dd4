//! A backup as one stream in the form of tar: the same files, so that `tar -x` makes the same directory of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use stated_shared::{Failure, FailureKind, Seq};

use super::directory::{failed, refused};
use super::fetch::{Fetch, Fetched, blob_path, part_name};
use super::mark::Mark;
use crate::Client;

const BLOCK_LEN: usize = 512;
/// What makes a header one of POSIX's, and where.
const MAGIC: &[u8] = b"ustar\x0000";
const MAGIC_AT: usize = 257;
/// A part of the log is in memory until its length is known; one at least this long is written.
const PART_LEN: usize = 8 << 20;

/// POSIX's ustar, which any tar reads. A crate would do no more of it than these lines.
struct Archive<'a> {
    out: &'a mut dyn Write,
    name: &'a Path,
}

/// Writes a whole backup to a file, which is there once it is complete.
pub(super) fn to_file(client: &mut Client, path: &Path) -> Result<(Fetched, Mark), Failure> {
    if !may_replace(path).map_err(|error| failed("read", path, &error))? {
        return Err(refused(path, "it is no earlier one, and would be gone", "file"));
    }
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".incoming");
    let tmp = PathBuf::from(tmp);
    let written = write_file(client, path, &tmp);
    if written.is_err() {
        // Its room is wanted back, and half a backup is of no use.
        let _ = fs::remove_file(&tmp);
    }
    written
}

/// Whether there is nothing in a file but an earlier backup, if there is a file.
fn may_replace(path: &Path) -> io::Result<bool> {
    let mut header = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BLOCK_LEN as u64).read_to_end(&mut header)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    // Of whatever repository: it begins with a keyring.
    let is_backup = header.starts_with(b"keys/") && header.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC));
    Ok(header.is_empty() || is_backup)
}

fn write_file(client: &mut Client, path: &Path, tmp: &Path) -> Result<(Fetched, Mark), Failure> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(tmp);
    let mut file = open.map_err(|error| failed("make", tmp, &error))?;
    let written = to_stream(client, &mut file, tmp)?;
    file.sync_all().map_err(|error| failed("sync", tmp, &error))?;
    fs::rename(tmp, path).map_err(|error| failed("move", tmp, &error))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed("sync", dir, &error))?;
    Ok(written)
}

/// Writes a whole backup; `name` is what failures call the stream.
pub(super) fn to_stream(client: &mut Client, out: &mut dyn Write, name: &Path) -> Result<(Fetched, Mark), Failure> {
    let mut archive = Archive { out, name };
    let mut fetch = Fetch::begin(client, None)?;
    let files = fetch.begun.files.clone();
    let (keyrings, format): (Vec<_>, Vec<_>) = files.into_iter().partition(|(path, _)| path != "FORMAT");
    for (path, bytes) in keyrings {
        archive.file(&path, &bytes.0)?;
    }
    fetch.blobs(|fetch, blob, len| {
        let Some(len) = len else {
            fetch.fetched.missing += 1;
            return Ok(());
        };
        archive.begin(&blob_path(blob), len)?;
        fetch.blob(blob, len, |bytes| archive.write(bytes))?;
        archive.end(len)
    })?;
    let (mut first, mut part) = (Seq(1), Vec::new());
    fetch.records(Seq(0), |next, bytes| {
        if let Some(next) = next
            && part.len() >= PART_LEN
        {
            archive.file(&format!("log/{}", part_name(first)), &part)?;
            first = next;
            part.clear();
        }
        part.extend_from_slice(bytes);
        Ok(())
    })?;
    archive.file(&format!("log/{}", part_name(first)), &part)?;
    let (repository, seq, head) = (fetch.begun.repository, fetch.begun.seq, fetch.begun.head);
    let mark = Mark { repository, seq, head, part: first, part_len_bytes: part.len() as u64 };
    archive.file("BACKUP", mark.text().as_bytes())?;
    // Last: without it nobody takes half of a backup for a whole one.
    for (path, bytes) in format {
        archive.file(&path, &bytes.0)?;
    }
    archive.write(&[0; 2 * BLOCK_LEN])?;
    archive.out.flush().map_err(|error| failed("write", name, &error))?;
    Ok((fetch.end()?, mark))
}

impl Archive<'_> {
    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.begin(path, bytes.len() as u64)?;
        self.write(bytes)?;
        self.end(bytes.len() as u64)
    }

    fn begin(&mut self, path: &str, len: u64) -> Result<(), Failure> {
        let header = header(path, len).ok_or_else(|| {
            Failure::new(FailureKind::Other, format!("{path} of {len} bytes does not fit into the form of tar"))
                .hint("make a backup into a directory: statectl backup DIR")
        })?;
        self.write(&header)
    }

    /// Fills the last block of a file.
    fn end(&mut self, len: u64) -> Result<(), Failure> {
        let padding = len.next_multiple_of(BLOCK_LEN as u64) - len;
        self.write(&vec![0; padding as usize])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self.out.write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Failure::new(FailureKind::Other, "whoever reads the backup ended before it did")
                    .hint("see what it said, then begin again"))
            }
            written => written.map_err(|error| failed("write", self.name, &error)),
        }
    }
}

fn header(path: &str, len: u64) -> Option<[u8; BLOCK_LEN]> {
    let mut header = [0; BLOCK_LEN];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    if path.len() > 100 || len >= 1 << 33 {
        return None;
    }
    put(0, path.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{len:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The sum is made with spaces in its own place.
    put(148, b"        ");
    put(156, b"0");
    put(MAGIC_AT, MAGIC);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_posixs() {
        let header = header("log/0000000000000001.log", 4711).unwrap();
        assert_eq!(&header[..24], b"log/0000000000000001.log");
        assert_eq!(&header[124..136], b"00000011147\0");
        assert_eq!(&header[257..265], b"ustar\x0000");
        let sum =
            header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) });
        assert_eq!(&header[148..156], format!("{:06o}\0 ", sum.sum::<u32>()).as_bytes());
    }
}
