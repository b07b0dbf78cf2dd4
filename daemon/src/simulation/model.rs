//! What must be there: everything that was acknowledged, and of the rest each request wholly or not at all.

use std::collections::{BTreeMap, BTreeSet};

use stated_shared::{
    Change, Content, Digest, Expect, Failure, FailureKind, Fence, Generation, LockId, PrunePage, Reply, Request,
    StateName, Version,
};

use super::host::Daemon;
use crate::disk::sim::Random;
use crate::engine::Stepped;
use crate::machine::{Machine, Tenure};
use crate::vault::sha256;

/// A content that need not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    pub seed: u64,
    pub len: usize,
}

impl Recipe {
    pub fn bytes(self) -> Vec<u8> {
        Random::seeded(self.seed).bytes(self.len)
    }
}

/// A request and what is known of it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub session: u8,
    /// Unique in a life; a commit says it in its message.
    pub number: u64,
    pub request: Request,
    /// What a commit writes; a removal has no recipe.
    pub writes: Vec<(StateName, Option<Recipe>)>,
    /// The versions or the fence that it got, where that is known.
    pub got: Got,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    /// Nobody heard.
    Unknown,
    /// It was answered, or found after a crash.
    Versions(Vec<(StateName, Version)>),
    Fence(Fence),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    number: u64,
    recipe: Option<Recipe>,
    /// A prune gave it up.
    pruned: bool,
}

#[derive(Default)]
pub struct Model {
    states: BTreeMap<StateName, Vec<Entry>>,
    leases: BTreeMap<LockId, (Fence, BTreeSet<StateName>)>,
    fences: BTreeSet<Fence>,
    epoch: u64,
    /// The newest keyring that was answered with.
    generation: Generation,
    pub acknowledged: u64,
    /// Refusals because of the disk.
    pub refusals: u64,
}

impl Model {
    pub fn newest(&self, name: &StateName) -> Version {
        Version(self.states.get(name).map_or(0, Vec::len) as u64)
    }

    pub fn exists(&self, name: &StateName) -> bool {
        self.states.get(name).and_then(|entries| entries.last()).is_some_and(|newest| newest.recipe.is_some())
    }

    pub fn lease_on(&self, name: &StateName) -> Option<&LockId> {
        self.leases.iter().find(|(_, (_, names))| names.contains(name)).map(|(id, _)| id)
    }

    pub fn leases(&self) -> Vec<(LockId, StateName)> {
        let first = |names: &BTreeSet<StateName>| names.first().cloned().expect("a lease has names");
        self.leases.iter().map(|(id, (_, names))| (id.clone(), first(names))).collect()
    }

    /// Whether it must be done, were it the only one in its batch.
    pub fn expects(&self, request: &Request) -> Option<bool> {
        match request {
            Request::Commit(commit) => {
                let held = commit.locks.iter().all(|id| self.leases.contains_key(id));
                let may = |name| self.lease_on(name).is_none_or(|id| commit.locks.contains(id));
                let met = |change: &Change| match change.expect {
                    Expect::Any => true,
                    Expect::Absent => !self.exists(&change.state),
                    Expect::Version(version) => version == self.newest(&change.state) && version.0 > 0,
                };
                let can = |change: &Change| change.content != Content::Removed || self.exists(&change.state);
                Some(held && commit.changes.iter().all(|change| may(&change.state) && met(change) && can(change)))
            }
            Request::Lock(lock) => Some(lock.names.iter().all(|name| self.lease_on(name).is_none())),
            Request::Renew { id, .. } => Some(self.leases.contains_key(id)),
            _ => None,
        }
    }

    /// Takes note of an answer.
    pub fn answered(&mut self, asked: &mut Asked, answer: Result<Reply, Failure>, may_lack_room: bool) {
        let known = asked.got.clone();
        let reply = match answer {
            Ok(reply) => reply,
            Err(failure) => {
                assert_eq!(known, Got::Unknown, "a request that was done is refused: {failure:?}, {asked:?}");
                let usual = [FailureKind::Conflict, FailureKind::Busy, FailureKind::NotFound];
                let is_storage = failure.kind == FailureKind::Storage && may_lack_room;
                assert!(usual.contains(&failure.kind) || is_storage, "{failure:?} to {asked:?}");
                self.refusals += u64::from(is_storage);
                return;
            }
        };
        self.acknowledged += 1;
        match (&asked.request, reply) {
            (Request::Commit(_), Reply::Committed(committed)) => {
                let versions: Vec<_> = committed.states.iter().map(|s| (s.state.clone(), s.version)).collect();
                match known {
                    Got::Unknown => self.commit(asked, &versions),
                    known => assert_eq!(known, Got::Versions(versions.clone()), "a retry is answered as before"),
                }
                asked.got = Got::Versions(versions);
            }
            (Request::Lock(lock), Reply::Granted(grant)) => {
                match known {
                    Got::Unknown => {
                        assert!(self.fences.insert(grant.fence), "the fence {} was given before", grant.fence);
                        self.leases.insert(grant.id, (grant.fence, lock.names.clone()));
                    }
                    known => assert_eq!(known, Got::Fence(grant.fence), "a retry is answered with its grant"),
                }
                asked.got = Got::Fence(grant.fence);
            }
            (Request::Renew { id, .. }, Reply::Granted(grant)) => {
                assert_eq!(Some(grant.fence), self.leases.get(id).map(|(fence, _)| *fence));
            }
            (Request::Unlock { id }, Reply::Done) => {
                self.leases.remove(id);
                asked.got = Got::Ended;
            }
            (Request::Break { id: Some(id), .. }, Reply::Broken(_)) => {
                self.leases.remove(id);
                asked.got = Got::Ended;
            }
            (Request::Prune(_), Reply::Pruned(page)) => self.pruned(page),
            (Request::Rekey(_), Reply::Rekeyed(generation)) => self.generation = self.generation.max(generation),
            (_, reply) => panic!("{reply:?} to {asked:?}"),
        }
    }

    /// Takes note of what was pruned.
    pub fn pruned(&mut self, page: PrunePage) {
        for row in page.rows {
            let entries = self.states.get_mut(&row.state).expect("a state that was written");
            for (first, last) in row.dropped {
                let run = &mut entries[first.0 as usize - 1..last.0 as usize];
                run.iter_mut().filter(|entry| entry.recipe.is_some()).for_each(|entry| entry.pruned = true);
            }
        }
    }

    fn commit(&mut self, asked: &Asked, versions: &[(StateName, Version)]) {
        assert_eq!(versions.len(), asked.writes.len());
        for (name, version) in versions {
            let (_, recipe) = asked.writes.iter().find(|(written, _)| written == name).expect("a name that it wrote");
            let entries = self.states.entry(name.clone()).or_default();
            entries.push(Entry { number: asked.number, recipe: *recipe, pruned: false });
            assert_eq!(version.0, entries.len() as u64, "versions are dense");
        }
    }

    /// Looks at what a daemon found when it started, and finds out what became of the requests that nobody heard of.
    pub fn check(&mut self, daemon: &Daemon, open: &mut [Asked]) {
        let epoch = daemon.engine.epoch().0;
        assert!(epoch > self.epoch, "epoch {epoch} after {}", self.epoch);
        self.epoch = epoch;
        let machine = daemon.engine.machine();
        let (generation, _) = machine.keyring().expect("it was founded");
        assert!(generation >= self.generation, "keyring {generation} counts after {}", self.generation);
        self.check_states(machine, open);
        self.check_pruned(machine, open);
        self.check_leases(machine, open);
        let verified = daemon.engine.verify();
        assert_eq!(verified.damage, [], "the log verifies");
        let blobs = daemon.engine.store().blobs.list().unwrap();
        let found: BTreeSet<String> = blobs.iter().map(ToString::to_string).collect();
        let needed: BTreeSet<String> = machine.states().blobs().into_iter().map(str::to_owned).collect();
        assert_eq!(found, needed, "orphans are swept, and nothing else");
    }

    fn check_states(&mut self, machine: &Machine, open: &mut [Asked]) {
        let mut found: BTreeMap<&StateName, Vec<(u64, Option<Digest>)>> = BTreeMap::new();
        for row in machine.states().all() {
            let (name, version, entry) = row.expect("it reads");
            let rows = found.entry(name).or_default();
            let number = entry.commit.message.as_deref().and_then(|text| text.parse().ok()).expect("a number");
            rows.push((number, entry.content.as_ref().map(|content| content.sha256)));
            assert_eq!(version.0, rows.len() as u64, "versions are dense");
        }
        let none = Vec::new();
        let digest = |recipe: Option<Recipe>| recipe.map(|recipe| sha256(&recipe.bytes()));
        let mut landed: BTreeMap<u64, Vec<(StateName, Version)>> = BTreeMap::new();
        let names: BTreeSet<StateName> = self.states.keys().chain(found.keys().copied()).cloned().collect();
        for name in names {
            let rows = found.get(&name).unwrap_or(&none);
            let known = self.states.entry(name.clone()).or_default();
            assert!(rows.len() >= known.len(), "{name}: {} versions of {} acknowledged", rows.len(), known.len());
            for (index, (number, sha256)) in rows.iter().enumerate() {
                match known.get(index) {
                    Some(entry) => assert_eq!((*number, *sha256), (entry.number, digest(entry.recipe)), "{name}"),
                    None => {
                        let asked = open.iter().find(|asked| asked.number == *number);
                        let asked = asked.unwrap_or_else(|| panic!("{name}: nobody asks for commit {number}"));
                        let written = asked.writes.iter().find(|(written, _)| *written == name);
                        let (_, recipe) = written.expect("a name that it wrote");
                        assert_eq!(*sha256, digest(*recipe), "{name}: another content");
                        known.push(Entry { number: *number, recipe: *recipe, pruned: false });
                        let version = Version(index as u64 + 1);
                        landed.entry(*number).or_default().push((name.clone(), version));
                    }
                }
            }
        }
        for asked in open {
            if let Some(versions) = landed.remove(&asked.number) {
                assert_eq!(versions.len(), asked.writes.len(), "a commit is there in part: {asked:?}");
                // Answers are in the order of the changes.
                let order =
                    |(name, _): &(StateName, Version)| asked.writes.iter().position(|(written, _)| written == name);
                let mut versions = versions;
                versions.sort_by_key(order);
                assert_eq!(asked.got, Got::Unknown, "it was done twice: {asked:?}");
                asked.got = Got::Versions(versions);
            }
        }
    }

    /// What was pruned stays so, and nothing else is gone but by a prune that nobody heard of.
    fn check_pruned(&mut self, machine: &Machine, open: &[Asked]) {
        let may = open.iter().any(|asked| matches!(asked.request, Request::Prune(_)));
        for (name, version, entry) in machine.states().all().map(Result::unwrap) {
            let known = &mut self.states.get_mut(name).expect("a known state")[version.0 as usize - 1];
            let pruned = entry.pruned.is_some();
            assert!(pruned == known.pruned || pruned && may, "{name}@{version}: pruned {pruned}, not {}", known.pruned);
            known.pruned = pruned;
        }
    }

    fn check_leases(&mut self, machine: &Machine, open: &mut [Asked]) {
        let held: BTreeMap<&LockId, Fence> = machine
            .locks()
            .grants()
            .filter(|grant| matches!(grant.tenure, Tenure::Lease { .. }))
            .map(|grant| (&grant.id, grant.fence))
            .collect();
        // Where two were to end one lease, it is not known which did.
        let mut ends: BTreeMap<LockId, usize> = BTreeMap::new();
        for asked in open.iter() {
            if let Request::Unlock { id } | Request::Break { id: Some(id), .. } = &asked.request {
                *ends.entry(id.clone()).or_default() += 1;
            }
        }
        for asked in open {
            match &asked.request {
                Request::Unlock { id } | Request::Break { id: Some(id), .. } if !held.contains_key(id) => {
                    self.leases.remove(id);
                    if ends[id] == 1 {
                        asked.got = Got::Ended;
                    }
                }
                Request::Lock(lock) => {
                    let id = lock.id.as_ref().expect("drawn by the client");
                    if let Some(fence) = held.get(id).copied()
                        && asked.got == Got::Unknown
                    {
                        assert!(self.fences.insert(fence), "the fence {fence} was given before");
                        self.leases.insert(id.clone(), (fence, lock.names.clone()));
                        asked.got = Got::Fence(fence);
                    }
                }
                _ => {}
            }
        }
        let known: BTreeMap<&LockId, Fence> = self.leases.iter().map(|(id, (fence, _))| (id, *fence)).collect();
        assert_eq!(held, known, "the leases that are held");
    }

    /// Reads every content that is kept and compares its bytes.
    pub fn check_contents(&self, engine: &Stepped) {
        for (name, entries) in &self.states {
            for (entry, version) in entries.iter().zip(1..) {
                let Entry { recipe: Some(recipe), pruned: false, .. } = entry else { continue };
                let bytes = engine.load(name, Version(version));
                let bytes = bytes.unwrap_or_else(|damage| panic!("{name}@{version}: {damage:?}"));
                assert!(bytes == recipe.bytes(), "{name}@{version} is not what was written");
            }
        }
    }
}
