//! Opening: every record is read, shown to the visitor, and what follows the last one is judged.

use std::io;
use std::path::Path;
use std::sync::Arc;

use stated_shared::{RepositoryId, Seq};

use super::super::limits::{FILL_LEN, SEGMENT_LEN_MAX};
use super::super::{Ended, Mark, OpenError, OpenMode, Record, RecordKind, Visitor};
use super::LocalJournal;
use super::append::Writer;
use super::blobs::{self, LocalBlobs};
use super::format;
use super::header::Header;
use super::index::{Earlier, Indexed, header_at, offset};
use super::reader::LocalReader;
use super::renewal::LocalParts;
use super::segment::{LOG_DIR, NEXT_FILE, RENEWED_FILE, Segment, file_name, parse_file_name, write_zeros};
use super::tail::{Tail, judge};
use crate::disk::{Access, DirLock, Disk, DiskFile, Kind};

/// What reading one log file gave.
struct Scanned {
    file: Arc<dyn DiskFile>,
    indexed: Indexed,
    bytes: Vec<u8>,
    torn: bool,
}

pub(super) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    repository: RepositoryId,
    mode: OpenMode,
    mark: Option<&Mark>,
    visit: Visitor<'_>,
) -> Result<LocalJournal, OpenError> {
    format::check(&**disk, dir, repository)?;
    let log_dir = dir.join(LOG_DIR);
    let lock = lock(&**disk, &log_dir)?;
    let mut kind = None;
    let mut indexed = Vec::new();
    let mut last = None;
    let firsts = list(&**disk, &log_dir)?;
    let begin = match mark {
        None => 0,
        Some(mark) => {
            let begin = firsts.iter().position(|&first| relative(first) == mark.file);
            begin.ok_or_else(|| OpenError::Lost { seq: mark.seq, file: mark.file.clone() })?
        }
    };
    // What lies before the mark is looked at when somebody reads it.
    indexed.extend(firsts.windows(2).take(begin).map(|pair| Indexed::unread(pair[0], pair[1])));
    for (index, &first) in firsts.iter().enumerate().skip(begin) {
        let mark = mark.filter(|_| index == begin);
        let expected = match (&last, mark) {
            (Some(scanned), _) => next(scanned),
            (None, Some(_)) => first,
            (None, None) => Seq(1),
        };
        if first != expected {
            return Err(damaged(
                &relative(first),
                expected,
                0,
                &format!("records {expected} and on should be before it"),
            ));
        }
        indexed.extend(last.take().map(|scanned| scanned.indexed));
        let is_last = index + 1 == firsts.len();
        let see: Visitor<'_> = &mut |record| visit(record).inspect(|&said| kind = Some(said));
        last = Some(scan(&**disk, &log_dir, first, mark, is_last, mode, see)?);
    }
    let last = last.ok_or_else(|| damaged(LOG_DIR, Seq(1), 0, "it holds no log file"))?;
    let at = u64::from(last.indexed.end);
    let ended = match kind {
        _ if last.torn => {
            let (seq, file) = (next(&last), relative(last.indexed.first));
            Ended::Torn { seq, file, offset_bytes: at }
        }
        None => Ended::Empty,
        Some(RecordKind::Closed) => Ended::Closed,
        Some(RecordKind::Batch) => Ended::Open,
    };
    let segment = match mode {
        OpenMode::Repair => {
            // A first start may have died after it named FORMAT, and before that was durable.
            disk.sync_dir(dir).map_err(|source| OpenError::Io { path: dir.to_path_buf(), source })?;
            blobs::remove_next(&**disk, dir)
                .map_err(|source| OpenError::Io { path: dir.join(blobs::BLOB_DIR), source })?;
            Some(repair(&**disk, &log_dir, &last)?)
        }
        OpenMode::ReadOnly => None,
    };
    let torn_left = last.torn && mode == OpenMode::ReadOnly;
    indexed.push(last.indexed);
    let reader = Arc::new(LocalReader::new(Arc::clone(disk), dir, repository, indexed, torn_left));
    let writer = segment.map(|segment| Writer::new(Arc::clone(disk), log_dir, segment, Arc::clone(&reader)));
    let local_blobs = Arc::new(LocalBlobs::new(Arc::clone(disk), dir, writer.is_some()));
    let parts = LocalParts {
        disk: Arc::clone(disk),
        log_dir: dir.join(LOG_DIR),
        reader: Arc::clone(&reader),
        writable: writer.is_some(),
    };
    Ok(LocalJournal { writer, reader, blobs: local_blobs, parts: Arc::new(parts), ended, _log_dir: lock })
}

/// The record after the last one of this file.
fn next(scanned: &Scanned) -> Seq {
    scanned.indexed.next()
}

fn lock(disk: &dyn Disk, log_dir: &Path) -> Result<DirLock, OpenError> {
    let locked = disk.lock_dir(log_dir).map_err(|source| OpenError::Io { path: log_dir.to_path_buf(), source })?;
    locked.ok_or_else(|| OpenError::Busy(log_dir.to_path_buf()))
}

/// The first records of all log files, in order.
fn list(disk: &dyn Disk, log_dir: &Path) -> Result<Vec<Seq>, OpenError> {
    let failed = |source| OpenError::Io { path: log_dir.to_path_buf(), source };
    let mut firsts = Vec::new();
    for entry in disk.list(log_dir).map_err(failed)? {
        let name = entry.name.to_string_lossy().into_owned();
        if name == NEXT_FILE || name == RENEWED_FILE {
            continue;
        }
        let first = parse_file_name(&name).filter(|_| entry.kind == Kind::File);
        let stray = || damaged(&format!("{LOG_DIR}/{name}"), Seq(1), 0, "it does not belong to the log");
        firsts.push(first.ok_or_else(stray)?);
    }
    firsts.sort_unstable();
    Ok(firsts)
}

fn scan(
    disk: &dyn Disk,
    log_dir: &Path,
    first: Seq,
    mark: Option<&Mark>,
    is_last: bool,
    mode: OpenMode,
    visit: Visitor<'_>,
) -> Result<Scanned, OpenError> {
    let path = log_dir.join(file_name(first));
    let failed = |source| OpenError::Io { path: path.clone(), source };
    let access = if is_last && mode == OpenMode::Repair { Access::Write } else { Access::Read };
    let file = disk.open(&path, access).map_err(failed)?;
    let len = file.stat().map_err(failed)?.len;
    if len > SEGMENT_LEN_MAX {
        return Err(damaged(&relative(first), first, SEGMENT_LEN_MAX, "the file is longer than any log file"));
    }
    let start = mark.map_or(Ok(0), |mark| place(disk, log_dir, &*file, first, mark)).map_err(failed)?;
    if let Some(mark) = mark.filter(|_| start >= len) {
        return Err(OpenError::Lost { seq: mark.seq, file: mark.file.clone() });
    }
    // Places are the file's; what lies before the mark is not read, and looked at by nobody.
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes[start as usize..], start).map_err(failed)?;
    let mut indexed = match mark {
        None => Indexed::whole(first, Arc::clone(&file)),
        Some(mark) => Indexed::partly(first, Arc::clone(&file), mark.seq, offset(start)),
    };
    loop {
        let at = indexed.end as usize;
        let seq = indexed.next();
        let mark = mark.filter(|mark| mark.seq == seq);
        let refusal = match record_at(&bytes, at, seq) {
            Some((record, _)) if mark.is_some_and(|mark| mark.mac != record.mac) => {
                return Err(OpenError::Rewritten { seq, file: relative(first), offset_bytes: at as u64 });
            }
            Some((record, end)) => match visit(&record) {
                Ok(_) => {
                    indexed.offsets.push(indexed.end);
                    indexed.end = end as u32;
                    continue;
                }
                Err(unverified) => Some(unverified.0),
            },
            None => None,
        };
        let torn = match judge(&bytes, at, seq, refusal.as_deref()) {
            Tail::Clean if mark.is_some() => return Err(OpenError::Lost { seq, file: relative(first) }),
            // It was durable: whoever made the mark has seen it so.
            Tail::Torn if mark.is_some() => {
                return Err(damaged(&relative(first), seq, at as u64, "part of the record is zeros"));
            }
            Tail::Clean
                if indexed.offsets.is_empty()
                    && (bytes.is_empty() || !(bytes.len() as u64).is_multiple_of(FILL_LEN)) =>
            {
                return Err(damaged(
                    &relative(first),
                    seq,
                    0,
                    "no record, and not the fill that a log file begins with",
                ));
            }
            Tail::Clean => false,
            Tail::Torn if is_last => true,
            Tail::Torn => {
                return Err(damaged(&relative(first), seq, at as u64, "part of the record is zeros"));
            }
            Tail::Damaged(what) => return Err(damaged(&relative(first), seq, at as u64, &what)),
        };
        return Ok(Scanned { file, indexed, bytes, torn });
    }
}

/// Where the record of a mark lies, or should: elsewhere than the mark says where its file was written anew since then.
fn place(disk: &dyn Disk, log_dir: &Path, file: &dyn DiskFile, first: Seq, mark: &Mark) -> io::Result<u64> {
    let len = file.stat()?.len;
    if header_at(file, mark.offset_bytes, len)?.is_some_and(|(header, _)| header.seq == mark.seq) {
        return Ok(mark.offset_bytes);
    }
    let found = Earlier::find(disk, log_dir, first, mark.seq.next(), None)?;
    let at = mark.seq.0.checked_sub(first.0).and_then(|at| found.offsets.get(usize::try_from(at).ok()?));
    Ok(at.map_or(mark.offset_bytes, |at| u64::from(*at)))
}

/// The record at this place, if a header and all its bytes are there.
fn record_at(bytes: &[u8], at: usize, seq: Seq) -> Option<(Record, usize)> {
    let (header, header_len) = Header::parse(&bytes[at..])?;
    let sealed = bytes.get(at + header_len..at + header_len + header.len)?;
    (header.seq == seq).then(|| {
        let Header { mac, cut_bytes, .. } = header;
        (Record { seq, mac, cut_bytes, sealed: sealed.to_vec() }, at + header_len + header.len)
    })
}

/// Makes the last file end in its last record and durable zeros.
///
/// The last record is written once more: after a failed sync the kernel may hold it as clean although the disk never
/// had it, and then a sync alone would do nothing.
fn repair(disk: &dyn Disk, log_dir: &Path, last: &Scanned) -> Result<Segment, OpenError> {
    let path = log_dir.join(file_name(last.indexed.first));
    let end = u64::from(last.indexed.end);
    let rewritten = rewrite(last, end);
    let filled = rewritten.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    for left in [NEXT_FILE, RENEWED_FILE] {
        match disk.remove(&log_dir.join(left)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Io { path: log_dir.join(left), source });
            }
            _ => {}
        }
    }
    disk.sync_dir(log_dir).map_err(|source| OpenError::Io { path: log_dir.to_path_buf(), source })?;
    Ok(Segment { file: Arc::clone(&last.file), path, end, filled })
}

fn rewrite(last: &Scanned, end: u64) -> io::Result<u64> {
    let Scanned { file, indexed, bytes, .. } = last;
    // A fill that was cut short by a full disk or a crash ends anywhere; it is not built upon.
    let len = (bytes.len() as u64 / FILL_LEN * FILL_LEN).max(end);
    if len != bytes.len() as u64 {
        file.set_len(len)?;
    }
    if let Some(&start) = indexed.offsets.last() {
        file.write_at(&bytes[start as usize..end as usize], u64::from(start))?;
    }
    write_zeros(&**file, end, len)?;
    file.sync_data()?;
    Ok(len)
}

fn relative(first: Seq) -> String {
    format!("{LOG_DIR}/{}", file_name(first))
}

fn damaged(file: &str, seq: Seq, offset_bytes: u64, what: &str) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), seq, offset_bytes, what: what.to_owned() }
}
