//! One connection, from its first words to its end.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use stated_shared::limits::{CHUNK_LEN_MAX, FRAME_LEN_MAX};
use stated_shared::wire::{ClientFrame, ClientHello, FrameError, ServerHello, decode, encode};
use stated_shared::{Actor, Failure, FailureKind, Notice, ProcessRef, Reply, Request, SessionId};
use tokio::net::UnixStream;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::asker::{Asker, Refusal, explain};
use super::fetch::answer_get;
use super::frames::{FrameReader, ReadError};
use super::handshake::{Greeting, HandshakeError, shake_hands};
use super::limits::{LINGER_TIMEOUT, OUTSTANDING_MAX, ROOM_TIMEOUT, STOP_TIMEOUT};
use super::listener::{Admission, Door};
use super::outbox::SocketOutbox;
use super::upload::{Upload, UploadError};
use super::validate::{content_lens, validate};
use crate::engine::ContentPermit;
use crate::engine::Outbox;
use crate::engine::{Access, ConnectionId, Denied, Service, Submission};
use crate::host::{Peer, Process, ProcessError};
use crate::policy::deed;

/// A peer that does not keep to the protocol; its connection ends without an answer.
#[derive(Debug, thiserror::Error)]
enum Violation {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("a chunk arrived that no request announced")]
    StrayChunk,
    #[error("the number {0} came again before its answer")]
    NumberInUse(u64),
}

/// Why a connection ended.
enum End {
    HungUp,
    Violated(Violation),
    Cut,
    Stopping,
}

/// A session's connection that is served.
struct Connection<S> {
    door: Arc<Door<S>>,
    outbox: Arc<SocketOutbox>,
    reader: FrameReader,
    peer: Peer,
    asker: Arc<Asker>,
    actor: Actor,
    session: SessionId,
    id: ConnectionId,
}

/// Serves a connection to its end.
pub(super) async fn run<S: Service>(
    door: Arc<Door<S>>,
    stream: UnixStream,
    (peer, asker): (Peer, Asker),
    admission: Admission,
) {
    let (uid, pid) = (peer.uid, peer.pid);
    let socket = Arc::new(stream);
    let outbox = Arc::new(SocketOutbox::new(Arc::clone(&socket), door.pending.clone()));
    let mut reader = FrameReader::new(Arc::clone(&socket));
    let greeting = tokio::select! {
        biased;
        () = door.stop.cancelled() => return,
        greeting = shake_hands(&mut reader, &outbox) => greeting,
    };
    let Greeting { hello, preamble } = match greeting {
        Ok(greeting) => greeting,
        Err(error @ HandshakeError::Version { .. }) => {
            tracing::info!(uid, pid, %error, "refused");
            return part(&outbox, &mut reader).await;
        }
        Err(error) => return tracing::info!(uid, pid, %error, "refused"),
    };
    let answer =
        |hello: &ServerHello| [preamble.as_ref().map_or(&[][..], |bytes| bytes), &server_hello(hello)].concat();
    let (session, pin) = (hello.session, hello.pin);
    let actor = door.actor(&peer, hello).await;
    let place = match admission {
        Admission::Admitted(place) => place,
        Admission::Refused(failure) => {
            tracing::warn!(uid, pid, %failure, "refused");
            if failure.kind == FailureKind::Denied {
                door.service.denied(Denied { actor, verb: "connect", names: Vec::new() });
            }
            outbox.send(answer(&Err(failure)));
            return part(&outbox, &mut reader).await;
        }
    };
    outbox.hold();
    let opened = match door.service.open(session, actor.clone(), Arc::clone(&outbox) as Arc<dyn Outbox>).await {
        Ok(opened) => opened,
        Err(failure) => {
            tracing::info!(uid, pid, %session, %failure, "session refused");
            outbox.release(answer(&Err(failure)));
            return part(&outbox, &mut reader).await;
        }
    };
    outbox.release(answer(&Ok(door.service.welcome(opened.resumed, pin))));
    tracing::debug!(uid, pid, %session, resumed = opened.resumed, "connected");
    let writer = door.tasks.spawn({
        let outbox = Arc::clone(&outbox);
        async move { outbox.drain(&socket).await }
    });
    let (asker, id) = (Arc::new(asker), opened.connection);
    Connection { door, outbox, reader, peer, asker, actor, session, id }.serve().await;
    // Cannot fail but by a panic, which is reported on its own.
    let _ = writer.await;
    drop(place);
}

/// Lets a refused peer read why, and ends its connection.
async fn part(outbox: &SocketOutbox, reader: &mut FrameReader) {
    outbox.end();
    // Closing on bytes that it sent meanwhile could make it see a reset before our words.
    let _ = timeout(LINGER_TIMEOUT, reader.discard_all()).await;
    outbox.close();
}

fn server_hello(hello: &ServerHello) -> Vec<u8> {
    encode(hello)
        .or_else(|error| {
            tracing::error!(%error, "cannot send the hello");
            encode::<ServerHello>(&Err(Failure::new(FailureKind::Internal, "the hello does not fit into a frame")))
        })
        .expect("a short failure fits into a frame")
}

impl<S: Service> Door<S> {
    async fn actor(&self, peer: &Peer, hello: ClientHello) -> Actor {
        let uid = peer.uid;
        let user = match self.users.remembered(uid) {
            Some(user) => user,
            None => {
                // The user database may be slow; other connections must not wait for it.
                let users = Arc::clone(&self.users);
                tokio::task::spawn_blocking(move || users.name(uid)).await.unwrap_or_default()
            }
        };
        Actor {
            uid,
            gid: peer.gid,
            pid: peer.pid,
            user,
            comm: peer.comm.clone(),
            exe: hello.exe,
            host: self.host.clone(),
            session: hello.session,
        }
    }
}

impl<S: Service> Connection<S> {
    async fn serve(mut self) {
        let (outbox, stop) = (Arc::clone(&self.outbox), self.door.stop.clone());
        let end = tokio::select! {
            biased;
            () = outbox.cut_token().cancelled() => End::Cut,
            () = stop.cancelled() => End::Stopping,
            served = self.requests() => match served {
                Ok(()) => End::HungUp,
                Err(violation) => End::Violated(violation),
            },
        };
        let (uid, pid, session) = (self.peer.uid, self.peer.pid, self.session);
        match &end {
            End::HungUp => tracing::debug!(uid, pid, %session, "disconnected"),
            End::Violated(violation) => tracing::warn!(uid, pid, %session, %violation, "cut"),
            End::Cut => tracing::warn!(uid, pid, %session, reason = outbox.cut_reason(), "cut"),
            End::Stopping => {
                outbox.notice(Notice::Closing);
                tokio::select! {
                    () = outbox.cut_token().cancelled() => {}
                    settled = timeout(STOP_TIMEOUT, outbox.settled()) => if settled.is_err() {
                        tracing::info!(uid, pid, %session, "stopping with unanswered requests");
                    },
                }
            }
        }
        outbox.close();
        if !matches!(end, End::Stopping) {
            self.door.service.close(session, self.id).await;
        }
    }

    /// Serves requests until the peer hangs up.
    async fn requests(&mut self) -> Result<(), Violation> {
        loop {
            if self.outbox.outstanding_count() >= OUTSTANDING_MAX {
                tokio::select! {
                    biased;
                    () = self.outbox.fewer_outstanding_than(OUTSTANDING_MAX) => {}
                    // Else a client that died with too many waiting locks would keep its places in their queues.
                    () = self.reader.hung_up() => return Ok(()),
                }
            }
            // A peer that never stops asking lets the others be heard.
            consume_budget().await;
            let Some(frame) = self.reader.frame(FRAME_LEN_MAX, None, Some(&self.door.large_frames)).await? else {
                return Ok(());
            };
            let (number, request) = match decode(frame.body)? {
                ClientFrame::Request { number, request } => (number, *request),
                ClientFrame::Chunk { .. } => return Err(Violation::StrayChunk),
            };
            // Kept no longer: the content may have to wait for room, which must not depend on who waits for this.
            drop(frame.room);
            // A number that was answered on this connection is a retry, which the engine answers from memory.
            if self.outbox.is_outstanding(number) {
                return Err(Violation::NumberInUse(number));
            }
            self.request(number, request).await?;
        }
    }

    async fn request(&mut self, number: u64, mut request: Request) -> Result<(), Violation> {
        // First of all: the descriptor that belongs to a refused request must not be taken for the next one's.
        let process = self.process_of(&request);
        let checked = validate(&request).and(process);
        let (total_len, streamed_len) = match &request {
            Request::Commit(commit) => content_lens(commit),
            _ => (0, 0),
        };
        if let (Ok(_), Err(Refusal { failure, names })) = (&checked, self.asker.check(&request)) {
            let names = self.door.denials.named(self.peer.uid, names);
            let denied = Denied { actor: self.actor.clone(), verb: deed(&request), names };
            tracing::debug!(uid = self.peer.uid, verb = denied.verb, "denied");
            self.outbox.expect(number);
            self.door.service.refuse((self.session, self.id, number), failure, denied).await;
            return Ok(Upload::new(&mut self.reader, number, streamed_len).discard().await?);
        }
        let checked = match checked {
            Ok(process) => self.room(total_len, streamed_len).await.map(|room| (process, room)),
            Err(failure) => Err(failure),
        };
        let (process, room) = match checked {
            Ok(checked) => checked,
            Err(failure) => {
                self.outbox.reply(number, Err(failure));
                return Ok(Upload::new(&mut self.reader, number, streamed_len).discard().await?);
            }
        };
        if let Request::Commit(commit) = &mut request {
            Upload::new(&mut self.reader, number, streamed_len).receive(commit).await?;
        }
        self.outbox.expect(number);
        if let Request::Get { state, at } = request {
            let (service, outbox, session) = (self.door.service.clone(), Arc::clone(&self.outbox), self.session);
            let mut answer = Box::pin(async move {
                // A peer that was cut has no use for an answer.
                let _ = answer_get(service, &outbox, session, number, (state, at)).await;
            });
            // A small content is read and sent here and now. What has to wait does so in a task of its own, so that a
            // large content does not hold up the requests behind it.
            if answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                self.door.tasks.spawn(answer);
            }
        } else if let Request::Changes { glob, after, wait_ms } = request {
            let (service, outbox, stop) = (self.door.service.clone(), Arc::clone(&self.outbox), self.door.stop.clone());
            let (asker, wait) = (Arc::clone(&self.asker), Duration::from_millis(wait_ms));
            self.door.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = outbox.cut_token().cancelled() => {}
                    // Unanswered: the session asks the successor for what comes next.
                    () = stop.cancelled() => outbox.finish(number),
                    page = service.changes(asker, glob, after, wait) => outbox.reply(number, page.map(Reply::Changes)),
                }
            });
        } else if let Request::Access(check) = request {
            let (door, asker, outbox) = (Arc::clone(&self.door), Arc::clone(&self.asker), Arc::clone(&self.outbox));
            let (of, actor) = ((self.session, self.id, number), self.actor.clone());
            // Not here: the user database may be slow.
            self.door.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = outbox.cut_token().cancelled() => {}
                    answer = explain(&asker, check) => match answer {
                        Err(Refusal { failure, names }) if failure.kind == FailureKind::Denied => {
                            let names = door.denials.named(actor.uid, names);
                            door.service.refuse(of, failure, Denied { actor, verb: "access", names }).await;
                        }
                        answer => outbox.reply(number, answer.map_err(|refusal| refusal.failure)),
                    },
                }
            });
        } else {
            let (session, connection) = (self.session, self.id);
            let access = Arc::clone(&self.asker) as Arc<dyn Access>;
            let submission = Submission { session, connection, number, request, process, room, access };
            self.door.service.submit(submission).await;
        }
        Ok(())
    }

    /// Waits for room for the contents, and for a chunk on its way to them.
    async fn room(&self, total_len: u64, streamed_len: u64) -> Result<Option<ContentPermit>, Failure> {
        if total_len == 0 {
            return Ok(None);
        }
        let len = if streamed_len == 0 { total_len } else { total_len + CHUNK_LEN_MAX as u64 };
        match timeout(ROOM_TIMEOUT, self.door.service.budget().room(len)).await {
            Ok(room) => room.map(Some),
            Err(_) => Err(Failure::new(FailureKind::Unavailable, "the daemon has no room for the content at present")
                .hint("try again when other large commits have ended")),
        }
    }

    /// Takes hold of the process that a request refers to.
    fn process_of(&mut self, request: &Request) -> Result<Option<Process>, Failure> {
        let reference = match request {
            Request::Lock(lock) => lock.process,
            Request::Bind { process, .. } => Some(*process),
            _ => None,
        };
        match reference {
            None => Ok(None),
            Some(ProcessRef::Descriptor) => {
                let descriptor = self.reader.take_descriptor().ok_or_else(|| {
                    Failure::new(FailureKind::Usage, "the request names a descriptor, and none came with it")
                })?;
                Process::from_descriptor(descriptor).map(Some).map_err(|error| process_failure(&error))
            }
            Some(ProcessRef::Pid(pid)) => process_by_pid(&self.peer, pid).map(Some),
        }
    }
}

/// Opens a process that a peer names by its number.
fn process_by_pid(peer: &Peer, pid: u32) -> Result<Process, Failure> {
    if !peer.shares_pid_namespace {
        let message = format!("the process ID {pid} may mean another process here");
        return Err(Failure::new(FailureKind::Usage, message).hint("send a pidfd instead"));
    }
    let process = Process::open(pid).map_err(|error| process_failure(&error))?;
    let may_bind =
        peer.uid == 0 || process.users().is_some_and(|(real, effective)| [real, effective].contains(&peer.uid));
    if may_bind {
        return Ok(process);
    }
    if process.is_gone() {
        return Err(process_failure(&ProcessError::Gone(pid)));
    }
    Err(Failure::new(FailureKind::Denied, format!("process {pid} is not uid {}'s", peer.uid)))
}

fn process_failure(error: &ProcessError) -> Failure {
    match error {
        ProcessError::NotAPidfd => Failure::new(FailureKind::Usage, error.to_string()),
        ProcessError::Gone(_) => Failure::new(FailureKind::NotFound, error.to_string()),
        ProcessError::Open { source, .. } => Failure::new(FailureKind::Other, format!("{error}: {source}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_bound_by_its_user_and_by_root() {
        let pid = std::process::id();
        let own = crate::host::own_uid();
        let peer = |uid, shares_pid_namespace| Peer {
            uid,
            gid: 0,
            groups: Vec::new(),
            pid: None,
            comm: None,
            shares_pid_namespace,
        };
        assert_eq!(process_by_pid(&peer(own, true), pid).unwrap().pid(), Some(pid));
        assert_eq!(process_by_pid(&peer(0, true), pid).unwrap().pid(), Some(pid));
        assert_eq!(process_by_pid(&peer(own + 1, true), pid).unwrap_err().kind, FailureKind::Denied);
        assert_eq!(process_by_pid(&peer(own, false), pid).unwrap_err().kind, FailureKind::Usage);
        assert_eq!(process_by_pid(&peer(own, true), u32::MAX).unwrap_err().kind, FailureKind::NotFound);
    }
}
