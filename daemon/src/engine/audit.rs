//! The journal, read as an audit log.

use stated_shared::limits::{PAGE_LEN_MAX, PAGE_ROWS_MAX};
use stated_shared::{
    Actor, AuditEntry, AuditFilter, AuditPage, Failure, FailureKind, Seq, SessionId, StateName, Timestamp, Version,
};

use super::record;
use super::store::Store;
use super::summary::Runs;
use crate::machine::Summed;
use crate::machine::event::{Event, Rekeyed, Summarized, What};

/// Records looked through for one page, so that a filter that finds nothing does not keep a client waiting in silence.
const PAGE_RECORDS_MAX: u64 = 8192;

/// One page of what matches, oldest first; of a summary all rows are where the summary is.
pub(super) fn page(
    store: &Store,
    (last, summed): (Seq, Option<&Summed>),
    filter: &AuditFilter,
    matches: &dyn Fn(Option<&StateName>) -> bool,
    after: Option<(Seq, u32)>,
) -> Result<AuditPage, Failure> {
    let (first, skip) = after.map_or((Seq(1), 0), |(seq, index)| (seq, index as usize + 1));
    let mut entries: Vec<AuditEntry> = Vec::new();
    let mut len = 0;
    let mut summed = summed.map(|summed| Told { summed, runs: None });
    for n in first.0..=last.0 {
        let seq = Seq(n);
        let opened = open(store, seq)?;
        if opened.ages()
            && let Some(summed) = &mut summed
            && summed.holds(store, seq)?
        {
            continue;
        }
        let rows = opened.events.iter().flat_map(rows).enumerate();
        for (index, row) in rows.skip(if seq == first { skip } else { 0 }) {
            let entry = row.entry(seq, index as u32);
            if !keeps(filter, matches, &entry) {
                continue;
            }
            len += entry.name.as_ref().map_or(0, |name| name.as_str().len())
                + entry.note.as_ref().map_or(0, String::len)
                + 512;
            entries.push(entry);
            if entries.len() == PAGE_ROWS_MAX || len > PAGE_LEN_MAX {
                return Ok(AuditPage { entries, next: Some((seq, index as u32)), upto: seq });
            }
        }
        if n - first.0 >= PAGE_RECORDS_MAX && n < last.0 {
            return Ok(AuditPage { entries, next: Some((seq, u32::MAX - 1)), upto: seq });
        }
    }
    Ok(AuditPage { entries, next: None, upto: last.max(first) })
}

/// What is summed up of the part that may not be written anew yet; until then the summary counts, and not both.
struct Told<'a> {
    summed: &'a Summed,
    runs: Option<Runs>,
}

impl Told<'_> {
    fn holds(&mut self, store: &Store, seq: Seq) -> Result<bool, Failure> {
        let Self { summed, runs } = self;
        if seq < summed.part || seq > summed.last {
            return Ok(false);
        }
        let runs = match runs {
            Some(runs) => runs,
            None => runs.insert(Runs::of(store, summed).map_err(|error| damaged(seq, &error))?),
        };
        Ok(runs.holds(seq))
    }
}

/// What a row says that stands for many.
const SUMMED_UP: &str = "summed up";
/// Runs of versions that a note names.
const NOTE_RUNS_MAX: usize = 32;

/// A durable record, to be read once more.
pub(super) fn open(store: &Store, seq: Seq) -> Result<record::Opened, Failure> {
    let record = store.reader.record(seq).map_err(|error| damaged(seq, &error))?;
    record::open_unchained(&store.vault, &record).map_err(|unverified| damaged(seq, &unverified.0))
}

fn damaged(seq: Seq, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Storage, format!("record {seq}: {error}")).hint("see all damage with: statectl verify")
}

fn keeps(filter: &AuditFilter, matches: &dyn Fn(Option<&StateName>) -> bool, entry: &AuditEntry) -> bool {
    filter.since.is_none_or(|since| entry.time >= since)
        && filter.until.is_none_or(|until| entry.time <= until)
        && filter.verb.as_ref().is_none_or(|verb| *verb == entry.verb)
        && filter.uid.is_none_or(|uid| uid == entry.actor.uid)
        && filter.outcome.as_ref().is_none_or(|outcome| *outcome == entry.outcome)
        && matches(entry.name.as_ref())
}

struct Row<'a> {
    event: &'a Event,
    /// Who did it, and when, where it is not the event's.
    other: Option<(Actor, Timestamp)>,
    verb: &'a str,
    name: Option<&'a StateName>,
    version: Option<Version>,
    outcome: &'a str,
    count: u64,
    note: Option<String>,
}

impl Row<'_> {
    fn entry(self, seq: Seq, index: u32) -> AuditEntry {
        let (actor, time) = self.other.unwrap_or_else(|| ((&*self.event.actor).into(), self.event.at));
        AuditEntry {
            seq,
            index,
            time,
            actor,
            verb: self.verb.to_owned(),
            name: self.name.cloned(),
            version: self.version,
            outcome: self.outcome.to_owned(),
            count: self.count,
            note: self.note,
        }
    }
}

/// An event's rows: one for each name that it touched.
fn rows(event: &Event) -> Vec<Row<'_>> {
    let row = |verb, name, note| Row { event, other: None, verb, name, version: None, outcome: "ok", count: 1, note };
    match &event.what {
        What::Founded(founded) => vec![row("found", None, Some(format!("repository {}", founded.repository)))],
        What::Opened(opened) => {
            vec![row("start", None, Some(format!("epoch {}, stated {}", opened.epoch, opened.version)))]
        }
        What::Closed(_) => vec![row("stop", None, None)],
        What::Tagged(tagged) => {
            let verb = if tagged.removed { "untag" } else { "tag" };
            let note = Some(tagged.tag.to_string());
            vec![Row { version: Some(tagged.version), ..row(verb, Some(&tagged.state), note) }]
        }
        What::Pruned(pruned) => pruned
            .states
            .iter()
            .map(|pruned| {
                let run = |(first, last): &(Version, Version)| match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                };
                let runs: Vec<String> = pruned.dropped.iter().take(NOTE_RUNS_MAX).map(run).collect();
                let more = if pruned.dropped.len() > NOTE_RUNS_MAX { " and more" } else { "" };
                row("prune", Some(&pruned.state), Some(format!("versions {}{more}", runs.join(", "))))
            })
            .collect(),
        What::LossAccepted(accepted) => {
            let note = format!("from record {} on; what was left of it is in {}", accepted.seq, accepted.aside);
            vec![row("accept-loss", None, Some(note))]
        }
        What::Restored(restored) => {
            let aside = restored.aside.as_ref().map(|aside| format!("; what was there before is in {aside}"));
            let note = format!("up to record {}, epoch {}{}", restored.seq, restored.epoch, aside.unwrap_or_default());
            vec![row("restore", None, Some(note))]
        }
        What::Committed(committed) => committed
            .changes
            .iter()
            .map(|change| {
                let verb = if change.content.is_some() { "commit" } else { "rm" };
                let note = change.forced.then(|| "an older serial or another lineage".to_owned());
                Row { version: Some(change.version), ..row(verb, Some(&change.state), note) }
            })
            .collect(),
        What::LeaseGranted(lease) => lease
            .names
            .iter()
            .map(|name| row("lock", Some(name), Some(format!("lease {} of {} ms", lease.id, lease.ttl_ms))))
            .collect(),
        What::LeaseRenewed(renewed) => vec![row("renew", None, Some(format!("lease {}", renewed.id)))],
        What::LeaseEnded(ended) => ended
            .names
            .iter()
            .map(|name| Row {
                outcome: if ended.expired { "expired" } else { "ok" },
                ..row("unlock", Some(name), Some(format!("lease {}", ended.id)))
            })
            .collect(),
        What::Broken(broken) => broken
            .grants
            .iter()
            .flat_map(|grant| {
                let holder = stated_shared::Actor::from(&grant.holder);
                grant
                    .names
                    .iter()
                    .map(move |name| row("break", Some(name), Some(format!("lock {} of {holder}", grant.id))))
            })
            .collect(),
        What::Rekeyed(rekeyed) => {
            let Rekeyed { generation, added, removed, rotated, .. } = rekeyed;
            let each = |what: &'static str, keys: &'_ [String]| {
                keys.iter().map(|key| format!("{what} {key}")).collect::<Vec<_>>()
            };
            let rotated = rotated.then(|| "new keys".to_owned());
            let all = [rotated.into_iter().collect(), each("added", added), each("removed", removed)].concat();
            vec![row("rekey", None, Some(format!("keyring {generation}: {}", all.join(", "))))]
        }
        What::Resealed(resealed) => {
            let note = format!("everything is sealed to keyring {}", resealed.generation);
            vec![row("reseal", None, Some(note))]
        }
        What::Summarized(summarized) => summary_rows(event, summarized),
        What::Observed(observed) => vec![Row {
            event,
            other: None,
            verb: &observed.verb,
            name: observed.name.as_ref(),
            version: observed.version,
            outcome: &observed.outcome,
            count: observed.count,
            note: None,
        }],
    }
}

/// What was summed up, as if each line of it had been observed, and that it was.
fn summary_rows<'a>(event: &'a Event, summarized: &'a Summarized) -> Vec<Row<'a>> {
    let (Some((first, _)), Some((_, last))) = (summarized.records.first(), summarized.records.last()) else {
        return Vec::new();
    };
    let records: u64 = summarized.records.iter().map(|(first, last)| last.0 - first.0 + 1).sum();
    let lost = if summarized.by.is_empty() { "; what they told was lost" } else { "" };
    let row = |verb, name, note, other| {
        let (outcome, count) = ("ok", 1);
        Row { event, other, verb, name, version: None, outcome, count, note: Some(note) }
    };
    let note = format!("{records} records from {first} to {last}{lost}");
    let deeds = summarized.by.iter().flat_map(|of| {
        let actor = Actor {
            uid: of.uid,
            gid: of.gid,
            pid: None,
            user: of.user.clone(),
            comm: None,
            exe: None,
            host: of.host.clone(),
            session: SessionId([0; 16]),
        };
        of.deeds.iter().map(move |deed| {
            let other = Some((actor.clone(), deed.last));
            Row { count: deed.count, ..row(&deed.verb, deed.name.as_ref(), SUMMED_UP.to_owned(), other) }
        })
    });
    std::iter::once(row("summarize", None, note, None)).chain(deeds).collect()
}
