//! Where the records of one log file lie: known for what was read at the start, found out for what lies before it.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use stated_shared::Seq;

use super::super::limits::SEGMENT_LEN_MAX;
use super::header::{HEADER_LEN_MAX, Header, MAGIC};
use super::segment::file_name;
use crate::disk::{Access, Disk, DiskFile};

/// Bytes that are searched at a time for the header after a damaged one.
const SEARCH_LEN: usize = 1 << 20;

/// Where the records of one log file lie.
pub(super) struct Indexed {
    /// The file's first record.
    pub first: Seq,
    /// The first record of which the start knew the place; the next file's first where it read nothing here.
    pub from: Seq,
    /// Where that lies, or the file's end.
    pub start: u32,
    /// The file, opened at the start; absent where the start read nothing here.
    pub file: Option<Arc<dyn DiskFile>>,
    /// Where each record from `from` on starts; a file is far shorter than 4 GiB.
    pub offsets: Vec<u32>,
    /// Where the last one ends.
    pub end: u32,
    /// What lies before `from`, found when it is first asked for.
    pub earlier: Arc<OnceLock<Earlier>>,
}

/// The records of one log file that the start did not read.
pub(super) struct Earlier {
    pub file: Arc<dyn DiskFile>,
    /// Where each starts; where a header is damaged, for it and for those that cannot be told from it, where it lies.
    pub offsets: Vec<u32>,
    /// Where the last one ends.
    pub end: u32,
}

impl Indexed {
    /// A file that is read from its first record on.
    pub fn whole(first: Seq, file: Arc<dyn DiskFile>) -> Self {
        Self { first, from: first, start: 0, file: Some(file), offsets: Vec::new(), end: 0, earlier: Arc::default() }
    }

    /// A file that is read from this record on, which lies at `start`.
    pub fn partly(first: Seq, file: Arc<dyn DiskFile>, from: Seq, start: u32) -> Self {
        Self { from, start, end: start, ..Self::whole(first, file) }
    }

    /// A file that the start leaves alone; `next` is the first record of the file after it.
    pub fn unread(first: Seq, next: Seq) -> Self {
        Self { first, from: next, start: 0, file: None, offsets: Vec::new(), end: 0, earlier: Arc::default() }
    }

    /// The record after the last one.
    pub fn next(&self) -> Seq {
        Seq(self.from.0 + self.offsets.len() as u64)
    }
}

impl Earlier {
    /// Reads the headers of the file's records `first..from`, which end at `end` where that is known.
    ///
    /// Headers are in the clear and carry their record's length, so nothing is opened; whether a record is genuine is
    /// found when it is read. `Err` is the system's; damage is left to whoever reads the record that it hides.
    pub fn find(disk: &dyn Disk, log_dir: &Path, first: Seq, from: Seq, end: Option<u32>) -> io::Result<Self> {
        let file = disk.open(&log_dir.join(file_name(first)), Access::Read)?;
        let end = end.map_or_else(|| file.stat().map(|stat| stat.len), |end| Ok(u64::from(end)))?;
        let end = end.min(SEGMENT_LEN_MAX);
        let mut offsets = Vec::new();
        let mut at = 0;
        let mut seq = first;
        while seq < from {
            offsets.push(offset(at));
            match header_at(&*file, at, end)?.filter(|(header, _)| header.seq == seq) {
                Some((header, len)) => at = (at + (len + header.len) as u64).min(end),
                None => {
                    let found = search(&*file, at, end, seq, from)?;
                    let (next, next_at) = found.unwrap_or((from, end));
                    offsets.resize(offsets.len() + (next.0 - seq.0 - 1) as usize, offset(at));
                    at = next_at;
                    seq = next;
                    continue;
                }
            }
            seq = seq.next();
        }
        Ok(Self { file, offsets, end: offset(at) })
    }
}

/// The next header of a record in `after..before`, from `at` on.
fn search(file: &dyn DiskFile, at: u64, end: u64, after: Seq, before: Seq) -> io::Result<Option<(Seq, u64)>> {
    let mut window = vec![0; SEARCH_LEN];
    let mut from = at + 1;
    while from < end {
        let len = (end - from).min(SEARCH_LEN as u64) as usize;
        read_up_to(file, &mut window[..len], from)?;
        for found in window[..len].windows(MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == MAGIC) {
            let place = from + found.0 as u64;
            match header_at(file, place, end)? {
                Some((header, _)) if header.seq > after && header.seq < before => {
                    return Ok(Some((header.seq, place)));
                }
                _ => {}
            }
        }
        // The windows overlap, so that none hides a magic between them.
        from += (len.saturating_sub(MAGIC.len() - 1)).max(1) as u64;
    }
    Ok(None)
}

pub(super) fn header_at(file: &dyn DiskFile, at: u64, end: u64) -> io::Result<Option<(Header, usize)>> {
    let mut line = [0; HEADER_LEN_MAX];
    let len = end.saturating_sub(at).min(HEADER_LEN_MAX as u64) as usize;
    read_up_to(file, &mut line[..len], at)?;
    Ok(Header::parse(&line[..len]))
}

/// Reads what is there; the rest of the buffer becomes zeros.
fn read_up_to(file: &dyn DiskFile, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let read = file.read_at(buffer, at)?;
    buffer[read..].fill(0);
    Ok(())
}

/// An offset within a log file.
pub(super) fn offset(at: u64) -> u32 {
    u32::try_from(at).expect("a log file is shorter than 4 GiB")
}
