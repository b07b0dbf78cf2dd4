//! Who is connected, and what they are told besides answers.

use std::sync::Arc;

use stated_shared::{Failure, FailureKind, LockId, Notice, Reply, SessionId};

use super::batch::{Prepared, Told};
use super::{Owner, View};
use crate::engine::outbox::Outbox;
use crate::engine::service::{ConnectionId, Opened};
use crate::machine::event::{Actor, What};
use crate::machine::{Link, Motion, Step};

/// A session with a connection.
pub(super) struct Connected {
    pub connection: ConnectionId,
    pub actor: Arc<Actor>,
    /// The peer's ID and start time, read when its first lock needs it.
    pub mark: Option<Option<(u32, u64)>>,
    pub outbox: Arc<dyn Outbox>,
}

impl Owner {
    pub(super) fn view(&self) -> View {
        let mut notes = self.parts.notes.clone();
        if self.parts.machine.is_frozen() {
            notes.push("locks are not granted yet: the daemon stopped without telling who held them".to_owned());
        }
        let awaited = self.parts.machine.locks().awaited_count();
        if awaited > 0 {
            notes.push(format!("{awaited} locks from before the restart wait for their holders to come back"));
        }
        View { time: self.time, sessions: self.sessions.len(), notes }
    }

    pub(super) fn open(
        &mut self,
        session: SessionId,
        actor: Actor,
        outbox: Arc<dyn Outbox>,
    ) -> Result<Opened, Failure> {
        let locks = self.parts.machine.locks();
        let held = locks.of_session(session).next();
        let owner = held
            .map(|grant| grant.holder.uid)
            .or_else(|| self.sessions.get(&session).map(|connected| connected.actor.uid))
            .or_else(|| self.parts.machine.answers().owner(session));
        if owner.is_some_and(|uid| uid != actor.uid) {
            return Err(Failure::new(FailureKind::Denied, "the session belongs to another user"));
        }
        let resumed = held.is_some();
        // Whoever takes a session over asks again for what it waited for.
        let left: Vec<_> = locks.waiting_of(session).map(|waiter| (waiter.ticket, waiter.grant.number)).collect();
        for (ticket, number) in left {
            self.parts.book.drop_waiting(session, number);
            self.turn(Motion::Left(ticket));
        }
        if resumed {
            self.turn(Motion::Linked(session, Link::Up));
        }
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.sessions.insert(session, Connected { connection, actor: Arc::new(actor), mark: None, outbox });
        Ok(Opened { resumed, connection })
    }

    pub(super) fn outbox(&self, session: SessionId, connection: ConnectionId) -> Option<Arc<dyn Outbox>> {
        let connected = self.sessions.get(&session).filter(|connected| connected.connection == connection)?;
        Some(Arc::clone(&connected.outbox))
    }

    pub(super) fn close_session(&mut self, session: SessionId, connection: ConnectionId) {
        if self.sessions.get(&session).is_none_or(|connected| connected.connection != connection) {
            return;
        }
        self.sessions.remove(&session);
        for waiter in self.parts.machine.locks().waiting_of(session) {
            self.parts.book.drop_waiting(session, waiter.grant.number);
        }
        for step in self.parts.machine.unlink(session) {
            if let Step::Move(motion) = step {
                self.turn(motion);
            }
        }
        if self.parts.machine.answers().owner(session).is_some() {
            self.forget.push_back((self.time.boottime_ms + stated_shared::limits::ANSWERS_KEPT_MS, session));
        }
    }

    pub(super) fn give_up_peer(&mut self, session: SessionId) {
        if !self.sessions.contains_key(&session) {
            self.turn(Motion::Linked(session, Link::Down));
        }
    }

    pub(super) fn tell(&mut self, session: SessionId, number: u64, result: Result<Reply, Failure>) {
        if let Some(connected) = self.sessions.get(&session) {
            self.batch.told.push(Told::Reply(Arc::clone(&connected.outbox), number, result));
        }
    }

    /// Tells the holders of broken grants.
    pub(super) fn tell_broken(&mut self, prepared: &Prepared, why: &str) {
        for step in &prepared.steps {
            let Step::Record(event) = step else { continue };
            let What::Broken(broken) = &event.what else { continue };
            for grant in &broken.grants {
                self.tell_lost(grant.holder.session, &grant.id, why);
            }
        }
    }

    pub(super) fn tell_lost(&mut self, session: SessionId, id: &LockId, why: &str) {
        if let Some(connected) = self.sessions.get(&session) {
            let notice = Notice::LockLost { id: id.clone(), why: why.to_owned() };
            self.batch.told.push(Told::Notice(Arc::clone(&connected.outbox), notice));
        }
    }
}
