//! `docs/recover.sh` brings back every version with stock tools, whatever its state is called.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::{Value, json};
use stated::disk::{Disk, RealDisk};
use stated::journal::{BlobId, Journal, LocalJournal, OpenMode, Record, RecordKind};
use stated::vault::{ChainKey, Identities, Keyring, Vault, create_identity, sha256};
use stated_shared::{Digest, Generation, RepositoryId, Seq, Timestamp};
use zstd::zstd_safe::{CCtx, compress_bound};

const REPOSITORY: RepositoryId = RepositoryId([0x42; 16]);
const CREATED: Timestamp = Timestamp(1_764_000_000_000);

/// Names that no shell, path or JSON handling may trip over.
const NAMES: [&str; 8] = [
    "prod/network",
    "a b\"c\\d$(touch pwned)`x`'*",
    "-rf",
    "ü/日本/🦀",
    "%2e%2e/x",
    "tab\\tand\\n",
    "x,\"path\":\"/etc\"}",
    "*",
];

fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

/// The state whose versions are patches.
const PATCHED: &str = "patched/from the one before";

/// A state directory being written, and what must come out of it.
struct Fixture {
    dir: tempfile::TempDir,
    vault: Vault,
    journal: Option<LocalJournal>,
    mac: Digest,
    expected: Vec<(String, u64, Option<Vec<u8>>)>,
}

/// One change of a commit.
struct Change<'a> {
    state: &'a str,
    version: u64,
    content: Option<(Vec<u8>, Option<BlobId>)>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let recipient = create_identity(&dir.path().join("my.key"), CREATED).unwrap();
        let state_dir = dir.path().join("state");
        let keys = state_dir.join("keys");
        fs::create_dir_all(&keys).unwrap();
        let chain_key = ChainKey::new(&mut [9; 32]);
        let keyring = Keyring::new(Generation(1), REPOSITORY, chain_key, vec![recipient], CREATED).unwrap();
        let key = fs::read(dir.path().join("my.key")).unwrap();
        let identities = Identities::parse(&key, Arc::default(), || Err(std::fmt::Error)).unwrap();
        keyring.seal(&identities.own()).unwrap().write(&RealDisk, &keys, Generation(1)).unwrap();
        let (keyring, digest) = Keyring::load(&RealDisk, &keys, Generation(1), &identities).unwrap();
        LocalJournal::create(&RealDisk, &state_dir, REPOSITORY).unwrap();
        let vault = Vault::new(keyring, digest);
        let visit = &mut |_: &Record| unreachable!();
        let journal = LocalJournal::open(&disk(), &state_dir, REPOSITORY, OpenMode::Repair, visit).unwrap();
        let mut fixture = Self { dir, vault, journal: Some(journal), mac: Digest::ZERO, expected: Vec::new() };
        let founded = json!({"founded": {"repository": REPOSITORY, "generation": 1, "keyring": digest}});
        fixture.append(&[founded], b"", false);
        fixture
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn append(&mut self, what: &[Value], payloads: &[u8], closed: bool) {
        let journal = self.journal.as_mut().unwrap();
        let seq = journal.last().next();
        let closed = if closed { ",\"closed\":true" } else { "" };
        let mut text = format!("{{\"record\":1,\"seq\":{seq},\"events\":{}{closed}}}\n", what.len()).into_bytes();
        for what in what {
            let actor = json!({"uid": 0, "gid": 0, "host": "h", "session": "00".repeat(16)});
            text.extend(json!({"at": CREATED, "actor": actor, "what": what}).to_string().into_bytes());
            text.push(b'\n');
        }
        self.mac = self.vault.chain(self.mac, seq, &[&text]);
        text.extend(payloads);
        let sealed = self.vault.seal(&text).unwrap();
        journal.append(&Record { seq, mac: self.mac, cut_bytes: 0, sealed }).unwrap();
    }

    fn commit(&mut self, changes: Vec<Change<'_>>) {
        let mut payloads = Vec::new();
        let mut described = Vec::new();
        for (index, change) in changes.into_iter().enumerate() {
            let mut entry = json!({"state": change.state, "version": change.version});
            if let Some((bytes, blob)) = &change.content {
                let frame = zstd::bulk::compress(bytes, 3).unwrap();
                let payload = match blob {
                    None => {
                        let offset_bytes = payloads.len();
                        payloads.extend(&frame);
                        json!({"inline": {"offset_bytes": offset_bytes, "len_bytes": frame.len()}})
                    }
                    Some(id) => {
                        let blobs = self.journal.as_ref().unwrap().blobs();
                        blobs.write(*id, &self.vault.seal(&frame).unwrap()).unwrap();
                        json!({"blob": {"id": id.to_string(), "len_bytes": frame.len()}})
                    }
                };
                entry["content"] = json!({"sha256": sha256(bytes), "size_bytes": bytes.len(), "payload": payload});
                if index == 0 {
                    entry["content"]["serial"] = json!(7);
                }
            }
            described.push(entry);
            let content = change.content.map(|(bytes, _)| bytes);
            self.expected.push((change.state.to_owned(), change.version, content));
        }
        let commit =
            json!({"committed": {"session": "00".repeat(16), "number": 1, "changes": described, "message": "m\n$(x)"}});
        let other = json!({"observed": {"verb": "get"}});
        self.append(&[other, commit], &payloads, false);
    }

    /// A version that is stored as a patch from an earlier one.
    fn patch(&mut self, state: &str, version: u64, base: u64, bytes: Vec<u8>) {
        let (.., from) = self.expected.iter().find(|(of, at, _)| of == state && *at == base).unwrap();
        let mut compressor = CCtx::create();
        compressor.ref_prefix(from.as_ref().unwrap()).unwrap();
        let mut frame = Vec::with_capacity(compress_bound(bytes.len()));
        compressor.compress2(&mut frame, &bytes).unwrap();
        drop(compressor);
        let payload = json!({"inline": {"offset_bytes": 0, "len_bytes": frame.len()}});
        let content = json!({"sha256": sha256(&bytes), "size_bytes": bytes.len(), "payload": payload, "base": base});
        let change = json!({"state": state, "version": version, "content": content});
        self.append(&[json!({"committed": {"number": 1, "changes": [change]}})], &frame, false);
        self.expected.push((state.to_owned(), version, Some(bytes)));
    }

    fn filled() -> Self {
        let mut fixture = Self::new();
        for (index, state) in NAMES.into_iter().enumerate() {
            let bytes = vec![index as u8; 100 * index];
            fixture.commit(vec![Change { state, version: 1, content: Some((bytes, None)) }]);
        }
        let large: Vec<u8> = (0..600_000_u32).flat_map(|i| sha256(&i.to_be_bytes()).0[..2].to_vec()).collect();
        let removal = Change { state: NAMES[2], version: 2, content: None };
        let inline = Change { state: NAMES[0], version: 2, content: Some((b"one\0two\n\n".to_vec(), None)) };
        let blob = Change { state: NAMES[1], version: 2, content: Some((large, Some(BlobId([0xab; 16])))) };
        let second = Change { state: "new", version: 1, content: Some((b"{}".to_vec(), None)) };
        fixture.commit(vec![removal, inline, blob, second]);
        fixture.commit(vec![Change { state: NAMES[2], version: 3, content: Some((b"again".to_vec(), None)) }]);
        let mut text: Vec<u8> = (0..500_u32).flat_map(|i| sha256(&i.to_be_bytes()).0).collect();
        fixture.commit(vec![Change { state: PATCHED, version: 1, content: Some((text.clone(), None)) }]);
        for version in 2..=5 {
            text.splice(100 * version..100 * version + 7, *b"\0changed\n");
            let base = if version == 5 { 1 } else { version as u64 - 1 };
            fixture.patch(PATCHED, version as u64, base, text.clone());
        }
        fixture
    }

    fn close(&mut self) {
        self.append(&[json!({"closed": {}})], b"", true);
        Box::new(self.journal.take().unwrap()).close().unwrap();
    }

    fn recover(&self, out: &Path) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
        let mut command = Command::new(script);
        command.arg(self.state_dir()).arg(self.dir.path().join("my.key")).arg(out).current_dir(self.dir.path());
        command.output().unwrap()
    }

    /// Checks each version that came out, and gives those that did not.
    fn check(&self, out: &Path) -> Vec<(String, u64)> {
        let index = fs::read_to_string(out.join("index.jsonl")).unwrap();
        let index: Vec<Value> = index.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(index.len(), self.expected.len());
        let mut lost = Vec::new();
        for (entry, (state, version, content)) in index.iter().zip(&self.expected) {
            assert_eq!((entry["state"].as_str(), entry["version"].as_u64()), (Some(state.as_str()), Some(*version)));
            let Some(content) = content else {
                assert_eq!((&entry["removed"], &entry["status"]), (&json!(true), &json!("ok")));
                continue;
            };
            if entry["status"] != "ok" {
                assert_eq!(entry["path"], Value::Null);
                lost.push((state.clone(), *version));
                continue;
            }
            assert_eq!(entry["sha256"], json!(sha256(content)));
            assert!(fs::read(out.join(entry["path"].as_str().unwrap())).unwrap() == *content, "{state}@{version}");
        }
        assert!(!self.dir.path().join("pwned").exists());
        lost
    }
}

/// Whether the stock tools are there; in CI they must be.
fn tools() -> bool {
    let missing: Vec<_> = ["age", "zstd", "jq", "bash"]
        .into_iter()
        .filter(|tool| Command::new(tool).arg("--version").output().is_err())
        .collect();
    if !missing.is_empty() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing:?} are not installed");
        // Past the capture of a passing test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {missing:?} are not installed");
    }
    missing.is_empty()
}

fn ok(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_version_comes_back_from_a_closed_directory() {
    if !tools() {
        return;
    }
    let mut fixture = Fixture::filled();
    fixture.close();
    let out = fixture.dir.path().join("out");
    ok(&fixture.recover(&out));
    assert_eq!(fixture.check(&out), []);
    let events = fs::read_to_string(out.join("events.jsonl")).unwrap();
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(last["what"], json!({"closed": {}}));

    // What was recovered is not written over.
    assert_eq!(fixture.recover(&out).status.code(), Some(2));
    // Somebody else's key opens nothing.
    fs::remove_file(fixture.dir.path().join("my.key")).unwrap();
    create_identity(&fixture.dir.path().join("my.key"), CREATED).unwrap();
    assert_eq!(fixture.recover(&fixture.dir.path().join("nothing")).status.code(), Some(1));
}

#[test]
fn every_version_comes_back_from_a_crashed_directory() {
    if !tools() {
        return;
    }
    let mut fixture = Fixture::filled();
    drop(fixture.journal.take());
    let out = fixture.dir.path().join("out");
    ok(&fixture.recover(&out));
    assert_eq!(fixture.check(&out), []);
}

#[test]
fn a_log_of_several_files_is_read_in_order() {
    if !tools() {
        return;
    }
    let mut fixture = Fixture::filled();
    let (_, at) = fixture.journal.as_ref().unwrap().reader().place(Seq(5));
    fixture.close();
    // As if the file had been full before record 5.
    let log = fixture.state_dir().join("log");
    let bytes = fs::read(log.join("0000000000000001.log")).unwrap();
    let (first, second) = bytes.split_at(at as usize);
    fs::write(log.join("0000000000000001.log"), first).unwrap();
    fs::write(log.join("0000000000000005.log"), second).unwrap();
    let visit = &mut |_: &Record| Ok(RecordKind::Batch);
    LocalJournal::open(&disk(), &fixture.state_dir(), REPOSITORY, OpenMode::ReadOnly, visit).unwrap();
    let out = fixture.dir.path().join("out");
    ok(&fixture.recover(&out));
    assert_eq!(fixture.check(&out), []);
}

#[test]
fn a_damaged_version_costs_those_that_are_patched_from_it_and_no_other() {
    if !tools() {
        return;
    }
    let mut fixture = Fixture::filled();
    // Its record is the third from the end.
    let last = fixture.journal.as_ref().unwrap().last();
    let (_, at) = fixture.journal.as_ref().unwrap().reader().place(Seq(last.0 - 2));
    fixture.close();
    let log = fixture.state_dir().join("log/0000000000000001.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[at as usize + 300] ^= 1;
    fs::write(&log, bytes).unwrap();
    fixture.expected.retain(|(state, version, _)| (state.as_str(), *version) != (PATCHED, 3));
    let out = fixture.dir.path().join("out");
    let output = fixture.recover(&out);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("version 4: damaged: it is a patch from version 3, which is not recovered"), "{told}");
    assert_eq!(fixture.check(&out), [(PATCHED.to_owned(), 4)]);
}

#[test]
fn damage_costs_what_it_hit_and_is_named() {
    if !tools() {
        return;
    }
    let mut fixture = Fixture::filled();
    let (_, at) = fixture.journal.as_ref().unwrap().reader().place(Seq(2));
    fixture.close();
    let blob = fixture.state_dir().join(format!("blob/ab/{}.age", "ab".repeat(16)));
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let out = fixture.dir.path().join("out");
    let output = fixture.recover(&out);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not open"));
    assert_eq!(fixture.check(&out), [(NAMES[1].to_owned(), 2)]);

    let log = fixture.state_dir().join("log/0000000000000001.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[at as usize + 300] ^= 1;
    fs::write(&log, bytes).unwrap();
    fixture.expected.remove(0);
    let out = fixture.dir.path().join("out-again");
    let output = fixture.recover(&out);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("record 2 does not open"));
    assert_eq!(fixture.check(&out), [(NAMES[1].to_owned(), 2)]);
}
