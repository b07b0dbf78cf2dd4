//! One flipped bit in any file of a real state directory: it is named, and whatever is not refused is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use stated_shared::{
    Bytes, Change, Commit, Content, Expect, FailureKind, Prune, Request, SerialRule, SessionId, StateName, Version,
};

use super::host::{Daemon, Host, NotStarted};
use crate::boot;
use crate::disk::sim::Random;
use crate::engine::StartError;

/// Bits that a usual run flips; `STATED_FLIPS` sets another number.
const FLIPS: u64 = 1000;
const THREADS: u64 = 2;

/// Whatever holds a byte that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Format,
    Keyring,
    Snapshot,
    Blob,
    /// A record's line.
    Header,
    /// A record's age file.
    Body,
    /// The table of session locks, which is beside the socket.
    Grants,
}

const KINDS: [Kind; 7] =
    [Kind::Format, Kind::Keyring, Kind::Snapshot, Kind::Blob, Kind::Header, Kind::Body, Kind::Grants];

/// A bit.
#[derive(Debug)]
struct Flip {
    kind: Kind,
    /// Relative to the state directory, but for the table of locks.
    file: String,
    at: usize,
    bit: u8,
}

/// A version, its bytes, and where the payloads lie that it needs.
struct Kept {
    state: StateName,
    version: Version,
    bytes: Vec<u8>,
    needs: Vec<(String, u64)>,
}

/// A directory that was left in good order, and everything that is known of it.
struct Directory {
    host: Host,
    dir: PathBuf,
    /// Every file, the table of locks under a name of its own.
    files: BTreeMap<String, Vec<u8>>,
    kept: Vec<Kept>,
    /// How many versions there are, those of which the content was given up among them.
    versions: usize,
    /// Where each record begins: file, byte.
    records: Vec<(String, u64)>,
    /// Where the record lies that the newest snapshot was made at: what is before it is not read by a start.
    mark: (String, u64),
    _room: tempfile::TempDir,
}

/// What the table of locks is called among the files.
const GRANTS: &str = "the table of locks";

impl Directory {
    /// Contents whole and patched, in records and in blobs, over several log files, two snapshots and a restart.
    fn new() -> Self {
        let room = tempfile::tempdir().unwrap();
        let dir = room.path().join("state");
        fs::create_dir(&dir).unwrap();
        let mut host = Host::real(dir.clone());
        let mut random = Random::seeded(7);
        let mut written: BTreeMap<(StateName, u64), Vec<u8>> = BTreeMap::new();
        let mut number = 0;
        let mut large = random.bytes(90_000);
        let mut daemon = host.start().unwrap();
        for round in 0..24_u64 {
            if round == 12 {
                daemon.engine.close().unwrap();
                daemon = host.start().unwrap();
            }
            large[round as usize * 100] ^= 1;
            if round % 8 == 0 {
                large = random.bytes(90_000);
            }
            let newest = |name: &str, written: &BTreeMap<(StateName, u64), Vec<u8>>| {
                let of = StateName::parse(name).unwrap();
                written.iter().rev().find(|((state, _), _)| *state == of).map(|(_, bytes)| bytes.clone())
            };
            // One that is patched from its predecessor, and one that never is.
            let mut text = newest("patched", &written).unwrap_or_else(|| text(&random.bytes(1500)));
            text[round as usize * 50] = b'x';
            let len = 2000 + random.below(500) as usize;
            let mut contents = vec![("patched", text), ("fresh/each time", random.bytes(len))];
            if round % 4 == 0 {
                contents.push(("large", large.clone()));
            }
            let mut changes = Vec::new();
            for (name, bytes) in contents {
                let state = StateName::parse(name).unwrap();
                let version = written.keys().filter(|(of, _)| *of == state).count() as u64 + 1;
                written.insert((state.clone(), version), bytes.clone());
                changes.push(Change { state, expect: Expect::Any, content: Content::Inline(Bytes(bytes)) });
            }
            number += 1;
            daemon.engine.fetched(SessionId([1; 16]), changes[0].state.clone(), Version(1));
            ask(&mut host, &mut daemon, number, changes);
            host.pass_ms(1500);
            if round == 8 || round == 16 {
                host.snapshot(&daemon).unwrap();
            }
        }
        // Some log files are written anew, those that snapshots were made at among them.
        let pruned = StateName::parse("fresh/each time").unwrap();
        host.ask(
            &daemon,
            0,
            number + 1,
            Request::Prune(Prune { keep_last: Some(6), glob: Some(pruned.to_string()), ..Prune::default() }),
        );
        let (answers, stepped) = host.step(&mut daemon, &mut random);
        stepped.unwrap();
        assert!(matches!(&answers[..], [(_, Ok(_))]), "{answers:?}");
        let gone: u64 = (0..daemon.engine.closed_parts()).map(|at| daemon.engine.rewrite(at).unwrap()).sum();
        assert!(gone > 20_000, "{gone} bytes less");
        // What was read leaves some, and nothing is left to be noted.
        host.pass_ms(60_000);
        host.step(&mut daemon, &mut random).1.unwrap();
        assert!(daemon.engine.age(50_000).unwrap().gone_bytes > 2000);
        let emptied = daemon.engine.ageing().iter().filter(|(_, emptied)| *emptied).count();
        assert!(emptied >= 5, "{emptied} records were emptied");
        let versions = written.len();
        written.retain(|(state, version), _| *state != pruned || *version > 24 - 6);
        let engine = &daemon.engine;
        let kept: Vec<Kept> = written
            .into_iter()
            .map(|((state, version), bytes)| {
                let version = Version(version);
                Kept { needs: engine.needs(&state, version), state, version, bytes }
            })
            .collect();
        let last = engine.machine().seq().0;
        let reader = std::sync::Arc::clone(&engine.store().reader);
        // The last one is what closing appends.
        let mut records: Vec<(String, u64)> = (1..=last).map(|seq| reader.place(stated_shared::Seq(seq))).collect();
        daemon.engine.close().unwrap();
        records.push(reader.place(stated_shared::Seq(last + 1)));
        let mut directory = Self {
            files: read(&dir, &host),
            mark: (String::new(), 0),
            host,
            dir,
            kept,
            versions,
            records,
            _room: room,
        };
        let newest = directory.of(Kind::Snapshot).pop().unwrap();
        let seq = usize::from_str_radix(&newest["snap/".len()..newest.len() - ".age".len()], 16).unwrap();
        directory.mark = directory.records[seq - 1].clone();
        directory
    }

    /// The files that hold bytes of a kind.
    fn of(&self, kind: Kind) -> Vec<String> {
        let prefix = match kind {
            Kind::Format => "FORMAT",
            Kind::Keyring => "keys/",
            Kind::Snapshot => "snap/",
            Kind::Blob => "blob/",
            Kind::Header | Kind::Body => "log/",
            Kind::Grants => GRANTS,
        };
        self.files.keys().filter(|file| file.starts_with(prefix)).cloned().collect()
    }

    /// A bit of this kind, any with the same chance as another of its file.
    fn draw(&self, kind: Kind, random: &mut Random) -> Flip {
        let (file, at) = match kind {
            Kind::Header | Kind::Body => {
                let (file, start) = random.pick(&self.records).clone();
                let rest = &self.files[&file][start as usize..];
                let header_len = rest.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                let len = self.end_of(&file, start) - start as usize;
                let within = match kind {
                    Kind::Header => 0..header_len,
                    _ => header_len..len,
                };
                (file, start as usize + within.start + random.below(within.len() as u64) as usize)
            }
            _ => {
                let file = random.pick(&self.of(kind)).clone();
                let at = random.below(self.files[&file].len() as u64) as usize;
                (file, at)
            }
        };
        Flip { kind, file, at, bit: random.below(8) as u8 }
    }

    fn end_of(&self, file: &str, start: u64) -> usize {
        let next = self.records.iter().find(|(of, at)| of == file && *at > start);
        next.map_or(self.files[file].len(), |(_, at)| *at as usize)
    }

    /// The record or blob that a flipped byte is in.
    fn damaged(&self, flip: &Flip) -> (String, u64) {
        let start =
            self.records.iter().filter(|(file, at)| *file == flip.file && *at <= flip.at as u64).map(|(_, at)| *at);
        (flip.file.clone(), start.max().unwrap_or(0))
    }

    /// Puts everything back as it was, with one bit flipped.
    fn lay_out(&self, flip: &Flip) {
        fs::remove_dir_all(&self.dir).unwrap();
        for (name, bytes) in &self.files {
            let mut bytes = bytes.clone();
            if *name == flip.file {
                bytes[flip.at] ^= 1 << flip.bit;
            }
            let path = if name == GRANTS { self.host.grant_table() } else { self.dir.join(name) };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// Flips one bit, verifies, starts, reads everything.
    fn suffer(&mut self, flip: &Flip) {
        self.lay_out(flip);
        self.check_verify(flip);
        let before = read(&self.dir, &self.host);
        match self.host.start() {
            Ok(daemon) => self.check_started(flip, &daemon),
            Err(not_started) => {
                let (kind, message) = match not_started {
                    NotStarted::Refused(failure) => (failure.kind, failure.message),
                    NotStarted::Start(error @ StartError::Keyring(_)) => (FailureKind::Storage, error.to_string()),
                    NotStarted::Start(error) => panic!("{flip:?}: {error:?}"),
                };
                // One flipped byte in a recipient's stanza looks like another's keyring.
                let is_config = flip.kind == Kind::Keyring && kind == FailureKind::Config;
                assert!(kind == FailureKind::Storage || is_config, "{flip:?}: {kind:?} {message}");
                let name = if message.starts_with("keyring 1 ") { "keys/1.age" } else { message.as_str() };
                assert!(name.contains(&flip.file), "{flip:?}: {message}");
                assert!(self.is_refused_by_a_start(flip), "{flip:?}: {message}");
                assert!(read(&self.dir, &self.host) == before, "{flip:?}: a refused start changed something");
            }
        }
    }

    /// `stated verify` names the very file, and changes nothing.
    fn check_verify(&self, flip: &Flip) {
        let before = read(&self.dir, &self.host);
        let verified = boot::verify(&self.host.settings);
        match (verified, flip.kind) {
            (Ok((_, damage)), Kind::Grants) => assert_eq!(damage, [], "{flip:?}: it is not in the state directory"),
            (Ok((_, damage)), _) => {
                let (named, others): (Vec<_>, Vec<_>) = damage.into_iter().partition(|damage| damage.file == flip.file);
                assert!(!named.is_empty(), "{flip:?}: verify does not name it, but {others:?}");
                // What is patched from it is told apart from it.
                let is_whole = |what: &str| what.starts_with("it is as it was written");
                assert!(others.iter().all(|damage| is_whole(&damage.what)), "{flip:?}: {others:?}");
            }
            (Err(failure), _) => assert!(failure.message.contains(&flip.file), "{flip:?}: {failure:?}"),
        }
        assert!(read(&self.dir, &self.host) == before, "{flip:?}: verify changed something");
    }

    /// What a start reads, it refuses when it is damaged.
    fn is_refused_by_a_start(&self, flip: &Flip) -> bool {
        match flip.kind {
            Kind::Format | Kind::Keyring => true,
            Kind::Header | Kind::Body => self.damaged(flip) >= self.mark,
            Kind::Snapshot | Kind::Blob | Kind::Grants => false,
        }
    }

    /// Exactly the versions that need the damaged bytes are refused, by the name of the file; all others are right.
    fn check_started(&self, flip: &Flip, daemon: &Daemon) {
        assert!(!self.is_refused_by_a_start(flip), "{flip:?}: it starts");
        let damaged = self.damaged(flip);
        for Kept { state, version, bytes, needs } in &self.kept {
            match daemon.engine.load(state, *version) {
                Ok(found) => {
                    assert!(found == *bytes, "{flip:?}: {state}@{version} is not what was written");
                    assert!(!needs.contains(&damaged), "{flip:?}: {state}@{version} is read from {damaged:?}");
                }
                Err((_, damage)) => {
                    assert_eq!(damage.file, flip.file, "{flip:?}: {state}@{version}");
                    assert!(needs.contains(&damaged), "{flip:?}: {state}@{version} is refused: {damage:?}");
                    assert_eq!(damage.failure(state, *version, *version).kind, FailureKind::Storage);
                }
            }
        }
        // Every version is known, also where its content is not.
        assert_eq!(daemon.engine.machine().states().all().count(), self.versions, "{flip:?}");
        // A stop ends no locks, so nobody knows who holds what where the table cannot be read.
        assert_eq!(daemon.engine.machine().is_frozen(), flip.kind == Kind::Grants, "{flip:?}");
        assert_eq!(daemon.engine.machine().locks().grant_count(), 0, "{flip:?}");
    }
}

/// What is no even spread of bytes, and so worth a patch.
fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

fn ask(host: &mut Host, daemon: &mut Daemon, number: u64, changes: Vec<Change>) {
    let wanted = changes.len();
    let labels = BTreeMap::new();
    let commit = Commit { changes, locks: Vec::new(), message: None, labels, serials: SerialRule::Refuse };
    host.ask(daemon, 0, number, Request::Commit(commit));
    let (answers, stepped) = host.step(daemon, &mut Random::seeded(number));
    stepped.unwrap();
    match &answers[..] {
        [(_, Ok(stated_shared::Reply::Committed(committed)))] => assert_eq!(committed.states.len(), wanted),
        other => panic!("{other:?}"),
    }
}

/// Every file but LOCK, which is empty and says who looked.
fn read(dir: &Path, host: &Host) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if !path.ends_with("LOCK") {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files.insert(GRANTS.to_owned(), fs::read(host.grant_table()).unwrap());
    files
}

fn flips() -> u64 {
    std::env::var("STATED_FLIPS").map_or(FLIPS, |text| text.parse().expect("a number"))
}

#[test]
fn promise_7_any_flipped_bit_in_kept_data_is_detected_and_confined() {
    let share = |first: u64| {
        let mut directory = Directory::new();
        assert!(directory.of(Kind::Header).len() >= 3, "{:?}", directory.of(Kind::Header));
        assert_eq!(directory.of(Kind::Snapshot).len(), 2);
        assert!(directory.of(Kind::Blob).len() >= 3);
        assert!(directory.kept.iter().any(|kept| kept.needs.len() > 3), "nothing is patched");
        let mut seen = BTreeSet::new();
        for n in (first..flips()).step_by(THREADS as usize) {
            // Each flip has a seed of its own, so a failure says all that it takes to repeat it.
            let mut random = Random::seeded(n);
            let kind = *random.pick(&KINDS);
            let flip = directory.draw(kind, &mut random);
            directory.suffer(&flip);
            seen.insert(kind);
        }
        seen
    };
    let seen: BTreeSet<Kind> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || share(first))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a flip was not noticed")).collect()
    });
    assert!(flips() < 100 || seen.len() == KINDS.len(), "{seen:?}");
}
