//! Accepts connections until the daemon stops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stated_shared::{Failure, FailureKind};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::asker::Asker;
use super::connection;
use super::denials::Denials;
use super::limits::{
    ACCEPT_REST, CONNECTIONS_MAX, CONNECTIONS_PER_UID_MAX, LARGE_FRAMES_LEN_MAX, REFUSALS_MAX, STOP_TIMEOUT,
};
use super::outbox::PendingTotal;
use crate::engine::ContentBudget;
use crate::engine::Service;
use crate::host::{Peer, Socket, Users, host_name};
use crate::policy::Policies;

/// Who may connect, and how often.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Who may, and what.
    pub policies: Arc<Policies>,
    /// Connections of the whole daemon.
    pub connections_max: usize,
    /// Connections of one user.
    pub connections_per_uid_max: usize,
}

impl Rules {
    /// Whoever the policy lets in, as often as a daemon can bear.
    pub fn of(policies: Arc<Policies>) -> Self {
        Self { policies, connections_max: CONNECTIONS_MAX, connections_per_uid_max: CONNECTIONS_PER_UID_MAX }
    }
}

/// What all connections share.
pub(super) struct Door<S> {
    pub(super) service: S,
    pub(super) users: Arc<Users>,
    pub(super) host: String,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Room for frames that are large and not decoded yet.
    pub(super) large_frames: ContentBudget,
    pub(super) pending: PendingTotal,
    rules: Rules,
    refusals: Arc<Semaphore>,
    per_uid: Arc<PerUid>,
    pub(super) denials: Denials,
}

/// A connection's place among those of its user.
#[derive(Debug)]
pub(super) struct Place {
    uid: u32,
    per_uid: Arc<PerUid>,
}

#[derive(Debug, Default)]
struct PerUid(Mutex<HashMap<u32, usize>>);

/// What was decided at the door.
pub(super) enum Admission {
    /// It may speak.
    Admitted(Place),
    /// It is told this, once it has said who it is.
    Refused(Failure),
}

/// Accepts and serves connections until `stop`; returns when the last one has ended, at most some 2 s later.
///
/// The engine must live as long: it answers what is in flight. The socket is unlinked at once when the daemon stops, so
/// that a client starts a successor instead of waiting for us; the directory lock keeps that one waiting.
pub async fn serve<S: Service>(socket: Socket, service: S, users: Arc<Users>, rules: Rules, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(rules.connections_max));
    let door = Arc::new(Door {
        service,
        users,
        host: host_name(),
        stop: stop.clone(),
        tasks: TaskTracker::new(),
        large_frames: ContentBudget::new(LARGE_FRAMES_LEN_MAX),
        pending: PendingTotal::default(),
        rules,
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        per_uid: Arc::default(),
        denials: Denials::default(),
    });
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let slot = Arc::clone(&connections).try_acquire_owned().ok();
                door.tasks.spawn(greet(Arc::clone(&door), stream, slot));
            }
            Err(error) => {
                // Most likely out of descriptors: some connection will end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(ACCEPT_REST) => {}
                }
            }
        }
    }
    drop(socket);
    door.tasks.close();
    tracing::debug!(connections = door.tasks.len(), limit = ?STOP_TIMEOUT, "waiting for connections to end");
    door.tasks.wait().await;
}

/// Decides who may come in.
async fn greet<S: Service>(door: Arc<Door<S>>, stream: UnixStream, slot: Option<OwnedSemaphorePermit>) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!(%error, "cannot tell who connected"),
    };
    let asker = Asker::new(&door.rules.policies, &peer);
    let admission = door.admit(&asker, slot.is_some());
    // Being told why one is refused is a service with few places, so that it costs the daemon little.
    let _refusal = match &admission {
        Admission::Admitted(_) => None,
        Admission::Refused(failure) => match Arc::clone(&door.refusals).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => return tracing::warn!(uid = peer.uid, pid = peer.pid, %failure, "refused without a word"),
        },
    };
    connection::run(door, stream, (peer, asker), admission).await;
}

impl<S> Door<S> {
    fn admit(&self, asker: &Asker, has_slot: bool) -> Admission {
        let view = asker.view();
        let uid = view.subject().uid();
        if !view.may_connect() {
            return Admission::Refused(view.stranger());
        }
        if !has_slot {
            let max = self.rules.connections_max;
            return Admission::Refused(crowded(format!("the daemon has {max} connections and takes no more")));
        }
        let mut counts = self.per_uid.counts();
        let count = counts.entry(uid).or_default();
        if *count >= self.rules.connections_per_uid_max {
            let message = format!("uid {uid} has {count} connections and may have no more");
            return Admission::Refused(crowded(message));
        }
        *count += 1;
        Admission::Admitted(Place { uid, per_uid: Arc::clone(&self.per_uid) })
    }
}

fn crowded(message: String) -> Failure {
    Failure::new(FailureKind::Unavailable, message).hint("try again when a client has ended")
}

impl PerUid {
    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.per_uid.counts();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}
