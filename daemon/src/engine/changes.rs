//! The journal, read as the changes of states: what a watcher follows.

use stated_shared::limits::{PAGE_LEN_MAX, PAGE_ROWS_MAX};
use stated_shared::{ChangeEntry, ChangePage, ContentInfo, Failure, Seq};

use super::audit;
use super::store::Store;
use crate::machine::event::{Event, What};

/// Records looked through for one page, so that a glob that matches little does not keep a watcher in silence for long.
const PAGE_RECORDS_MAX: u64 = 4096;

/// A place in the journal behind all entries of its record.
pub(super) const BEHIND: u32 = u32::MAX;

/// One page of the changes after a place, up to the record `last`, oldest first.
pub(super) fn page(
    store: &Store,
    last: Seq,
    matches: &dyn Fn(&str) -> bool,
    after: (Seq, u32),
) -> Result<ChangePage, Failure> {
    let mut changes = Vec::new();
    let mut len = 0;
    let first = if after.1 == BEHIND { after.0.next() } else { after.0.max(Seq(1)) };
    let mut next = after;
    for n in first.0..=last.0.min(first.0 + PAGE_RECORDS_MAX) {
        let seq = Seq(n);
        let opened = audit::open(store, seq)?;
        for (index, entry) in (0..).zip(opened.events.iter().flat_map(|event| entries(seq, event))) {
            if (seq, index) <= after || !matches(entry.state.as_str()) {
                continue;
            }
            len += entry.state.as_str().len() + entry.message.as_ref().map_or(0, String::len) + 512;
            changes.push(ChangeEntry { index, ..entry });
            if changes.len() == PAGE_ROWS_MAX || len > PAGE_LEN_MAX {
                return Ok(ChangePage { changes, next: (seq, index) });
            }
        }
        next = (seq, BEHIND);
    }
    Ok(ChangePage { changes, next })
}

/// An event's changes, their index still to be told.
fn entries(seq: Seq, event: &Event) -> Vec<ChangeEntry> {
    let entry = |verb: &str, state: &stated_shared::StateName, version| ChangeEntry {
        seq,
        index: 0,
        verb: verb.to_owned(),
        time: event.at,
        actor: (&*event.actor).into(),
        state: state.clone(),
        version,
        tag: None,
        content: None,
        message: None,
    };
    match &event.what {
        What::Committed(committed) => committed
            .changes
            .iter()
            .map(|change| ChangeEntry {
                content: change.content.as_ref().map(ContentInfo::from),
                message: committed.message.clone(),
                ..entry(if change.content.is_some() { "commit" } else { "rm" }, &change.state, change.version)
            })
            .collect(),
        What::Tagged(tagged) => {
            let verb = if tagged.removed { "untag" } else { "tag" };
            vec![ChangeEntry { tag: Some(tagged.tag.clone()), ..entry(verb, &tagged.state, tagged.version) }]
        }
        _ => Vec::new(),
    }
}
