//! The stored form of a machine that was replayed: a cache, which replaying the journal gives again.
//!
//! It is a sequence of [`Line`]s, so that neither side holds it twice, and of frames, in the order in which the lines
//! tell of them: what is old, packed once and copied from one snapshot to the next ([`super::packed`]). What lives with
//! its holders (session locks, waiters) is no part of it: a replay does not give that either. The types are not the
//! wire's; they grow as those of [`super::event`] do, and a form that cannot be read any more is rebuilt from the
//! journal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stated_shared::{
    Digest, Epoch, Fence, Generation, LockId, RepositoryId, Seq, SessionId, StateName, TagName, Timestamp, Version,
};

use super::answers::Age;
use super::event::{Actor, BootId, Content, Kind, LossAccepted};
use super::given::Given;
use super::history::History;
use super::locks::{Grant, Released, Tenure};
use super::packed::{self, Links, Run};
use super::remembered::{Numbered, Place, Remembered, SessionRun};
use super::states::{CommitEntry, PruneEntry, VersionEntry};
use super::{Divergence, Machine, Summed};

/// One line of a snapshot or of a frame. Actors and commits are referred to by their place among their kind, from 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What there is one of; the first line.
    Machine(Facts),
    /// Somebody.
    Actor(Arc<Actor>),
    /// What all the versions of one commit share.
    Commit(Commit),
    /// A state: what is packed of it. The versions that follow are those after it.
    State(StateFacts),
    /// The next version of the last state.
    Version(Entry),
    /// In a frame of its own: what a newer version is patched from, directly or not.
    Link(Version, Seq, Content),
    /// A name that was locked by a session once.
    LockedBefore(StateName),
    /// A lease that is held.
    Lease(Box<Lease>),
    /// A grant that ended.
    Released(Ended),
    /// The remembered answers of a session.
    Answers(Answered),
    /// The same of some sessions, packed.
    AnswerRun(AnswerRun),
}

/// What there is one of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    repository: Option<RepositoryId>,
    keyring: Option<(Generation, Digest)>,
    epoch: Epoch,
    boot: BootId,
    fences: u64,
    seq: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss: Option<LossAccepted>,
    #[serde(default)]
    age: Age,
    /// Bytes of payloads in records that were ever given up.
    #[serde(default, skip_serializing_if = "is_zero")]
    given_up_bytes: u64,
    /// How far old reads and locks are summed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summed: Option<Summed>,
    /// See [`Machine::resealing`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resealing: Option<Generation>,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// See [`Line::State`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StateFacts {
    name: StateName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest_content: Option<Version>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    runs: Vec<RunFacts>,
    /// The length of the frame of links, which comes after those of the runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    links_len_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<TagName, Version>,
}

/// Versions, one after the other, in a frame of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RunFacts {
    versions: u64,
    len_bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blobs: Vec<String>,
}

/// See [`Line::Commit`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    at: Timestamp,
    actor: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

/// See [`Line::Version`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    seq: Seq,
    commit: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forced: bool,
    /// The record that its payload was moved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<Seq>,
    /// When its content was given up, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pruned: Option<(Timestamp, usize)>,
}

/// See [`Line::Lease`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    id: LockId,
    names: BTreeSet<StateName>,
    kind: Kind,
    fence: Fence,
    holder: usize,
    number: u64,
    since: Timestamp,
    operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    info: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    under: Option<LockId>,
    ttl_ms: u64,
    deadline_boottime_ms: u64,
}

/// See [`Line::Released`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    id: LockId,
    uid: u32,
    fence: Fence,
}

/// See [`Line::Answers`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answered {
    session: SessionId,
    uid: u32,
    age_ms: u64,
    answers: Vec<(u64, Given)>,
}

/// Sessions whose remembered answers are in a frame of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnswerRun {
    len_bytes: u64,
    /// Session, user, age, place in the frame, and how many of the answers there are remembered, the newest.
    sessions: Vec<(SessionId, u32, u64, usize, usize)>,
}

/// Lines on their way out, with what was referred to already.
pub(super) struct Writing<'a> {
    see: &'a mut dyn FnMut(&Line),
    actors: HashMap<Arc<Actor>, usize>,
    commits: HashMap<*const CommitEntry, usize>,
}

impl Machine {
    /// Packs what is old, so that storing it again costs next to nothing. Nothing that anybody may ask for changes.
    pub fn pack(&mut self) -> Result<(), Divergence> {
        self.answers.pack()?;
        self.states.pack()
    }

    /// Shows the lines that [`Restoring`] makes an equal machine of, and the frames that they tell of.
    ///
    /// The machine is one that only a replay has touched: session locks and waiters have no stored form.
    pub fn store(&self, see: &mut dyn FnMut(&Line), frame: &mut dyn FnMut(&[u8])) -> Result<(), Divergence> {
        let Self {
            repository,
            keyring,
            resealing,
            epoch,
            boot,
            fences,
            seq,
            states,
            locks,
            locked_before,
            answers,
            frozen: _,
            // Until a start, which comes before any snapshot.
            is_restored: _,
            loss,
            summed,
        } = self;
        let facts = Facts {
            repository: *repository,
            keyring: *keyring,
            epoch: *epoch,
            boot: boot.clone(),
            fences: *fences,
            seq: *seq,
            loss: loss.clone(),
            age: answers.age(),
            given_up_bytes: states.given_up_bytes(),
            summed: summed.clone(),
            resealing: *resealing,
        };
        see(&Line::Machine(facts));
        let mut writing = Writing::new(see);
        for (name, history, tags) in states.histories() {
            let run = |run: &Arc<Run>| {
                let len_bytes = run.frame().len() as u64;
                RunFacts { versions: run.len, len_bytes, blobs: run.blobs.clone() }
            };
            (writing.see)(&Line::State(StateFacts {
                name: name.clone(),
                newest_content: history.newest_content(),
                runs: history.runs().iter().map(run).collect(),
                links_len_bytes: history.links().map(|links| links.frame().len() as u64),
                tags: tags.cloned().unwrap_or_default(),
            }));
            history.runs().iter().for_each(|run| frame(run.frame()));
            history.links().into_iter().for_each(|links| frame(links.frame()));
            history.tail().iter().for_each(|entry| writing.version(entry));
        }
        for name in locked_before {
            (writing.see)(&Line::LockedBefore(name.clone()));
        }
        for grant in locks.grants() {
            let lease = writing.lease(grant)?;
            (writing.see)(&Line::Lease(Box::new(lease)));
        }
        for (id, Released { uid, fence }) in locks.released_in_order() {
            (writing.see)(&Line::Released(Ended { id: id.clone(), uid, fence }));
        }
        for (run, sessions) in answers.neighbours() {
            let Some(run) = run else {
                for (session, remembered) in sessions {
                    (writing.see)(&Line::Answers(Answered::of(session, remembered)?));
                }
                continue;
            };
            let row = |(session, remembered): &(SessionId, &Remembered)| {
                let place = remembered.place()?;
                Some((*session, remembered.uid, remembered.age_ms, place.at, place.len))
            };
            let sessions = sessions.iter().filter_map(row).collect();
            (writing.see)(&Line::AnswerRun(AnswerRun { len_bytes: run.frame().len() as u64, sessions }));
            frame(run.frame());
        }
        Ok(())
    }
}

impl<'a> Writing<'a> {
    pub fn new(see: &'a mut dyn FnMut(&Line)) -> Self {
        Self { see, actors: HashMap::new(), commits: HashMap::new() }
    }

    /// Shows a version, after its commit.
    pub fn version(&mut self, entry: &VersionEntry) {
        let VersionEntry { seq, content, moved, pruned, forced, commit } = entry;
        let commit = self.commit(commit);
        let pruned = pruned.as_ref().map(|pruned| (pruned.at, self.actor(&pruned.actor)));
        let (content, forced, moved) = (content.clone(), *forced, *moved);
        (self.see)(&Line::Version(Entry { seq: *seq, commit, content, forced, moved, pruned }));
    }

    fn actor(&mut self, actor: &Arc<Actor>) -> usize {
        if let Some(place) = self.actors.get(actor) {
            return *place;
        }
        let place = self.actors.len();
        (self.see)(&Line::Actor(Arc::clone(actor)));
        self.actors.insert(Arc::clone(actor), place);
        place
    }

    fn commit(&mut self, commit: &Arc<CommitEntry>) -> usize {
        if let Some(place) = self.commits.get(&Arc::as_ptr(commit)) {
            return *place;
        }
        let CommitEntry { at, actor, message, labels } = &**commit;
        let actor = self.actor(actor);
        let place = self.commits.len();
        (self.see)(&Line::Commit(Commit { at: *at, actor, message: message.clone(), labels: labels.clone() }));
        self.commits.insert(Arc::as_ptr(commit), place);
        place
    }

    fn lease(&mut self, grant: &Grant) -> Result<Lease, Divergence> {
        let Tenure::Lease { ttl_ms, deadline_boottime_ms } = grant.tenure else {
            return Err(Divergence(format!("session lock {} in a machine that was only replayed", grant.id)));
        };
        let Grant { id, names, kind, fence, holder, number, since, operation, reason, info, under, .. } = grant.clone();
        let (kind, holder) = (kind.into(), self.actor(&holder));
        Ok(Lease {
            id,
            names,
            kind,
            fence,
            holder,
            number,
            since,
            operation,
            reason,
            info,
            under,
            ttl_ms,
            deadline_boottime_ms,
        })
    }
}

/// Actors and commits that were told of.
#[derive(Debug, Default)]
pub(super) struct Tables {
    actors: Vec<Arc<Actor>>,
    commits: Vec<Arc<CommitEntry>>,
    /// The last one, which the next is likely to share.
    pruned: Option<Arc<PruneEntry>>,
}

impl Tables {
    fn pruned(&mut self, at: Timestamp, actor: usize) -> Result<Arc<PruneEntry>, Divergence> {
        let actor = place(&self.actors, actor)?;
        let last = self.pruned.take().filter(|last| last.at == at && last.actor == *actor);
        let pruned = last.unwrap_or_else(|| Arc::new(PruneEntry { at, actor: actor.clone() }));
        self.pruned = Some(Arc::clone(&pruned));
        Ok(pruned)
    }

    /// Takes a line that a run may hold; a version comes back.
    pub fn take(&mut self, line: Line) -> Result<Option<VersionEntry>, Divergence> {
        match line {
            Line::Actor(actor) => self.actors.push(actor),
            Line::Commit(Commit { at, actor, message, labels }) => {
                let actor = place(&self.actors, actor)?.clone();
                self.commits.push(Arc::new(CommitEntry { at, actor, message, labels }));
            }
            Line::Version(Entry { seq, commit, content, forced, moved, pruned }) => {
                let commit = Arc::clone(place(&self.commits, commit)?);
                let pruned = pruned.map(|(at, actor)| self.pruned(at, actor)).transpose()?;
                return Ok(Some(VersionEntry { seq, content, moved, pruned, forced, commit }));
            }
            _ => return Err(Divergence("a line of another kind is among versions".to_owned())),
        }
        Ok(None)
    }
}

/// Makes a machine of the lines that [`Machine::store`] showed.
#[derive(Debug)]
pub struct Restoring<'a> {
    machine: Machine,
    begun: bool,
    tables: Tables,
    state: Option<(StateName, History, BTreeMap<TagName, Version>)>,
    frames: &'a [u8],
}

impl<'a> Restoring<'a> {
    /// Begins with all the frames, one after the other.
    pub fn new(frames: &'a [u8]) -> Self {
        Self { machine: Machine::default(), begun: false, tables: Tables::default(), state: None, frames }
    }

    /// Takes the next line. After an `Err` the rest is of no use.
    pub fn line(&mut self, line: Line) -> Result<(), Divergence> {
        let machine = &mut self.machine;
        if self.begun == matches!(line, Line::Machine(_)) {
            return Err(Divergence("a snapshot begins with its facts".to_owned()));
        }
        match line {
            Line::Machine(facts) => {
                let Facts {
                    repository,
                    keyring,
                    epoch,
                    boot,
                    fences,
                    seq,
                    loss,
                    age,
                    given_up_bytes,
                    summed,
                    resealing,
                } = facts;
                self.begun = true;
                let default = Machine::default();
                *machine =
                    Machine { repository, keyring, resealing, epoch, boot, fences, seq, loss, summed, ..default };
                machine.answers.restore_age(age);
                machine.states.restore_given_up(given_up_bytes);
            }
            Line::State(facts) => {
                self.end_state()?;
                self.state = Some(self.state(facts)?);
            }
            Line::Actor(_) | Line::Commit(_) => drop(self.tables.take(line)?),
            Line::Version(_) => {
                let entry = self.tables.take(line)?;
                let state = self.state.as_mut().zip(entry);
                let ((_, history, _), entry) = state.ok_or_else(|| Divergence("a version of no state".to_owned()))?;
                history.push(entry);
            }
            Line::Link(..) => return Err(Divergence("a link outside of its frame".to_owned())),
            Line::LockedBefore(name) => drop(machine.locked_before.insert(name)),
            Line::Lease(lease) => {
                let holder = place(&self.tables.actors, lease.holder)?.clone();
                machine.locks.insert(lease.grant(holder));
            }
            Line::Released(Ended { id, uid, fence }) => machine.locks.remember(&id, Released { uid, fence }),
            Line::Answers(answered) => {
                let remembered = machine.answers.restore(answered.session, answered.uid, answered.age_ms);
                answered.into_answers().into_iter().for_each(|(number, answer)| remembered.push(number, answer));
            }
            Line::AnswerRun(AnswerRun { len_bytes, sessions }) => {
                let run = Arc::new(SessionRun::of_frame(packed::cut(&mut self.frames, len_bytes)?));
                for (session, uid, age_ms, at, len) in sessions {
                    machine.answers.restore(session, uid, age_ms).pack(Place { run: Arc::clone(&run), at, len });
                }
            }
        }
        Ok(())
    }

    /// The machine, after the last line.
    pub fn finish(mut self) -> Result<Machine, Divergence> {
        self.end_state()?;
        if !self.frames.is_empty() {
            return Err(Divergence("a snapshot holds a frame that no line tells of".to_owned()));
        }
        if self.begun { Ok(self.machine) } else { Err(Divergence("a snapshot without a line".to_owned())) }
    }

    fn state(&mut self, facts: StateFacts) -> Result<(StateName, History, BTreeMap<TagName, Version>), Divergence> {
        let StateFacts { name, newest_content, runs, links_len_bytes, tags } = facts;
        let mut first = Version(1);
        let mut packed = Vec::with_capacity(runs.len());
        for RunFacts { versions, len_bytes, blobs } in runs {
            packed.push(Run::of_frame(first, versions, blobs, packed::cut(&mut self.frames, len_bytes)?));
            first.0 += versions;
        }
        let links = links_len_bytes.map(|len_bytes| packed::cut(&mut self.frames, len_bytes));
        let links = links.transpose()?.map(Links::of_frame);
        Ok((name, History::restore(packed, links, newest_content), tags))
    }

    fn end_state(&mut self) -> Result<(), Divergence> {
        let Some((name, history, tags)) = self.state.take() else { return Ok(()) };
        if history.newest().is_none() {
            return Err(Divergence("a snapshot lacks the newest version of a state".to_owned()));
        }
        self.machine.states.restore(name, history, tags);
        Ok(())
    }
}

impl Lease {
    fn grant(self, holder: Arc<Actor>) -> Grant {
        let Self {
            id,
            names,
            kind,
            fence,
            holder: _,
            number,
            since,
            operation,
            reason,
            info,
            under,
            ttl_ms,
            deadline_boottime_ms,
        } = self;
        let tenure = Tenure::Lease { ttl_ms, deadline_boottime_ms };
        let kind = kind.into();
        Grant { id, names, kind, fence, holder, number, since, operation, reason, info, under, tenure, ending: false }
    }
}

impl Answered {
    /// The stored form of what a session is remembered for.
    pub(super) fn of(session: SessionId, remembered: &Remembered) -> Result<Self, Divergence> {
        let answers = remembered.answers()?.map(|(number, answer)| Ok((*number, Given::of(answer)?)));
        let answers = answers.collect::<Result<_, Divergence>>()?;
        Ok(Self { session, uid: remembered.uid, age_ms: remembered.age_ms, answers })
    }

    pub(super) fn into_answers(self) -> Vec<Numbered> {
        self.answers.into_iter().map(|(number, given)| (number, given.answer())).collect()
    }
}

fn place<T>(told: &[T], at: usize) -> Result<&T, Divergence> {
    told.get(at).ok_or_else(|| Divergence(format!("a snapshot refers to entry {at} of {}", told.len())))
}
