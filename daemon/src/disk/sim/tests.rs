//! The simulated disk itself: what it must lose, and what it must not.

use std::collections::BTreeSet;
use std::path::Path;

use super::file::SECTOR_LEN;
use super::*;

const A: &str = "/d/a";
const B: &str = "/d/b";

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(seed, &["/d"])
}

fn written(disk: &SimDisk, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(Path::new(A), Access::Replace).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    disk.read(Path::new(path), u64::MAX).ok()
}

#[test]
fn what_is_synced_with_its_entry_stays() {
    for seed in 0..50 {
        let disk = disk(seed);
        written(&disk, b"bytes").sync_all().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.reboot();
        assert_eq!(read(&disk, A).as_deref(), Some(&b"bytes"[..]));
    }
}

#[test]
fn an_entry_is_not_synced_with_its_file() {
    let there = (0..50).filter(|seed| {
        let disk = disk(*seed);
        written(&disk, b"bytes").sync_all().unwrap();
        disk.reboot();
        let found = read(&disk, A);
        assert!(found.is_none() || found.as_deref() == Some(&b"bytes"[..]));
        found.is_some()
    });
    assert!((5..45).contains(&there.count()));
}

#[test]
fn unsynced_sectors_are_old_or_new_each_for_itself() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        let disk = disk(seed);
        let file = written(&disk, &[1; 4 * SECTOR_LEN]);
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[2; 3 * SECTOR_LEN], 100).unwrap();
        disk.reboot();
        let bytes = read(&disk, A).unwrap();
        assert!(bytes[..100].iter().all(|byte| *byte == 1));
        seen.insert(bytes.chunks(SECTOR_LEN).map(|sector| sector[200] == 2).collect::<Vec<_>>());
        for sector in bytes.chunks(SECTOR_LEN).take(3).skip(1) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
        }
    }
    assert_eq!(seen.len(), 8, "any subset of the three sectors that it touches with byte 200");
}

#[test]
fn a_length_may_be_lost_and_its_bytes_with_it() {
    let lens: BTreeSet<usize> = (0..100)
        .map(|seed| {
            let disk = disk(seed);
            let file = written(&disk, b"");
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            file.write_at(&[1; 1000], 0).unwrap();
            file.set_len(300).unwrap();
            disk.reboot();
            read(&disk, A).unwrap().len()
        })
        .collect();
    assert_eq!(lens, BTreeSet::from([0, 300, 1000]));
}

#[test]
fn a_renaming_is_whole_or_absent() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let disk = disk(seed);
        written(&disk, b"new").sync_all().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.rename(Path::new(A), Path::new(B)).unwrap();
        disk.reboot();
        seen.insert((read(&disk, A).is_some(), read(&disk, B).is_some()));
    }
    assert_eq!(seen, BTreeSet::from([(true, false), (false, true)]));
}

#[test]
fn what_a_failed_sync_lost_no_later_sync_brings_back() {
    let lost = (0..50).filter(|seed| {
        let disk = disk(*seed);
        let file = written(&disk, b"");
        file.sync_all().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[1; SECTOR_LEN], 0).unwrap();
        disk.fail(0, Fault::Io);
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(read(&disk, A).unwrap(), [1; SECTOR_LEN], "the cache has it still");
        disk.reboot();
        read(&disk, A).unwrap() == [0; SECTOR_LEN]
    });
    assert!((5..45).contains(&lost.count()));
}

#[test]
fn after_a_cut_nothing_works_until_the_reboot() {
    let disk = disk(1);
    let file = written(&disk, b"x");
    disk.fail(1, Fault::Cut);
    file.write_at(b"y", 1).unwrap();
    file.sync_data().unwrap_err();
    assert!(!disk.has_power());
    file.read_at(&mut [0], 0).unwrap_err();
    disk.open(Path::new(A), Access::Read).err().unwrap();
    disk.reboot();
    file.read_at(&mut [0], 0).expect_err("a descriptor of before");
    assert!(disk.lock_dir(Path::new("/d")).unwrap().is_some());
}

#[test]
fn the_same_seed_loses_the_same() {
    let image = |seed| {
        let disk = disk(seed);
        let file = written(&disk, &[1; 9000]);
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(&[2; 5000], 1234).unwrap();
        disk.reboot();
        disk.image()
    };
    assert_eq!((0..20).map(image).collect::<Vec<_>>(), (0..20).map(image).collect::<Vec<_>>());
    assert_ne!(image(3), image(4));
}
