//! A backup that is made while others commit and prune is what the journal was at its last record.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use stated_client::Client;
use stated_shared::{Prune, Request};
use stated_tests::{Commits, Host, Random};

use super::{backup, recovered, served, verify};

/// What was committed: by record, the states and their contents.
type Ledger = BTreeMap<u64, Vec<(&'static str, Vec<u8>)>>;

const NAMES: [&str; 4] = ["a", "b/c", "d", "e"];

/// Commits until it is told to stop, and at least so often.
fn write(mut client: Client, stop: &AtomicBool, random: &mut Random) -> Ledger {
    let mut ledger = Ledger::new();
    while ledger.len() < 20 || ledger.len() < 100 && !stop.load(Ordering::Relaxed) {
        let chosen = &NAMES[random.below(3) as usize..];
        let len = [40, 3000, 150_000][random.below(3) as usize];
        let contents: Vec<_> = chosen.iter().map(|name| (*name, random.bytes(len))).collect();
        let pairs: Vec<_> = contents.iter().map(|(name, content)| (*name, content.as_slice())).collect();
        let committed = client.put_all(&pairs).unwrap();
        ledger.insert(committed.seq.expect("something new").0, contents);
    }
    ledger
}

#[test]
fn a_backup_under_a_storm_is_the_state_at_its_record() {
    let host = Host::new();
    let daemon = host.daemon();
    for name in NAMES {
        host.put(name, b"at first");
    }
    let (stop, dir) = (AtomicBool::new(false), host.path("backup"));
    let mut random = Random::new();
    let mut seqs = Vec::new();
    let (writing, mut pruning) = (host.client(), host.client());
    let ledger = thread::scope(|scope| {
        let writer = scope.spawn(|| write(writing, &stop, &mut random));
        let pruner = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let prune = Prune { keep_last: Some(1), ..Prune::default() };
                pruning.call(&Request::Prune(prune)).unwrap();
            }
        });
        // Each in a copy, since the next is made of the one before.
        for round in 0..3 {
            let made = backup(&host, &dir);
            let copy = host.path(&format!("backup-{round}"));
            host.call("cp", ["-a".as_ref(), dir.as_os_str(), copy.as_os_str()]).run().ok();
            seqs.push((made["seq"].as_u64().unwrap(), copy));
            assert_eq!(made["missing"], 0);
        }
        stop.store(true, Ordering::Relaxed);
        pruner.join().unwrap();
        writer.join().unwrap()
    });
    for (round, (seq, copy)) in seqs.iter().enumerate() {
        verify(&host, copy);
        let mut expected: BTreeMap<String, Vec<u8>> =
            NAMES.iter().map(|name| ((*name).to_owned(), b"at first".to_vec())).collect();
        for (name, content) in ledger.range(..=*seq).flat_map(|(_, contents)| contents) {
            expected.insert((*name).to_owned(), content.clone());
        }
        let served = served(&host, copy, &NAMES);
        assert!(served == expected, "the backup up to record {seq} is another state than that");
        if round == 0
            && let Some(found) = recovered(&host, copy)
        {
            assert!(found == expected, "stock tools find another state than that up to record {seq}");
        }
    }
    daemon.stop();
    host.verify();
}
