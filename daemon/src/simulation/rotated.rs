//! Rotations: what former keys open afterwards, whenever the daemon dies on the way.

use std::collections::BTreeMap;

use stated_shared::{
    Bytes, Change, Commit, Content, Digest, Expect, FailureKind, Generation, Rekey, Reply, Request, Seq, SerialRule,
    StateName, Version,
};

use super::host::{Daemon, Host};
use crate::disk::Disk;
use crate::disk::sim::{Fault, Random};
use crate::vault::Vault;

/// Operations of the disk within which the daemon dies.
const DIES_WITHIN: u64 = 80;

struct Rotation {
    host: Host,
    random: Random,
    daemon: Option<Daemon>,
    number: u64,
    /// What was acknowledged: contents by version, from 1.
    written: BTreeMap<StateName, Vec<Vec<u8>>>,
    deaths: u64,
}

impl Rotation {
    fn new(seed: u64) -> Self {
        let mut host = Host::new(seed);
        let daemon = Some(host.start().unwrap());
        let random = Random::seeded(seed ^ 0x707);
        Self { host, random, daemon, number: 0, written: BTreeMap::new(), deaths: 0 }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon runs")
    }

    /// The answer; none where the daemon died on the way.
    fn ask(&mut self, request: Request) -> Option<Reply> {
        self.number += 1;
        let mut daemon = self.daemon.take()?;
        self.host.ask(&daemon, 0, self.number, request);
        let (mut answers, stepped) = self.host.step(&mut daemon, &mut self.random);
        match stepped {
            Ok(()) => self.daemon = Some(daemon),
            Err(_) => self.die(),
        }
        match answers.pop()?.1 {
            Ok(reply) => Some(reply),
            // A blob is written before anything is decided.
            Err(failure) => {
                assert!(self.host.disk.was_hit() && failure.kind == FailureKind::Storage, "{failure:?}");
                if self.daemon.take().is_some() {
                    self.die();
                }
                None
            }
        }
    }

    fn die(&mut self) {
        assert!(self.host.disk.was_hit(), "nothing killed it");
        self.deaths += 1;
    }

    /// A commit of some bytes that no compression shortens; longer ones become blobs.
    fn put(&mut self, name: &str, len: usize) {
        let state = StateName::parse(name).unwrap();
        let bytes = self.random.bytes(len);
        let content = Content::Inline(Bytes(bytes.clone()));
        let changes = vec![Change { state: state.clone(), expect: Expect::Any, content }];
        let labels = BTreeMap::new();
        let commit = Commit { changes, locks: Vec::new(), message: None, labels, serials: SerialRule::Refuse };
        if self.ask(Request::Commit(commit)).is_some() {
            self.written.entry(state).or_default().push(bytes);
        }
    }

    fn start(&mut self) {
        if self.daemon.is_none() {
            self.host.disk.take_over();
            if !self.host.disk.has_power() {
                self.host.reboot(&mut self.random);
            }
            let daemon = self.host.start().unwrap();
            // What nobody heard of may be there.
            for row in daemon.engine.machine().states().all() {
                let (name, version, _) = row.unwrap();
                let versions = self.written.entry(name.clone()).or_default();
                if version.0 > versions.len() as u64 {
                    versions.push(daemon.engine.load(name, version).unwrap());
                }
            }
            self.daemon = Some(daemon);
        }
    }

    fn generation(&self) -> Generation {
        self.daemon().engine.machine().keyring().unwrap().0
    }

    /// Everything that lies there, sealed, but for snapshots: here they are not the daemon's business.
    fn sealed(&self) -> Vec<Vec<u8>> {
        let store = self.daemon().engine.store();
        let last = self.daemon().engine.machine().seq();
        let records = (1..=last.0).map(|seq| store.reader.record(Seq(seq)).unwrap().sealed);
        let blobs = store.blobs.list().unwrap().into_iter().map(|id| store.blobs.read(id).unwrap());
        records.chain(blobs).collect()
    }
}

#[test]
fn a_rotation_that_is_killed_anywhere_goes_through_and_former_keys_open_nothing() {
    let mut deaths = 0;
    for seed in 0..50 {
        let mut rotation = Rotation::new(seed);
        for n in 0..12 {
            rotation.put("a", 4_000);
            rotation.put(&format!("b/{n}"), if n % 4 == 0 { 70_000 } else { 300 });
        }
        rotation.host.snapshot(rotation.daemon()).unwrap();
        let former = rotation.daemon().engine.store().vault.keyring();
        let stolen = Vault::new(former, Digest::ZERO);
        assert!(rotation.sealed().iter().all(|sealed| stolen.open(sealed, 1 << 20).is_ok()), "they are the keys");

        let after = rotation.random.below(DIES_WITHIN) as usize;
        rotation.host.disk.fail(after, *rotation.random.pick(&[Fault::Kill, Fault::Cut]));
        while rotation.daemon.is_none()
            || rotation.daemon().engine.machine().resealing().is_some()
            || rotation.generation().0 == 1
        {
            rotation.start();
            if rotation.generation().0 == 1 {
                rotation.ask(Request::Rekey(Rekey::Rotate));
            }
            rotation.put("during", 500);
            rotation.put("during/large", 70_000);
            if let Some(mut daemon) = rotation.daemon.take() {
                match daemon.engine.reseal() {
                    Ok(true) => rotation.daemon = Some(daemon),
                    Ok(false) | Err(_) => rotation.die(),
                }
            }
        }
        rotation.host.disk.heal();
        rotation.start();
        rotation.put("after", 500);
        deaths += rotation.deaths;

        let engine = &rotation.daemon().engine;
        assert_eq!(engine.verify().damage, [], "seed {seed}");
        for (name, versions) in &rotation.written {
            for (bytes, version) in versions.iter().zip(1..) {
                assert!(engine.load(name, Version(version)).unwrap() == *bytes, "seed {seed}: {name}@{version}");
            }
        }
        let open = rotation.sealed().iter().filter(|sealed| stolen.open(sealed, 1 << 20).is_ok()).count();
        assert_eq!(open, 0, "seed {seed}: former keys open some of it");
        let keyrings = rotation.host.disk.list("/state/keys".as_ref()).unwrap();
        assert_eq!(keyrings.len(), 1, "seed {seed}: {keyrings:?}");
        // Nor is what they chain believed.
        let (vault, last) = (&engine.store().vault, engine.machine().seq());
        let head = engine.store().reader.mac(last).unwrap();
        let metadata: &[&[u8]] = &[b"{}\n"];
        assert_ne!(stolen.chain(head, last.next(), metadata), vault.chain(head, last.next(), metadata));
    }
    assert!(deaths > 25, "{deaths} of 50 died");
}

#[test]
fn what_opens_the_keyring_is_changed_and_the_daemon_keeps_a_key_of_its_own() {
    let other = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned();
    let mut rotation = Rotation::new(1);
    let own = rotation.daemon().engine.store().vault.recipients()[0].to_string();
    let add = Request::Rekey(Rekey::Add(vec![other.clone()]));
    assert_eq!(rotation.ask(add.clone()), Some(Reply::Rekeyed(Generation(2))));
    assert_eq!(rotation.ask(add), Some(Reply::Rekeyed(Generation(2))), "it was there");
    let recipients = |rotation: &Rotation| {
        let recipients = rotation.daemon().engine.store().vault.recipients();
        recipients.iter().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(recipients(&rotation), [own.clone(), other.clone()].into());
    let mut refused = |key: &str, number| {
        let mut daemon = rotation.daemon.take().unwrap();
        rotation.host.ask(&daemon, 0, number, Request::Rekey(Rekey::Remove(vec![key.to_owned()])));
        let (answers, stepped) = rotation.host.step(&mut daemon, &mut rotation.random);
        stepped.unwrap();
        rotation.daemon = Some(daemon);
        answers[0].1.clone().unwrap_err().kind
    };
    assert_eq!(refused(&own, 100), FailureKind::Conflict);
    assert_eq!(refused("age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg", 101), FailureKind::NotFound);
    rotation.number = 200;
    assert_eq!(rotation.ask(Request::Rekey(Rekey::Remove(vec![other]))), Some(Reply::Rekeyed(Generation(3))));
    drop(rotation.daemon.take());
    rotation.host.disk.take_over();
    rotation.start();
    assert_eq!(recipients(&rotation), [own].into());
    assert_eq!(rotation.generation(), Generation(3));
    assert_eq!(rotation.daemon().engine.machine().resealing(), None, "the keys are the same");
}
