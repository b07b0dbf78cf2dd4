//! Observations age out: what was read and locked is summed up after a while, and leaves the log.
//!
//! A part of the log is closed in time, summed up when its last record is old, and then written anew with its old
//! observations emptied. The summaries are durable before that, each for itself, so whoever comes after a crash goes on
//! where they end.

use std::fmt;
use std::time::Duration;

use stated_shared::{Seq, Timestamp};

use super::beside::Beside;
use super::record;
use super::retention::duration;
use super::rewrite::{Anew, NotRewritten};
use super::store::Store;
use super::summary::{Runs, Step, Summing};
use crate::journal::{Part, ReadError, Record};
use crate::machine::event::What;

/// Between two looks at the log.
pub(super) const EVERY_MS: u64 = 60 * 60 * 1000;
/// The part that records are added to is closed after such a share of what observations are kept for …
const OPEN_SHARE: u64 = 3;
/// … where it holds so many bytes.
const WORTH_MIN: u64 = 64 << 10;

/// How long what was read and locked is told one by one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditKeep(Option<Duration>);

impl AuditKeep {
    /// For ever.
    pub const FOR_EVER: Self = Self(None);

    /// For this long.
    pub fn within(duration: Duration) -> Self {
        Self(Some(duration))
    }

    /// In milliseconds; nothing for ever.
    pub(super) fn ms(self) -> Option<u64> {
        self.0.map(|keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX))
    }

    /// In words, for `status`.
    pub fn told(self) -> String {
        match self.0 {
            None => "reads, locks and unlocks are told one by one for ever".to_owned(),
            Some(keep) => format!("reads, locks and unlocks are summed up after {}", duration(keep)),
        }
    }
}

/// What is old enough for most, and young enough to look into what happened lately.
impl Default for AuditKeep {
    fn default() -> Self {
        Self::within(Duration::from_secs(90 * 24 * 60 * 60))
    }
}

impl fmt::Debug for AuditKeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told())
    }
}

/// One look at the log: closes, sums up and empties whatever it is time for. What finds no room waits for the next.
pub(super) fn age<B: Beside>(beside: &mut B, keep_ms: u64) -> Result<(), B::Stop> {
    let (summed, now) = beside.summed()?;
    let before = |ms| Timestamp(now.0.saturating_sub(ms));
    if let Some(open) = beside.parts().list().into_iter().find(|part| !part.is_closed)
        && open.len_bytes >= WORTH_MIN
        && begins_before(beside.store(), &open, before(keep_ms / OPEN_SHARE))
        && !beside.close(open)?
    {
        return Ok(());
    }
    // The last one that was summed up may not have been emptied yet.
    let from = summed.map_or(Seq(1), |summed| summed.part.max(Seq(1)));
    let parts = beside.parts().list();
    for (at, part) in parts.iter().copied().enumerate() {
        if !part.is_closed || part.last < part.first.max(from) || beside.is_left(&part) {
            continue;
        }
        let (summed, _) = beside.summed()?;
        let next = summed.as_ref().map_or(part.first, |summed| part.first.max(summed.last.next()));
        if next <= part.last {
            // What comes later is younger.
            let is_old = match parts.get(at + 1) {
                Some(next) if next.last >= next.first => begins_before(beside.store(), next, before(keep_ms)),
                _ => is_before(beside.store(), beside.store().reader.record(part.last), before(keep_ms)),
            };
            if !is_old || !sum_up(beside, part, next)? {
                return Ok(());
            }
        }
        if !beside.is_left(&part) && !empty(beside, part)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a part begins before then; then the one before it ends before then. Its other records are not looked for, which
/// costs more than a start.
fn begins_before(store: &Store, part: &Part, before: Timestamp) -> bool {
    is_before(store, store.reader.first(part.first), before)
}

/// Whether a record is from before then; one that does not open is not.
fn is_before(store: &Store, record: Result<Record, ReadError>, before: Timestamp) -> bool {
    let opened = record.ok().and_then(|record| record::open_unchained(&store.vault, &record).ok());
    opened.is_some_and(|opened| {
        // Whatever was emptied was old then.
        opened.is_emptied() || opened.events.iter().map(|event| event.at).max().is_some_and(|at| at <= before)
    })
}

/// Whether it is worth to go on.
fn sum_up<B: Beside>(beside: &mut B, part: Part, from: Seq) -> Result<bool, B::Stop> {
    let mut summing = match Summing::begin(beside.store(), part, from) {
        Ok(summing) => summing,
        Err(error) => {
            beside.leave(&part, error.into());
            return Ok(true);
        }
    };
    loop {
        match summing.step(beside.store()) {
            Ok(Step::More) => {}
            Ok(Step::Summary(summarized)) => {
                if !beside.append(What::Summarized(*summarized))? {
                    return Ok(false);
                }
                if summing.is_done() {
                    return Ok(true);
                }
            }
            Err(error) => {
                beside.leave(&part, error);
                return Ok(true);
            }
        }
        beside.pause()?;
    }
}

/// Empties what was summed up of a part, if that was not done before. Whether it is worth to go on.
fn empty<B: Beside>(beside: &mut B, part: Part) -> Result<bool, B::Stop> {
    let (summed, _) = beside.summed()?;
    let Some(summed) = summed.filter(|summed| summed.part == part.first) else { return Ok(true) };
    let first = Runs::of(beside.store(), &summed).and_then(|runs| {
        let first = runs.first().map(|first| Ok::<_, NotRewritten>(beside.store().reader.cut_bytes(first)?));
        Ok(first.transpose()?.filter(|cut_bytes| *cut_bytes == 0).map(|_| runs))
    });
    match first {
        Ok(Some(summed_up)) => beside.rewrite(part, Anew { summed_up, reseals: false }),
        // A part becomes another one as a whole.
        Ok(None) => Ok(true),
        Err(error) => {
            beside.leave(&part, error);
            Ok(true)
        }
    }
}
