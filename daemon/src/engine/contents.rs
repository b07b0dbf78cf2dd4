//! Every payload read in the order of the log, each decoded once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use stated_shared::{Damage, Part, Seq, StateName, Version};

use super::delta::{Chain, Link, RUN_LEN};
use super::record::Opened;
use super::stage;
use super::store::{self, Store};
use crate::machine::event::{Change, Content, Moved, Payload, Pruned, PrunedState};
use crate::vault;

/// What became of one payload.
pub(super) enum Checked {
    /// It gives its content.
    Good,
    /// It is in another part.
    Elsewhere,
    /// It cannot be read there; a prune that comes later may have dropped it or stored it anew.
    Bad,
}

/// The payloads of a log, as far as they were read.
///
/// Of each state the last content and the last head are kept, since nearly every next one is a patch from one of them;
/// where they had to make room they are read again by way of their own chain.
pub(super) struct Contents<'a> {
    store: &'a Store,
    part: Part,
    kept_len_max: u64,
    links: HashMap<StateName, BTreeMap<Version, Link>>,
    broken: HashSet<(StateName, Version)>,
    /// Stored anew by a prune.
    moved: HashSet<(StateName, Version)>,
    kept: HashMap<StateName, Kept>,
    by_use: BTreeMap<u64, StateName>,
    uses: u64,
    kept_len: u64,
}

#[derive(Default)]
struct Kept {
    used: u64,
    last: Option<(Version, Arc<Vec<u8>>)>,
    head: Option<(Version, Arc<Vec<u8>>)>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(store: &'a Store, part: Part, kept_len_max: u64) -> Self {
        Self {
            store,
            part,
            kept_len_max,
            links: HashMap::new(),
            broken: HashSet::new(),
            moved: HashSet::new(),
            kept: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            kept_len: 0,
        }
    }

    /// Reads the payload of a change of this record. The records before it were given already.
    pub(super) fn check(&mut self, seq: Seq, change: &Change, content: &Content, opened: &Opened) -> Checked {
        let (state, version) = (&change.state, change.version);
        // What readers show is not needed to read it.
        let slim = Content { serial: None, lineage: None, ..content.clone() };
        self.links.entry(state.clone()).or_default().insert(version, Link { version, seq, content: slim });
        if !is_in(self.part, state, version) {
            return Checked::Elsewhere;
        }
        match self.read(seq, state, version, content, Some(opened)) {
            Ok(bytes) => {
                self.keep(state, version, content, bytes);
                Checked::Good
            }
            Err(_) => {
                self.broken.insert((state.clone(), version));
                Checked::Bad
            }
        }
    }

    /// Takes note of a prune: what it dropped is not looked for, and what it stored anew lies in this record.
    pub(super) fn pruned(&mut self, seq: Seq, pruned: &Pruned) {
        for PrunedState { state, dropped, moved } in &pruned.states {
            let Some(links) = self.links.get_mut(state) else { continue };
            for (first, last) in dropped {
                let gone: Vec<Version> = links.range(*first..=*last).map(|(version, _)| *version).collect();
                for version in gone {
                    links.remove(&version);
                    self.broken.remove(&(state.clone(), version));
                }
            }
            for Moved { version, payload, base } in moved {
                let Some(link) = links.get_mut(version) else { continue };
                link.seq = seq;
                link.content.payload = payload.clone();
                link.content.base = *base;
                if is_in(self.part, state, *version) {
                    self.moved.insert((state.clone(), *version));
                }
            }
            if let Some(kept) = self.kept.remove(state) {
                self.kept_len -= kept.len();
                self.by_use.remove(&kept.used);
            }
        }
    }

    /// Reads what could not be read where it was first, or was stored anew since; after the last record. How many
    /// payloads are good of those, and the damage.
    pub(super) fn finish(mut self) -> (u64, Vec<Damage>) {
        let broken = std::mem::take(&mut self.broken);
        let (mut good, mut found) = (0, Vec::new());
        let mut again: Vec<_> = broken.union(&self.moved).cloned().collect();
        again.sort();
        for (state, version) in again {
            let link = self.links.get(&state).and_then(|links| links.get(&version)).cloned();
            let Some(Link { seq, content, .. }) = link else { continue };
            match self.read(seq, &state, version, &content, None) {
                Ok(bytes) => {
                    // One that was moved was good where it was, unless it was not.
                    good += u64::from(broken.contains(&(state.clone(), version)));
                    self.keep(&state, version, &content, bytes);
                }
                Err(store::Damage { file, offset_bytes, what }) => {
                    self.broken.insert((state, version));
                    found.push(Damage { file, offset_bytes, what });
                }
            }
        }
        (good, found)
    }

    fn read(
        &mut self,
        seq: Seq,
        state: &StateName,
        version: Version,
        content: &Content,
        opened: Option<&Opened>,
    ) -> Result<Arc<Vec<u8>>, store::Damage> {
        let base = match content.base {
            None => None,
            Some(base) => Some(self.content(state, base).map_err(|damage| {
                let damage =
                    damage.unwrap_or_else(|| self.store.damage(seq, content, "it is as it was written".to_owned()));
                let store::Damage { file, offset_bytes, what } = damage;
                // Without the state's name: whoever may see that something is damaged may not see all names.
                let what = format!(
                    "{what}, but version {version} of its state is a patch from version {base}, which cannot be read"
                );
                store::Damage { file, offset_bytes, what }
            })?),
        };
        let damaged = |what: String| self.store.damage(seq, content, what);
        let base = base.as_ref().map(|base| &base[..]);
        let bytes = match (&content.payload, opened) {
            (Payload::Inline { offset_bytes, len_bytes }, Some(opened)) => {
                let payload = opened.payload(*offset_bytes, *len_bytes);
                let payload = payload.ok_or_else(|| damaged("its payload area is too short".to_owned()))?;
                stage::unstage(content, base, payload)
            }
            _ => stage::unstage(content, base, &self.store.payload(seq, content)?),
        };
        bytes.map(Arc::new).map_err(damaged)
    }

    /// The content of an earlier version. The damage in the way of it is told once.
    fn content(&mut self, state: &StateName, version: Version) -> Result<Arc<Vec<u8>>, Option<store::Damage>> {
        if self.broken.contains(&(state.clone(), version)) {
            return Err(None);
        }
        if let Some(kept) = self.kept.get(state) {
            let found = [&kept.last, &kept.head].into_iter().flatten().find(|(of, _)| *of == version);
            if let Some((_, bytes)) = found {
                return Ok(Arc::clone(bytes));
            }
        }
        let Some(chain) = self.chain(state, version) else { return Err(None) };
        let bytes = match self.store.load(&chain) {
            Ok(bytes) => Arc::new(bytes),
            Err((_, damage)) => {
                self.broken.insert((state.clone(), version));
                return Err(Some(damage));
            }
        };
        self.keep(state, version, &chain[0].content, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// `None` where a record of it was not read.
    fn chain(&self, state: &StateName, version: Version) -> Option<Chain> {
        let links = self.links.get(state)?;
        let mut chain: Chain = vec![links.get(&version)?.clone()];
        while let Some(base) = chain.last().and_then(|link| link.content.base) {
            chain.push(links.get(&base)?.clone());
        }
        Some(chain)
    }

    fn keep(&mut self, state: &StateName, version: Version, content: &Content, bytes: Arc<Vec<u8>>) {
        let is_head = content.base.is_none_or(|base| version.0 - base.0 >= RUN_LEN);
        let kept = self.kept.entry(state.clone()).or_default();
        self.kept_len -= kept.len();
        if is_head {
            kept.head = Some((version, Arc::clone(&bytes)));
        }
        kept.last = Some((version, bytes));
        self.kept_len += kept.len();
        self.uses += 1;
        self.by_use.remove(&kept.used);
        kept.used = self.uses;
        self.by_use.insert(self.uses, state.clone());
        while self.kept_len > self.kept_len_max
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.kept_len -= self.kept.remove(&oldest).map_or(0, |kept| kept.len());
        }
    }
}

impl Kept {
    fn len(&self) -> u64 {
        [&self.last, &self.head].into_iter().flatten().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// Whether a version belongs to a part: every so-manyth run of versions, from another one on for each state.
fn is_in(part: Part, state: &StateName, version: Version) -> bool {
    let name = vault::sha256(state.as_str().as_bytes()).0;
    let first = u64::from(u32::from_be_bytes([name[0], name[1], name[2], name[3]]));
    let run = version.0.saturating_sub(1) / RUN_LEN;
    first.wrapping_add(run) % u64::from(part.of.max(1)) == u64::from(part.n.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_in_exactly_one_part_and_a_run_of_64_in_the_same() {
        for of in [1, 2, 3, 7, 30] {
            let parts = |state: &str, version| -> Vec<u32> {
                let state = StateName::parse(state).unwrap();
                (1..=of).filter(|n| is_in(Part { n: *n, of }, &state, Version(version))).collect()
            };
            for state in ["a", "b", "prod/network"] {
                assert!((1..1000).all(|version| parts(state, version).len() == 1));
                assert_eq!(parts(state, 1), parts(state, 64));
                assert!(of == 1 || parts(state, 64) != parts(state, 65));
            }
        }
    }
}
