//! A backup as a directory, which is a state directory: what is new is added, and becomes part of it all at once.
//!
//! New parts of the log lie in `incoming/` until all else is durable; the mark in there says that they count. From then on
//! they are moved into their place, also by the next run after a crash. Nothing that the backup before needs is touched
//! until then, but for blobs, which nobody reads before a record of them is there.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use stated_shared::{BlobName, Failure, FailureKind, Seq};

use super::fetch::{Fetch, Fetched, blob_path, part_name};
use super::mark::Mark;
use crate::Client;
use crate::cli::failure;

/// A part of the log at least this long is followed by a new one, as in a state directory.
const PART_LEN: u64 = 64 << 20;
const MARK: &str = "BACKUP";
const INCOMING: &str = "incoming";

/// A directory that holds a backup, or shall; nobody else writes there meanwhile.
pub(super) struct Directory {
    dir: PathBuf,
    mark: Option<Mark>,
    _lock: File,
}

impl Directory {
    /// Takes it; what a run before left complete is put in its place. `Err` leaves all else as it was.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed("make", dir, &error))?;
        let lock = File::open(dir).map_err(|error| failed("open", dir, &error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::new(FailureKind::Busy, format!("another backup into {} is under way", dir.display()))
                .hint("wait for its end, or name another directory")
        })?;
        let mut directory = Self { dir: dir.to_owned(), mark: None, _lock: lock };
        if directory.read_mark(INCOMING)?.is_some() {
            directory.publish()?;
        }
        directory.mark = directory.read_mark("")?;
        directory.check()?;
        Ok(directory)
    }

    /// Fetches what is new. `Err` leaves the backup as it was before, or complete.
    pub(super) fn update(&self, client: &mut Client) -> Result<(Fetched, Mark), Failure> {
        let incoming = self.dir.join(INCOMING);
        clear(&incoming)?;
        make(&incoming)?;
        let updated = self.fetch(client);
        if updated.is_err() && !incoming.join(MARK).exists() {
            // Its room is wanted back; the next run does it, too.
            let _ = clear(&incoming);
        }
        updated
    }

    fn fetch(&self, client: &mut Client) -> Result<(Fetched, Mark), Failure> {
        let has = self.mark.as_ref().map(|mark| (mark.repository, mark.seq, mark.head));
        let mut fetch = Fetch::begin(client, has)?;
        for name in ["keys", "log", "blob"] {
            make(&self.dir.join(name))?;
        }
        let obsolete = self.blobs(&mut fetch)?;
        let mark = self.records(&mut fetch)?;
        for (path, bytes) in fetch.begun.files.clone() {
            self.small_file(&path, &bytes.0)?;
        }
        self.write(&self.dir.join(INCOMING).join(MARK), mark.text().as_bytes())?;
        sync(&self.dir.join(INCOMING))?;
        self.publish()?;
        let keyrings = fetch.begun.files.clone();
        let fetched = fetch.end()?;
        // A keyring of before may be sealed to somebody who was removed since.
        for name in names(&self.dir.join("keys"))? {
            let path = format!("keys/{name}");
            if keyrings.iter().all(|(kept, _)| *kept != path) {
                fs::remove_file(self.dir.join(&path))
                    .map_err(|error| failed("remove", &self.dir.join(&path), &error))?;
            }
        }
        // Nothing that is kept needs them. One that stays all the same is swept by the first start of a restored directory.
        for name in obsolete {
            let _ = fs::remove_file(self.dir.join(blob_path(name)));
        }
        Ok((fetched, mark))
    }

    /// Fetches the blobs that are not there. Gives those that are, and that no version needs any more.
    fn blobs(&self, fetch: &mut Fetch<'_>) -> Result<BTreeSet<BlobName>, Failure> {
        let mut there = self.blobs_there()?;
        let mut shards = BTreeSet::new();
        fetch.blobs(|fetch, name, len| {
            let was_there = there.remove(&name);
            let path = self.dir.join(blob_path(name));
            let Some(len) = len else {
                fetch.fetched.missing += u64::from(!was_there);
                return Ok(());
            };
            // One that is there is whole. The daemon's may be sealed anew since, to keys that the backup before does not have.
            if was_there {
                return Ok(());
            }
            let tmp = self.dir.join(INCOMING).join("blob");
            let mut file = create(&tmp)?;
            fetch.blob(name, len, |bytes| file.write_all(bytes).map_err(|error| failed("write", &tmp, &error)))?;
            file.sync_all().map_err(|error| failed("sync", &tmp, &error))?;
            let shard = path.parent().expect("a blob lies in a directory");
            make(shard)?;
            rename(&tmp, &path)?;
            shards.insert(shard.to_owned());
            Ok(())
        })?;
        shards.iter().try_for_each(|shard| sync(shard))?;
        sync(&self.dir.join("blob"))?;
        Ok(there)
    }

    fn blobs_there(&self) -> Result<BTreeSet<BlobName>, Failure> {
        let mut there = BTreeSet::new();
        for shard in names(&self.dir.join("blob"))? {
            let blobs = names(&self.dir.join("blob").join(shard))?;
            there.extend(blobs.iter().filter_map(|name| name.strip_suffix(".age")?.parse::<BlobName>().ok()));
        }
        Ok(there)
    }

    /// Fetches the records that are not there, into parts that do not count yet.
    fn records(&self, fetch: &mut Fetch<'_>) -> Result<Mark, Failure> {
        let mut part: Option<(Seq, PathBuf, File, u64)> = None;
        let end = |part: &mut Option<(Seq, PathBuf, File, u64)>| match part {
            Some((_, path, file, _)) => file.sync_all().map_err(|error| failed("sync", path, &error)),
            None => Ok(()),
        };
        let has = self.mark.as_ref().map_or(Seq(0), |mark| mark.seq);
        fetch.records(has, |first, bytes| {
            if let Some(first) = first
                && part.as_ref().is_none_or(|(.., len)| *len >= PART_LEN)
            {
                end(&mut part)?;
                let path = self.dir.join(INCOMING).join(part_name(first));
                part = Some((first, path.clone(), create(&path)?, 0));
            }
            let (_, path, file, len) = part.as_mut().expect("the first piece begins with a whole record");
            *len += bytes.len() as u64;
            file.write_all(bytes).map_err(|error| failed("write", path, &error))
        })?;
        end(&mut part)?;
        let (repository, seq, head) = (fetch.begun.repository, fetch.begun.seq, fetch.begun.head);
        let last = part.map(|(first, _, _, len)| (first, len));
        let last = last.or_else(|| self.mark.as_ref().map(|mark| (mark.part, mark.part_len_bytes)));
        let (part, part_len_bytes) = last.unwrap_or((Seq(1), 0));
        Ok(Mark { repository, seq, head, part, part_len_bytes })
    }

    /// A keyring goes to its place, durably; `FORMAT` waits with the records.
    fn small_file(&self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        if path == "FORMAT" {
            return self.write(&self.dir.join(INCOMING).join(path), bytes);
        }
        let at = self.dir.join(path);
        if fs::read(&at).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let tmp = self.dir.join(INCOMING).join("keyring");
        self.write(&tmp, bytes)?;
        rename(&tmp, &at)?;
        sync(&self.dir.join("keys"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let tmp = self.dir.join(INCOMING).join("next.tmp");
        let mut file = create(&tmp)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| failed("write", &tmp, &error))?;
        rename(&tmp, path)
    }

    /// Moves what is complete into its place; each step may be repeated after a crash. The mark comes last.
    fn publish(&self) -> Result<(), Failure> {
        let incoming = self.dir.join(INCOMING);
        let mut parts = names(&incoming)?;
        parts.retain(|name| name.ends_with(".log"));
        parts.sort_unstable();
        for name in &parts {
            rename(&incoming.join(name), &self.dir.join("log").join(name))?;
        }
        sync(&self.dir.join("log"))?;
        if incoming.join("FORMAT").exists() {
            rename(&incoming.join("FORMAT"), &self.dir.join("FORMAT"))?;
            sync(&self.dir)?;
        }
        rename(&incoming.join(MARK), &self.dir.join(MARK))?;
        sync(&self.dir)?;
        clear(&incoming)
    }

    fn read_mark(&self, below: &str) -> Result<Option<Mark>, Failure> {
        let path = self.dir.join(below).join(MARK);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| failed("read", &path, &error))?,
        };
        Mark::parse(&text).map(Some).ok_or_else(|| self.refused(&format!("{} is none of a backup", path.display())))
    }

    /// Whether the directory is as the last run left it, or as an interrupted first run did.
    fn check(&self) -> Result<(), Failure> {
        let parts = names(&self.dir.join("log"))?;
        let Some(mark) = &self.mark else {
            let is_ours = |name: &String| ["keys", "blob", "log", INCOMING].contains(&name.as_str());
            return match names(&self.dir)?.iter().find(|name| !is_ours(name)) {
                Some(name) => Err(self.refused(&format!("it holds {name}, and no backup"))),
                None if parts.is_empty() => Ok(()),
                None => Err(self.refused("it holds a log, and no backup")),
            };
        };
        let path = self.dir.join("log").join(part_name(mark.part));
        let len = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if len != mark.part_len_bytes || parts.iter().any(|name| *name > part_name(mark.part)) {
            return Err(self.refused("its log is not as the last backup left it: a daemon served it, or it is damaged"));
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> Failure {
        refused(&self.dir, why, "directory")
    }
}

/// That a backup would cost what is in its place.
pub(super) fn refused(place: &Path, why: &str, what: &str) -> Failure {
    let message = format!("{} cannot take a backup: {why}", place.display());
    Failure::new(FailureKind::Conflict, message).hint(format!("nothing was changed; name a new {what}"))
}

/// The names in a directory; none where it is not there.
fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed("list", dir, &error))?,
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map_err(|error| failed("list", dir, &error))
}

fn create(path: &Path) -> Result<File, Failure> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.map_err(|error| failed("make", path, &error))
}

fn make(dir: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", dir, &error)),
        _ => Ok(()),
    }
}

fn clear(dir: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir, &error)),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(|error| failed("move", from, &error))
}

fn sync(dir: &Path) -> Result<(), Failure> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed("sync", dir, &error))
}

pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure { kind: FailureKind::Storage, ..failure::file(what, path, error) };
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failure.hint("make room there, then begin again; the backup before this one is as it was")
        }
        _ => failure,
    }
}
