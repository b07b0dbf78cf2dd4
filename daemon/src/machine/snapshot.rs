//! The stored form of a machine that was replayed: a cache, which replaying the journal gives again.
//!
//! It is a sequence of [`Line`]s, so that neither side holds it twice. What lives with its holders (session locks,
//! waiters) is no part of it: a replay does not give that either. The types are not the wire's; they grow as those of
//! [`super::event`] do, and a form that cannot be read any more is rebuilt from the journal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stated_shared::{
    CommittedState, Digest, Epoch, Fence, Generation, LockId, LockInfo, Reply, RepositoryId, Seq, SessionId, StateName,
    TagName, Timestamp, Version,
};

use super::answers::Answer;
use super::event::{Actor, BootId, Content, Kind, LossAccepted};
use super::locks::{Grant, Released, Tenure};
use super::states::{CommitEntry, PruneEntry, VersionEntry};
use super::{Divergence, Machine};

/// One line of a snapshot. Actors, commits and states are referred to by their place among their kind, from 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// What there is one of; the first line.
    Machine(Facts),
    /// Somebody.
    Actor(Actor),
    /// What all the versions of one commit share.
    Commit(Commit),
    /// The versions that follow are of this state.
    State(StateName),
    /// The next version of the last state.
    Version(Entry),
    /// A name that was locked by a session once.
    LockedBefore(StateName),
    /// A lease that is held.
    Lease(Box<Lease>),
    /// A grant that ended.
    Released(Ended),
    /// The remembered answers of a session.
    Answers(Answered),
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
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    tags: BTreeSet<TagName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<Seq>,
    /// When and by whom.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    session: SessionId,
    uid: u32,
    answers: Vec<(u64, Given)>,
}

/// The stored form of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Given {
    Committed(Option<Seq>, Vec<(StateName, Version, bool)>),
    Lease(LockId),
    Broken(Vec<BrokenName>),
    Tagged(StateName, Version),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BrokenName {
    name: StateName,
    kind: Kind,
    id: LockId,
    fence: Fence,
    holder: usize,
    since: Timestamp,
    operation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Lines on their way out, with what was referred to already.
struct Writing<'a> {
    see: &'a mut dyn FnMut(&Line),
    actors: HashMap<Actor, usize>,
    commits: HashMap<*const CommitEntry, usize>,
}

impl Machine {
    /// Shows the lines that [`Restoring`] makes an equal machine of.
    ///
    /// The machine is one that only a replay has touched: session locks and waiters have no stored form.
    pub fn store(&self, see: &mut dyn FnMut(&Line)) -> Result<(), Divergence> {
        let Self {
            repository,
            keyring,
            epoch,
            boot,
            fences,
            seq,
            states,
            locks,
            locked_before,
            answers,
            frozen: _,
            loss,
        } = self;
        let facts = Facts {
            repository: *repository,
            keyring: *keyring,
            epoch: *epoch,
            boot: boot.clone(),
            fences: *fences,
            seq: *seq,
            loss: loss.clone(),
        };
        see(&Line::Machine(facts));
        let mut writing = Writing { see, actors: HashMap::new(), commits: HashMap::new() };
        let mut last: Option<&StateName> = None;
        for (name, _, VersionEntry { seq, content, moved, pruned, forced, commit, tags }) in states.all() {
            if last.replace(name) != Some(name) {
                (writing.see)(&Line::State(name.clone()));
            }
            let commit = writing.commit(commit);
            let pruned = pruned.as_ref().map(|pruned| (pruned.at, writing.actor(&pruned.actor)));
            let (content, tags) = (content.clone(), tags.clone());
            let entry = Entry { seq: *seq, commit, content, forced: *forced, tags, moved: *moved, pruned };
            (writing.see)(&Line::Version(entry));
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
        for (session, uid, given) in answers.in_order() {
            let answers = given.map(|(number, answer)| Ok((*number, writing.given(answer)?)));
            let answers = answers.collect::<Result<_, Divergence>>()?;
            (writing.see)(&Line::Answers(Answered { session, uid, answers }));
        }
        Ok(())
    }
}

impl Writing<'_> {
    fn actor(&mut self, actor: &Actor) -> usize {
        if let Some(place) = self.actors.get(actor) {
            return *place;
        }
        let place = self.actors.len();
        (self.see)(&Line::Actor(actor.clone()));
        self.actors.insert(actor.clone(), place);
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

    fn given(&mut self, answer: &Answer) -> Result<Given, Divergence> {
        match answer {
            Answer::Lease(id) => Ok(Given::Lease(id.clone())),
            Answer::Tagged(state, version) => Ok(Given::Tagged(state.clone(), *version)),
            Answer::Reply(Reply::Committed(committed)) => {
                let states = committed.states.iter().map(|s| (s.state.clone(), s.version, s.changed)).collect();
                Ok(Given::Committed(committed.seq, states))
            }
            Answer::Reply(Reply::Broken(rows)) => {
                let row = |row: &LockInfo| BrokenName {
                    name: row.name.clone(),
                    kind: row.kind.into(),
                    id: row.id.clone(),
                    fence: row.fence,
                    holder: self.actor(&row.holder.clone().into()),
                    since: row.since,
                    operation: row.operation.clone(),
                    reason: row.reason.clone(),
                };
                Ok(Given::Broken(rows.iter().map(row).collect()))
            }
            // Each kind by its name: whoever adds an answer that is remembered finds that it needs a stored form.
            Answer::Reply(
                Reply::Fetched(_)
                | Reply::Version(_)
                | Reply::Versions(_)
                | Reply::Granted(_)
                | Reply::Done
                | Reply::Locks(_)
                | Reply::Audit(_)
                | Reply::Verified(_)
                | Reply::Status(_)
                | Reply::Changes(_)
                | Reply::Pruned(_),
            ) => Err(Divergence("an answer without a stored form is remembered".to_owned())),
        }
    }
}

/// Makes a machine of the lines that [`Machine::store`] showed.
#[derive(Debug, Default)]
pub struct Restoring {
    machine: Machine,
    begun: bool,
    actors: Vec<Actor>,
    commits: Vec<Arc<CommitEntry>>,
    state: Option<StateName>,
    versions: Vec<VersionEntry>,
    /// The last one, which the next is likely to share.
    pruned: Option<Arc<PruneEntry>>,
}

impl Restoring {
    /// Takes the next line. After an `Err` the rest is of no use.
    pub fn line(&mut self, line: Line) -> Result<(), Divergence> {
        let machine = &mut self.machine;
        if self.begun == matches!(line, Line::Machine(_)) {
            return Err(Divergence("a snapshot begins with its facts".to_owned()));
        }
        match line {
            Line::Machine(Facts { repository, keyring, epoch, boot, fences, seq, loss }) => {
                self.begun = true;
                *machine = Machine { repository, keyring, epoch, boot, fences, seq, loss, ..Machine::default() };
            }
            Line::Actor(actor) => self.actors.push(actor),
            Line::Commit(Commit { at, actor, message, labels }) => {
                let actor = place(&self.actors, actor)?.clone();
                self.commits.push(Arc::new(CommitEntry { at, actor, message, labels }));
            }
            Line::State(name) => self.begin_state(Some(name)),
            Line::Version(Entry { seq, commit, content, forced, tags, moved, pruned }) => {
                let commit = Arc::clone(place(&self.commits, commit)?);
                let pruned = pruned.map(|(at, actor)| self.pruned(at, actor)).transpose()?;
                self.versions.push(VersionEntry { seq, content, moved, pruned, forced, commit, tags });
            }
            Line::LockedBefore(name) => drop(machine.locked_before.insert(name)),
            Line::Lease(lease) => {
                let holder = place(&self.actors, lease.holder)?.clone();
                machine.locks.insert(lease.grant(holder));
            }
            Line::Released(Ended { id, uid, fence }) => machine.locks.remember(&id, Released { uid, fence }),
            Line::Answers(Answered { session, uid, answers }) => {
                for (number, given) in answers {
                    machine.answers.put(session, uid, number, given.answer(&self.actors)?);
                }
            }
        }
        Ok(())
    }

    /// The machine, after the last line.
    pub fn finish(mut self) -> Result<Machine, Divergence> {
        self.begin_state(None);
        if self.begun { Ok(self.machine) } else { Err(Divergence("a snapshot without a line".to_owned())) }
    }

    fn pruned(&mut self, at: Timestamp, actor: usize) -> Result<Arc<PruneEntry>, Divergence> {
        let actor = place(&self.actors, actor)?;
        let last = self.pruned.take().filter(|last| last.at == at && last.actor == *actor);
        let pruned = last.unwrap_or_else(|| Arc::new(PruneEntry { at, actor: actor.clone() }));
        self.pruned = Some(Arc::clone(&pruned));
        Ok(pruned)
    }

    fn begin_state(&mut self, next: Option<StateName>) {
        let versions = std::mem::take(&mut self.versions);
        if let Some(name) = std::mem::replace(&mut self.state, next) {
            self.machine.states.restore(name, versions);
        }
    }
}

impl Lease {
    fn grant(self, holder: Actor) -> Grant {
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

impl Given {
    fn answer(self, actors: &[Actor]) -> Result<Answer, Divergence> {
        Ok(match self {
            Self::Lease(id) => Answer::Lease(id),
            Self::Tagged(state, version) => Answer::Tagged(state, version),
            Self::Committed(seq, states) => {
                let state = |(state, version, changed)| CommittedState { state, version, changed };
                let states = states.into_iter().map(state).collect();
                Answer::Reply(Reply::Committed(stated_shared::Committed { seq, head: None, states }))
            }
            Self::Broken(rows) => {
                let row = |row: BrokenName| {
                    Ok(LockInfo {
                        name: row.name,
                        kind: row.kind.into(),
                        id: row.id,
                        fence: row.fence,
                        holder: place(actors, row.holder)?.into(),
                        since: row.since,
                        operation: row.operation,
                        reason: row.reason,
                        info: None,
                        under: None,
                        process: None,
                        expires: None,
                        waiters: 0,
                    })
                };
                Answer::Reply(Reply::Broken(rows.into_iter().map(row).collect::<Result<_, Divergence>>()?))
            }
        })
    }
}

fn place<T>(told: &[T], at: usize) -> Result<&T, Divergence> {
    told.get(at).ok_or_else(|| Divergence(format!("a snapshot refers to entry {at} of {}", told.len())))
}
