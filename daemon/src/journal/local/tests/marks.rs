//! Opening from a record on that is known to be durable.

use super::*;
use crate::journal::Mark;

/// The mark of a record that is there.
fn mark(dir: &Directory, seq: u64) -> Mark {
    let journal = LocalJournal::open(&dir.disk, dir.path(), REPOSITORY, OpenMode::ReadOnly, &mut verify).unwrap();
    let (file, offset_bytes) = journal.reader().place(Seq(seq));
    Mark { seq: Seq(seq), mac: batch(seq).mac, file, offset_bytes }
}

fn open_from(dir: &Directory, mark: &Mark) -> Result<(LocalJournal, Vec<u64>), OpenError> {
    let mut seen = Vec::new();
    let mut visit = |record: &Record| verify(record).inspect(|_| seen.push(record.seq.0));
    let journal = LocalJournal::open_from(&dir.disk, dir.path(), REPOSITORY, OpenMode::Repair, mark, &mut visit)?;
    Ok((journal, seen))
}

#[test]
fn the_mark_and_what_follows_are_seen_and_everything_is_read() {
    let dir = in_many_files(30);
    for seq in 1..=30 {
        let (mut journal, seen) = open_from(&dir, &mark(&dir, seq)).unwrap();
        assert_eq!(seen, (seq..=30).collect::<Vec<_>>());
        assert_eq!(journal.last(), Seq(30));
        // From the end, so that the first question is about a file that nobody opened.
        for seq in (1..=30).rev() {
            assert_eq!(journal.reader().record(Seq(seq)).unwrap(), batch(seq), "from {seq}");
            assert_ne!(journal.reader().place(Seq(seq)), journal.reader().place(Seq(seq % 30 + 1)));
        }
        assert_eq!(journal.reader().check_layout().unwrap(), []);
        assert!(matches!(journal.append(&batch(32)), Err(AppendError::OutOfOrder { last: Seq(30), .. })));
    }
    let (mut journal, _) = open_from(&dir, &mark(&dir, 12)).unwrap();
    journal.append(&batch(31)).unwrap();
    drop(journal);
    assert_eq!(open_from(&dir, &mark(&dir, 31)).unwrap().1, [31]);
}

#[test]
fn damage_before_the_mark_refuses_its_record_and_nothing_else() {
    let dir = in_many_files(12);
    let mark = mark(&dir, 11);
    let places: Vec<(String, u64)> = {
        let journal = dir.repair().unwrap();
        (1..=10).map(|seq| journal.reader().place(Seq(seq))).collect()
    };
    for (seq, (file, at)) in (1_u64..).zip(&places) {
        // In the magic, the number, the length, the MAC, the check, the body.
        for byte in [0, 8, 10, 30, 82, 300] {
            let path = dir.path().join(file);
            let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut good = [0];
            file.read_exact_at(&mut good, at + byte).unwrap();
            file.write_all_at(&[good[0] ^ 1], at + byte).unwrap();
            let (journal, _) = open_from(&dir, &mark).unwrap();
            for other in 1..=12 {
                let read = journal.reader().record(Seq(other));
                let sound = read.as_ref().is_ok_and(|record| verify(record).is_ok());
                assert_eq!(sound, other != seq, "record {other} where byte {byte} of {seq} is flipped: {read:?}");
            }
            assert_eq!(journal.reader().place(Seq(seq)), places[seq as usize - 1]);
            file.write_all_at(&good, at + byte).unwrap();
        }
    }
}

#[test]
fn a_file_before_the_mark_may_be_missing_and_is_named() {
    let dir = in_many_files(20);
    let mark = mark(&dir, 19);
    let files = log_files(&dir);
    for (index, file) in files[..files.len() - 1].iter().enumerate() {
        let aside = dir.path().join("aside");
        fs::rename(file, &aside).unwrap();
        let (journal, seen) = open_from(&dir, &mark).unwrap();
        assert_eq!(seen, [19, 20]);
        let lacking = (1..=20).filter(|seq| journal.reader().record(Seq(*seq)).is_err()).count();
        assert!((1..20).contains(&lacking), "{lacking}");
        assert_ne!(journal.reader().check_layout().unwrap(), [], "file {index}");
        fs::rename(&aside, file).unwrap();
    }
}

#[test]
fn a_mark_that_the_log_does_not_reach_is_a_loss() {
    let dir = in_many_files(20);
    let mark = mark(&dir, 20);
    let files = log_files(&dir);
    let (path, at) = (dir.path().join(&mark.file), mark.offset_bytes);
    let good = fs::read(&path).unwrap();
    let lost = |why: &str| {
        let before = dir.image();
        let error = open_from(&dir, &mark).err().unwrap_or_else(|| panic!("{why}"));
        assert!(matches!(error, OpenError::Lost { seq: Seq(20), .. }), "{why}: {error}");
        assert_eq!(dir.image(), before, "{why}: something was changed");
    };
    fs::write(&path, &good[..at as usize]).unwrap();
    lost("trimmed before it");
    let mut zeros = good.clone();
    zeros[at as usize..].fill(0);
    fs::write(&path, &zeros).unwrap();
    lost("zeros in its place");
    fs::remove_file(&path).unwrap();
    lost("no file of it");
    fs::write(&path, &good).unwrap();
    // Whole sectors of zeros would be a torn record, had nobody seen this one durable.
    let mut torn = good.clone();
    let sector = (at as usize).next_multiple_of(SECTOR_LEN);
    torn[sector..sector + SECTOR_LEN].fill(0);
    fs::write(&path, &torn).unwrap();
    let error = open_from(&dir, &mark).err().unwrap();
    assert!(matches!(error, OpenError::Damaged { seq: Seq(20), .. }), "{error}");
    fs::write(&path, &good).unwrap();
    let other = Mark { mac: Digest([3; 32]), ..mark.clone() };
    assert!(matches!(open_from(&dir, &other).err(), Some(OpenError::Rewritten { seq: Seq(20), .. })));
    assert!(open_from(&dir, &mark).is_ok());
    assert_eq!(log_files(&dir), files);
}
