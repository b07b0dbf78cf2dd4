//! What old reads and locks come to: who did what to which name, how often, and when last.
//!
//! A summary names the records that it is of, and no other may be emptied. Which these are is said by their content alone
//! ([`Opened::ages`]), and only what the chain proves is summed up.

use std::collections::BTreeMap;

use stated_shared::{Seq, StateName, Timestamp};

use super::record::{self, Opened};
use super::rewrite::NotRewritten;
use super::store::Store;
use super::walk::{STEP_LEN_MAX, STEP_RECORDS_MAX, Walk};
use crate::journal::{Part, ReadError};
use crate::machine::Summed;
use crate::machine::event::{Summarized, SummarizedDeed, SummarizedOf, What};

/// What is said of a record of which nothing is left without a summary.
pub(crate) const EMPTIED: &str = "what it told was taken out, although no summary tells of it";
/// A summary is closed before it is longer than this in a record; what one record tells may be longer alone.
const SUMMARY_LEN_MAX: usize = 256 << 10;
/// What a user, a deed and a run of records take in it, besides names.
const ENTRY_LEN_MAX: usize = 128;

/// Records that summaries are of.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<Seq, Seq>);

impl Runs {
    /// Those that the summaries of one part are of.
    pub fn of(store: &Store, summed: &Summed) -> Result<Self, NotRewritten> {
        let mut runs = Self::default();
        for &seq in &summed.told {
            let record = store.reader.record(seq)?;
            let opened = record::open_unchained(&store.vault, &record);
            let opened = opened.map_err(|unverified| NotRewritten::Damaged(seq, unverified))?;
            for event in &opened.events {
                match &event.what {
                    What::Summarized(summarized) if summarized.part == summed.part => runs.add(summarized),
                    _ => {}
                }
            }
        }
        Ok(runs)
    }

    /// Adds those of one summary.
    pub fn add(&mut self, summarized: &Summarized) {
        self.0.extend(summarized.records.iter().copied());
    }

    pub fn holds(&self, seq: Seq) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, last)| seq <= *last)
    }

    /// The first record of them.
    pub fn first(&self) -> Option<Seq> {
        self.0.keys().next().copied()
    }
}

/// Records that were emptied, until the summary is found that tells of them.
#[derive(Debug, Default)]
pub(super) struct Emptied(Vec<Seq>);

impl Emptied {
    /// Takes note of a record; they come in their order.
    pub fn read(&mut self, seq: Seq, opened: &Opened) {
        for event in &opened.events {
            if let What::Summarized(summarized) = &event.what
                && !self.0.is_empty()
            {
                let mut runs = Runs::default();
                runs.add(summarized);
                self.0.retain(|seq| !runs.holds(*seq));
            }
        }
        if opened.is_emptied() {
            self.0.push(seq);
        }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that no summary tells of.
    pub fn left(&self) -> &[Seq] {
        &self.0
    }
}

/// The records of a log that were emptied although no summary tells of them: what told of them was lost with its end. What
/// cannot be read is for a verification to name.
pub(super) fn orphans(store: &Store, last: Seq) -> Option<Summarized> {
    let mut emptied = Emptied::default();
    for seq in (1..=last.0).map(Seq) {
        let record = store.reader.record(seq).ok();
        if let Some(opened) = record.and_then(|record| record::open_unchained(&store.vault, &record).ok()) {
            emptied.read(seq, &opened);
        }
    }
    let mut records = Vec::new();
    emptied.left().iter().for_each(|seq| push(&mut records, *seq));
    (!records.is_empty()).then(|| Summarized { part: Seq(0), last: Seq(0), records, by: Vec::new() })
}

fn push(runs: &mut Vec<(Seq, Seq)>, seq: Seq) {
    match runs.last_mut() {
        Some((_, last)) if last.next() == seq => *last = seq,
        _ => runs.push((seq, seq)),
    }
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct User {
    uid: u32,
    gid: u32,
    user: Option<String>,
    host: String,
}

/// By verb and name how often, and when last.
type Deeds = BTreeMap<(String, Option<StateName>), (u64, Timestamp)>;

/// A closed part of the log that is being summed up.
pub(super) struct Summing {
    part: Part,
    walk: Walk,
    records: Vec<(Seq, Seq)>,
    by: BTreeMap<User, Deeds>,
    len: usize,
}

/// What came of some records.
pub(super) enum Step {
    /// There are more.
    More,
    /// A summary; of the last records of the part where it ends there.
    Summary(Box<Summarized>),
}

impl Summing {
    /// Begins with this record of the part.
    pub fn begin(store: &Store, part: Part, from: Seq) -> Result<Self, ReadError> {
        let (walk, records, by) = (Walk::begin(store, part, from)?, Vec::new(), BTreeMap::new());
        Ok(Self { part, walk, records, by, len: 0 })
    }

    /// Whether all was read and told.
    pub fn is_done(&self) -> bool {
        self.walk.is_done()
    }

    /// Reads on.
    pub fn step(&mut self, store: &Store) -> Result<Step, NotRewritten> {
        let (mut count, mut len) = (0, 0);
        while !self.is_done() && count < STEP_RECORDS_MAX && len < STEP_LEN_MAX {
            let mut walk = self.walk;
            let (record, opened) = walk.read(store)?;
            if opened.ages() {
                // What the record adds at most, as if nobody had done the like before.
                let more: usize = opened.events.iter().map(|event| record::line(event).len()).sum();
                if self.len > 0 && self.len + more > SUMMARY_LEN_MAX {
                    return Ok(Step::Summary(Box::new(self.close())));
                }
                self.add(record.seq, &opened);
            }
            self.walk = walk;
            (count, len) = (count + 1, len + record.sealed.len());
        }
        Ok(if self.is_done() { Step::Summary(Box::new(self.close())) } else { Step::More })
    }

    fn add(&mut self, seq: Seq, opened: &Opened) {
        let runs = self.records.len();
        push(&mut self.records, seq);
        self.len += (self.records.len() - runs) * ENTRY_LEN_MAX;
        for event in &opened.events {
            let What::Observed(observed) = &event.what else { continue };
            let actor = &event.actor;
            let user = User { uid: actor.uid, gid: actor.gid, user: actor.user.clone(), host: actor.host.clone() };
            if !self.by.contains_key(&user) {
                self.len += ENTRY_LEN_MAX + user.host.len() + user.user.as_ref().map_or(0, String::len);
            }
            let deeds = self.by.entry(user).or_default();
            let name_len = observed.name.as_ref().map_or(0, |name| name.as_str().len());
            let before = deeds.len();
            let (count, last) =
                deeds.entry((observed.verb.clone(), observed.name.clone())).or_insert((0, Timestamp(0)));
            *count = count.saturating_add(observed.count);
            *last = (*last).max(event.at);
            self.len += (deeds.len() - before) * (ENTRY_LEN_MAX + name_len);
        }
    }

    /// What was read since the last summary.
    fn close(&mut self) -> Summarized {
        self.len = 0;
        let deed = |((verb, name), (count, last))| SummarizedDeed { verb, name, count, last };
        let of = |(User { uid, gid, user, host }, deeds): (User, Deeds)| SummarizedOf {
            uid,
            gid,
            user,
            host,
            deeds: deeds.into_iter().map(deed).collect(),
        };
        Summarized {
            part: self.part.first,
            last: Seq(self.walk.next.0 - 1),
            records: std::mem::take(&mut self.records),
            by: std::mem::take(&mut self.by).into_iter().map(of).collect(),
        }
    }
}
