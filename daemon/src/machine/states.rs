//! The states and their versions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use stated_shared::{ContentInfo, Selector, Seq, StateName, TagName, Timestamp, Version, VersionInfo};

use super::Divergence;
use super::event::{Actor, Committed, Content, Payload, Pruned, PrunedState, Tagged};

/// One version, as the journal told it.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionEntry {
    /// The record that told of it.
    pub seq: Seq,
    /// Its content; absent where it is a removal.
    pub content: Option<Content>,
    /// The record that holds its payload since a prune stored that anew; else it is the one that told of it.
    pub moved: Option<Seq>,
    /// Who gave up its content; then nothing of it is left but what is told here.
    pub pruned: Option<Arc<PruneEntry>>,
    /// Whether it has a lower serial or another lineage than its predecessor.
    pub forced: bool,
    /// What all the changes of its commit share.
    pub commit: Arc<CommitEntry>,
    /// Its tags, in their order.
    pub tags: BTreeSet<TagName>,
}

/// What all the versions of one commit share.
#[derive(Debug, PartialEq)]
pub struct CommitEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What the author said.
    pub message: Option<String>,
    /// Remarks of the client.
    pub labels: BTreeMap<String, String>,
}

/// What all the versions of one prune share.
#[derive(Debug, Clone, PartialEq)]
pub struct PruneEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
}

/// Every state with all its versions; versions are dense from 1.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct States {
    by_name: BTreeMap<StateName, Vec<VersionEntry>>,
    tagged: BTreeMap<StateName, BTreeMap<TagName, Version>>,
    versions: u64,
}

impl States {
    /// The newest version, removals included.
    pub fn newest(&self, name: &StateName) -> Option<(Version, &VersionEntry)> {
        let versions = self.by_name.get(name)?;
        Some((Version(versions.len() as u64), versions.last()?))
    }

    /// The version that a selector chooses, removals included.
    pub fn select(&self, name: &StateName, at: &Selector) -> Option<(Version, &VersionEntry)> {
        match at {
            Selector::Newest => self.newest(name),
            Selector::Version(version) => {
                let index = usize::try_from(version.0.checked_sub(1)?).ok()?;
                Some((*version, self.by_name.get(name)?.get(index)?))
            }
            Selector::Tag(tag) => self.select(name, &Selector::Version(self.tagged(name, tag)?)),
        }
    }

    /// The version that has a tag.
    pub fn tagged(&self, name: &StateName, tag: &TagName) -> Option<Version> {
        self.tagged.get(name)?.get(tag).copied()
    }

    /// How many tags a state has.
    pub fn tag_count(&self, name: &StateName) -> usize {
        self.tagged.get(name).map_or(0, BTreeMap::len)
    }

    /// A version with content and those that it is patched from, one after the other, down to a whole frame; each with
    /// the record of its payload.
    pub fn chain(&self, name: &StateName, version: Version) -> impl Iterator<Item = (Version, Seq, &Content)> {
        let versions = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        let link = |version: Version| {
            let entry = versions.get(usize::try_from(version.0.checked_sub(1)?).ok()?)?;
            Some((version, entry.payload_seq(), entry.kept()?))
        };
        std::iter::successors(link(version), move |(_, _, content)| link(content.base?))
    }

    /// The newest version that is no removal; a prune never drops it.
    pub fn newest_content(&self, name: &StateName) -> Option<Version> {
        let versions = self.by_name.get(name)?;
        let index = versions.iter().rposition(|entry| entry.content.is_some())?;
        Some(Version(index as u64 + 1))
    }

    /// Whether a version has a content that was not given up.
    pub fn is_kept(&self, name: &StateName, version: Version) -> bool {
        self.select(name, &Selector::Version(version)).is_some_and(|(_, entry)| entry.kept().is_some())
    }

    /// Every version of a state, the first first; none where it never existed.
    pub(super) fn versions(&self, name: &StateName) -> &[VersionEntry] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The names of all states that ever were, after a name, in their order.
    pub fn names(&self, after: Option<&StateName>) -> impl Iterator<Item = &StateName> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range::<StateName, _>((start, Bound::Unbounded)).map(|(name, _)| name)
    }

    /// The existing states after a name, each with its newest version; removed ones are left out.
    pub fn list(&self, after: Option<&StateName>) -> impl Iterator<Item = VersionInfo> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range::<StateName, _>((start, Bound::Unbounded)).filter_map(|(name, versions)| {
            let newest = versions.last().filter(|newest| newest.content.is_some())?;
            Some(newest.info(name, Version(versions.len() as u64)))
        })
    }

    /// The versions of a state that are older than `before`, newest first; `None` where it never existed.
    pub fn log(&self, name: &StateName, before: Option<Version>) -> Option<impl Iterator<Item = VersionInfo>> {
        let (name, versions) = self.by_name.get_key_value(name)?;
        let end = before.map_or(versions.len(), |before| versions.len().min(before.0.saturating_sub(1) as usize));
        Some(versions[..end].iter().enumerate().rev().map(|(i, entry)| entry.info(name, Version(i as u64 + 1))))
    }

    /// Every version of every state.
    pub fn all(&self) -> impl Iterator<Item = (&StateName, Version, &VersionEntry)> {
        self.by_name.iter().flat_map(|(name, versions)| {
            versions.iter().enumerate().map(move |(i, entry)| (name, Version(i as u64 + 1), entry))
        })
    }

    /// How many states exist, and how many versions are kept.
    pub fn count(&self) -> (u64, u64) {
        let exist = self.by_name.values().filter(|versions| versions.last().is_some_and(|v| v.content.is_some()));
        (exist.count() as u64, self.versions)
    }

    /// How many versions are kept, without a look at each state.
    pub fn version_count(&self) -> u64 {
        self.versions
    }

    /// The names of all blobs that some version needs.
    pub fn blobs(&self) -> BTreeSet<&str> {
        self.all()
            .filter_map(|(_, _, entry)| match &entry.kept()?.payload {
                Payload::Blob { id, .. } => Some(id.as_str()),
                Payload::Inline { .. } => None,
            })
            .collect()
    }

    pub(super) fn restore(&mut self, name: StateName, versions: Vec<VersionEntry>) {
        self.versions += versions.len() as u64;
        let tags = versions
            .iter()
            .zip(1..)
            .flat_map(|(entry, version)| entry.tags.iter().map(move |tag| (tag.clone(), Version(version))));
        let tags: BTreeMap<_, _> = tags.collect();
        if !tags.is_empty() {
            self.tagged.insert(name.clone(), tags);
        }
        self.by_name.insert(name, versions);
    }

    pub(super) fn apply(
        &mut self,
        seq: Seq,
        at: Timestamp,
        actor: &Actor,
        event: &Committed,
    ) -> Result<(), Divergence> {
        let commit = Arc::new(CommitEntry {
            at,
            actor: actor.clone(),
            message: event.message.clone(),
            labels: event.labels.clone(),
        });
        for change in &event.changes {
            let versions = self.by_name.entry(change.state.clone()).or_default();
            if change.version.0 != versions.len() as u64 + 1 {
                return Err(Divergence(format!(
                    "version {} of a state follows version {}",
                    change.version,
                    versions.len()
                )));
            }
            if let Some(base) = change.content.as_ref().and_then(|content| content.base) {
                let index = base.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
                if index.and_then(|index| versions.get(index)?.kept()).is_none() {
                    return Err(Divergence(format!("version {} is a patch from {base}", change.version)));
                }
            }
            versions.push(VersionEntry {
                seq,
                content: change.content.clone(),
                moved: None,
                pruned: None,
                forced: change.forced,
                commit: Arc::clone(&commit),
                tags: BTreeSet::new(),
            });
            self.versions += 1;
        }
        Ok(())
    }

    pub(super) fn tag(&mut self, event: &Tagged) -> Result<(), Divergence> {
        let Tagged { state, tag, version, removed, .. } = event;
        let tags = self.tagged.entry(state.clone()).or_default();
        let last = if *removed { tags.remove(tag) } else { tags.insert(tag.clone(), *version) };
        if tags.is_empty() {
            self.tagged.remove(state);
        }
        if let Some(entry) = last.and_then(|version| self.entry_mut(state, version)) {
            entry.tags.remove(tag);
        }
        let Some(entry) = self.entry_mut(state, *version) else {
            return Err(Divergence(format!("version {version} of a state is tagged and does not exist")));
        };
        if !removed {
            entry.tags.insert(tag.clone());
        }
        Ok(())
    }

    pub(super) fn prune(&mut self, seq: Seq, by: PruneEntry, event: &Pruned) -> Result<(), Divergence> {
        let by = Arc::new(by);
        for PrunedState { state, dropped, moved } in &event.states {
            let unknown =
                |version: Version| Divergence(format!("version {version} of a state is pruned, and is not there"));
            for (first, last) in dropped {
                let versions = self.by_name.get_mut(state).ok_or_else(|| unknown(*first))?;
                let run = (first.0.checked_sub(1)).zip(usize::try_from(last.0).ok());
                let run = run.and_then(|(first, last)| versions.get_mut(usize::try_from(first).ok()?..last));
                for entry in run.ok_or_else(|| unknown(*first))? {
                    if entry.kept().is_some() {
                        entry.pruned = Some(Arc::clone(&by));
                    }
                }
            }
            for moved in moved {
                let entry = self.entry_mut(state, moved.version).filter(|entry| entry.pruned.is_none());
                let entry = entry.ok_or_else(|| unknown(moved.version))?;
                let content = entry.content.as_mut().ok_or_else(|| unknown(moved.version))?;
                content.payload = moved.payload.clone();
                content.base = moved.base;
                entry.moved = Some(seq);
            }
            let kept = |version: Version| {
                let versions = self.versions(state);
                versions.get(usize::try_from(version.0.checked_sub(1)?).ok()?)?.kept()
            };
            for (content, version) in self.versions(state).iter().map(VersionEntry::kept).zip(1..) {
                if let Some(base) = content.and_then(|content| content.base)
                    && (base.0 >= version || kept(base).is_none())
                {
                    return Err(Divergence(format!(
                        "version {version} of a state needs version {base}, which is pruned"
                    )));
                }
            }
        }
        Ok(())
    }

    fn entry_mut(&mut self, name: &StateName, version: Version) -> Option<&mut VersionEntry> {
        let index = usize::try_from(version.0.checked_sub(1)?).ok()?;
        self.by_name.get_mut(name)?.get_mut(index)
    }
}

impl VersionEntry {
    /// Its content, where it has one and that was not given up.
    pub fn kept(&self) -> Option<&Content> {
        self.content.as_ref().filter(|_| self.pruned.is_none())
    }

    /// The record that holds an inline payload.
    pub fn payload_seq(&self) -> Seq {
        self.moved.unwrap_or(self.seq)
    }

    /// The facts as a client hears them.
    pub fn info(&self, state: &StateName, version: Version) -> VersionInfo {
        VersionInfo {
            state: state.clone(),
            version,
            content: self.content.as_ref().map(ContentInfo::from),
            time: self.commit.at,
            actor: (&self.commit.actor).into(),
            message: self.commit.message.clone(),
            labels: self.commit.labels.clone(),
            forced: self.forced,
            tags: self.tags.iter().cloned().collect(),
            pruned: self.pruned.as_ref().map(|pruned| pruned.at),
        }
    }
}
