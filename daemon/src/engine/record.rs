//! The plaintext of a record: JSON Lines, then payloads.
//!
//! The first line is an envelope that says how many events follow, one a line. Envelope and events are the metadata
//! that the chain runs over; what comes after them is the payload area. See docs/format.md.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use stated_shared::{Digest, Seq};
use zeroize::Zeroizing;

use crate::journal::{Record, RecordKind, Unverified};
use crate::machine::event::Event;
use crate::vault::{self, Vault};

/// Longest plaintext of a record, in bytes: a batch of small payloads stays far below.
pub const PLAINTEXT_LEN_MAX: usize = 8 << 20;

/// Buffers larger than this are given back after their record, in bytes.
const BUFFER_KEPT_LEN: usize = 1 << 20;

/// The version of this form.
const FORM: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope {
    record: u32,
    seq: Seq,
    events: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    closed: bool,
}

/// A record that is genuine.
#[derive(Debug)]
pub struct Opened {
    /// What it tells.
    pub events: Vec<Event>,
    /// Whether the daemon stopped in good order after it.
    pub kind: RecordKind,
    /// Everything that was sealed.
    plaintext: Zeroizing<Vec<u8>>,
    payloads: Range<usize>,
}

impl Opened {
    /// A piece of the payload area.
    pub fn payload(&self, offset_bytes: u64, len_bytes: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset_bytes).ok()?;
        let end = start.checked_add(usize::try_from(len_bytes).ok()?)?;
        self.plaintext[self.payloads.clone()].get(start..end)
    }
}

/// What a record will hold: event lines and payloads.
#[derive(Debug, Default)]
pub struct Draft {
    lines: Vec<u8>,
    events: usize,
    payloads: Vec<u8>,
}

impl Draft {
    /// Whether it tells nothing.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// The bytes of the payload area so far: where the next payload will lie.
    pub fn payloads_len(&self) -> usize {
        self.payloads.len()
    }

    /// The bytes of events and payloads so far.
    pub fn len(&self) -> usize {
        self.lines.len() + self.payloads.len()
    }

    /// An upper bound of the sealed record's length after this many bytes more.
    pub fn sealed_len_max(&self, more: usize) -> usize {
        let plain = 128 + self.len() + more;
        // An age header, and a tag for every 64 KiB.
        plain + 1024 + (plain / (64 << 10) + 1) * 16
    }

    /// Adds events, one line each, and the payloads that they refer to.
    pub fn add(&mut self, lines: &[Vec<u8>], payloads: &[Vec<u8>]) {
        for line in lines {
            self.lines.extend_from_slice(line);
            self.events += 1;
        }
        payloads.iter().for_each(|payload| self.payloads.extend_from_slice(payload));
    }

    /// Seals it as the record after `prev`.
    pub fn seal(&self, vault: &Vault, prev: Digest, seq: Seq, kind: RecordKind) -> Result<Record, vault::SealError> {
        let closed = kind == RecordKind::Closed;
        let envelope = line(&Envelope { record: FORM, seq, events: self.events, closed });
        let mac = vault.chain(prev, seq, &[&envelope, &self.lines]);
        let sealed = vault.seal_pieces(&[&envelope, &self.lines, &self.payloads])?;
        Ok(Record { seq, mac, sealed })
    }

    /// Forgets what it tells; keeps its room for the next, within a bound.
    pub fn clear(&mut self) {
        for buffer in [&mut self.lines, &mut self.payloads] {
            buffer.clear();
            buffer.shrink_to(BUFFER_KEPT_LEN);
        }
        self.events = 0;
    }
}

/// A stored value as its line. Ours always have a JSON form: no map with odd keys, no failing writer.
pub fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("stored types have a JSON form");
    line.push(b'\n');
    line
}

/// Opens a record and believes it only if the chain does.
pub fn open(vault: &Vault, prev: Digest, record: &Record) -> Result<Opened, Unverified> {
    let opened = open_unchained(vault, record)?;
    let mac = vault.chain(prev, record.seq, &[&opened.plaintext[..opened.payloads.start]]);
    if vault::same(&mac, &record.mac) {
        Ok(opened)
    } else {
        Err(Unverified(
            "its chain MAC is not the one of the journal's key, so this daemon did not write it here".to_owned(),
        ))
    }
}

/// Opens a record that was believed before: to read a payload of it, or its events once more.
pub fn open_unchained(vault: &Vault, record: &Record) -> Result<Opened, Unverified> {
    let plaintext = vault
        .open(&record.sealed, PLAINTEXT_LEN_MAX)
        .map_err(|error| Unverified(format!("it does not open: {error}")))?;
    decode(record.seq, plaintext)
}

fn decode(seq: Seq, plaintext: Zeroizing<Vec<u8>>) -> Result<Opened, Unverified> {
    let mut at = 0;
    let mut next_line = || -> Option<Range<usize>> {
        let len = plaintext.get(at..)?.iter().position(|byte| *byte == b'\n')?;
        let line = at..at + len;
        at += len + 1;
        Some(line)
    };
    let malformed = |what: &str| Unverified(format!("its plaintext is malformed: {what}"));
    let first = next_line().ok_or_else(|| malformed("no envelope"))?;
    let envelope: Envelope =
        serde_json::from_slice(&plaintext[first]).map_err(|error| malformed(&format!("envelope: {error}")))?;
    if envelope.record != FORM {
        return Err(malformed(&format!("form {} is newer than this build", envelope.record)));
    }
    if envelope.seq != seq {
        return Err(malformed(&format!("it is record {}", envelope.seq)));
    }
    let mut events = Vec::new();
    for _ in 0..envelope.events {
        let line = next_line().ok_or_else(|| malformed("events are missing"))?;
        events.push(serde_json::from_slice(&plaintext[line]).map_err(|error| malformed(&format!("event: {error}")))?);
    }
    let payloads = at..plaintext.len();
    let kind = if envelope.closed { RecordKind::Closed } else { RecordKind::Batch };
    Ok(Opened { events, kind, plaintext, payloads })
}

/// A plaintext decodes, or is refused; what it holds is as long as it is.
#[cfg(fuzzing)]
pub fn fuzz_record(bytes: &[u8]) {
    if let Ok(opened) = decode(Seq(7), Zeroizing::new(bytes.to_vec())) {
        assert!(opened.payload(0, bytes.len() as u64 + 1).is_none());
        for event in &opened.events {
            let again = line(event);
            let event = serde_json::from_slice::<Event>(&again).expect("a stored form is read again");
            assert_eq!(line(&event), again);
        }
    }
}
