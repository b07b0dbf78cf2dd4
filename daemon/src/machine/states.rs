//! The states and their versions.
//!
//! What a snapshot holds of old versions stays packed until somebody asks for them: whatever may unpack something is an
//! [`Unreadable`] away from its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use stated_shared::{
    ContentInfo, Failure, FailureKind, Selector, Seq, StateName, TagName, Timestamp, Version, VersionInfo,
};

use super::Divergence;
use super::event::{Actor, Committed, Content, Pruned, PrunedState, Tagged};
use super::history::History;
use super::packed::Unreadable;

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
}

/// What all the versions of one commit share.
#[derive(Debug, PartialEq)]
pub struct CommitEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Arc<Actor>,
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
    pub actor: Arc<Actor>,
}

/// Every state with all its versions; versions are dense from 1.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct States {
    by_name: BTreeMap<StateName, History>,
    tagged: BTreeMap<StateName, BTreeMap<TagName, Version>>,
    versions: u64,
    given_up_bytes: u64,
}

/// That there is no such version.
pub fn no_version(state: &StateName, at: &Selector) -> Failure {
    match at {
        Selector::Newest => {
            Failure::new(FailureKind::NotFound, format!("no state {state}")).hint("list the states with: statectl ls")
        }
        Selector::Version(version) => Failure::new(FailureKind::NotFound, format!("no version {version} of {state}"))
            .hint(format!("list its versions with: statectl log '{state}'")),
        Selector::Tag(tag) => Failure::new(FailureKind::NotFound, format!("no tag {tag} of {state}"))
            .hint(format!("list its versions and tags with: statectl log '{state}'")),
    }
}

impl States {
    /// The newest version, removals included.
    pub fn newest(&self, name: &StateName) -> Option<(Version, &VersionEntry)> {
        self.by_name.get(name)?.newest()
    }

    /// The version that a selector chooses, removals included.
    pub fn select(&self, name: &StateName, at: &Selector) -> Result<Option<(Version, &VersionEntry)>, Unreadable> {
        let version = match at {
            Selector::Newest => return Ok(self.newest(name)),
            Selector::Version(version) => Some(*version),
            Selector::Tag(tag) => self.tagged(name, tag),
        };
        let (Some(version), Some(history)) = (version, self.by_name.get(name)) else { return Ok(None) };
        Ok(history.entry(version)?.map(|entry| (version, entry)))
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
    pub fn chain(
        &self,
        name: &StateName,
        version: Version,
    ) -> impl Iterator<Item = Result<(Version, Seq, &Content), Unreadable>> {
        self.by_name.get(name).into_iter().flat_map(move |history| history.chain(version))
    }

    /// The newest version that is no removal; a prune never drops it.
    pub fn newest_content(&self, name: &StateName) -> Option<Version> {
        self.by_name.get(name)?.newest_content()
    }

    /// The bytes of all payloads in records that were ever given up.
    pub fn given_up_bytes(&self) -> u64 {
        self.given_up_bytes
    }

    /// What a snapshot says of [`Self::given_up_bytes`].
    pub(super) fn restore_given_up(&mut self, bytes: u64) {
        self.given_up_bytes = bytes;
    }

    /// Shows every version; what is packed stays so.
    pub(super) fn each_once(&self, see: &mut dyn FnMut(&VersionEntry)) -> Result<(), Unreadable> {
        self.by_name.values().try_for_each(|history| history.each_once(see))
    }

    /// Some of the states, which share with these what is packed.
    pub fn excerpt<'a>(&self, names: impl IntoIterator<Item = &'a StateName>) -> Self {
        let mut excerpt = Self::default();
        for name in names {
            excerpt.by_name.extend(self.by_name.get(name).map(|history| (name.clone(), history.clone())));
            excerpt.tagged.extend(self.tagged.get(name).map(|tags| (name.clone(), tags.clone())));
        }
        excerpt
    }

    /// Whether a version has a content that was not given up.
    pub fn is_kept(&self, name: &StateName, version: Version) -> Result<bool, Unreadable> {
        match self.by_name.get(name) {
            Some(history) => Ok(history.link(version)?.is_some()),
            None => Ok(false),
        }
    }

    /// Every version of a state, the first first; none where it never existed.
    pub(super) fn versions(&self, name: &StateName) -> Result<Vec<&VersionEntry>, Unreadable> {
        let history = self.by_name.get(name).into_iter();
        history.flat_map(History::all).map(|row| row.map(|(_, entry)| entry)).collect()
    }

    /// The versions of a state that have a tag.
    pub(super) fn tagged_versions(&self, name: &StateName) -> BTreeSet<Version> {
        self.tagged.get(name).into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// The names of all states that ever were, after a name, in their order.
    pub fn names(&self, after: Option<&StateName>) -> impl Iterator<Item = &StateName> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range::<StateName, _>((start, Bound::Unbounded)).map(|(name, _)| name)
    }

    /// The existing states after a name, each with its newest version; removed ones are left out.
    pub fn list(&self, after: Option<&StateName>) -> impl Iterator<Item = VersionInfo> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range::<StateName, _>((start, Bound::Unbounded)).filter_map(|(name, history)| {
            let (version, newest) = history.newest().filter(|(_, newest)| newest.content.is_some())?;
            Some(self.info(name, version, newest))
        })
    }

    /// The versions of a state that are older than `before`, newest first; `None` where it never existed.
    pub fn log(
        &self,
        name: &StateName,
        before: Option<Version>,
    ) -> Option<impl Iterator<Item = Result<VersionInfo, Unreadable>>> {
        let (name, history) = self.by_name.get_key_value(name)?;
        let mut tags: BTreeMap<Version, Vec<TagName>> = BTreeMap::new();
        for (tag, version) in self.tagged.get(name).into_iter().flatten() {
            tags.entry(*version).or_default().push(tag.clone());
        }
        let rows = history.before(before.unwrap_or(Version(u64::MAX))).rev();
        Some(rows.map(move |row| {
            let (version, entry) = row?;
            Ok(entry.info(name, version, tags.get(&version).cloned().unwrap_or_default()))
        }))
    }

    /// Every version of every state.
    pub fn all(&self) -> impl Iterator<Item = Result<(&StateName, Version, &VersionEntry), Unreadable>> {
        self.by_name.iter().flat_map(|(name, history)| {
            history.all().map(move |row| row.map(|(version, entry)| (name, version, entry)))
        })
    }

    /// How many states exist, and how many versions are kept.
    pub fn count(&self) -> (u64, u64) {
        let newest = self.by_name.values().filter_map(History::newest);
        let exist = newest.filter(|(_, newest)| newest.content.is_some());
        (exist.count() as u64, self.versions)
    }

    /// How many names have versions, without a look at each.
    pub fn name_count(&self) -> u64 {
        self.by_name.len() as u64
    }

    /// How many versions are kept, without a look at each state.
    pub fn version_count(&self) -> u64 {
        self.versions
    }

    /// How many runs of old versions there are, and how many of them were unpacked.
    pub fn run_count(&self) -> (u64, u64) {
        let runs = self.by_name.values().flat_map(History::runs);
        runs.fold((0, 0), |(all, unpacked), run| (all + 1, unpacked + u64::from(run.is_unpacked())))
    }

    /// The names of all blobs that some version needs.
    pub fn blobs(&self) -> BTreeSet<&str> {
        let blobs = self.by_name.values().flat_map(|history| {
            let packed = history.runs().iter().flat_map(|run| &run.blobs).map(String::as_str);
            packed.chain(history.tail().iter().filter_map(VersionEntry::blob))
        });
        blobs.collect()
    }

    /// Unpacks everything, to see that it can be.
    pub fn check(&self) -> Result<(), Unreadable> {
        self.all().try_for_each(|row| row.map(drop))?;
        self.by_name.values().filter_map(History::links).try_for_each(|links| links.all().map(drop))
    }

    /// The facts of a version as a client hears them.
    pub fn info(&self, name: &StateName, version: Version, entry: &VersionEntry) -> VersionInfo {
        let tags = self.tagged.get(name).into_iter().flatten();
        let tags = tags.filter(|(_, tagged)| **tagged == version).map(|(tag, _)| tag.clone()).collect();
        entry.info(name, version, tags)
    }

    /// Every state with its history and its tags.
    pub(super) fn histories(
        &self,
    ) -> impl Iterator<Item = (&StateName, &History, Option<&BTreeMap<TagName, Version>>)> {
        self.by_name.iter().map(|(name, history)| (name, history, self.tagged.get(name)))
    }

    /// Packs what is old.
    pub(super) fn pack(&mut self) -> Result<(), Divergence> {
        self.by_name.values_mut().try_for_each(History::pack)
    }

    pub(super) fn restore(&mut self, name: StateName, history: History, tags: BTreeMap<TagName, Version>) {
        self.versions += history.len();
        if !tags.is_empty() {
            self.tagged.insert(name.clone(), tags);
        }
        self.by_name.insert(name, history);
    }

    pub(super) fn apply(
        &mut self,
        seq: Seq,
        at: Timestamp,
        actor: &Arc<Actor>,
        event: &Committed,
    ) -> Result<(), Divergence> {
        let commit = Arc::new(CommitEntry {
            at,
            actor: Arc::clone(actor),
            message: event.message.clone(),
            labels: event.labels.clone(),
        });
        for change in &event.changes {
            let history = self.by_name.entry(change.state.clone()).or_default();
            let len = history.len();
            if change.version.0 != len + 1 {
                return Err(Divergence(format!("version {} of a state follows version {len}", change.version)));
            }
            if let Some(base) = change.content.as_ref().and_then(|content| content.base)
                && history.link(base)?.is_none()
            {
                return Err(Divergence(format!("version {} is a patch from {base}", change.version)));
            }
            history.push(VersionEntry {
                seq,
                content: change.content.clone(),
                moved: None,
                pruned: None,
                forced: change.forced,
                commit: Arc::clone(&commit),
            });
            self.versions += 1;
        }
        Ok(())
    }

    pub(super) fn tag(&mut self, event: &Tagged) -> Result<(), Divergence> {
        let Tagged { state, tag, version, removed, .. } = event;
        if !(1..=self.by_name.get(state).map_or(0, History::len)).contains(&version.0) {
            return Err(Divergence(format!("version {version} of a state is tagged and does not exist")));
        }
        let tags = self.tagged.entry(state.clone()).or_default();
        if *removed {
            tags.remove(tag);
        } else {
            tags.insert(tag.clone(), *version);
        }
        if tags.is_empty() {
            self.tagged.remove(state);
        }
        Ok(())
    }

    pub(super) fn prune(&mut self, seq: Seq, by: PruneEntry, event: &Pruned) -> Result<(), Divergence> {
        let by = Arc::new(by);
        let mut given_up = 0;
        for PrunedState { state, dropped, moved } in &event.states {
            let unknown =
                |version: Version| Divergence(format!("version {version} of a state is pruned, and is not there"));
            let history = self.by_name.get_mut(state).ok_or_else(|| unknown(Version(1)))?;
            let touched = dropped.iter().map(|(first, _)| *first).chain(moved.iter().map(|moved| moved.version));
            // Whatever is older stays packed.
            let (first_of_all, versions) = history.alter(touched.min().unwrap_or(Version(1)))?;
            let at = |version: Version| usize::try_from(version.0.checked_sub(first_of_all.0)?).ok();
            for (first, last) in dropped {
                let run = at(*first).zip(at(last.next()));
                let run = run.and_then(|(first, end)| versions.get_mut(first..end));
                for entry in run.ok_or_else(|| unknown(*first))? {
                    if let Some(content) = entry.kept() {
                        given_up += content.payload.inline_len_bytes();
                        entry.pruned = Some(Arc::clone(&by));
                    }
                }
            }
            for moved in moved {
                let entry = at(moved.version).and_then(|at| versions.get_mut(at));
                let entry = entry.filter(|entry| entry.pruned.is_none());
                let entry = entry.ok_or_else(|| unknown(moved.version))?;
                let content = entry.content.as_mut().ok_or_else(|| unknown(moved.version))?;
                given_up += content.payload.inline_len_bytes();
                content.payload = moved.payload.clone();
                content.base = moved.base;
                entry.moved = Some(seq);
            }
            // What is older than everything touched needs nothing of it.
            let versions = (first_of_all.0..=history.len()).map(Version);
            for version in versions {
                let base = history.entry(version)?.and_then(VersionEntry::kept).and_then(|content| content.base);
                let Some(base) = base else { continue };
                let kept = history.entry(base)?.is_some_and(|entry| entry.kept().is_some());
                if base >= version || !kept {
                    return Err(Divergence(format!(
                        "version {version} of a state needs version {base}, which is pruned"
                    )));
                }
            }
        }
        self.given_up_bytes += given_up;
        Ok(())
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
    fn info(&self, state: &StateName, version: Version, tags: Vec<TagName>) -> VersionInfo {
        VersionInfo {
            state: state.clone(),
            version,
            content: self.content.as_ref().map(ContentInfo::from),
            time: self.commit.at,
            actor: (&*self.commit.actor).into(),
            message: self.commit.message.clone(),
            labels: self.commit.labels.clone(),
            forced: self.forced,
            tags,
            pruned: self.pruned.as_ref().map(|pruned| pruned.at),
        }
    }
}
