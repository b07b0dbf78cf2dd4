//! Reading durable records while the owner appends: an index of offsets, positioned reads.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use stated_shared::{Digest, RepositoryId, Seq};

use super::super::limits::SEGMENT_LEN_MAX;
use super::super::{OpenError, ReadError, Reader, Record};
use super::blobs;
use super::format;
use super::header::{HEADER_LEN_MAX, Header};
use super::segment::{LOG_DIR, NEXT_FILE, file_name, parse_file_name};

/// Where the records of one log file lie.
pub(super) struct Indexed {
    pub first: Seq,
    pub file: Arc<File>,
    /// Where each record starts; a file is far shorter than 4 GiB.
    pub offsets: Vec<u32>,
    /// Where the last one ends.
    pub end: u32,
}

/// The index, shared with the writer.
pub(super) struct LocalReader {
    dir: PathBuf,
    repository: RepositoryId,
    segments: RwLock<Vec<Indexed>>,
    /// Held over a write beyond the last record.
    tail: Mutex<()>,
    /// A torn tail was seen and, the journal being read-only, left.
    torn_left: bool,
}

struct Found {
    file: Arc<File>,
    first: Seq,
    at: u64,
    end: u64,
}

impl LocalReader {
    pub fn new(dir: &Path, repository: RepositoryId, segments: Vec<Indexed>, torn_left: bool) -> Self {
        Self { dir: dir.to_path_buf(), repository, segments: RwLock::new(segments), tail: Mutex::new(()), torn_left }
    }

    pub fn last(&self) -> Seq {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.last().map_or(Seq(0), |segment| Seq(segment.first.0 + segment.offsets.len() as u64 - 1))
    }

    /// Adds the record that now lies durably at `at..end` of the last file.
    pub fn push(&self, at: u64, end: u64) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let segment = segments.last_mut().expect("a log has a file");
        segment.offsets.push(offset(at));
        segment.end = offset(end);
    }

    /// Goes on in a new file.
    pub fn begin_segment(&self, first: Seq, file: Arc<File>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.push(Indexed { first, file, offsets: Vec::new(), end: 0 });
    }

    /// While it is held nobody writes beyond the last record.
    pub fn hold_tail(&self) -> MutexGuard<'_, ()> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, seq: Seq) -> Option<Found> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let segment = &segments[segments.partition_point(|segment| segment.first <= seq).checked_sub(1)?];
        let index = usize::try_from(seq.0 - segment.first.0).ok()?;
        let at = u64::from(*segment.offsets.get(index)?);
        let end = u64::from(*segment.offsets.get(index + 1).unwrap_or(&segment.end));
        Some(Found { file: Arc::clone(&segment.file), first: segment.first, at, end })
    }

    fn relative(first: Seq) -> String {
        format!("{LOG_DIR}/{}", file_name(first))
    }

    fn failed(&self, file: &str) -> impl FnOnce(io::Error) -> ReadError {
        let path = self.dir.join(file);
        move |source| ReadError::Read { path, source }
    }
}

impl Reader for LocalReader {
    fn record(&self, seq: Seq) -> Result<Record, ReadError> {
        let found = self.find(seq).ok_or_else(|| ReadError::Missing(format!("record {seq}")))?;
        let file = Self::relative(found.first);
        let damaged =
            |what: &str| ReadError::Damaged { file: file.clone(), offset_bytes: found.at, what: what.to_owned() };
        let mut bytes = vec![0; (found.end - found.at) as usize];
        found.file.read_exact_at(&mut bytes, found.at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => damaged("the file is cut short"),
            _ => ReadError::Read { path: self.dir.join(&file), source },
        })?;
        let (header, header_len) = Header::parse(&bytes).ok_or_else(|| damaged("no record header"))?;
        if header.seq != seq || header_len + header.len != bytes.len() {
            return Err(damaged("another record's header"));
        }
        bytes.drain(..header_len);
        Ok(Record { seq, mac: header.mac, sealed: bytes })
    }

    fn mac(&self, seq: Seq) -> Result<Digest, ReadError> {
        let found = self.find(seq).ok_or_else(|| ReadError::Missing(format!("record {seq}")))?;
        let file = Self::relative(found.first);
        let mut bytes = vec![0; HEADER_LEN_MAX.min((found.end - found.at) as usize)];
        let read = found.file.read_exact_at(&mut bytes, found.at);
        match (read, Header::parse(&bytes)) {
            (Ok(()), Some((header, _))) if header.seq == seq => Ok(header.mac),
            (Err(source), _) if source.kind() != io::ErrorKind::UnexpectedEof => {
                Err(ReadError::Read { path: self.dir.join(&file), source })
            }
            _ => Err(ReadError::Damaged { file, offset_bytes: found.at, what: "no header of this record".to_owned() }),
        }
    }

    fn place(&self, seq: Seq) -> (String, u64) {
        match self.find(seq) {
            Some(found) => (Self::relative(found.first), found.at),
            None => (LOG_DIR.to_owned(), 0),
        }
    }

    fn len_bytes(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().map(|segment| u64::from(segment.end)).sum()
    }

    fn check_layout(&self) -> Result<Vec<(String, u64, String)>, ReadError> {
        let mut found = Vec::new();
        if let Err(error) = format::check(&self.dir, self.repository) {
            let (offset_bytes, what) = match error {
                OpenError::Damaged { offset_bytes, what, .. } => (offset_bytes, what),
                other => (0, other.to_string()),
            };
            found.push((format::FORMAT_FILE.to_owned(), offset_bytes, what));
        }
        self.check_log(&mut found)?;
        blobs::strays(&self.dir, &mut found).map_err(self.failed(blobs::BLOB_DIR))?;
        Ok(found)
    }
}

impl LocalReader {
    fn check_log(&self, found: &mut Vec<(String, u64, String)>) -> Result<(), ReadError> {
        // Appending waits for this, which is brief: the entries of one directory, and the fill.
        let _tail = self.hold_tail();
        let segments: Vec<(Seq, Arc<File>, u64)> = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            segments.iter().map(|s| (s.first, Arc::clone(&s.file), u64::from(s.end))).collect()
        };
        for (index, (first, file, end)) in segments.iter().enumerate() {
            let relative = Self::relative(*first);
            let on_disk = fs::metadata(self.dir.join(&relative)).map_err(self.failed(&relative))?;
            let opened = file.metadata().map_err(self.failed(&relative))?;
            let len = opened.len();
            if !same_file(&on_disk, &opened) {
                found.push((relative.clone(), 0, "the file was replaced".to_owned()));
            }
            if len < *end || len > SEGMENT_LEN_MAX {
                found.push((relative, len, "the file's length is wrong".to_owned()));
                continue;
            }
            if self.torn_left && index + 1 == segments.len() {
                continue;
            }
            let mut after = vec![0; (len - end) as usize];
            file.read_exact_at(&mut after, *end).map_err(self.failed(&relative))?;
            if let Some(at) = after.iter().position(|&byte| byte != 0) {
                found.push((relative, end + at as u64, "bytes after the last record".to_owned()));
            }
        }
        for entry in fs::read_dir(self.dir.join(LOG_DIR)).map_err(self.failed(LOG_DIR))? {
            let name = entry.map_err(self.failed(LOG_DIR))?.file_name();
            let name = name.to_string_lossy();
            let known = parse_file_name(&name).is_some_and(|first| segments.iter().any(|segment| segment.0 == first));
            // A file that is about to be the next one was left by a crash, and the journal is read-only.
            if !known && name != NEXT_FILE {
                found.push((format!("{LOG_DIR}/{name}"), 0, "a file that does not belong to the log".to_owned()));
            }
        }
        Ok(())
    }
}

fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn offset(at: u64) -> u32 {
    u32::try_from(at).expect("a log file is shorter than 4 GiB")
}
