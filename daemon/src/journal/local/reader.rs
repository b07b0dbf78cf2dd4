//! Reading durable records while the owner appends: an index of offsets, positioned reads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use stated_shared::{Digest, RepositoryId, Seq};

use super::super::limits::SEGMENT_LEN_MAX;
use super::super::{OpenError, Part, ReadError, Reader, Record};
use super::blobs;
use super::format;
use super::header::{HEADER_LEN_MAX, Header};
use super::index::{Earlier, Indexed, header_at, offset};
use super::segment::{LOG_DIR, NEXT_FILE, RENEWED_FILE, file_name, parse_file_name};
use crate::disk::{Access, Disk, DiskFile};

/// The index, shared with the writer.
pub(super) struct LocalReader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    repository: RepositoryId,
    segments: RwLock<Vec<Indexed>>,
    /// Held over a write beyond the last record.
    tail: Mutex<()>,
    /// Held over a change of what `log/` holds, and of the index that goes with it.
    entries: Mutex<()>,
    /// A torn tail was seen and, the journal being read-only, left.
    torn_left: bool,
}

struct Found {
    file: Arc<dyn DiskFile>,
    first: Seq,
    at: u64,
    end: u64,
}

impl LocalReader {
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        repository: RepositoryId,
        segments: Vec<Indexed>,
        torn_left: bool,
    ) -> Self {
        let (segments, tail, entries) = (RwLock::new(segments), Mutex::new(()), Mutex::new(()));
        Self { disk, dir: dir.to_path_buf(), repository, segments, tail, entries, torn_left }
    }

    pub fn last(&self) -> Seq {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.last().map_or(Seq(0), |segment| Seq(segment.next().0 - 1))
    }

    /// Adds the record that now lies durably at `at..end` of the last file.
    pub fn push(&self, at: u64, end: u64) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let segment = segments.last_mut().expect("a log has a file");
        segment.offsets.push(offset(at));
        segment.end = offset(end);
    }

    /// Goes on in a new file.
    pub fn begin_segment(&self, first: Seq, file: Arc<dyn DiskFile>) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.push(Indexed::whole(first, file));
    }

    /// While it is held nobody writes beyond the last record.
    pub fn hold_tail(&self) -> MutexGuard<'_, ()> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While it is held nobody changes what `log/` holds. Whoever holds the tail as well has taken that before.
    pub fn hold_entries(&self) -> MutexGuard<'_, ()> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log files; the last one is open.
    pub fn parts(&self) -> Vec<Part> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let count = segments.len();
        let part = |(at, segment): (usize, &Indexed)| Part {
            first: segment.first,
            last: Seq(segment.next().0 - 1),
            len_bytes: self.segment_len(segment),
            is_closed: at + 1 < count,
        };
        segments.iter().enumerate().map(part).collect()
    }

    /// The closed file of this first record is another one now. Whoever reads the old one has it open.
    pub fn renewed(&self, first: Seq) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let at = segments.partition_point(|segment| segment.first < first);
        let next = segments[at].next();
        segments[at] = Indexed::unread(first, next);
    }

    fn segment_len(&self, segment: &Indexed) -> u64 {
        match segment.file {
            Some(_) => u64::from(segment.end),
            // Not read at the start, or written anew; trimmed behind its last record in any case.
            None => self.disk.stat(&self.dir.join(Self::relative(segment.first))).map_or(0, |stat| stat.len),
        }
    }

    fn find(&self, seq: Seq) -> Result<Found, ReadError> {
        loop {
            if let Some(found) = self.find_now(seq)? {
                return Ok(found);
            }
        }
    }

    /// `None` where the file was written anew meanwhile.
    fn find_now(&self, seq: Seq) -> Result<Option<Found>, ReadError> {
        let missing = || ReadError::Missing(format!("record {seq}"));
        let (first, from, start, indexed) = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let after = segments.partition_point(|segment| segment.first <= seq);
            let segment = &segments[after.checked_sub(1).ok_or_else(missing)?];
            if let (Some(index), Some(file)) = (seq.0.checked_sub(segment.from.0), &segment.file) {
                let index = usize::try_from(index).map_err(|_| missing())?;
                let at = u64::from(*segment.offsets.get(index).ok_or_else(missing)?);
                let end = u64::from(*segment.offsets.get(index + 1).unwrap_or(&segment.end));
                return Ok(Some(Found { file: Arc::clone(file), first: segment.first, at, end }));
            }
            let start = segment.file.is_some().then_some(segment.start);
            (segment.first, segment.from, start, Arc::clone(&segment.earlier))
        };
        let found = self.earlier(&indexed, first, from, start);
        // What was known of the old file says nothing of the new one, which may have been the one that was opened.
        if !self.is_current(first, &indexed) {
            return Ok(None);
        }
        let earlier = found?;
        let index = usize::try_from(seq.0 - first.0).map_err(|_| missing())?;
        let at = u64::from(*earlier.offsets.get(index).ok_or_else(missing)?);
        let end = u64::from(*earlier.offsets.get(index + 1).unwrap_or(&earlier.end));
        if at == end && at == u64::from(earlier.end) {
            return Err(missing());
        }
        Ok(Some(Found { file: Arc::clone(&earlier.file), first, at, end }))
    }

    fn is_current(&self, first: Seq, earlier: &Arc<OnceLock<Earlier>>) -> bool {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let segment = segments.get(segments.partition_point(|segment| segment.first < first));
        segment.is_some_and(|segment| Arc::ptr_eq(&segment.earlier, earlier))
    }

    /// The places of records that the start did not read, found on the first call.
    fn earlier<'a>(
        &self,
        earlier: &'a OnceLock<Earlier>,
        first: Seq,
        from: Seq,
        start: Option<u32>,
    ) -> Result<&'a Earlier, ReadError> {
        if let Some(found) = earlier.get() {
            return Ok(found);
        }
        let file = Self::relative(first);
        let found = Earlier::find(&*self.disk, &self.dir.join(LOG_DIR), first, from, start).map_err(|source| {
            match source.kind() {
                io::ErrorKind::NotFound => ReadError::Missing(file.clone()),
                _ => ReadError::Read { path: self.dir.join(&file), source },
            }
        })?;
        // Whoever was faster found the same.
        Ok(earlier.get_or_init(|| found))
    }

    fn relative(first: Seq) -> String {
        format!("{LOG_DIR}/{}", file_name(first))
    }

    /// A log file that has no record yet, and where its first one will be.
    fn begun(&self, first: Seq) -> Result<(Arc<dyn DiskFile>, u64), ReadError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let file = segments.iter().find(|segment| segment.first == first).and_then(|segment| segment.file.clone());
        file.map(|file| (file, 0)).ok_or_else(|| ReadError::Missing(Self::relative(first)))
    }

    fn failed(&self, file: &str) -> impl FnOnce(io::Error) -> ReadError {
        let path = self.dir.join(file);
        move |source| ReadError::Read { path, source }
    }
}

impl Reader for LocalReader {
    fn record(&self, seq: Seq) -> Result<Record, ReadError> {
        let found = self.find(seq)?;
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
        Ok(Record { seq, mac: header.mac, cut_bytes: header.cut_bytes, sealed: bytes })
    }

    fn first(&self, seq: Seq) -> Result<Record, ReadError> {
        let relative = Self::relative(seq);
        let file = self.disk.open(&self.dir.join(&relative), Access::Read).map_err(self.failed(&relative))?;
        let len = file.stat().map_err(self.failed(&relative))?.len;
        match header_at(&*file, 0, len).map_err(self.failed(&relative))? {
            Some((header, line_len)) if header.seq == seq => {
                let mut sealed = vec![0; header.len];
                file.read_exact_at(&mut sealed, line_len as u64).map_err(self.failed(&relative))?;
                Ok(Record { seq, mac: header.mac, cut_bytes: header.cut_bytes, sealed })
            }
            _ => {
                let what = "no header of this record".to_owned();
                Err(ReadError::Damaged { file: relative, offset_bytes: 0, what })
            }
        }
    }

    fn mac(&self, seq: Seq) -> Result<Digest, ReadError> {
        self.header(seq).map(|header| header.mac)
    }

    fn cut_bytes(&self, seq: Seq) -> Result<u64, ReadError> {
        self.header(seq).map(|header| header.cut_bytes)
    }

    fn place(&self, seq: Seq) -> (String, u64) {
        match self.find(seq) {
            Ok(found) => (Self::relative(found.first), found.at),
            Err(ReadError::Missing(file)) if file.starts_with(LOG_DIR) => (file, 0),
            Err(_) => (LOG_DIR.to_owned(), 0),
        }
    }

    fn len_bytes(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().map(|segment| self.segment_len(segment)).sum()
    }

    fn check_layout(&self) -> Result<Vec<(String, u64, String)>, ReadError> {
        let mut found = Vec::new();
        if let Err(error) = format::check(&*self.disk, &self.dir, self.repository) {
            let (offset_bytes, what) = match error {
                OpenError::Damaged { offset_bytes, what, .. } => (offset_bytes, what),
                other => (0, other.to_string()),
            };
            found.push((format::FORMAT_FILE.to_owned(), offset_bytes, what));
        }
        self.check_log(&mut found)?;
        blobs::strays(&*self.disk, &self.dir, &mut found).map_err(self.failed(blobs::BLOB_DIR))?;
        Ok(found)
    }
}

impl LocalReader {
    fn header(&self, seq: Seq) -> Result<Header, ReadError> {
        let found = self.find(seq)?;
        let file = Self::relative(found.first);
        let mut bytes = vec![0; HEADER_LEN_MAX.min((found.end - found.at) as usize)];
        let read = found.file.read_exact_at(&mut bytes, found.at);
        match (read, Header::parse(&bytes)) {
            (Ok(()), Some((header, _))) if header.seq == seq => Ok(header),
            (Err(source), _) if source.kind() != io::ErrorKind::UnexpectedEof => {
                Err(ReadError::Read { path: self.dir.join(&file), source })
            }
            _ => Err(ReadError::Damaged { file, offset_bytes: found.at, what: "no header of this record".to_owned() }),
        }
    }

    fn check_log(&self, found: &mut Vec<(String, u64, String)>) -> Result<(), ReadError> {
        // Appending waits for this, which is brief: the entries of one directory, and the fill.
        let (_tail, _entries) = (self.hold_tail(), self.hold_entries());
        let (count, firsts): (usize, Vec<(Seq, Seq)>) = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            (segments.len(), segments.iter().map(|s| (s.first, Seq(s.next().0 - 1))).collect())
        };
        if let Some((first, _)) = firsts.first().filter(|(first, _)| *first > Seq(1)) {
            let what = format!("the files with the records before {first} are missing");
            found.push((LOG_DIR.to_owned(), 0, what));
        }
        for (index, &(first, last)) in firsts.iter().enumerate() {
            let relative = Self::relative(first);
            let at_end = if last < first { self.begun(first) } else { self.find(last).map(|f| (f.file, f.end)) };
            let (file, end) = match at_end {
                Ok(at_end) => at_end,
                Err(ReadError::Missing(what)) => {
                    found.push((relative, 0, format!("{what} is missing")));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let end = &end;
            let on_disk = match self.disk.stat(&self.dir.join(&relative)) {
                Ok(on_disk) => on_disk,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    found.push((relative, 0, "it is missing".to_owned()));
                    continue;
                }
                Err(source) => return Err(self.failed(&relative)(source)),
            };
            let opened = file.stat().map_err(self.failed(&relative))?;
            let len = opened.len;
            if on_disk.id != opened.id {
                found.push((relative.clone(), 0, "the file was replaced".to_owned()));
            }
            if len < *end || len > SEGMENT_LEN_MAX {
                found.push((relative, len, "the file's length is wrong".to_owned()));
                continue;
            }
            if self.torn_left && index + 1 == count {
                continue;
            }
            let mut after = vec![0; (len - end) as usize];
            file.read_exact_at(&mut after, *end).map_err(self.failed(&relative))?;
            if let Some(at) = after.iter().position(|&byte| byte != 0) {
                found.push((relative, end + at as u64, "bytes after the last record".to_owned()));
            }
        }
        for entry in self.disk.list(&self.dir.join(LOG_DIR)).map_err(self.failed(LOG_DIR))? {
            let name = entry.name.to_string_lossy();
            let known = parse_file_name(&name).is_some_and(|first| firsts.iter().any(|known| known.0 == first));
            // One that is about to be a log file was left by a crash, or is being written.
            if !known && name != NEXT_FILE && name != RENEWED_FILE {
                found.push((format!("{LOG_DIR}/{name}"), 0, "a file that does not belong to the log".to_owned()));
            }
        }
        Ok(())
    }
}
