//! After a rotation: what former keys had sealed is sealed to those in use, beside the commits.
//!
//! A closed part of the log, a blob and a snapshot each become another one as a whole, so whoever comes after a crash goes on
//! where it ended: what is sealed to the keys in use already is left alone.

use std::fmt::Display;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use stated_shared::Resealing;

use super::beside::Beside;
use super::rewrite::Anew;
use super::store::Store;
use crate::journal::{BlobId, Part, ReadError};
use crate::machine::event::{Resealed, What};
use crate::vault;

/// How far it is, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    left: AtomicU64,
}

impl Progress {
    pub fn get(&self) -> Resealing {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Resealing { done: of(&self.done), total: of(&self.total), left: of(&self.left) }
    }

    fn begin(&self, total: usize) {
        self.done.store(0, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
        self.total.store(total as u64, Ordering::Relaxed);
    }
}

/// Seals everything anew that is to be; whether all of it is.
pub(super) fn reseal<B: Beside>(beside: &mut B, progress: &Progress) -> Result<bool, B::Stop> {
    let Some(generation) = beside.resealing()? else { return Ok(true) };
    let Some(last) = beside.store().vault.former_last() else { return Ok(true) };
    // The record that tells of the new keys is not among them, so there is a next one.
    let open = beside.parts().list().into_iter().find(|part| !part.is_closed && part.first <= last);
    if let Some(open) = open
        && !beside.close(open)?
    {
        return Ok(false);
    }
    let parts: Vec<Part> = beside.parts().list().into_iter().filter(|part| part.first <= last).collect();
    let blobs = match beside.store().blobs.list() {
        Ok(blobs) => blobs,
        Err(error) => {
            tracing::warn!(%error, "the blobs cannot be listed, so they stay sealed to former keys");
            return Ok(false);
        }
    };
    progress.begin(parts.len() + blobs.len());
    for part in parts {
        let is_done = is_present(beside.store(), &part)
            || !beside.is_left(&part)
                && beside.rewrite(part, Anew { reseals: true, ..Anew::default() })?
                && is_present(beside.store(), &part);
        note(progress, is_done);
        beside.pause()?;
    }
    for id in blobs {
        let resealed = beside.change(|store| reseal_blob(store, id))?;
        if let Err(what) = &resealed {
            tracing::warn!(blob = %id, what, "a blob stays sealed to former keys");
        }
        note(progress, resealed.is_ok());
        if matches!(resealed, Ok(true)) {
            beside.pause()?;
        }
    }
    if progress.get().left > 0 || !drop_snapshots(beside.store()) {
        return Ok(false);
    }
    beside.append(What::Resealed(Resealed { generation }))
}

fn note(progress: &Progress, is_done: bool) {
    let count = if is_done { &progress.done } else { &progress.left };
    count.fetch_add(1, Ordering::Relaxed);
}

/// A part becomes another one as a whole, so its first record tells.
fn is_present(store: &Store, part: &Part) -> bool {
    store.reader.first(part.first).is_ok_and(|record| store.vault.is_present(&record.sealed))
}

/// Whether it had to be. One that was pruned meanwhile is gone.
fn reseal_blob(store: &Store, id: BlobId) -> Result<bool, String> {
    let failed = |what: &str, error: &dyn Display| format!("it cannot be {what}: {error}");
    let sealed = match store.blobs.read(id) {
        Ok(sealed) if store.vault.is_present(&sealed) => return Ok(false),
        Ok(sealed) => sealed,
        Err(ReadError::Missing(_)) => return Ok(false),
        Err(error) => return Err(failed("read", &error)),
    };
    let plaintext = store.vault.open(&sealed, sealed.len()).map_err(|error| failed("opened", &error))?;
    // Two of the three at a time: a blob may be large.
    drop(sealed);
    let resealed = store.vault.seal_beside(&[&plaintext]).map_err(|error| failed("sealed", &error))?;
    let sha256 = vault::sha256(&plaintext);
    let len = plaintext.len();
    drop(plaintext);
    let again = store.vault.open(&resealed, len).map_err(|error| failed("opened again", &error))?;
    if vault::sha256(&again) != sha256 {
        return Err("it would not be what it was".to_owned());
    }
    drop(again);
    store.blobs.replace(id, &resealed).map_err(|error| failed("written", &error))?;
    Ok(true)
}

/// Removes snapshots that former keys had sealed, which nobody believes any more; whether there are none now.
fn drop_snapshots(store: &Store) -> bool {
    let Some(place) = &store.snapshots else { return true };
    let dropped = place.list().and_then(|(seqs, _)| {
        for seq in seqs {
            let sealed = match place.read(seq) {
                // A newer one took its place.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                sealed => sealed?,
            };
            if !store.vault.is_present(&sealed) {
                place.remove(seq)?;
            }
        }
        Ok(())
    });
    match dropped {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "a snapshot stays sealed to former keys");
            false
        }
    }
}
