//! The sealed form of a snapshot: what it caches, at which record, and the proof that this daemon wrote it.
//!
//! Recipients are public, so that it opens says nothing: its first line is the HMAC of all that follows, under a key
//! derived from the chain key. What follows is one zstd frame of JSON Lines. See docs/format.md.

use serde::{Deserialize, Serialize};
use stated_shared::{Digest, RepositoryId, Seq};

use super::record::line;
use crate::journal::limits::SNAPSHOT_LEN_MAX;
use crate::journal::{Mark, Unverified};
use crate::machine::snapshot::Restoring;
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
    let mut lines = line(&envelope);
    machine.store(&mut |told| {
        serde_json::to_writer(&mut lines, told).expect("stored types have a JSON form");
        lines.push(b'\n');
    })?;
    let frame = zstd::bulk::compress(&lines, LEVEL)?;
    drop(lines);
    let mut plaintext = format!("{}\n", vault.tag(LABEL, &frame)).into_bytes();
    plaintext.extend_from_slice(&frame);
    Ok(vault.seal(&plaintext)?)
}

/// Opens the snapshot at this record, and believes it only if its HMAC does.
pub fn open(vault: &Vault, seq: Seq, sealed: &[u8]) -> Result<(Machine, Mark), Unverified> {
    let frame = open_frame(vault, sealed)?;
    let malformed = |what: String| Unverified(format!("it is malformed: {what}"));
    let lines = unpack(&frame[MAC_DIGITS + 1..]).map_err(|error| malformed(error.to_string()))?;
    let mut lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let first = lines.next().ok_or_else(|| malformed("no envelope".to_owned()))?;
    let envelope: Envelope = serde_json::from_slice(first).map_err(|error| malformed(format!("envelope: {error}")))?;
    if envelope.snapshot != FORM {
        return Err(Unverified(format!("form {} is newer than this build", envelope.snapshot)));
    }
    if envelope.seq != seq || envelope.repository != vault.repository() {
        return Err(Unverified(format!("it is of record {} of repository {}", envelope.seq, envelope.repository)));
    }
    let mut restoring = Restoring::default();
    for told in lines {
        let told = serde_json::from_slice(told).map_err(|error| malformed(error.to_string()))?;
        restoring.line(told).map_err(|divergence| Unverified(divergence.to_string()))?;
    }
    let machine = restoring.finish().map_err(|divergence| Unverified(divergence.to_string()))?;
    let Envelope { head: mac, file, offset_bytes, .. } = envelope;
    Ok((machine, Mark { seq, mac, file, offset_bytes }))
}

/// HMAC, newline, frame.
fn open_frame(vault: &Vault, sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, Unverified> {
    let len_max = SNAPSHOT_LEN_MAX as usize;
    let plaintext = vault.open(sealed, len_max).map_err(|error| Unverified(format!("it does not open: {error}")))?;
    let believed = plaintext.split_at_checked(MAC_DIGITS + 1).and_then(|(mac, frame)| {
        let mac: Digest = std::str::from_utf8(mac).ok()?.strip_suffix('\n')?.parse().ok()?;
        Some(vault::same(&mac, &vault.tag(LABEL, frame)))
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
