//! From a state directory to a replayed journal: the newest snapshot that is believed, the log since, and what is said
//! where they do not fit.

use std::io;
use std::path::Path;
use std::sync::Arc;

use stated_shared::{Failure, FailureKind, RepositoryId, Seq};

use super::failure::{chain, open_failure, storage};
use crate::disk::Disk;
use crate::engine::{self, Replay, Snapshots};
use crate::journal::{Ended, Journal, LocalJournal, LocalSnapshots, Loss, Mark, OpenError, OpenMode};
use crate::vault::Vault;

/// A journal that was replayed.
pub(crate) struct OpenedJournal {
    pub replay: Replay,
    pub journal: LocalJournal,
    pub snapshots: Snapshots,
    /// See [`engine::Beginning::loss`].
    pub loss: Option<String>,
}

/// A log that is not what it was.
struct Refusal {
    failure: Failure,
    /// What would have to be accepted to start all the same; absent where nothing would be left.
    loss: Option<Box<Loss>>,
}

/// Opens the journal. With `accept`, the record that a refusal named, the log from there on is moved to `lost/` first.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    repository: RepositoryId,
    vault: &Arc<Vault>,
    mode: OpenMode,
    accept: Option<Seq>,
) -> Result<OpenedJournal, Failure> {
    let opened = match (attempt(disk, dir, repository, vault, mode), accept) {
        (Err(Refusal { loss: Some(loss), .. }), Some(seq)) if loss.seq == seq => {
            let aside = loss.cut(disk, dir).map_err(|error| cut_failure(dir, &error))?;
            tracing::warn!(%seq, aside, "the log from this record on was moved away");
            attempt(disk, dir, repository, vault, mode)
        }
        (opened, _) => opened,
    };
    let opened = opened.map_err(Refusal::into_failure)?;
    let next = opened.journal.last().next();
    // That nothing but the table of locks may know of a loss is seen when that is read.
    match accept {
        Some(seq) if seq != next => Err(nothing_lost(seq, next)),
        _ => Ok(opened),
    }
}

/// Notes that the end of the log is lost, which nothing but the table of locks knows. Returns where it is noted.
pub(super) fn accept_unseen(disk: &dyn Disk, dir: &Path, seq: Seq) -> Result<String, Failure> {
    let loss = Loss { seq, at: None, snapshots: Vec::new() };
    loss.make_aside(disk, dir).map_err(|error| cut_failure(dir, &error))
}

/// The refusal of a loss that is none.
pub(super) fn nothing_lost(seq: Seq, next: Seq) -> Failure {
    let message = format!("nothing is lost at record {seq}: the log is whole, and its next record is {next}");
    Failure::new(FailureKind::Usage, message).hint("start it as ever: stated run")
}

/// What to type where the end of the log is lost from this record on.
pub(super) fn loss_hint(seq: Seq) -> String {
    format!(
        "nothing was changed; put the files back from a copy (stated verify reads everything), or start without the \
         records from {seq} on, which are moved to lost/: stated run --accept-loss={seq}"
    )
}

fn attempt(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    repository: RepositoryId,
    vault: &Arc<Vault>,
    mode: OpenMode,
) -> Result<OpenedJournal, Refusal> {
    let place = LocalSnapshots::new(Arc::clone(disk), dir);
    let seqs = match place.list() {
        Ok((seqs, _)) => seqs,
        Err(error) => {
            tracing::warn!("the snapshots cannot be listed, so the whole log is replayed: {error}");
            Vec::new()
        }
    };
    let mut is_due = false;
    // Snapshots that the log does not go up to, and what the newest of them says.
    let mut proofs: Vec<(Seq, OpenError)> = Vec::new();
    for seq in seqs.into_iter().map(Some).chain([None]) {
        let (mut replay, mark) = match seq {
            None => (Replay::new(Arc::clone(vault)), None),
            Some(seq) => match believe(vault, &place, seq) {
                Ok((replay, mark)) => (replay, Some(mark)),
                Err(what) => {
                    tracing::warn!(file = place.place(seq), what, "a snapshot is not believed, and is made anew");
                    is_due = true;
                    continue;
                }
            },
        };
        // Where a loss is proved already, the rest is only to find out where the log ends.
        let mode = if proofs.is_empty() { mode } else { OpenMode::ReadOnly };
        let mut visit = |record: &_| replay.visit(record);
        let opened = match &mark {
            None => LocalJournal::open(disk, dir, repository, mode, &mut visit),
            Some(mark) => LocalJournal::open_from(disk, dir, repository, mode, mark, &mut visit),
        };
        match opened {
            Ok(journal) if proofs.is_empty() => {
                let loss = Loss::pending(&**disk, dir, journal.last().next());
                let loss = loss.map_err(|error| Refusal { failure: cut_failure(dir, &error), loss: None })?;
                // Where the loss of summaries is accepted already the next record tells of it.
                if let (Some(seq), None) = (replay.unsummarized(), &loss) {
                    return Err(Refusal::emptied(seq, &journal));
                }
                let snapshots = Snapshots { place: Some(place), is_due };
                return Ok(OpenedJournal { replay, journal, snapshots, loss });
            }
            Ok(journal) => return Err(Refusal::lost(proofs, &journal, &place)),
            Err(error @ (OpenError::Lost { .. } | OpenError::Rewritten { .. })) => {
                proofs.extend(mark.map(|mark| (mark.seq, error)));
            }
            Err(error) => return Err(Refusal::damaged(proofs, error)),
        }
    }
    unreachable!("the log without a snapshot is the last to be tried")
}

fn believe(vault: &Arc<Vault>, place: &LocalSnapshots, seq: Seq) -> Result<(Replay, Mark), String> {
    let sealed = place.read(seq).map_err(|error| error.to_string())?;
    let (machine, mark) = engine::open_snapshot(vault, seq, &sealed).map_err(|unverified| unverified.0)?;
    Ok((Replay::of_snapshot(Arc::clone(vault), machine, &mark), mark))
}

impl Refusal {
    /// The log is whole, and ends before a record that a snapshot has seen.
    fn lost(proofs: Vec<(Seq, OpenError)>, journal: &LocalJournal, place: &LocalSnapshots) -> Self {
        let last = journal.last();
        let at = torn_at(journal);
        let (seen, why) = &proofs[0];
        let message = format!("the log ends at record {last}, but {} is newer: {why}", place.place(*seen));
        let failure = Failure::new(FailureKind::Storage, message);
        let snapshots = proofs.iter().map(|(seq, _)| *seq).collect();
        Self { failure, loss: Some(Box::new(Loss { seq: last.next(), at, snapshots })) }
    }

    /// The log is whole, but for what a record told and a summary should tell of: that was durable before it was taken out.
    fn emptied(seq: Seq, journal: &LocalJournal) -> Self {
        let (file, offset_bytes) = journal.reader().place(seq);
        let next = journal.last().next();
        let message = format!("{file} is damaged at byte {offset_bytes} (record {seq}): {}", engine::EMPTIED);
        let loss = Loss { seq: next, at: torn_at(journal), snapshots: Vec::new() };
        Self { failure: Failure::new(FailureKind::Storage, message), loss: Some(Box::new(loss)) }
    }

    fn damaged(proofs: Vec<(Seq, OpenError)>, error: OpenError) -> Self {
        let loss = match &error {
            // Without the first record there is no repository: what is left of one is not a beginning.
            OpenError::Damaged { file, seq, offset_bytes, .. } if *seq > Seq(1) && file.starts_with("log/") => {
                let snapshots = proofs.iter().map(|(seq, _)| *seq).collect();
                Some(Box::new(Loss { seq: *seq, at: Some((file.clone(), *offset_bytes)), snapshots }))
            }
            _ => None,
        };
        let failure = match loss {
            Some(_) => Failure::new(FailureKind::Storage, chain(&error)),
            None => open_failure(error),
        };
        Self { failure, loss }
    }

    fn into_failure(self) -> Failure {
        match self.loss {
            Some(loss) => self.failure.hint(loss_hint(loss.seq)),
            None => self.failure,
        }
    }
}

/// Where the torn record lies that the log ends with.
fn torn_at(journal: &LocalJournal) -> Option<(String, u64)> {
    match journal.ended() {
        Ended::Torn { file, offset_bytes, .. } => Some((file.clone(), *offset_bytes)),
        Ended::Empty | Ended::Closed | Ended::Open => None,
    }
}

fn cut_failure(dir: &Path, error: &io::Error) -> Failure {
    storage(dir, "move the lost part within", error)
        .hint("each step was made durable; the same command goes on where it stopped")
}
