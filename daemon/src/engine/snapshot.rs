//! The sealed form of a snapshot: what it caches, at which record, and the proof that this daemon wrote it.
//!
//! Recipients are public, so that it opens says nothing: its first line is the HMAC of all that follows, under a key
//! derived from the chain key. What follows are zstd frames of JSON Lines; only the first is read before somebody asks for
//! what is old. See docs/format.md.

use serde::{Deserialize, Serialize};
use stated_shared::{Digest, RepositoryId, Seq};

use super::record::line;
use crate::journal::limits::SNAPSHOT_LEN_MAX;
use crate::journal::{Mark, Unverified};
use crate::machine::snapshot::{Line, Restoring};
use crate::machine::{Divergence, Machine};
use crate::vault::{self, Vault};

/// The version of this form.
const FORM: u32 = 1;
/// The use of the key that its HMAC is made with.
const LABEL: &str = "snapshot";
/// Hexadecimal digits of the HMAC; a newline follows.
const MAC_DIGITS: usize = 64;
/// Speed before size: it is rewritten often and read once.
const LEVEL: i32 = 1;
/// Longest plaintext, in bytes, of what unpacks to it: never allocated before that much is there.
const LINES_LEN_MAX: u64 = 8 << 30;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Envelope {
    snapshot: u32,
    repository: RepositoryId,
    seq: Seq,
    /// The chain's MAC at that record, its log file and where it starts there.
    head: Digest,
    file: String,
    offset_bytes: u64,
}

/// Why a snapshot was not made. The journal has everything that would have been in it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The machine has no stored form.
    #[error(transparent)]
    Machine(#[from] Divergence),
    /// It could not be compressed or written.
    #[error("cannot write it")]
    Io(#[from] std::io::Error),
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] vault::SealError),
}

/// Seals a machine that was replayed up to this record.
pub fn seal(vault: &Vault, machine: &Machine, mark: &Mark) -> Result<Vec<u8>, SnapshotError> {
    let Mark { seq, mac: head, file, offset_bytes } = mark.clone();
    let envelope = Envelope { snapshot: FORM, repository: vault.repository(), seq, head, file, offset_bytes };
    let (mut lines, mut frames) = (line(&envelope), Vec::new());
    let mut see = |told: &Line| {
        serde_json::to_writer(&mut lines, told).expect("stored types have a JSON form");
        lines.push(b'\n');
    };
    machine.store(&mut see, &mut |frame| frames.extend_from_slice(frame))?;
    let mut all = zstd::bulk::compress(&lines, LEVEL)?;
    drop(lines);
    all.append(&mut frames);
    let mut plaintext = format!("{}\n", vault.tag(LABEL, &all)).into_bytes();
    plaintext.append(&mut all);
    Ok(vault.seal(&plaintext)?)
}

/// Opens the snapshot at this record, and believes it only if its HMAC does.
pub fn open(vault: &Vault, seq: Seq, sealed: &[u8]) -> Result<(Machine, Mark), Unverified> {
    let plaintext = open_frames(vault, sealed)?;
    let malformed = |what: String| Unverified(format!("it is malformed: {what}"));
    let frames = &plaintext[MAC_DIGITS + 1..];
    let first_len = zstd::zstd_safe::find_frame_compressed_size(frames)
        .map_err(|code| malformed(zstd::zstd_safe::get_error_name(code).to_owned()))?;
    let (first, frames) = frames.split_at(first_len);
    let lines = unpack(first).map_err(|error| malformed(error.to_string()))?;
    let mut lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let first = lines.next().ok_or_else(|| malformed("no envelope".to_owned()))?;
    let envelope: Envelope = serde_json::from_slice(first).map_err(|error| malformed(format!("envelope: {error}")))?;
    if envelope.snapshot != FORM {
        return Err(Unverified(format!("form {} is newer than this build", envelope.snapshot)));
    }
    if envelope.seq != seq || envelope.repository != vault.repository() {
        return Err(Unverified(format!("it is of record {} of repository {}", envelope.seq, envelope.repository)));
    }
    let mut restoring = Restoring::new(frames);
    for told in lines {
        let told = serde_json::from_slice(told).map_err(|error| malformed(error.to_string()))?;
        restoring.line(told).map_err(|divergence| Unverified(divergence.to_string()))?;
    }
    let machine = restoring.finish().map_err(|divergence| Unverified(divergence.to_string()))?;
    let Envelope { head: mac, file, offset_bytes, .. } = envelope;
    Ok((machine, Mark { seq, mac, file, offset_bytes }))
}

/// HMAC, newline, frames.
fn open_frames(vault: &Vault, sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, Unverified> {
    let len_max = SNAPSHOT_LEN_MAX as usize;
    let plaintext = vault.open(sealed, len_max).map_err(|error| Unverified(format!("it does not open: {error}")))?;
    let believed = plaintext.split_at_checked(MAC_DIGITS + 1).and_then(|(mac, frames)| {
        let mac: Digest = std::str::from_utf8(mac).ok()?.strip_suffix('\n')?.parse().ok()?;
        Some(vault::same(&mac, &vault.tag(LABEL, frames)))
    });
    if believed == Some(true) {
        Ok(plaintext)
    } else {
        Err(Unverified("its HMAC is not one of the journal's key, so this daemon did not write it".to_owned()))
    }
}

fn unpack(frame: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut lines = Vec::with_capacity(frame.len().saturating_mul(4));
    zstd::stream::read::Decoder::new(frame)?.take(LINES_LEN_MAX).read_to_end(&mut lines)?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use stated_shared::{Generation, SessionId, Timestamp};

    use super::*;
    use crate::machine::event::{Actor, Change, Committed, Content, Event, Payload, What};
    use crate::vault::{ChainKey, Keyring, Own};

    fn vault(key: u8) -> Vault {
        let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap();
        let (repository, mut bytes) = (RepositoryId([5; 16]), [key; 32]);
        let keyring =
            Keyring::new(Generation(1), repository, ChainKey::new(&mut bytes), vec![recipient], Timestamp(0)).unwrap();
        let digest = keyring.seal(&Own::of(keyring.recipients())).unwrap().digest;
        Vault::new(keyring, digest)
    }

    fn mark(seq: u64) -> Mark {
        Mark { seq: Seq(seq), mac: Digest([7; 32]), file: "log/0000000000000001.log".to_owned(), offset_bytes: 5 }
    }

    /// One state with as many versions, each of a record of its own.
    fn machine(versions: u64) -> Machine {
        let actor = Arc::new(Actor {
            uid: 1000,
            gid: 1000,
            pid: Some(4211),
            user: Some("alice".to_owned()),
            comm: Some("statectl".to_owned()),
            exe: Some("/usr/bin/statectl".to_owned()),
            host: "build-7".to_owned(),
            session: SessionId([3; 16]),
        });
        let mut machine = Machine::default();
        for n in 1..=versions {
            let content = Content {
                sha256: vault::sha256(&n.to_be_bytes()),
                size_bytes: n,
                serial: Some(n),
                lineage: Some("9b0d3a2c-9c1f-4b7e-8f0a-1d2c3b4a5968".to_owned()),
                payload: Payload::Inline { offset_bytes: 0, len_bytes: n },
                base: None,
            };
            let change = Change {
                state: "prod/network".parse().unwrap(),
                version: stated_shared::Version(n),
                content: Some(content),
                forced: false,
            };
            let committed = Committed {
                number: n,
                changes: vec![change],
                unchanged: Vec::new(),
                message: None,
                labels: Default::default(),
                fences: Vec::new(),
            };
            let event = Event { at: Timestamp(n), actor: Arc::clone(&actor), what: What::Committed(committed) };
            machine.apply(Seq(n), &event).unwrap();
        }
        machine
    }

    #[test]
    fn a_snapshot_opens_to_the_machine_that_it_is_of() {
        let (vault, plain) = (vault(9), machine(500));
        let mut machine = plain.clone();
        // The one session is not packed while it may be at work.
        for runs in [8, 9] {
            machine.pack().unwrap();
            let sealed = seal(&vault, &machine, &mark(50)).unwrap();
            let (restored, at) = open(&vault, Seq(50), &sealed).unwrap();
            assert_eq!(restored.run_count(), (runs, 0), "nothing is unpacked");
            assert_eq!((&restored, at), (&plain, mark(50)));
            // What came out of a snapshot goes into the next one.
            machine = restored;
        }
        let sealed = seal(&vault, &plain, &mark(50)).unwrap();
        assert_eq!(open(&vault, Seq(50), &sealed).unwrap().0, plain, "one that was never packed");
        assert!(open(&vault, Seq(51), &sealed).is_err(), "another name");
    }

    #[test]
    fn every_flipped_byte_of_a_snapshot_is_noticed() {
        let (vault, mut machine) = (vault(9), machine(3));
        machine.pack().unwrap();
        let sealed = seal(&vault, &machine, &mark(3)).unwrap();
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(open(&vault, Seq(3), &flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_sealed_by_somebody_without_the_chain_key_is_not_believed() {
        let vault = vault(9);
        let sealed = seal(&vault, &machine(3), &mark(3)).unwrap();
        let genuine = vault.open(&sealed, 1 << 20).unwrap();
        let (_, frame) = genuine.split_at(MAC_DIGITS + 1);
        // The forger has the public key and may seal whatever it likes, the genuine lines too.
        for mac in [Digest([0; 32]), vault.tag("grant table", frame), vault::sha256(frame)] {
            let forged = [format!("{mac}\n").as_bytes(), frame].concat();
            let error = open(&vault, Seq(3), &vault.seal(&forged).unwrap()).unwrap_err();
            assert!(error.0.contains("HMAC"), "{}", error.0);
        }
    }

    /// Prints what a snapshot costs: `cargo test --release -p stated --lib snapshot_costs -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement: it asserts nothing"]
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    fn snapshot_costs() {
        let vault = vault(9);
        for versions in [100, 1000, 10_000, 44_000] {
            let mut machine = machine(versions);
            let began = Instant::now();
            machine.pack().unwrap();
            let packing = began.elapsed();
            let began = Instant::now();
            let clone = machine.clone();
            let cloned = began.elapsed();
            drop(clone);
            let began = Instant::now();
            let sealed = seal(&vault, &machine, &mark(versions)).unwrap();
            let sealing = began.elapsed();
            let began = Instant::now();
            let restored = open(&vault, Seq(versions), &sealed).unwrap();
            let opening = began.elapsed();
            assert_eq!(restored.0, machine);
            println!(
                "{versions} versions: pack {packing:?}, clone {cloned:?}, seal {sealing:?}, open {opening:?}, {} bytes",
                sealed.len()
            );
        }
    }
}
