//! What every journal must pass: one test for each guarantee of [`Journal`], named after it.
//!
//! An implementation's tests provide a [`Store`] and call [`conformance!`].

use stated_shared::{Digest, Seq};

use super::memory::{Fault, Landed};
use super::{
    AppendError, BlobId, Fate, Journal, OpenError, OpenMode, ReadError, Record, RecordKind, Unverified, Visitor,
};
use crate::vault::sha256;

/// Storage that outlives the journals opened on it. Dropping a journal is a crash.
pub trait Store {
    /// The implementation under test.
    type Journal: Journal;

    /// Storage without a record.
    fn create() -> Self;

    /// Opens it.
    fn open(&self, mode: OpenMode, visit: Visitor<'_>) -> Result<Self::Journal, OpenError>;

    /// Lets the next append fail.
    fn fail_next_append(&self, journal: &mut Self::Journal, fault: Fault);

    /// Flips a bit within this record.
    fn flip(&self, seq: Seq);

    /// Takes the last record away, wholly or in part, as a lost write would.
    fn lose_last(&self);

    /// All that is stored.
    fn image(&self) -> Vec<(String, Vec<u8>)>;
}

/// A record that [`verify`] believes: its MAC is the SHA-256 of its bytes.
pub fn record(seq: u64, len: usize, kind: RecordKind) -> Record {
    let mut sealed = vec![u8::from(kind == RecordKind::Closed)];
    let mut block = seq.to_be_bytes().to_vec();
    while sealed.len() < len {
        block = sha256(&block).0.to_vec();
        sealed.extend_from_slice(&block);
    }
    sealed.truncate(len);
    Record { seq: Seq(seq), mac: sha256(&sealed), cut_bytes: 0, sealed }
}

/// A record of a common size.
pub fn batch(seq: u64) -> Record {
    record(seq, 1200 + seq as usize * 37, RecordKind::Batch)
}

/// The same record, of which something is gone: its MAC and nothing else says what it was.
pub fn cut(record: &Record) -> Record {
    let sealed = [&record.sealed[..1], &record.mac.0].concat();
    Record { cut_bytes: (record.sealed.len() - sealed.len()) as u64, sealed, ..record.clone() }
}

/// Believes what [`record`] and [`cut`] made.
pub fn verify(record: &Record) -> Result<RecordKind, Unverified> {
    let is_cut = record.cut_bytes > 0 && record.sealed.get(1..) == Some(&record.mac.0[..]);
    if !is_cut && sha256(&record.sealed) != record.mac {
        return Err(Unverified("its digest differs".to_owned()));
    }
    Ok(if record.sealed.first() == Some(&1) { RecordKind::Closed } else { RecordKind::Batch })
}

fn open<S: Store>(store: &S) -> (S::Journal, Vec<Record>) {
    let mut seen = Vec::new();
    let journal = store.open(OpenMode::Repair, &mut |record| verify(record).inspect(|_| seen.push(record.clone())));
    (journal.expect("it opens"), seen)
}

fn refused<S: Store>(store: &S) -> OpenError {
    for mode in [OpenMode::ReadOnly, OpenMode::Repair] {
        let before = store.image();
        let error = store.open(mode, &mut verify).err().expect("it must not open");
        assert_eq!(store.image(), before, "a refused open changes nothing");
        if mode == OpenMode::Repair {
            return error;
        }
    }
    unreachable!()
}

fn filled<S: Store>(records: u64) -> S {
    let store = S::create();
    let (mut journal, seen) = open(&store);
    assert!(seen.is_empty());
    assert_eq!(journal.last(), Seq(0));
    for seq in 1..=records {
        journal.append(&batch(seq)).unwrap();
    }
    store
}

/// 1. What `append` acknowledged survives a crash.
pub fn durable<S: Store>() {
    let store = filled::<S>(5);
    let (journal, seen) = open(&store);
    assert_eq!(seen, (1..=5).map(batch).collect::<Vec<_>>());
    assert_eq!(journal.last(), Seq(5));
}

/// 2. After a crash a record is there byte for byte or not at all; and 4., opening decides it.
pub fn whole<S: Store>() {
    for (landed, there) in [(Landed::Nothing, false), (Landed::Part, false), (Landed::Whole, true)] {
        let store = filled::<S>(3);
        let (mut journal, _) = open(&store);
        store.fail_next_append(&mut journal, Fault::Sync(landed));
        journal.append(&batch(4)).unwrap_err();
        drop(journal);
        let (mut journal, seen) = open(&store);
        assert_eq!(seen, (1..=3 + u64::from(there)).map(batch).collect::<Vec<_>>(), "{landed:?}");
        // What was decided stays decided, and appending goes on from there.
        let next = journal.last().next();
        journal.append(&batch(next.0)).unwrap();
        drop(journal);
        assert_eq!(open(&store).1.len() as u64, next.0, "{landed:?}");
    }
}

/// 3. `append` takes exactly the next number.
pub fn ordered<S: Store>() {
    for wrong in [0, 3, 5] {
        let store = filled::<S>(3);
        let (mut journal, _) = open(&store);
        let error = journal.append(&batch(wrong)).unwrap_err();
        assert!(matches!(error, AppendError::OutOfOrder { last: Seq(3), .. }), "{wrong}: {error}");
        drop(journal);
        assert_eq!(open(&store).1.len(), 3);
    }
}

/// 4. A look without repair shows what is durable and leaves the open end as it is.
pub fn one_open_end<S: Store>() {
    let store = filled::<S>(3);
    let (mut journal, _) = open(&store);
    store.fail_next_append(&mut journal, Fault::Sync(Landed::Part));
    journal.append(&batch(4)).unwrap_err();
    drop(journal);
    let before = store.image();
    let mut journal = store.open(OpenMode::ReadOnly, &mut verify).unwrap();
    assert_eq!(journal.last(), Seq(3));
    assert!(matches!(journal.append(&batch(4)), Err(AppendError::ReadOnly)));
    assert_eq!(journal.reader().check_layout().unwrap(), []);
    Box::new(journal).close().unwrap();
    assert_eq!(store.image(), before);
    assert_eq!(open(&store).1.len(), 3);
}

/// 5. Damage anywhere refuses the opening, says where, and changes nothing.
pub fn loud<S: Store>() {
    for seq in 1..=4 {
        let store = filled::<S>(4);
        store.flip(Seq(seq));
        let error = refused(&store);
        assert!(matches!(error, OpenError::Damaged { seq: at, .. } if at == Seq(seq)), "{seq}: {error}");
    }
}

/// 6. One owner at a time, and the next one after it.
pub fn one_owner<S: Store>() {
    let store = filled::<S>(1);
    let (journal, _) = open(&store);
    for mode in [OpenMode::Repair, OpenMode::ReadOnly] {
        assert!(matches!(store.open(mode, &mut verify).err(), Some(OpenError::Busy(_))));
    }
    let reader = journal.reader();
    drop(journal);
    let (journal, _) = open(&store);
    drop((journal, reader));
}

/// 7. What was closed has no open end.
pub fn closed_is_closed<S: Store>() {
    let store = filled::<S>(3);
    let (mut journal, _) = open(&store);
    journal.append(&record(4, 1200, RecordKind::Closed)).unwrap();
    Box::new(journal).close().unwrap();
    let (journal, seen) = open(&store);
    assert_eq!(seen.len(), 4);
    Box::new(journal).close().unwrap();
    store.lose_last();
    assert!(matches!(refused(&store), OpenError::Damaged { .. }));

    // And yet it can be opened and appended to, and that append cut short.
    let store = filled::<S>(0);
    let (mut journal, _) = open(&store);
    journal.append(&record(1, 1200, RecordKind::Closed)).unwrap();
    Box::new(journal).close().unwrap();
    let (mut journal, _) = open(&store);
    store.fail_next_append(&mut journal, Fault::Sync(Landed::Part));
    journal.append(&batch(2)).unwrap_err();
    drop(journal);
    assert_eq!(open(&store).1.len(), 1);
}

/// 8. After a failed write every append fails; a full disk refuses one and no more.
pub fn poisoned<S: Store>() {
    let store = filled::<S>(2);
    let (mut journal, _) = open(&store);
    store.fail_next_append(&mut journal, Fault::Full);
    let full = journal.append(&batch(3)).unwrap_err();
    assert_eq!(full.fate(), Fate::Refuse, "{full}");
    journal.append(&batch(3)).unwrap();
    store.fail_next_append(&mut journal, Fault::Sync(Landed::Nothing));
    let failed = journal.append(&batch(4)).unwrap_err();
    assert_eq!(failed.fate(), Fate::Halt, "{failed}");
    for _ in 0..2 {
        assert!(matches!(journal.append(&batch(4)), Err(AppendError::Poisoned)));
    }
    assert!(matches!(Box::new(journal).close(), Err(AppendError::Poisoned)));
    assert_eq!(open(&store).1.len(), 3);
}

/// 9. A reader on another thread sees each record as it was, while the owner appends.
pub fn steady_reads<S: Store>() {
    let store = filled::<S>(10);
    let (mut journal, _) = open(&store);
    let reader = journal.reader();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            for seq in (1..=10).cycle().take(200) {
                assert_eq!(reader.record(Seq(seq)).unwrap(), batch(seq));
                assert_eq!(reader.mac(Seq(seq)).unwrap(), batch(seq).mac);
            }
        });
        for seq in 11..=40 {
            journal.append(&batch(seq)).unwrap();
            assert_eq!(reader.record(Seq(seq)).unwrap(), batch(seq));
            assert_eq!(reader.check_layout().unwrap(), []);
        }
        reading.join().unwrap();
    });
    assert!(matches!(reader.record(Seq(41)), Err(ReadError::Missing(_))));
    assert!(matches!(reader.record(Seq(0)), Err(ReadError::Missing(_))));
    assert!(matches!(reader.mac(Seq(41)), Err(ReadError::Missing(_))));
    assert!(reader.len_bytes() >= (1..=40).map(|seq| batch(seq).sealed.len() as u64).sum());
    assert_ne!(reader.place(Seq(1)), reader.place(Seq(2)));
}

/// 9. So do blobs, which outlive a crash and are never overwritten.
pub fn steady_blobs<S: Store>() {
    let store = filled::<S>(1);
    let (journal, _) = open(&store);
    let blobs = journal.blobs();
    let ids: Vec<BlobId> = [1, 2, 255].map(|byte| BlobId([byte; 16])).to_vec();
    for id in &ids {
        blobs.write(*id, &id.0).unwrap();
    }
    assert!(blobs.write(ids[0], b"other").is_err());
    drop((journal, blobs));
    let (journal, _) = open(&store);
    let blobs = journal.blobs();
    assert_eq!(blobs.list().unwrap(), ids);
    for id in &ids {
        assert_eq!(blobs.read(*id).unwrap(), id.0);
    }
    blobs.remove(ids[1]).unwrap();
    blobs.remove(ids[1]).unwrap();
    assert!(matches!(blobs.read(ids[1]), Err(ReadError::Missing(_))));
    assert_eq!(blobs.list().unwrap(), [ids[0], ids[2]]);
    assert_eq!(journal.reader().check_layout().unwrap(), []);
}

/// 10. A closed part that was written anew reads so from then on, and opens so; what was not finished left it as it was.
pub fn old_or_new<S: Store>() {
    let store = filled::<S>(4);
    let (mut journal, _) = open(&store);
    let (parts, reader) = (journal.parts(), journal.reader());
    assert!(matches!(parts.list()[..], [part] if !part.is_closed && part.last == Seq(4)));
    assert!(matches!(parts.renew(Seq(1)).err(), Some(AppendError::NotClosed(_))), "records are added to it");
    for seq in 5..=8 {
        journal.begin_part().unwrap();
        journal.begin_part().unwrap();
        journal.append(&batch(seq)).unwrap();
    }
    let ranges = |parts: Vec<crate::journal::Part>| -> Vec<(u64, u64, bool)> {
        parts.iter().map(|part| (part.first.0, part.last.0, part.is_closed)).collect()
    };
    let expected = [(1, 4, true), (5, 5, true), (6, 6, true), (7, 7, true), (8, 8, false)];
    assert_eq!(ranges(parts.list()), expected);
    expected.iter().for_each(|(first, ..)| assert_eq!(reader.first(Seq(*first)).unwrap(), batch(*first)));
    assert!(reader.first(Seq(9)).is_err());
    let renewed = |seq: u64| if seq == 2 || seq == 3 { cut(&batch(seq)) } else { batch(seq) };

    let mut given_up = parts.renew(Seq(1)).unwrap();
    given_up.add(&renewed(1)).unwrap();
    assert!(given_up.add(&renewed(3)).is_err(), "another one than the next");
    assert!(given_up.finish().is_err(), "some are missing");
    let mut dropped = parts.renew(Seq(1)).unwrap();
    (1..=4).for_each(|seq| dropped.add(&renewed(seq)).unwrap());
    assert!(dropped.add(&batch(5)).is_err(), "one of the next part");
    drop(dropped);
    (1..=8).for_each(|seq| assert_eq!(reader.record(Seq(seq)).unwrap(), batch(seq)));

    let before = reader.len_bytes();
    let mut renewal = parts.renew(Seq(1)).unwrap();
    (1..=4).for_each(|seq| renewal.add(&renewed(seq)).unwrap());
    assert_eq!(reader.record(Seq(2)).unwrap(), batch(2), "not yet");
    // Others go on meanwhile.
    journal.append(&batch(9)).unwrap();
    renewal.finish().unwrap();
    journal.append(&batch(10)).unwrap();
    let check = |reader: &dyn crate::journal::Reader| {
        for seq in 1..=10 {
            assert_eq!(reader.record(Seq(seq)).unwrap(), renewed(seq));
            assert_eq!(reader.mac(Seq(seq)).unwrap(), batch(seq).mac);
            assert_eq!(reader.cut_bytes(Seq(seq)).unwrap(), renewed(seq).cut_bytes);
        }
        assert_eq!(reader.check_layout().unwrap(), []);
    };
    check(&*reader);
    assert!(reader.len_bytes() < before + 2 * batch(10).sealed.len() as u64);
    // A renewal that nobody finished is as good as none.
    let mut unfinished = parts.renew(Seq(5)).unwrap();
    unfinished.add(&cut(&batch(5))).unwrap();
    std::mem::forget(unfinished);
    drop((journal, parts, reader));
    let (journal, seen) = open(&store);
    assert_eq!(seen, (1..=10).map(renewed).collect::<Vec<_>>());
    check(&*journal.reader());
    assert_eq!(ranges(journal.parts().list()).len(), 5);
}

/// A record over the limit is refused, and that is all.
pub fn too_large<S: Store>() {
    let store = filled::<S>(1);
    let (mut journal, _) = open(&store);
    let over =
        Record { seq: Seq(2), mac: Digest::ZERO, cut_bytes: 0, sealed: vec![1; super::limits::RECORD_LEN_MAX + 1] };
    let error = journal.append(&over).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }));
    assert_eq!(error.fate(), Fate::Refuse);
    journal.append(&record(2, super::limits::RECORD_LEN_MAX, RecordKind::Batch)).unwrap();
    journal.append(&batch(3)).unwrap();
    drop(journal);
    assert_eq!(open(&store).1.len(), 3);
}

/// Declares a test for each guarantee.
macro_rules! conformance {
    ($store:ty) => {
        $crate::journal::suite::conformance!($store: durable whole ordered one_open_end loud one_owner closed_is_closed
            poisoned steady_reads steady_blobs old_or_new too_large);
    };
    ($store:ty: $($test:ident)*) => {
        $(#[test]
        fn $test() {
            $crate::journal::suite::$test::<$store>();
        })*
    };
}
pub(crate) use conformance;
