//! Reading everything up to the watermark, to name whatever is not what was written.

use std::path::Path;

use stated_shared::{Damage, Digest, Generation, Part, Seq, Verified};

use super::contents::{Checked, Contents};
use super::missing::Missing;
use super::record;
use super::snapshot;
use super::start::Replay;
use super::store::{GONE, Store};
use super::summary::{EMPTIED, Emptied};
use crate::journal::{Journal, LocalSnapshots, ReadError};
use crate::machine::event::{Change, Content, Event, What};
use crate::vault;

/// Bytes of content that are kept for what is patched from them, where no daemon's budget says otherwise.
pub(super) const KEPT_LEN_MAX: u64 = 256 << 20;

/// Reads records in order and, where asked, a part of the payloads, with this many bytes of content kept for what is
/// patched from them. Damage is listed, and never stops the reading.
pub(super) fn verify(
    store: &Store,
    (last, head): (Seq, Digest),
    state_dir: &Path,
    keyring: Option<(Generation, Digest)>,
    read_data: Option<(Part, u64)>,
) -> Verified {
    let mut contents = read_data.map(|(part, kept_len_max)| Contents::new(store, part, kept_len_max));
    let mut found = Verified { records: 0, payloads: 0, seq: last, head, damage: Vec::new() };
    // Unknown after a record that is not there: what follows it is believed by what follows that.
    let mut prev = Some(Digest::ZERO);
    let mut missing = None;
    let mut gone = Missing::default();
    let mut emptied = Emptied::default();
    for n in 1..=last.0 {
        let seq = Seq(n);
        let (file, offset_bytes) = store.reader.place(seq);
        let mut damage = |what: String| found.damage.push(Damage { file: file.clone(), offset_bytes, what });
        let record = match store.reader.record(seq) {
            Ok(record) => record,
            Err(error) => {
                prev = None;
                // A file's absence is said once, below, and not for each of its records.
                match error {
                    ReadError::Missing(_) => missing = missing.or(Some(seq)),
                    error => damage(format!("record {seq}: {error}")),
                }
                continue;
            }
        };
        let opened = match prev {
            Some(prev) => record::open(&store.vault, prev, &record),
            None => record::open_unchained(&store.vault, &record),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(unverified) => {
                damage(format!("record {seq}: {}", unverified.0));
                prev = Some(record.mac);
                continue;
            }
        };
        prev = Some(record.mac);
        found.records += 1;
        gone.read(seq, &opened);
        emptied.read(seq, &opened);
        if let Some(contents) = &mut contents {
            for event in &opened.events {
                if let What::Pruned(pruned) = &event.what {
                    contents.pruned(seq, pruned);
                }
                for (change, content) in contents_of(event) {
                    match contents.check(seq, change, content, &opened) {
                        Checked::Good => found.payloads += 1,
                        Checked::Elsewhere | Checked::Bad => {}
                    }
                }
            }
        }
    }
    if contents.is_some() || !gone.is_empty() || !emptied.is_empty() {
        told_since(store, last, contents.as_mut(), &mut gone, &mut emptied);
    }
    for &seq in emptied.left() {
        let (file, offset_bytes) = store.reader.place(seq);
        found.damage.push(Damage { file, offset_bytes, what: format!("record {seq}: {EMPTIED}") });
    }
    for (version, seq) in gone.left() {
        let (file, offset_bytes) = store.reader.place(seq);
        // Without the state's name: whoever may see that something is damaged may not see all names.
        let what = format!("record {seq}: version {version} of a state: {GONE}");
        found.damage.push(Damage { file, offset_bytes, what });
    }
    if let Some(contents) = contents {
        let (good, damage) = contents.finish();
        found.payloads += good;
        found.damage.extend(damage);
    }
    if prev != Some(head) && found.damage.is_empty() {
        let (file, offset_bytes) = store.reader.place(last);
        found.damage.push(Damage {
            file,
            offset_bytes,
            what: "the chain does not end in the daemon's own head".to_owned(),
        });
    }
    match store.reader.check_layout() {
        Ok(odd) => {
            found.damage.extend(odd.into_iter().map(|(file, offset_bytes, what)| Damage { file, offset_bytes, what }))
        }
        Err(error) => found.damage.push(Damage { file: "log".to_owned(), offset_bytes: 0, what: error.to_string() }),
    }
    if let Some(seq) = missing.filter(|_| found.damage.is_empty()) {
        found.damage.push(Damage { file: "log".to_owned(), offset_bytes: 0, what: format!("record {seq} is missing") });
    }
    if let Some(place) = &store.snapshots {
        found.damage.extend(check_snapshots(store, last, place));
    }
    if let Some((generation, digest)) = keyring {
        let file = format!("keys/{generation}.age");
        let what = match std::fs::read(state_dir.join(&file)) {
            Ok(bytes) if vault::sha256(&bytes) == digest => None,
            Ok(_) => Some("it is not the keyring that the journal names".to_owned()),
            Err(error) => Some(format!("it cannot be read: {error}")),
        };
        found.damage.extend(what.map(|what| Damage { file, offset_bytes: 0, what }));
    }
    found
}

/// Takes note of the prunes and summaries that became durable while the log was read.
fn told_since(
    store: &Store,
    last: Seq,
    mut contents: Option<&mut Contents<'_>>,
    gone: &mut Missing,
    emptied: &mut Emptied,
) {
    let mut seq = last.next();
    while let Ok(record) = store.reader.record(seq) {
        // One that does not open is for the next verification to tell.
        if let Ok(opened) = record::open_unchained(&store.vault, &record) {
            gone.read(seq, &opened);
            emptied.read(seq, &opened);
            for event in &opened.events {
                if let (What::Pruned(pruned), Some(contents)) = (&event.what, &mut contents) {
                    contents.pruned(seq, pruned);
                }
            }
        }
        seq = seq.next();
    }
}

/// What is wrong with the snapshots: a start does without them, and yet nothing that is kept is damaged in silence.
fn check_snapshots(store: &Store, last: Seq, place: &LocalSnapshots) -> Vec<Damage> {
    let damage = |file: String, what: String| Damage { file, offset_bytes: 0, what };
    let (seqs, strays) = match place.list() {
        Ok(listed) => listed,
        Err(error) => return vec![damage("snap".to_owned(), format!("it cannot be listed: {error}"))],
    };
    let mut found: Vec<Damage> =
        strays.into_iter().map(|file| damage(file, "a file that is no snapshot".to_owned())).collect();
    for seq in seqs {
        let checked = match place.read(seq) {
            // A newer one has taken its place meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => Err(format!("it cannot be read: {error}")),
            Ok(sealed) => snapshot::open(&store.vault, seq, &sealed).map_err(|unverified| unverified.0).and_then(
                |(machine, mark)| {
                    machine.states().check().map_err(|unreadable| unreadable.to_string())?;
                    Ok(mark)
                },
            ),
        };
        let what = match checked {
            Ok(mark) if seq <= last => match store.reader.record(seq) {
                Ok(record) if record.mac != mark.mac => Some("it is of another log than this one".to_owned()),
                // What is wrong with the record is said of the record.
                Ok(_) | Err(_) => None,
            },
            Ok(_) => None,
            Err(what) => Some(what),
        };
        found.extend(what.map(|what| damage(place.place(seq), what)));
    }
    found
}

/// Reads everything in a directory that no daemon serves.
pub fn verify_offline(
    replay: &Replay,
    journal: &dyn Journal,
    snapshots: Option<LocalSnapshots>,
    state_dir: &Path,
) -> Verified {
    let store = Store { vault: replay.vault(), reader: journal.reader(), blobs: journal.blobs(), snapshots };
    verify(&store, (journal.last(), replay.head()), state_dir, replay.keyring(), Some((Part::ALL, KEPT_LEN_MAX)))
}

fn contents_of(event: &Event) -> impl Iterator<Item = (&Change, &Content)> {
    let changes = match &event.what {
        What::Committed(committed) => &committed.changes[..],
        _ => &[],
    };
    changes.iter().filter_map(|change| Some((change, change.content.as_ref()?)))
}
