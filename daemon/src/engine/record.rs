//! The plaintext of a record: JSON Lines, then payloads.
//!
//! The first line is an envelope that says how many events follow, one a line. Envelope and events are the metadata
//! that the chain runs over; what comes after them is the payload area. Where payloads were given up and are gone, a line
//! before all that says where the payload area has holes. A record that was summed up holds one line in place of all that.
//! See docs/format.md.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use stated_shared::{Digest, Seq, StateName, Version};
use zeroize::Zeroizing;

use crate::journal::{Record, RecordKind, Unverified};
use crate::machine::event::{self, Event, Payload, What};
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

/// The line before the envelope of a record of which something is gone. It is not part of the metadata, and nobody need
/// believe it: a payload is compared with its SHA-256, and one that is gone is looked for in the prunes.
#[derive(Serialize, Deserialize)]
struct Cut {
    cut: u32,
    /// Offset and length of each hole in the payload area as it was.
    holes: Vec<(u64, u64)>,
}

/// The one line of a record that was emptied, in place of its metadata; it has no payloads. What it says is in the chain.
#[derive(Serialize, Deserialize)]
struct Emptied {
    cut: u32,
    /// SHA-256 of the metadata.
    sha256: Digest,
    /// Their length.
    len_bytes: u64,
}

/// What either says of its form.
#[derive(Deserialize)]
struct CutForm {
    cut: u32,
}

/// How such a line begins.
const CUT_BEGINNING: &[u8] = b"{\"cut\":";
/// The form of a [`Cut`].
const CUT_FORM: u32 = 1;
/// The form of an [`Emptied`].
const EMPTIED_FORM: u32 = 2;

/// A record that is genuine.
#[derive(Debug)]
pub struct Opened {
    /// What it tells.
    pub events: Vec<Event>,
    /// Whether the daemon stopped in good order after it.
    pub kind: RecordKind,
    /// Everything that was sealed.
    plaintext: Zeroizing<Vec<u8>>,
    metadata: Range<usize>,
    payloads: Range<usize>,
    /// Pieces of the payload area that are gone: offset and length, in their order, none touching another.
    holes: Vec<(u64, u64)>,
    /// The SHA-256 of its metadata, where that is all that is left of the record.
    emptied: Option<Digest>,
}

/// A payload that a record says is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlinePayload {
    /// Whose content it is.
    pub state: StateName,
    /// See [`Self::state`].
    pub version: Version,
    /// Where it lies in the payload area as it was.
    pub offset_bytes: u64,
    /// Its length.
    pub len_bytes: u64,
}

impl Opened {
    /// Whether it says the same, whatever is gone from either.
    pub fn tells_as(&self, other: &Self) -> bool {
        self.kind == other.kind && self.metadata() == other.metadata()
    }

    fn metadata(&self) -> &[u8] {
        &self.plaintext[self.metadata.clone()]
    }

    /// Whether nothing is left of what it told. A summary must tell of it.
    pub fn is_emptied(&self) -> bool {
        self.emptied.is_some()
    }

    /// Whether it tells of nothing but what is summed up when it is old.
    pub fn ages(&self) -> bool {
        let ages = |event: &Event| match &event.what {
            What::Observed(observed) => event::ages(&observed.verb, &observed.outcome),
            _ => false,
        };
        let has_payloads = !self.payloads.is_empty() || !self.holes.is_empty();
        self.kind == RecordKind::Batch && !self.events.is_empty() && !has_payloads && self.events.iter().all(ages)
    }

    /// The record without anything that it tells, its number and MAC unchanged.
    pub fn empty(&self, vault: &Vault, record: &Record) -> Result<Record, vault::SealError> {
        let (sha256, len_bytes) = (vault::sha256(self.metadata()), self.metadata().len() as u64);
        let only = line(&Emptied { cut: EMPTIED_FORM, sha256, len_bytes });
        Ok(Record { cut_bytes: len_bytes, sealed: vault.seal_beside(&[&only])?, ..record.clone() })
    }

    /// The record as it is, sealed once more: to the keys in use now.
    pub fn reseal(&self, vault: &Vault, record: &Record) -> Result<Record, vault::SealError> {
        Ok(Record { sealed: vault.seal_beside(&[&self.plaintext])?, ..record.clone() })
    }

    /// Whether it is the same, byte for byte.
    pub fn is_same(&self, other: &Self) -> bool {
        self.plaintext == other.plaintext
    }

    /// Whether it is what [`Self::empty`] makes of that one.
    pub fn is_rest_of(&self, whole: &Self) -> bool {
        self.emptied == Some(vault::sha256(whole.metadata()))
    }

    /// A piece of the payload area, by its place in the whole of it.
    pub fn payload(&self, offset_bytes: u64, len_bytes: u64) -> Option<&[u8]> {
        if self.is_gone(offset_bytes, len_bytes) {
            return None;
        }
        let before = self.holes.iter().take_while(|(at, _)| *at < offset_bytes).map(|(_, len)| len).sum::<u64>();
        let start = usize::try_from(offset_bytes.checked_sub(before)?).ok()?;
        let end = start.checked_add(usize::try_from(len_bytes).ok()?)?;
        self.plaintext[self.payloads.clone()].get(start..end)
    }

    /// Whether a piece of the payload area, or a part of it, was taken out.
    pub fn is_gone(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        let end = offset_bytes.saturating_add(len_bytes);
        self.holes.iter().any(|(at, len)| *at < end && offset_bytes < at + len)
    }

    /// The payloads that the record was written with, those that are gone among them.
    pub fn inline_payloads(&self) -> impl Iterator<Item = InlinePayload> {
        let of = |event: &Event| -> Vec<InlinePayload> {
            let inline = |state: &StateName, version, payload: &Payload| match *payload {
                Payload::Inline { offset_bytes, len_bytes } => {
                    Some(InlinePayload { state: state.clone(), version, offset_bytes, len_bytes })
                }
                Payload::Blob { .. } => None,
            };
            match &event.what {
                What::Committed(committed) => {
                    let contents =
                        committed.changes.iter().filter_map(|change| Some((change, change.content.as_ref()?)));
                    contents
                        .filter_map(|(change, content)| inline(&change.state, change.version, &content.payload))
                        .collect()
                }
                What::Pruned(pruned) => {
                    let moved =
                        pruned.states.iter().flat_map(|of| of.moved.iter().map(move |moved| (&of.state, moved)));
                    moved.filter_map(|(state, moved)| inline(state, moved.version, &moved.payload)).collect()
                }
                _ => Vec::new(),
            }
        };
        self.events.iter().flat_map(of)
    }

    /// The record without these pieces of its payload area either, its number and MAC unchanged; `None` where they are
    /// gone already.
    pub fn cut(&self, vault: &Vault, record: &Record, gone: &[(u64, u64)]) -> Result<Option<Record>, vault::SealError> {
        let len = self.payloads.len() as u64 + self.holes.iter().map(|(_, len)| len).sum::<u64>();
        let is_within = |(at, gone): &&(u64, u64)| at.checked_add(*gone).is_some_and(|end| end <= len);
        let holes = union(self.holes.iter().chain(gone).filter(is_within).copied());
        if holes == self.holes {
            return Ok(None);
        }
        let mut kept = Zeroizing::new(Vec::with_capacity(self.payloads.len()));
        let mut from = 0;
        for (at, hole_len) in holes.iter().copied().chain([(len, 0)]) {
            // Between two holes of the new ones there is none of the old.
            kept.extend_from_slice(self.payload(from, at - from).unwrap_or_default());
            from = at + hole_len;
        }
        let cut_bytes = holes.iter().map(|(_, len)| len).sum();
        let first = line(&Cut { cut: CUT_FORM, holes });
        let sealed = vault.seal_beside(&[&first, self.metadata(), &kept])?;
        Ok(Some(Record { cut_bytes, sealed, ..record.clone() }))
    }
}

/// Pieces in their order, those that touch put together.
fn union(pieces: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut pieces: Vec<_> = pieces.filter(|(_, len)| *len > 0).collect();
    pieces.sort_unstable();
    let mut put: Vec<(u64, u64)> = Vec::new();
    for (at, len) in pieces {
        match put.last_mut() {
            Some((last, last_len)) if *last + *last_len >= at => *last_len = (*last_len).max(at + len - *last),
            _ => put.push((at, len)),
        }
    }
    put
}

/// What a record will hold: event lines and payloads.
#[derive(Debug, Default)]
pub struct Draft {
    lines: Vec<u8>,
    events: usize,
    payloads: Vec<Vec<u8>>,
    payloads_len: usize,
}

impl Draft {
    /// Whether it tells nothing.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// The bytes of the payload area so far: where the next payload will lie.
    pub fn payloads_len(&self) -> usize {
        self.payloads_len
    }

    /// The bytes of events and payloads so far.
    pub fn len(&self) -> usize {
        self.lines.len() + self.payloads_len
    }

    /// An upper bound of the sealed record's length after this many bytes more.
    pub fn sealed_len_max(&self, more: usize) -> usize {
        let plain = 128 + self.len() + more;
        // An age header, and a tag for every 64 KiB.
        plain + 1024 + (plain / (64 << 10) + 1) * 16
    }

    /// Adds events, one line each, and the payloads that they refer to.
    pub fn add(&mut self, lines: &[Vec<u8>], payloads: Vec<Vec<u8>>) {
        for line in lines {
            self.lines.extend_from_slice(line);
            self.events += 1;
        }
        self.payloads_len += payloads.iter().map(Vec::len).sum::<usize>();
        self.payloads.extend(payloads);
    }

    /// Seals it as the record after `prev`.
    pub fn seal(&self, vault: &Vault, prev: Digest, seq: Seq, kind: RecordKind) -> Result<Record, vault::SealError> {
        let closed = kind == RecordKind::Closed;
        let envelope = line(&Envelope { record: FORM, seq, events: self.events, closed });
        let mac = vault.chain(prev, seq, &[&envelope, &self.lines]);
        let mut pieces: Vec<&[u8]> = vec![&envelope, &self.lines];
        pieces.extend(self.payloads.iter().map(Vec::as_slice));
        let sealed = vault.seal_pieces(&pieces)?;
        Ok(Record { seq, mac, cut_bytes: 0, sealed })
    }

    /// Forgets what it tells; keeps its room for the next, within a bound.
    pub fn clear(&mut self) {
        self.lines.clear();
        self.lines.shrink_to(BUFFER_KEPT_LEN);
        self.payloads.clear();
        (self.events, self.payloads_len) = (0, 0);
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
    let mac = match &opened.emptied {
        Some(sha256) => vault.chain_over(prev, record.seq, sha256),
        None => vault.chain(prev, record.seq, &[opened.metadata()]),
    };
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
    let plaintext = vault.open(&record.sealed, PLAINTEXT_LEN_MAX).map_err(|unsealed| {
        Unverified(match unsealed {
            vault::Unsealed::WrongKey => format!(
                "it is not sealed to the keys of keyring {}; is one of a later generation missing from keys/?",
                vault.generation()
            ),
            vault::Unsealed::Damaged(what) => format!("it does not open: {what}"),
        })
    })?;
    decode(record.seq, record.cut_bytes, plaintext)
}

fn decode(seq: Seq, cut_bytes: u64, plaintext: Zeroizing<Vec<u8>>) -> Result<Opened, Unverified> {
    let mut at = 0;
    let next_line = |at: &mut usize| -> Option<Range<usize>> {
        let len = plaintext.get(*at..)?.iter().position(|byte| *byte == b'\n')?;
        let line = *at..*at + len;
        *at += len + 1;
        Some(line)
    };
    let malformed = |what: &str| Unverified(format!("its plaintext is malformed: {what}"));
    let mut holes = Vec::new();
    if plaintext.starts_with(CUT_BEGINNING) {
        let first = next_line(&mut at).ok_or_else(|| malformed("no envelope"))?;
        let first = &plaintext[first];
        let odd = |error: serde_json::Error| malformed(&format!("holes: {error}"));
        match serde_json::from_slice::<CutForm>(first).map_err(odd)?.cut {
            CUT_FORM => holes = serde_json::from_slice::<Cut>(first).map_err(odd)?.holes,
            EMPTIED_FORM => {
                let emptied: Emptied = serde_json::from_slice(first).map_err(odd)?;
                if at != plaintext.len() {
                    return Err(malformed("something follows what it was emptied to"));
                }
                if emptied.len_bytes != cut_bytes || cut_bytes == 0 {
                    return Err(malformed("it was emptied of other than its header says"));
                }
                return Ok(Opened {
                    events: Vec::new(),
                    kind: RecordKind::Batch,
                    plaintext,
                    metadata: 0..0,
                    payloads: 0..0,
                    holes,
                    emptied: Some(emptied.sha256),
                });
            }
            form => return Err(malformed(&format!("holes of form {form} are newer than this build"))),
        }
    }
    let is_in_range = |(at, len): &(u64, u64)| at.checked_add(*len).is_some_and(|end| end <= PLAINTEXT_LEN_MAX as u64);
    if !holes.iter().all(is_in_range) || union(holes.iter().copied()) != holes {
        return Err(malformed("its holes are in no order"));
    }
    if holes.iter().map(|(_, len)| len).sum::<u64>() != cut_bytes {
        return Err(malformed("its holes are not what its header says"));
    }
    let start = at;
    let first = next_line(&mut at).ok_or_else(|| malformed("no envelope"))?;
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
        let line = next_line(&mut at).ok_or_else(|| malformed("events are missing"))?;
        events.push(serde_json::from_slice(&plaintext[line]).map_err(|error| malformed(&format!("event: {error}")))?);
    }
    let (metadata, payloads) = (start..at, at..plaintext.len());
    if holes.last().is_some_and(|(at, len)| at + len > payloads.len() as u64 + cut_bytes) {
        return Err(malformed("a hole lies beyond its payloads"));
    }
    let kind = if envelope.closed { RecordKind::Closed } else { RecordKind::Batch };
    Ok(Opened { events, kind, plaintext, metadata, payloads, holes, emptied: None })
}

/// A plaintext decodes, or is refused; what it holds is as long as it is.
#[cfg(fuzzing)]
pub fn fuzz_record(bytes: &[u8]) {
    // What a header says of holes is not in the plaintext: 0, or as many bytes as are there.
    for cut_bytes in [0, bytes.len() as u64] {
        let Ok(opened) = decode(Seq(7), cut_bytes, Zeroizing::new(bytes.to_vec())) else { continue };
        assert!(opened.payload(0, bytes.len() as u64 + 1).is_none());
        for event in &opened.events {
            let again = line(event);
            let event = serde_json::from_slice::<Event>(&again).expect("a stored form is read again");
            assert_eq!(line(&event), again);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stated_shared::{Generation, RepositoryId, SessionId, Timestamp};

    use super::*;
    use crate::machine::event::{Actor, Change, Committed, Content, Observed};
    use crate::vault::{ChainKey, Keyring, Own};

    fn vault() -> Vault {
        let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap();
        let (repository, mut bytes) = (RepositoryId([5; 16]), [9; 32]);
        let keyring =
            Keyring::new(Generation(1), repository, ChainKey::new(&mut bytes), vec![recipient], Timestamp(0)).unwrap();
        let digest = keyring.seal(&Own::of(keyring.recipients())).unwrap().digest;
        Vault::new(keyring, digest)
    }

    fn actor() -> Actor {
        Actor {
            uid: 0,
            gid: 0,
            pid: None,
            user: None,
            comm: None,
            exe: None,
            host: "h".to_owned(),
            session: SessionId([0; 16]),
        }
    }

    /// One commit to as many states, with payloads of these lengths; payload n is made of the byte n.
    fn record(vault: &Vault, lens: &[usize]) -> Record {
        let mut draft = Draft::default();
        let mut offset_bytes = 0;
        let mut changes = Vec::new();
        for (n, len) in lens.iter().enumerate() {
            let payload = Payload::Inline { offset_bytes, len_bytes: *len as u64 };
            offset_bytes += *len as u64;
            let (sha256, size_bytes) = (Digest::ZERO, 1);
            let content = Content { sha256, size_bytes, serial: None, lineage: None, payload, base: None };
            let (state, version) = (format!("state {n}").parse().unwrap(), Version(1));
            changes.push(Change { state, version, content: Some(content), forced: false });
        }
        let (unchanged, labels, fences) = (Vec::new(), Default::default(), Vec::new());
        let what = What::Committed(Committed { number: 1, changes, unchanged, message: None, labels, fences });
        let payloads: Vec<Vec<u8>> = lens.iter().enumerate().map(|(n, len)| vec![n as u8; *len]).collect();
        draft.add(&[line(&Event { at: Timestamp(1), actor: actor().into(), what })], payloads);
        draft.seal(vault, Digest([7; 32]), Seq(3), RecordKind::Batch).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever is taken out, once or in turns: the chain holds, the rest reads as before, and what is gone says so.
        #[test]
        fn what_is_taken_out_of_a_record_is_all_that_changes(
            pieces in prop::collection::vec((1_usize..300, 0_u8..3), 1..12)
        ) {
            let vault = vault();
            let whole = record(&vault, &pieces.iter().map(|(len, _)| *len).collect::<Vec<_>>());
            let mut now = whole.clone();
            for turn in 1..=3 {
                let opened = open(&vault, Digest([7; 32]), &now).unwrap();
                prop_assert_eq!((now.seq, now.mac), (whole.seq, whole.mac));
                let payloads: Vec<_> = opened.inline_payloads().collect();
                prop_assert_eq!(payloads.len(), pieces.len());
                let mut gone_bytes = 0;
                for (n, ((len, goes), payload)) in pieces.iter().zip(&payloads).enumerate() {
                    let is_gone = *goes > 0 && *goes < turn;
                    gone_bytes += if is_gone { *len as u64 } else { 0 };
                    let InlinePayload { offset_bytes, len_bytes, .. } = *payload;
                    let expected = vec![n as u8; *len];
                    prop_assert_eq!(opened.is_gone(offset_bytes, len_bytes), is_gone);
                    prop_assert_eq!(opened.payload(offset_bytes, len_bytes), (!is_gone).then_some(&expected[..]));
                }
                prop_assert_eq!(now.cut_bytes, gone_bytes);
                prop_assert!(now.sealed.len() as u64 + gone_bytes < whole.sealed.len() as u64 + 400);
                let goes = pieces.iter().zip(&payloads).filter(|((_, goes), _)| *goes == turn);
                let gone: Vec<_> = goes.map(|(_, payload)| (payload.offset_bytes, payload.len_bytes)).collect();
                match opened.cut(&vault, &now, &gone).unwrap() {
                    Some(cut) => now = cut,
                    None => prop_assert!(gone.is_empty()),
                }
            }
        }
    }

    fn observed(verb: &str, outcome: &str) -> Event {
        let name = Some("a".parse().unwrap());
        let what = What::Observed(Observed {
            verb: verb.to_owned(),
            name,
            version: None,
            outcome: outcome.to_owned(),
            count: 1,
        });
        Event { at: Timestamp(1), actor: actor().into(), what }
    }

    fn record_of(vault: &Vault, events: &[Event], payloads: &[Vec<u8>]) -> Record {
        let mut draft = Draft::default();
        draft.add(&events.iter().map(line).collect::<Vec<_>>(), payloads.to_vec());
        draft.seal(vault, Digest([7; 32]), Seq(3), RecordKind::Batch).unwrap()
    }

    #[test]
    fn what_is_emptied_keeps_its_place_in_the_chain_and_nothing_else() {
        let vault = vault();
        let events = ["get", "lock", "unlock"].map(|verb| observed(verb, "ok"));
        let whole = record_of(&vault, &events, &[]);
        let opened = open(&vault, Digest([7; 32]), &whole).unwrap();
        assert!(opened.ages() && !opened.is_emptied());
        let emptied = opened.empty(&vault, &whole).unwrap();
        assert_eq!((emptied.seq, emptied.mac), (whole.seq, whole.mac));
        let is_short = vault.open(&emptied.sealed, 1 << 20).unwrap().len() < opened.metadata().len();
        assert!(is_short, "the header of an age file has a random length, so it is not compared");
        // A change here breaks every directory there is.
        let sha256 = vault::sha256(opened.metadata());
        let form = format!("{{\"cut\":2,\"sha256\":\"{sha256}\",\"len_bytes\":{}}}\n", opened.metadata().len());
        assert_eq!(*vault.open(&emptied.sealed, 1 << 20).unwrap(), form.as_bytes());
        let again = open(&vault, Digest([7; 32]), &emptied).unwrap();
        assert!(again.is_emptied() && again.events.is_empty() && again.is_rest_of(&opened) && !again.ages());
        assert!(again.cut(&vault, &emptied, &[(0, 10)]).unwrap().is_none());
        assert!(open(&vault, Digest([8; 32]), &emptied).is_err(), "it has one place");
        let another = record_of(&vault, &events[1..], &[]);
        let another = open(&vault, Digest([7; 32]), &another).unwrap();
        let emptied_other = another.empty(&vault, &whole).unwrap();
        assert!(open(&vault, Digest([7; 32]), &emptied_other).is_err(), "it is not what the chain has");
        assert!(!again.is_rest_of(&another));
    }

    #[test]
    fn what_it_was_emptied_to_is_that_one_line() {
        let vault = vault();
        let whole = record_of(&vault, &[observed("get", "ok")], &[]);
        let opened = open(&vault, Digest([7; 32]), &whole).unwrap();
        let sha256 = vault::sha256(opened.metadata());
        for (form, cut_bytes, is_one) in [
            (format!("{{\"cut\":2,\"sha256\":\"{sha256}\",\"len_bytes\":9}}\n"), 9, true),
            (format!("{{\"cut\":2,\"sha256\":\"{sha256}\",\"len_bytes\":9}}\n"), 8, false),
            (format!("{{\"cut\":2,\"sha256\":\"{sha256}\",\"len_bytes\":0}}\n"), 0, false),
            (format!("{{\"cut\":2,\"sha256\":\"{sha256}\",\"len_bytes\":9}}\nx"), 9, false),
            (format!("{{\"cut\":2,\"sha256\":\"{sha256}\",\"len_bytes\":9}}"), 9, false),
            (format!("{{\"cut\":2,\"sha256\":\"{sha256}\"}}\n"), 9, false),
            ("{\"cut\":2,\"holes\":[[0,9]]}\n".to_owned(), 9, false),
        ] {
            let sealed = vault.seal_pieces(&[form.as_bytes()]).unwrap();
            let record = Record { cut_bytes, sealed, ..whole.clone() };
            assert_eq!(open(&vault, Digest([7; 32]), &record).is_ok(), is_one, "{form:?}");
        }
    }

    #[test]
    fn only_what_holds_nothing_but_reads_and_locks_ages() {
        let vault = vault();
        let ages = |events: &[Event], payloads: &[Vec<u8>]| {
            open_unchained(&vault, &record_of(&vault, events, payloads)).unwrap().ages()
        };
        assert!(ages(&[observed("get", "ok"), observed("unlock", "ok")], &[]));
        assert!(!ages(&[observed("get", "ok")], &[vec![1]]), "whatever lies there was not looked at");
        assert!(!ages(&[], &[]));
        for other in
            [observed("get", "denied"), observed("lock", "busy"), observed("unlock", "gone"), observed("renew", "ok")]
        {
            assert!(!ages(&[observed("get", "ok"), other.clone()], &[]), "{other:?}");
        }
        let committed = record(&vault, &[]);
        assert!(!open_unchained(&vault, &committed).unwrap().ages());
    }

    #[test]
    fn holes_that_are_none_are_refused() {
        let vault = vault();
        let whole = record(&vault, &[10, 20]);
        let opened = open(&vault, Digest([7; 32]), &whole).unwrap();
        let cut = opened.cut(&vault, &whole, &[(0, 10)]).unwrap().unwrap();
        assert!(open_unchained(&vault, &Record { cut_bytes: 0, ..cut.clone() }).is_err(), "its header says otherwise");
        assert!(open_unchained(&vault, &Record { cut_bytes: 1, ..whole.clone() }).is_err());
        assert!(opened.cut(&vault, &whole, &[(25, 10)]).unwrap().is_none(), "there is nothing");
        let metadata = &opened.plaintext[opened.metadata.clone()];
        for (holes, sum) in [
            ("[[0,10],[5,10]]", 20),
            ("[[0,10],[10,5]]", 15),
            ("[[5,1],[0,1]]", 2),
            ("[[0,0]]", 0),
            ("[[21,10]]", 10),
            ("[[18446744073709551615,2]]", 2),
        ] {
            let first = format!("{{\"cut\":1,\"holes\":{holes}}}\n");
            let sealed = vault.seal_pieces(&[first.as_bytes(), metadata, &[1; 20]]).unwrap();
            let record = Record { cut_bytes: sum, sealed, ..whole.clone() };
            assert!(open_unchained(&vault, &record).is_err(), "{holes}");
        }
        let newer = b"{\"cut\":3,\"holes\":[]}\n";
        let sealed = vault.seal_pieces(&[newer, metadata]).unwrap();
        let refused = open_unchained(&vault, &Record { sealed, ..whole }).unwrap_err();
        assert!(refused.0.contains("newer than this build"), "{}", refused.0);
    }
}
