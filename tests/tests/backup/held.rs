//! What a backup needs stays while it lasts, and no longer.

use stated_shared::{BackupPart, BackupStep, BlobName, FailureKind, Reply, Request};
use stated_tests::{Direct, Host, Random, files_below};

fn step(connection: &mut Direct, step: BackupStep) -> BackupPart {
    match connection.ask(Request::Backup(step), &[]).unwrap() {
        Ok(Reply::Backup(part)) => part,
        other => panic!("{other:?}"),
    }
}

/// Two versions in blobs, and a backup that has begun.
fn begun(host: &Host, random: &mut Random) -> (Direct, Vec<BlobName>) {
    for _ in 0..2 {
        host.put("a", &random.bytes(200_000));
    }
    let mut connection = Direct::connect(&host.socket(), random).unwrap();
    assert!(matches!(step(&mut connection, BackupStep::Begin { has: None }), BackupPart::Begun(_)));
    let BackupPart::Blobs { blobs, more: false } = step(&mut connection, BackupStep::Blobs { after: None }) else {
        panic!("two blobs are one page")
    };
    (connection, blobs.into_iter().map(|(name, _)| name).collect())
}

fn blob_count(host: &Host) -> usize {
    files_below(&host.state_dir().join("blob")).len()
}

#[test]
fn what_is_pruned_stays_until_the_backup_ends() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    let (mut connection, blobs) = begun(&host, &mut random);
    assert_eq!((blobs.len(), blob_count(&host)), (2, 2));
    // Twice: what the first gave up was told to whoever removes it before the second was answered.
    for _ in 0..2 {
        host.put("a", &random.bytes(200_000));
        host.run(["prune", "--keep-last", "1"]);
    }
    for name in blobs {
        let BackupPart::Blob(bytes) = step(&mut connection, BackupStep::Blob { name, offset_bytes: 100_000 }) else {
            panic!("no piece of a blob")
        };
        assert!(bytes.0.len() > 100_000);
    }
    assert_eq!(connection.ask(Request::Backup(BackupStep::End), &[]).unwrap(), Ok(Reply::Done));
    daemon.stop();
    assert_eq!(blob_count(&host), 1, "nothing is kept for a backup that has ended");
}

#[test]
fn a_backup_ends_with_its_connection() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    let (connection, _) = begun(&host, &mut random);
    drop(connection);
    let mut other = Direct::connect(&host.socket(), &mut random).unwrap();
    // The other one and the one that asks are left once the end of the first was noticed, and its backup ended before that.
    assert!((0..1000).any(|_| host.status()["sessions"] == 2), "the end of a connection is not noticed");
    let refused = other.ask(Request::Backup(BackupStep::Blobs { after: None }), &[]).unwrap();
    assert_eq!(refused.unwrap_err().kind, FailureKind::Unavailable);
    host.run(["prune", "--keep-last", "1"]);
    daemon.stop();
    assert_eq!(blob_count(&host), 1);
}
