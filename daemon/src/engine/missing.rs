//! Payloads that are gone from their records, until the prune is found that gave them up.

use std::collections::{BTreeMap, HashMap};

use stated_shared::{Seq, StateName, Version};

use super::record::Opened;
use crate::machine::event::{Pruned, What};

/// What is gone so far, and no prune has told of; by version the record that lacks it.
#[derive(Default)]
pub(super) struct Missing(HashMap<StateName, BTreeMap<Version, Seq>>);

impl Missing {
    /// Takes note of a record; they come in their order.
    pub fn read(&mut self, seq: Seq, opened: &Opened) {
        for event in &opened.events {
            if let What::Pruned(pruned) = &event.what {
                self.pruned(pruned);
            }
        }
        for payload in opened.inline_payloads() {
            if opened.is_gone(payload.offset_bytes, payload.len_bytes) {
                self.0.entry(payload.state).or_default().insert(payload.version, seq);
            }
        }
    }

    fn pruned(&mut self, pruned: &Pruned) {
        for of in &pruned.states {
            let Some(versions) = self.0.get_mut(&of.state) else { continue };
            versions.retain(|version, _| !of.drops(*version) && of.moved.iter().all(|moved| moved.version != *version));
            if versions.is_empty() {
                self.0.remove(&of.state);
            }
        }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What nobody gave up: version and record, in the order of the records.
    pub fn left(self) -> Vec<(Version, Seq)> {
        let mut left: Vec<_> = self.0.into_values().flatten().collect();
        left.sort_by_key(|(version, seq)| (*seq, *version));
        left
    }
}
