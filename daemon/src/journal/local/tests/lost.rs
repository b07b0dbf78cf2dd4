//! Cutting off what is lost.

use super::*;

/// Everything below the directory that is no zero fill, so that nothing is deleted unseen.
fn bytes_in_lost(dir: &Directory) -> u64 {
    let mut len = 0;
    for entry in fs::read_dir(dir.path().join("lost")).into_iter().flatten() {
        for file in fs::read_dir(entry.unwrap().path()).unwrap() {
            len += file.unwrap().metadata().unwrap().len();
        }
    }
    len
}

#[test]
fn the_log_ends_before_what_is_cut_off_and_nothing_is_deleted() {
    for seq in 2..=20 {
        let dir = in_many_files(20);
        dir.flip(Seq(seq));
        let (file, at, offset_bytes) = damage(&dir);
        assert_eq!(at, Seq(seq));
        let before: u64 = dir.image().iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let loss = Loss { seq: at, at: Some((file, offset_bytes)), snapshots: Vec::new() };
        let aside = loss.cut(&dir.disk, dir.path()).unwrap();
        assert_eq!(Loss::pending(&*dir.disk, dir.path(), at).unwrap(), Some(aside));
        let after: u64 = dir.image().iter().map(|(_, bytes)| bytes.len() as u64).sum();
        assert_eq!(before, after + bytes_in_lost(&dir), "record {seq}");
        let mut journal = dir.repair().unwrap();
        assert_eq!(journal.last(), Seq(seq - 1));
        assert!(!matches!(journal.ended(), Ended::Torn { .. }));
        journal.append(&batch(seq)).unwrap();
        drop(journal);
        assert_eq!(dir.repair().unwrap().last(), Seq(seq));
    }
}

#[test]
fn a_cut_that_was_interrupted_is_repeated() {
    let dir = in_many_files(20);
    let files = log_files(&dir);
    dir.flip(Seq(6));
    let (file, seq, offset_bytes) = damage(&dir);
    let loss = Loss { seq, at: Some((file.clone(), offset_bytes)), snapshots: Vec::new() };
    // Killed after the directory, and after each file that was moved.
    let aside = dir.path().join(loss.make_aside(&*dir.disk, dir.path()).unwrap());
    for moved in files.iter().skip(2).rev() {
        fs::rename(moved, aside.join(moved.file_name().unwrap())).unwrap();
        let (found, at, place) = damage(&dir);
        assert_eq!((found, at, place), (file.clone(), seq, offset_bytes), "the same damage is found again");
    }
    let again = loss.cut(&dir.disk, dir.path()).unwrap();
    assert_ne!(dir.path().join(&again), aside, "what was moved stays where it is");
    assert_eq!(dir.repair().unwrap().last(), Seq(5));
    assert_eq!(Loss::pending(&*dir.disk, dir.path(), seq).unwrap(), Some(again));
}

#[test]
fn what_the_lost_part_referred_to_goes_with_it() {
    let dir = Directory::holding(5);
    let (kept, orphan) = (BlobId([1; 16]), BlobId([2; 16]));
    {
        let journal = dir.repair().unwrap();
        journal.blobs().write(kept, b"kept").unwrap();
        journal.blobs().write(orphan, b"orphan").unwrap();
    }
    let snapshots = LocalSnapshots::new(Arc::clone(&dir.disk), dir.path());
    for seq in [2, 3, 5] {
        snapshots.write(Seq(seq), b"sealed", Some(Seq(seq - 1))).unwrap();
    }
    let loss = Loss { seq: Seq(4), at: None, snapshots: Vec::new() };
    fs::write(dir.path().join("snap/0000000000000002.age"), b"sealed").unwrap();
    let aside = loss.cut(&dir.disk, dir.path()).unwrap();
    assert_eq!(snapshots.list().unwrap().0, [Seq(2)], "one that is newer than the log's new end goes too");
    let needed = kept.to_string();
    Loss::set_aside_blobs(&*dir.disk, dir.path(), &aside, &[needed.as_str()].into()).unwrap();
    let journal = dir.repair().unwrap();
    assert_eq!(journal.blobs().list().unwrap(), [kept]);
    assert_eq!(fs::read(dir.path().join(aside).join(format!("blob-{orphan}.age"))).unwrap(), b"orphan");
}
