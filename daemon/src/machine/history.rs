//! The versions of one state: the newest at hand, the older ones packed.

use std::sync::Arc;

use stated_shared::{Seq, Version};

use super::Divergence;
use super::event::Content;
use super::packed::{Link, Links, Run, Unreadable};
use super::states::VersionEntry;

/// Versions in a run that grows no more.
pub(super) const RUN_LEN_MAX: u64 = 64;

/// The versions of one state, dense from 1.
///
/// Packing moves all but the newest into runs. Short runs are put together as they come, each at most six times, so a
/// history of n versions has some n / 64 runs, and what is packed once is a snapshot's bytes ever after.
#[derive(Debug, Default, Clone)]
pub(super) struct History {
    runs: Vec<Arc<Run>>,
    /// The versions in them.
    packed_len: u64,
    /// The versions after them; only the last one after a packing.
    tail: Vec<VersionEntry>,
    newest_content: Option<Version>,
    /// What the newest content was patched from when the last packing was done, as far as it is packed: to read that
    /// content, or to patch the next one from it, takes a few versions out of many runs.
    links: Option<Arc<Links>>,
}

impl History {
    /// One that a snapshot holds.
    pub fn restore(runs: Vec<Run>, links: Option<Links>, newest_content: Option<Version>) -> Self {
        let packed_len = runs.iter().map(|run| run.len).sum();
        let (runs, links) = (runs.into_iter().map(Arc::new).collect(), links.map(Arc::new));
        Self { runs, packed_len, tail: Vec::new(), newest_content, links }
    }

    pub fn len(&self) -> u64 {
        self.packed_len + self.tail.len() as u64
    }

    /// The newest version, removals included. It is always at hand.
    pub fn newest(&self) -> Option<(Version, &VersionEntry)> {
        Some((Version(self.len()), self.tail.last()?))
    }

    /// The newest version that is no removal.
    pub fn newest_content(&self) -> Option<Version> {
        self.newest_content
    }

    pub fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    pub fn links(&self) -> Option<&Links> {
        self.links.as_deref()
    }

    /// The versions after the runs.
    pub fn tail(&self) -> &[VersionEntry] {
        &self.tail
    }

    pub fn entry(&self, version: Version) -> Result<Option<&VersionEntry>, Unreadable> {
        if version.0 > self.packed_len {
            return Ok(self.tail.get((version.0 - self.packed_len - 1) as usize));
        }
        let after = self.runs.partition_point(|run| run.first <= version);
        let Some(run) = after.checked_sub(1).and_then(|at| self.runs.get(at)) else { return Ok(None) };
        Ok(run.rows()?.get((version.0 - run.first.0) as usize))
    }

    /// Every version, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = Result<(Version, &VersionEntry), Unreadable>> {
        self.before(Version(u64::MAX))
    }

    /// The versions before this one.
    pub fn before(
        &self,
        end: Version,
    ) -> impl DoubleEndedIterator<Item = Result<(Version, &VersionEntry), Unreadable>> {
        let versions = (1..end.0.min(self.len() + 1)).map(Version);
        versions.filter_map(|version| self.entry(version).map(|entry| Some((version, entry?))).transpose())
    }

    /// A version with content and those that it is patched from, one after the other, down to a whole frame.
    pub fn chain(&self, version: Version) -> impl Iterator<Item = Result<(Version, Seq, &Content), Unreadable>> {
        let mut next = Some(version);
        std::iter::from_fn(move || {
            let version = next.take()?;
            let link = self.link(version).transpose()?;
            Some(link.map(|(seq, content)| {
                next = content.base;
                (version, seq, content)
            }))
        })
    }

    /// A version's content, if it has any, without unpacking a run where the links will do.
    pub fn link(&self, version: Version) -> Result<Option<(Seq, &Content)>, Unreadable> {
        if let Some(links) = self.links.as_ref().filter(|_| version.0 <= self.packed_len)
            && let Some(found) = links.get(version)?
        {
            return Ok(Some(found));
        }
        Ok(self.entry(version)?.and_then(|entry| Some((entry.payload_seq(), entry.kept()?))))
    }

    /// Shows every version, the oldest first; what is packed stays so.
    pub fn each_once(&self, see: &mut dyn FnMut(&VersionEntry)) -> Result<(), Unreadable> {
        for run in &self.runs {
            run.rows_once()?.iter().for_each(&mut *see);
        }
        self.tail.iter().for_each(see);
        Ok(())
    }

    /// The versions from this one on, and some before it, to be altered: the first of them, and all. They are packed
    /// anew the next time.
    pub fn alter(&mut self, from: Version) -> Result<(Version, &mut [VersionEntry]), Unreadable> {
        let kept = self.runs.partition_point(|run| run.first.0 + run.len <= from.0);
        let packed = self.runs[kept..].iter().map(|run| run.rows()).collect::<Result<Vec<_>, _>>()?.concat();
        self.packed_len -= packed.len() as u64;
        self.tail.splice(..0, packed);
        self.runs.truncate(kept);
        self.links = None;
        Ok((Version(self.packed_len + 1), &mut self.tail))
    }

    pub fn push(&mut self, entry: VersionEntry) {
        let has_content = entry.content.is_some();
        self.tail.push(entry);
        if has_content {
            self.newest_content = Some(Version(self.len()));
        }
    }

    /// Packs all but the newest version. On `Err` it is as it was.
    pub fn pack(&mut self) -> Result<(), Divergence> {
        let Some(old) = self.tail.len().checked_sub(1).filter(|old| *old > 0) else { return Ok(()) };
        let mut runs = self.runs.clone();
        let mut rows = self.tail[..old].to_vec();
        let mut first = self.packed_len + 1;
        while let Some(last) = runs.pop_if(|last| last.len < RUN_LEN_MAX && last.len <= rows.len() as u64) {
            first = last.first.0;
            rows.splice(..0, last.rows()?.iter().cloned());
        }
        for rows in rows.chunks(RUN_LEN_MAX as usize) {
            let is_growing = (rows.len() as u64) < RUN_LEN_MAX;
            runs.push(Arc::new(Run::pack(Version(first), rows.to_vec(), is_growing)?));
            first += rows.len() as u64;
        }
        let packed_len = self.packed_len + old as u64;
        let mut links: Vec<Link> = Vec::new();
        if let Some(content) = self.newest_content {
            for link in self.chain(content) {
                let (version, seq, content) = link?;
                if version.0 <= packed_len {
                    links.push((version, seq, content.clone()));
                }
            }
        }
        self.links = if links.is_empty() { None } else { Some(Arc::new(Links::pack(links)?)) };
        self.runs = runs;
        self.packed_len = packed_len;
        self.tail.drain(..old);
        Ok(())
    }
}

/// What is packed and how is no part of what it says. One that does not read is like no other.
impl PartialEq for History {
    fn eq(&self, other: &Self) -> bool {
        let all = |history: &Self| {
            let rows = history.all().map(|row| row.map(|(_, entry)| entry.clone()));
            let chain = history.newest_content.into_iter().flat_map(|version| history.chain(version));
            let chain = chain.map(|link| link.map(|(version, seq, content)| (version, seq, content.clone())));
            Some((rows.collect::<Result<Vec<_>, _>>().ok()?, chain.collect::<Result<Vec<_>, _>>().ok()?))
        };
        let same = self.len() == other.len() && self.newest_content == other.newest_content;
        same && all(self).is_some_and(|rows| Some(rows) == all(other))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use stated_shared::{Digest, SessionId, Timestamp};

    use super::super::event::{Actor, Payload};
    use super::super::states::CommitEntry;
    use super::*;

    /// Version n: a removal, or a patch from the one so many before it; every third in a blob.
    fn entry(n: u64, base: Option<u64>, is_removal: bool) -> VersionEntry {
        let actor = Actor {
            uid: 1000,
            gid: 1000,
            pid: None,
            user: None,
            comm: None,
            exe: None,
            host: "build-7".to_owned(),
            session: SessionId([n as u8; 16]),
        };
        let payload = match n % 3 {
            0 => Payload::Blob { id: format!("{n:032x}"), len_bytes: n },
            _ => Payload::Inline { offset_bytes: 0, len_bytes: n },
        };
        let content = Content {
            sha256: Digest([n as u8; 32]),
            size_bytes: n,
            serial: None,
            lineage: None,
            payload,
            base: base.map(Version),
        };
        let commit = CommitEntry { at: Timestamp(n), actor: Arc::new(actor), message: None, labels: BTreeMap::new() };
        VersionEntry {
            seq: Seq(n + 1),
            content: (!is_removal).then_some(content),
            moved: None,
            pruned: None,
            forced: false,
            commit: Arc::new(commit),
        }
    }

    /// As contents are patched: from the one before, every 64th from the one 64 before.
    fn usual(n: u64) -> VersionEntry {
        let base = if n % RUN_LEN_MAX == 1 { n.checked_sub(RUN_LEN_MAX) } else { n.checked_sub(1) };
        entry(n, base.filter(|base| *base > 0), false)
    }

    /// As a snapshot gives it back.
    fn restored(history: &History) -> History {
        let runs = history.runs().iter();
        let runs = runs.map(|run| Run::of_frame(run.first, run.len, run.blobs.clone(), run.frame())).collect();
        let links = history.links().map(|links| Links::of_frame(links.frame()));
        let mut restored = History::restore(runs, links, history.newest_content());
        history.tail().iter().for_each(|entry| restored.push(entry.clone()));
        restored
    }

    fn unpacked(history: &History) -> usize {
        history.runs().iter().filter(|run| run.is_unpacked()).count()
    }

    #[test]
    fn going_on_after_a_start_unpacks_no_run() {
        let mut history = History::default();
        for n in 1..=1000 {
            history.push(usual(n));
            if n % 7 == 0 {
                history.pack().unwrap();
            }
        }
        history.pack().unwrap();
        assert!(history.runs().len() <= 1000 / 64 + 7, "{} runs", history.runs().len());
        let mut history = restored(&history);
        assert_eq!((history.len(), history.tail().len()), (1000, 1));
        for n in 1001..=1200 {
            let chain: Vec<_> = history.chain(Version(n - 1)).map(|link| link.unwrap().0.0).collect();
            assert_eq!(chain.last(), Some(&1));
            let new = usual(n);
            assert!(history.link(new.content.as_ref().unwrap().base.unwrap()).unwrap().is_some());
            history.push(new);
        }
        assert_eq!(unpacked(&history), 0);
        assert_eq!(history.entry(Version(500)).unwrap(), Some(&usual(500)));
        assert_eq!(unpacked(&history), 1, "only what was asked for");
        assert_eq!(history.entry(Version(0)).unwrap(), None);
        assert_eq!(history.entry(Version(1201)).unwrap(), None);
    }

    #[test]
    fn a_run_that_does_not_read_refuses_what_it_holds_and_nothing_else() {
        let bad = Run::of_frame(Version(1), 64, Vec::new(), b"odd");
        let mut history = History::restore(vec![bad], None, Some(Version(64)));
        history.push(entry(65, None, false));
        assert!(history.entry(Version(64)).is_err() && history.chain(Version(64)).any(|link| link.is_err()));
        assert_eq!(history.newest().unwrap().0, Version(65));
        assert_eq!(history.chain(Version(65)).count(), 1);
        assert!(history != restored(&history), "not even like itself");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        /// Whenever it is packed or comes out of a snapshot, whatever was patched from what.
        #[test]
        fn packing_changes_nothing_that_can_be_asked_for(
            acts in prop::collection::vec((0_u8..20, any::<prop::sample::Index>(), 0_u8..8), 1..300)
        ) {
            let (mut plain, mut packed) = (History::default(), History::default());
            let mut contents: Vec<u64> = Vec::new();
            for (act, base, odd) in acts {
                let n = plain.len() + 1;
                let base = match (contents.last(), odd) {
                    (None, _) => None,
                    (Some(_), 0) => Some(contents[base.index(contents.len())]),
                    (Some(newest), _) => Some(*newest),
                };
                let new = entry(n, base, act == 19);
                plain.push(new.clone());
                packed.push(new);
                if act != 19 {
                    contents.push(n);
                }
                if act % 5 == 0 {
                    packed.pack().unwrap();
                }
                if act % 7 == 0 {
                    packed = restored(&packed);
                }
            }
            let blobs = |history: &History| -> Vec<String> {
                let packed = history.runs().iter().flat_map(|run| run.blobs.clone());
                packed.chain(history.tail().iter().filter_map(VersionEntry::blob).map(str::to_owned)).collect()
            };
            prop_assert_eq!(blobs(&packed), blobs(&plain));
            prop_assert_eq!(packed.newest(), plain.newest());
            prop_assert_eq!(packed.newest_content(), contents.last().map(|n| Version(*n)));
            for n in contents {
                let chain = |history: &History| -> Vec<_> {
                    history.chain(Version(n)).map(|link| link.map(|(v, seq, content)| (v, seq, content.clone()))).collect()
                };
                prop_assert_eq!(chain(&packed), chain(&plain));
            }
            prop_assert!(packed == plain);
        }
    }
}
