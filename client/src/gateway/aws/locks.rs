//! Locks of Terraform's `s3` backend: a file `KEY.tflock`, an item of a DynamoDB table, or both at once.
//!
//! Either is a face of one lock of the state, under the ID in its document; so whoever uses one face excludes whoever
//! uses the other. A lock that was taken by both is given back by both. Deletions carry no ID: one that comes from the
//! holder's process ends the lock, any other breaks it, and then only the lock that its sender has seen; from a sender
//! that has seen none it is refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stated_shared::{Detail, Failure, FailureKind, LockId, LockInfo, StateName};

use super::super::backend::Backend;
use super::super::lock_document::{self, LockDocument};
use super::super::model::{FindOwner, Model};

/// What is remembered of locks and of their readers, each.
const REMEMBERED_MAX: usize = 1024;

/// How a lock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// As an object whose key ends in `.tflock`.
    File,
    /// As an item of a table.
    Table,
}

/// A set of faces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Faces {
    file: bool,
    table: bool,
}

impl Faces {
    fn set(&mut self, face: Face, present: bool) {
        match face {
            Face::File => self.file = present,
            Face::Table => self.table = present,
        }
    }

    fn has(self, face: Face) -> bool {
        match face {
            Face::File => self.file,
            Face::Table => self.table,
        }
    }

    fn covers(self, other: Self) -> bool {
        self.file >= other.file && self.table >= other.table
    }
}

/// How a lock of this gateway shows.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    taken: Faces,
    given: Faces,
}

/// What a process last read of a state's lock.
#[derive(Debug, Clone)]
struct Seen {
    /// The process; absent where it could not be told.
    pid: Option<u32>,
    state: StateName,
    id: LockId,
    document: String,
    /// The faces that it deleted since.
    given: Faces,
    /// Whether that broke the lock; its other face shows to that process until it is deleted too.
    broken: bool,
    /// Whether it was refused for that lock and has not read it since: what it reads next is who was in its way, also
    /// where that one has left meanwhile. Terraform gives up waiting where it reads nothing.
    refused: bool,
}

impl Seen {
    fn of(pid: Option<u32>, holder: &LockInfo) -> Self {
        Self {
            pid,
            state: holder.name.clone(),
            id: holder.id.clone(),
            document: lock_document::of_holder(holder),
            given: Faces::default(),
            broken: false,
            refused: false,
        }
    }
}

#[derive(Debug, Default)]
struct Memory {
    shown: BTreeMap<LockId, Shown>,
    /// Oldest first.
    seen: VecDeque<Seen>,
}

/// The locks of both faces.
pub struct Locks<B> {
    model: Arc<Model<B>>,
    memory: Mutex<Memory>,
}

impl<B: Backend> Locks<B> {
    /// None yet.
    pub fn new(model: Arc<Model<B>>) -> Self {
        Self { model, memory: Mutex::default() }
    }

    /// Creates the lock; one that is there under the same ID is granted again.
    pub fn create(
        &self,
        state: &StateName,
        face: Face,
        document: &LockDocument,
        find: FindOwner<'_>,
    ) -> Result<(), Failure> {
        let owner = find();
        let sender = owner.as_ref().map(|owner| owner.pid);
        if let Err(failure) = self.model.lock(state, document, owner) {
            if let Detail::Held { holders, .. } = &failure.detail
                && let Some(holder) = holders.first()
            {
                self.memory().remember(Seen { refused: true, ..Seen::of(sender, holder) });
            }
            return Err(failure);
        }
        let mut memory = self.memory();
        if memory.shown.len() == REMEMBERED_MAX && !memory.shown.contains_key(&document.id) {
            memory.shown.pop_first();
        }
        let shown = memory.shown.entry(document.id.clone()).or_default();
        shown.taken.set(face, true);
        shown.given.set(face, false);
        Ok(())
    }

    /// The lock's document, where it is held and shows this face.
    pub fn read(&self, state: &StateName, face: Face, find: FindOwner<'_>) -> Result<Option<String>, Failure> {
        let reader = find().map(|owner| owner.pid);
        let Some(holder) = self.holder(state, reader)? else {
            let mut memory = self.memory();
            let seen = memory.seen.iter_mut().find(|seen| seen.pid == reader && seen.state == *state);
            let shown = |seen: &mut Seen| std::mem::take(&mut seen.refused) || (seen.broken && !seen.given.has(face));
            return Ok(seen.and_then(|seen| shown(seen).then(|| seen.document.clone())));
        };
        let mut memory = self.memory();
        if memory.shown.get(&holder.id).is_some_and(|shown| shown.given.has(face)) {
            return Ok(None);
        }
        let seen = Seen::of(reader, &holder);
        let document = seen.document.clone();
        memory.remember(seen);
        Ok(Some(document))
    }

    /// Whether whoever asks has read the state's lock.
    pub fn has_seen(&self, state: &StateName, find: FindOwner<'_>) -> bool {
        let reader = find().map(|owner| owner.pid);
        self.memory().seen(reader, state).is_some()
    }

    /// Deletes this face of the lock. Nothing held is what was asked for.
    ///
    /// Terraform reads a lock and compares its ID before it deletes it, also by force.
    pub fn delete(&self, state: &StateName, face: Face, find: FindOwner<'_>) -> Result<(), Failure> {
        let owner = find();
        let sender = owner.as_ref().map(|owner| owner.pid);
        let Some(holder) = self.holder(state, sender)? else {
            self.memory().gave(sender, state, face);
            return Ok(());
        };
        let is_holder = self.model.work.relied_on(state, &|| owner.clone()).as_ref() == Some(&holder.id);
        if is_holder {
            return self.give_back(&holder.id, face);
        }
        match self.memory().seen(sender, state).map(|seen| &seen.id) {
            Some(seen) if *seen == holder.id => {}
            // What the sender means is gone already; the lock that is there now is another's.
            Some(_) => return Ok(()),
            None => {
                let message = format!("{state} is locked by {}, and whoever deletes that has not read it", holder.id);
                let hint = format!("read it first, or: statectl break '{state}' {}", holder.id);
                return Err(Failure::new(FailureKind::Busy, message).hint(hint));
            }
        }
        match self.model.break_lock(state, &holder.id) {
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            result => result?,
        }
        self.memory().gave(sender, state, face);
        Ok(())
    }

    fn give_back(&self, id: &LockId, face: Face) -> Result<(), Failure> {
        let is_over = {
            let mut memory = self.memory();
            let shown = memory.shown.entry(id.clone()).or_default();
            shown.given.set(face, true);
            shown.given.covers(shown.taken)
        };
        if !is_over {
            return Ok(());
        }
        match self.model.unlock(id) {
            Err(failure) if failure.kind == FailureKind::NotFound => self.model.work.unlocked(id),
            result => result?,
        }
        self.memory().shown.remove(id);
        Ok(())
    }

    /// Who holds the state: the process's own lock, else the outermost; never the one that the run relies on.
    fn holder(&self, state: &StateName, pid: Option<u32>) -> Result<Option<LockInfo>, Failure> {
        let holders = self.model.backend.holders(state)?;
        let others = holders.into_iter().filter(|row| Some(&row.id) != self.model.under.as_ref());
        Ok(others.min_by_key(|row| (row.process.is_none() || row.process != pid, row.under.is_some())))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn seen(&self, pid: Option<u32>, state: &StateName) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.pid == pid && seen.state == *state)
    }

    fn remember(&mut self, seen: Seen) {
        self.seen.retain(|old| old.pid != seen.pid || old.state != seen.state);
        if self.seen.len() == REMEMBERED_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(seen);
    }

    /// A process deleted a face of a lock that is not its own.
    fn gave(&mut self, pid: Option<u32>, state: &StateName, face: Face) {
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.pid == pid && seen.state == *state) {
            seen.given.set(face, true);
            seen.broken = true;
        }
    }
}
