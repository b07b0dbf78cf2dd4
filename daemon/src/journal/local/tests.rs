use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Mutex;

use super::super::limits::{FILL_AHEAD_LEN_MAX, FILL_LEN, FILL_RECORDS, RESERVE_LEN, SECTOR_LEN};
use super::super::memory::{Fault, Landed};
use super::super::suite::{self, Store, batch, record, verify};
use super::super::{BlobId, ReadError, RecordKind};
use super::*;
use crate::disk::{Access, DiskFile, Entry, RealDisk, Stat};

use stated_shared::Digest;

mod lost;
mod marks;

const REPOSITORY: RepositoryId = RepositoryId([0xa5; 16]);

/// A state directory on the host's disk, which fails on demand.
struct Directory {
    dir: tempfile::TempDir,
    disk: Arc<dyn Disk>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Directory {
    fn within(dir: tempfile::TempDir) -> Self {
        let fault = Arc::default();
        Self { dir, disk: Arc::new(FailingDisk(Arc::clone(&fault))), fault }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn fail_next(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    fn log(&self, first: u64) -> PathBuf {
        self.path().join("log").join(segment::file_name(Seq(first)))
    }

    fn repair(&self) -> Result<LocalJournal, OpenError> {
        LocalJournal::open(&self.disk, self.path(), REPOSITORY, OpenMode::Repair, &mut verify)
    }

    /// As many records as asked for, then a crash.
    fn holding(records: u64) -> Self {
        let dir = Self::create();
        let mut journal = dir.repair().unwrap();
        for seq in 1..=records {
            journal.append(&batch(seq)).unwrap();
        }
        dir
    }

    /// Where the last record of the only log file lies.
    fn last_extent(&self) -> (usize, usize) {
        let journal = LocalJournal::open(&self.disk, self.path(), REPOSITORY, OpenMode::ReadOnly, &mut verify).unwrap();
        let (_, at) = journal.reader().place(journal.last());
        (at as usize, journal.reader().len_bytes() as usize)
    }
}

impl Store for Directory {
    type Journal = LocalJournal;

    fn create() -> Self {
        let dir = tempfile::tempdir().unwrap();
        LocalJournal::create(&RealDisk, dir.path(), REPOSITORY).unwrap();
        Self::within(dir)
    }

    fn open(&self, mode: OpenMode, visit: Visitor<'_>) -> Result<LocalJournal, OpenError> {
        LocalJournal::open(&self.disk, self.path(), REPOSITORY, mode, visit)
    }

    fn fail_next_append(&self, journal: &mut LocalJournal, fault: Fault) {
        if fault == Fault::Full {
            // It has durable zeros to write into, and must want more.
            let segment = &mut journal.writer.as_mut().unwrap().segment;
            segment.filled = segment.end;
        }
        self.fail_next(fault);
    }

    fn flip(&self, seq: Seq) {
        let journal = LocalJournal::open(&self.disk, self.path(), REPOSITORY, OpenMode::ReadOnly, &mut verify).unwrap();
        let (file, at) = journal.reader().place(seq);
        let file = fs::OpenOptions::new().read(true).write(true).open(self.path().join(file)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at + 200).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at + 200).unwrap();
    }

    fn lose_last(&self) {
        let (at, end) = self.last_extent();
        let file = fs::OpenOptions::new().write(true).open(self.log(1)).unwrap();
        // The first whole sector of it: in a log that was not closed this is a torn record.
        let from = at.next_multiple_of(SECTOR_LEN);
        file.write_all_at(&[0; SECTOR_LEN], from as u64).unwrap();
        assert!(from + SECTOR_LEN < end);
    }

    fn image(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.path().join("log"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.display().to_string(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    }
}

/// The host's disk, but that it fails once where it is told to.
struct FailingDisk(Arc<Mutex<Option<Fault>>>);

struct FailingFile {
    file: Arc<dyn DiskFile>,
    fault: Arc<Mutex<Option<Fault>>>,
    fails_to_sync: Mutex<bool>,
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, access)?;
        Ok(Arc::new(FailingFile { file, fault: Arc::clone(&self.0), fails_to_sync: Mutex::new(false) }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(dir)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealDisk.stat(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Option<DirLock>> {
        RealDisk.lock_dir(dir)
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buffer, at)
    }

    /// Zeros grow a file, which a full disk refuses; a record is lost, wholly or in part, and its sync says so.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut fault = self.fault.lock().unwrap();
        let grows = tail::is_zero(bytes);
        match fault.take_if(|fault| (*fault == Fault::Full) == grows) {
            None => self.file.write_at(bytes, at),
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Sync(landed)) => {
                *self.fails_to_sync.lock().unwrap() = true;
                let len = match landed {
                    Landed::Nothing => 0,
                    Landed::Part => SECTOR_LEN - at as usize % SECTOR_LEN,
                    Landed::Whole => bytes.len(),
                };
                self.file.write_at(&bytes[..len], at)
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if std::mem::take(&mut *self.fails_to_sync.lock().unwrap()) {
            return Err(io::Error::other("injected"));
        }
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn stat(&self) -> io::Result<Stat> {
        self.file.stat()
    }
}

suite::conformance!(Directory);

fn damage(dir: &Directory) -> (String, Seq, u64) {
    let before = dir.image();
    let error = dir.repair().err().expect("it must not open");
    assert_eq!(dir.image(), before, "a refused open changes nothing");
    match error {
        OpenError::Damaged { file, seq, offset_bytes, .. } => (file, seq, offset_bytes),
        other => panic!("{other}"),
    }
}

#[test]
fn a_torn_last_record_is_wiped_whichever_of_its_sectors_are_missing() {
    let template = Directory::holding(3);
    let (at, end) = template.last_extent();
    let whole = fs::read(template.log(1)).unwrap();
    let sectors: Vec<usize> = (at / SECTOR_LEN..end.div_ceil(SECTOR_LEN)).collect();
    for missing in 1..(1_u32 << sectors.len()) {
        let mut bytes = whole.clone();
        for (_, sector) in sectors.iter().enumerate().filter(|(index, _)| missing >> index & 1 == 1) {
            bytes[(sector * SECTOR_LEN).max(at)..((sector + 1) * SECTOR_LEN).min(end)].fill(0);
        }
        fs::write(template.log(1), &bytes).unwrap();
        let mut journal = template.repair().unwrap();
        assert_eq!(journal.last(), Seq(2), "{missing:b}");
        let all = missing == (1 << sectors.len()) - 1;
        let torn = Ended::Torn { seq: Seq(3), file: "log/0000000000000001.log".to_owned(), offset_bytes: at as u64 };
        assert_eq!(*journal.ended(), if all { Ended::Open } else { torn });
        assert!(tail::is_zero(&fs::read(template.log(1)).unwrap()[at..]), "wiped before anything is appended");
        journal.append(&batch(3)).unwrap();
        drop(journal);
        assert_eq!(fs::read(template.log(1)).unwrap(), whole);
    }
}

#[test]
fn every_flipped_bit_of_the_log_is_noticed() {
    let dir = Directory::holding(3);
    let (_, end) = dir.last_extent();
    let whole = fs::read(dir.log(1)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.log(1)).unwrap();
    for at in 0..end {
        for bit in [0, 3, 7] {
            file.write_all_at(&[whole[at] ^ 1 << bit], at as u64).unwrap();
            assert!(dir.repair().is_err(), "byte {at} bit {bit}");
        }
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    assert_eq!(dir.repair().unwrap().last(), Seq(3));
}

#[test]
fn every_flipped_bit_of_a_closed_log_is_noticed() {
    let dir = Directory::create();
    let mut journal = dir.repair().unwrap();
    journal.append(&batch(1)).unwrap();
    journal.append(&record(2, 700, RecordKind::Closed)).unwrap();
    let second = journal.reader().place(Seq(2)).1 as usize;
    Box::new(journal).close().unwrap();
    let whole = fs::read(dir.log(1)).unwrap();
    for at in 0..whole.len() {
        for mask in [1, 0x80, whole[at]] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            fs::write(dir.log(1), &bytes).unwrap();
            assert!(bytes == whole || dir.repair().is_err(), "byte {at} mask {mask:x}");
        }
        // Nor may it end earlier, except between records, which only a witness can tell.
        fs::write(dir.log(1), &whole[..at]).unwrap();
        assert!(at == second || dir.repair().is_err(), "cut at {at}");
    }
    fs::write(dir.log(1), [whole.as_slice(), b"\0\0x"].concat()).unwrap();
    assert_eq!(damage(&dir), ("log/0000000000000001.log".to_owned(), Seq(3), whole.len() as u64));
}

#[test]
fn a_flip_in_the_fill_is_noticed_or_repaired() {
    let dir = Directory::holding(2);
    let (_, end) = dir.last_extent();
    let whole = fs::read(dir.log(1)).unwrap();
    for at in [end, end + 1, end + 600, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(dir.log(1), &bytes).unwrap();
        match dir.repair() {
            Ok(journal) => {
                assert_eq!(journal.last(), Seq(2));
                assert_eq!(fs::read(dir.log(1)).unwrap(), whole);
            }
            Err(error) => assert!(matches!(error, OpenError::Damaged { seq: Seq(3), .. }), "{error}"),
        }
        // While a daemon runs, its own check sees it.
        fs::write(dir.log(1), &whole).unwrap();
        let journal = dir.repair().unwrap();
        fs::write(dir.log(1), &bytes).unwrap();
        let found = journal.reader().check_layout().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.as_str(), found[0].1), ("log/0000000000000001.log", at as u64));
    }
}

#[test]
fn an_acknowledged_record_is_not_dropped_for_a_missing_sector() {
    let dir = Directory::holding(4);
    let whole = fs::read(dir.log(1)).unwrap();
    let (last, _) = dir.last_extent();
    for sector in 0..last / SECTOR_LEN {
        let mut bytes = whole.clone();
        bytes[sector * SECTOR_LEN..(sector + 1) * SECTOR_LEN].fill(0);
        fs::write(dir.log(1), &bytes).unwrap();
        assert!(damage(&dir).1 < Seq(4), "sector {sector}");
    }
}

/// A journal whose log files hold about four records each.
fn in_many_files(records: u64) -> Directory {
    let dir = Directory::create();
    let mut journal = dir.repair().unwrap();
    journal.writer.as_mut().unwrap().segment_len = 6000;
    for seq in 1..=records {
        journal.append(&batch(seq)).unwrap();
    }
    dir
}

fn log_files(dir: &Directory) -> Vec<PathBuf> {
    dir.image().into_iter().map(|(path, _)| PathBuf::from(path)).collect()
}

#[test]
fn the_log_goes_on_in_a_new_file() {
    let dir = in_many_files(30);
    let files = log_files(&dir);
    assert!(files.len() > 4);
    let journal = dir.repair().unwrap();
    assert_eq!(journal.last(), Seq(30));
    for seq in 1..=30 {
        assert_eq!(journal.reader().record(Seq(seq)).unwrap(), batch(seq));
    }
    assert_eq!(journal.reader().check_layout().unwrap(), []);
    let len: u64 = files[..files.len() - 1].iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(len < journal.reader().len_bytes(), "a full file is trimmed");
}

#[test]
fn a_look_at_the_layout_sees_nothing_half_made() {
    let dir = Directory::create();
    let mut journal = dir.repair().unwrap();
    journal.writer.as_mut().unwrap().segment_len = 2000;
    let reader = journal.reader();
    std::thread::scope(|scope| {
        // Bounded: a lock that is taken again at once lets nobody else in.
        scope.spawn(move || (0..400).for_each(|_| assert_eq!(reader.check_layout().unwrap(), [])));
        (1..=200).for_each(|seq| journal.append(&batch(seq)).unwrap());
    });
}

/// Needs a small file system of its own, named by `STATED_TEST_SMALL_DISK` (1 to 16 MiB, empty).
#[test]
fn a_really_full_disk_refuses_and_loses_nothing() {
    let Some(disk) = std::env::var_os("STATED_TEST_SMALL_DISK") else {
        // Past the capture of a passing test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED: STATED_TEST_SMALL_DISK names no small file system");
        return;
    };
    let dir = Directory::within(tempfile::tempdir_in(disk).unwrap());
    LocalJournal::create(&*dir.disk, dir.path(), REPOSITORY).unwrap();
    let mut journal = dir.repair().unwrap();
    let ballast = dir.path().join("ballast");
    fs::write(&ballast, vec![1; 2 * FILL_LEN as usize]).unwrap();
    let large = |seq| record(seq, 200_000, RecordKind::Batch);
    let full = (1..).find_map(|seq| journal.append(&large(seq)).err()).unwrap();
    assert!(matches!(full, AppendError::Full { .. }), "{full}");
    let last = journal.last();
    assert!(last > Seq(2));
    assert_eq!(fs::metadata(dir.log(1)).unwrap().len() % FILL_LEN, 0, "the partial growth is taken back");
    let blobs = journal.blobs();
    let full = (0..=255).find_map(|n| blobs.write(BlobId([n; 16]), &[1; 100_000]).err()).unwrap();
    assert!(matches!(full, AppendError::Full { .. }), "{full}");
    // The reserve takes small records until it is used up; then the disk is full for them too.
    let small = |seq: u64| record(seq, 600, RecordKind::Batch);
    let full = (last.0 + 1..).find_map(|seq| journal.append_from_reserve(&small(seq)).err()).unwrap();
    assert!(matches!(full, AppendError::Full { .. }), "{full}");
    let taken = journal.last().0 - last.0;
    assert!(taken >= RESERVE_LEN / 700, "{taken}");
    let last = journal.last();
    drop(journal);
    let mut journal = dir.repair().unwrap();
    assert_eq!(journal.last(), last);
    fs::remove_file(ballast).unwrap();
    journal.append(&small(last.next().0)).unwrap();
}

#[test]
fn a_missing_or_foreign_log_file_is_damage() {
    for missing in 0..4 {
        let dir = in_many_files(30);
        fs::remove_file(&log_files(&dir)[missing]).unwrap();
        damage(&dir);
    }
    let dir = Directory::holding(1);
    fs::remove_file(dir.log(1)).unwrap();
    assert_eq!(damage(&dir), ("log".to_owned(), Seq(1), 0));
    for stray in ["log/core", "log/1.log", "log/0000000000000001.log~"] {
        let dir = Directory::holding(1);
        fs::write(dir.path().join(stray), b"").unwrap();
        assert_eq!(damage(&dir).0, stray);
    }
    let dir = Directory::holding(1);
    fs::write(dir.log(9), b"").unwrap();
    assert_eq!(damage(&dir).1, Seq(2));
}

#[test]
fn a_crash_while_a_new_file_begins_is_harmless() {
    let dir = in_many_files(8);
    let next = dir.path().join("log/next.tmp");
    for len in [0, 1000, FILL_LEN as usize] {
        fs::write(&next, vec![0; len]).unwrap();
        let journal = LocalJournal::open(&dir.disk, dir.path(), REPOSITORY, OpenMode::ReadOnly, &mut verify).unwrap();
        assert_eq!(journal.reader().check_layout().unwrap(), []);
        drop(journal);
        assert_eq!(dir.repair().unwrap().last(), Seq(8));
        assert!(!next.exists());
    }
    fs::write(dir.log(9), [0; FILL_LEN as usize]).unwrap();
    let mut journal = dir.repair().unwrap();
    journal.append(&batch(9)).unwrap();
    drop(journal);
    assert_eq!(dir.repair().unwrap().reader().place(Seq(9)), ("log/0000000000000009.log".to_owned(), 0));
}

#[test]
fn a_log_file_cut_to_nothing_is_damage() {
    let dir = in_many_files(8);
    for len in [0, 1000] {
        fs::write(dir.log(9), vec![0; len]).unwrap();
        assert_eq!(damage(&dir).1, Seq(9));
    }
    for len in [0, 1000] {
        let dir = Directory::holding(1);
        fs::write(dir.log(1), vec![0; len]).unwrap();
        assert_eq!(damage(&dir).1, Seq(1));
    }
    // Closing a log without a record leaves it as it was made.
    let dir = Directory::create();
    Box::new(dir.repair().unwrap()).close().unwrap();
    assert_eq!(*dir.repair().unwrap().ended(), Ended::Empty);
}

#[test]
fn an_earlier_file_has_no_torn_tail() {
    let dir = in_many_files(30);
    let file = &log_files(&dir)[1];
    let mut bytes = fs::read(file).unwrap();
    let len = bytes.len();
    bytes[len - 600..].fill(0);
    bytes.resize(FILL_LEN as usize, 0);
    fs::write(file, &bytes).unwrap();
    assert!(file.ends_with(damage(&dir).0));
}

#[test]
fn a_clean_stop_gives_the_fill_back() {
    let dir = Directory::create();
    let mut journal = dir.repair().unwrap();
    assert_eq!(*journal.ended(), Ended::Empty);
    journal.append(&batch(1)).unwrap();
    assert_eq!(fs::metadata(dir.log(1)).unwrap().len() % FILL_LEN, 0);
    journal.append(&record(2, 300, RecordKind::Closed)).unwrap();
    let len = journal.reader().len_bytes();
    Box::new(journal).close().unwrap();
    assert_eq!(fs::metadata(dir.log(1)).unwrap().len(), len);
    let mut journal = dir.repair().unwrap();
    assert_eq!(*journal.ended(), Ended::Closed);
    journal.append(&batch(3)).unwrap();
    assert_eq!(fs::metadata(dir.log(1)).unwrap().len() % FILL_LEN, 0);
}

#[test]
fn a_record_larger_than_the_fill_fits() {
    let dir = Directory::create();
    let mut journal = dir.repair().unwrap();
    let fill = FILL_LEN as usize;
    let mut ahead = 0;
    for (seq, len) in [(1, 100), (2, fill - 1000), (3, 3 * fill + 1), (4, fill), (5, 8 * fill), (6, fill), (7, 10)] {
        journal.append(&record(seq, len, RecordKind::Batch)).unwrap();
        let file_len = fs::metadata(dir.log(1)).unwrap().len();
        assert!(file_len >= journal.reader().len_bytes() + RESERVE_LEN);
        assert!(file_len <= journal.reader().len_bytes() + RESERVE_LEN + FILL_LEN + ahead, "after record {seq}");
        ahead = ahead.max(FILL_RECORDS * (len as u64 + 1024)).min(FILL_AHEAD_LEN_MAX);
    }
    drop(journal);
    assert_eq!(dir.repair().unwrap().last(), Seq(7));
}

#[test]
fn the_reserve_takes_what_a_full_disk_refuses() {
    let dir = Directory::holding(1);
    let mut journal = dir.repair().unwrap();
    let room = (FILL_LEN - RESERVE_LEN - journal.reader().len_bytes()) as usize;
    dir.fail_next(Fault::Full);
    let refused = journal.append(&record(2, room, RecordKind::Batch)).unwrap_err();
    assert!(matches!(refused, AppendError::Full { .. }));
    dir.fail_next(Fault::Full);
    journal.append_from_reserve(&record(2, room, RecordKind::Batch)).unwrap();
    let unused = dir.fault.lock().unwrap().take();
    assert_eq!(unused, Some(Fault::Full), "it fits into the reserve");
    drop(journal);
    assert_eq!(dir.repair().unwrap().last(), Seq(2));
}

#[test]
fn a_new_file_that_finds_no_room_leaves_the_reserve_of_the_old_one() {
    let dir = Directory::holding(1);
    let mut journal = dir.repair().unwrap();
    journal.shorten_segments(1);
    dir.fail_next(Fault::Full);
    let refused = journal.append(&record(2, 300, RecordKind::Batch)).unwrap_err();
    assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
    assert!(fs::metadata(dir.log(1)).unwrap().len() >= FILL_LEN, "the old file keeps its fill");
    dir.fail_next(Fault::Full);
    journal.append_from_reserve(&record(2, 300, RecordKind::Batch)).unwrap();
    assert_eq!(journal.reader().place(Seq(2)).0, "log/0000000000000001.log");
}

/// Otherwise its loss could not be told from damage to a log that a clean stop trimmed.
#[test]
fn the_fill_reaches_past_every_record() {
    let dir = Directory::create();
    let mut journal = dir.repair().unwrap();
    let header_len = 90;
    let first = record(1, 2 * FILL_LEN as usize - header_len, RecordKind::Batch);
    journal.append_from_reserve(&first).unwrap();
    assert_eq!(journal.reader().len_bytes(), 2 * FILL_LEN, "the test knows the header's length");
    assert_eq!(fs::metadata(dir.log(1)).unwrap().len(), 3 * FILL_LEN);
    drop(journal);
    dir.lose_last();
    assert_eq!(dir.repair().unwrap().last(), Seq(0));
}

/// Once in 2^17 records a sector's part is a zero byte by chance; then it must not lie there.
#[test]
fn a_record_that_would_look_torn_begins_a_new_file() {
    let dir = Directory::create();
    let mut journal = dir.repair().unwrap();
    journal.append(&record(1, 300, RecordKind::Batch)).unwrap();
    let end = journal.reader().len_bytes() as usize;
    let mut header = Vec::new();
    header::Header { seq: Seq(2), len: 1000, mac: Digest::ZERO, cut_bytes: 0 }.encode_into(&mut header);
    // Ends one byte into a sector, and that byte is zero.
    let len = (end + header.len() + 900).next_multiple_of(SECTOR_LEN) + 1 - end - header.len();
    let mut sealed = record(2, len, RecordKind::Batch).sealed;
    *sealed.last_mut().unwrap() = 0;
    let ambiguous = Record { seq: Seq(2), mac: crate::vault::sha256(&sealed), cut_bytes: 0, sealed };
    journal.append(&ambiguous).unwrap();
    assert_eq!(journal.reader().place(Seq(2)), ("log/0000000000000002.log".to_owned(), 0));
    drop(journal);
    dir.flip(Seq(2));
    damage(&dir);
}

#[test]
fn everything_is_private() {
    let dir = Directory::holding(1);
    dir.repair().unwrap().blobs().write(BlobId([7; 16]), b"x").unwrap();
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().mode() & 0o777;
    for path in ["log", "blob", "blob/07"] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    let blob = format!("blob/07/{}.age", "07".repeat(16));
    for path in ["FORMAT", "log/0000000000000001.log", &blob] {
        assert_eq!(mode(path), 0o600, "{path}");
    }
}

#[test]
fn format_is_compared_byte_for_byte() {
    let dir = Directory::holding(1);
    let path = dir.path().join("FORMAT");
    let text = fs::read(&path).unwrap();
    assert_eq!(text, format::format_text(REPOSITORY).into_bytes());
    assert_eq!(presence(&*dir.disk, dir.path()).unwrap(), Presence::Present(REPOSITORY));
    for at in 0..text.len() {
        let mut flipped = text.clone();
        flipped[at] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(matches!(dir.repair(), Err(OpenError::Damaged { .. } | OpenError::Format { .. })), "byte {at}");
    }
    fs::write(&path, "stated state directory, format 2\nwhatever\n").unwrap();
    assert!(matches!(dir.repair(), Err(OpenError::Format { .. })));
    assert!(matches!(presence(&*dir.disk, dir.path()), Err(OpenError::Format { .. })));
    fs::write(&path, &text).unwrap();
    let other = RepositoryId([1; 16]);
    assert!(LocalJournal::open(&dir.disk, dir.path(), other, OpenMode::Repair, &mut verify).is_err());
    assert!(matches!(LocalJournal::create(&*dir.disk, dir.path(), REPOSITORY), Err(OpenError::Io { .. })));
}

#[test]
fn a_first_start_may_be_interrupted_anywhere() {
    let dir = Directory::within(tempfile::tempdir().unwrap());
    let create = || LocalJournal::create(&*dir.disk, dir.path(), REPOSITORY);
    assert_eq!(presence(&*dir.disk, dir.path()).unwrap(), Presence::Absent);
    fs::create_dir(dir.path().join("log")).unwrap();
    assert_eq!(presence(&*dir.disk, dir.path()).unwrap(), Presence::Absent);
    fs::write(dir.log(1), [0; 1000]).unwrap();
    fs::write(dir.path().join("FORMAT.tmp"), b"stated st").unwrap();
    assert_eq!(presence(&*dir.disk, dir.path()).unwrap(), Presence::Absent);
    create().unwrap();
    assert_eq!(presence(&*dir.disk, dir.path()).unwrap(), Presence::Present(REPOSITORY));
    assert!(!dir.path().join("FORMAT.tmp").exists());
    let mut journal = dir.repair().unwrap();
    dir.fail_next_append(&mut journal, Fault::Sync(Landed::Part));
    journal.append(&batch(1)).unwrap_err();
    drop(journal);
    assert_eq!(dir.repair().unwrap().last(), Seq(0), "record 1 was never acknowledged");
}

#[test]
fn a_lost_format_does_not_start_an_empty_journal() {
    let dir = Directory::holding(1);
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    assert!(matches!(presence(&*dir.disk, dir.path()), Err(OpenError::Damaged { .. })));
    assert!(matches!(LocalJournal::create(&*dir.disk, dir.path(), REPOSITORY), Err(OpenError::Damaged { .. })));
    assert!(matches!(dir.repair(), Err(OpenError::Io { .. })));
}

#[test]
fn a_stray_file_is_named_by_the_layout_check() {
    let dir = Directory::holding(2);
    let journal = dir.repair().unwrap();
    for stray in ["log/stray", "blob/stray"] {
        fs::write(dir.path().join(stray), b"").unwrap();
        let found = journal.reader().check_layout().unwrap();
        assert_eq!(found.iter().map(|(file, ..)| file.as_str()).collect::<Vec<_>>(), [stray]);
        fs::remove_file(dir.path().join(stray)).unwrap();
    }
    fs::remove_file(dir.log(1)).unwrap();
    let found = journal.reader().check_layout().unwrap();
    assert!(found.iter().any(|(_, _, what)| what.contains("missing")), "{found:?}");
}

#[test]
fn a_damaged_record_is_refused_by_the_reader() {
    let dir = Directory::holding(3);
    let journal = dir.repair().unwrap();
    let (_, at) = journal.reader().place(Seq(2));
    let file = fs::OpenOptions::new().write(true).open(dir.log(1)).unwrap();
    file.write_all_at(b"x", at + 9).unwrap();
    let error = journal.reader().record(Seq(2)).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { offset_bytes, .. } if offset_bytes == at));
    journal.reader().record(Seq(3)).unwrap();
}
