//! One request and its answer: sent, repeated over a lost connection, accounted for.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use stated_shared::limits::{CHUNK_LEN_MAX, CONTENT_LEN_MAX};
use stated_shared::wire::{ClientFrame, ServerFrame, encode};
use stated_shared::{Bytes, Committed, Failure, FailureKind, Lock, Reply, Request, Wait};

use super::resume::{Link, is_passing};
use super::{Client, Direction, Progress};
use crate::connection::{Broken, Incoming};
use crate::retry::Bound;

/// What is reserved for a content before its bytes arrive.
const RESERVE_LEN_MAX: u64 = 16 << 20;

/// The number of a session's first request.
pub(super) const FIRST: u64 = 1;

/// The bytes that belong to a request besides its frame.
#[derive(Clone, Copy)]
pub(super) struct Attachment<'a> {
    pub(super) contents: &'a [Bytes],
    pub(super) descriptor: Option<BorrowedFd<'a>>,
}

impl Client {
    /// Numbers the request and repeats it until it is answered.
    pub(super) fn exchange(
        &mut self,
        request: &Request,
        attachment: Attachment<'_>,
    ) -> Result<(Reply, Vec<u8>), Failure> {
        self.number += 1;
        let number = self.number;
        let mut bound = Bound::new(waits_for_lock(request));
        let asked = Instant::now();
        let mut sent = false;
        loop {
            let result = self.resume(&mut bound).and_then(|()| {
                sent = true;
                self.attempt(number, request, asked, attachment)
            });
            match result {
                Ok(answer) => {
                    self.account(request, &answer.0);
                    return Ok(answer);
                }
                Err(Broken::Lost(_)) => self.link = Link::down(),
                Err(Broken::Refused(failure)) => {
                    if matches!(request, Request::Unlock { .. }) && failure.kind == FailureKind::NotFound {
                        self.account(request, &Reply::Done);
                    }
                    let connected = matches!(self.link, Link::Up { .. });
                    return Err(if sent && !connected && writes(request) { unknown(failure) } else { failure });
                }
            }
        }
    }

    /// Sends the request once and waits for its answer.
    fn attempt(
        &mut self,
        number: u64,
        request: &Request,
        asked: Instant,
        attachment: Attachment<'_>,
    ) -> Result<(Reply, Vec<u8>), Broken> {
        // What went out with the hello is on its way already, unless that connection was lost since.
        if std::mem::take(&mut self.ahead) && number == FIRST {
            return self.await_reply(number, None);
        }
        let request = Box::new(still_waiting(request, asked.elapsed()));
        let frame = encode(&ClientFrame::Request { number, request }).map_err(|error| {
            Broken::Refused(Failure::new(FailureKind::Usage, format!("request too large: {error}")))
        })?;
        match self.send_request(number, &frame, attachment) {
            Ok(()) => self.await_reply(number, None),
            // A server that refuses a content may close before it read all of it: its answer is here then.
            Err(Broken::Lost(error)) => match self.await_reply(number, Some(Instant::now())) {
                Err(Broken::Lost(_)) => Err(Broken::Lost(error)),
                answer => answer,
            },
            Err(refused) => Err(refused),
        }
    }

    fn send_request(&mut self, number: u64, frame: &[u8], attachment: Attachment<'_>) -> Result<(), Broken> {
        self.connection()?.send(frame, attachment.descriptor)?;
        let total_bytes = attachment.contents.iter().map(|content| content.0.len() as u64).sum();
        let mut done_bytes = 0;
        for content in attachment.contents {
            for piece in content.0.chunks(CHUNK_LEN_MAX) {
                let chunk = encode(&ClientFrame::Chunk { number, data: Bytes(piece.to_vec()) })?;
                self.connection()?.send(&chunk, None)?;
                done_bytes += piece.len() as u64;
                self.passed(Progress { direction: Direction::ToDaemon, done_bytes, total_bytes });
            }
        }
        Ok(())
    }

    fn await_reply(&mut self, number: u64, deadline: Option<Instant>) -> Result<(Reply, Vec<u8>), Broken> {
        loop {
            match self.receive(deadline)? {
                Incoming::Frame(ServerFrame::Reply { number: of, result }) if of == number => match *result {
                    Ok(reply) => {
                        let content = self.await_content(number, &reply)?;
                        return Ok((reply, content));
                    }
                    Err(failure) if self.is_closing() && is_passing(&failure) => {
                        return Err(Broken::Lost(std::io::ErrorKind::ConnectionAborted.into()));
                    }
                    Err(failure) => return Err(Broken::Refused(failure)),
                },
                other => self.unasked(other).map_err(Broken::Refused)?,
            }
        }
    }

    /// Reads the content that a reply announces.
    fn await_content(&mut self, number: u64, reply: &Reply) -> Result<Vec<u8>, Broken> {
        let Reply::Fetched(fetched) = reply else { return Ok(Vec::new()) };
        let size = fetched.version.content.as_ref().map_or(0, |content| content.size_bytes);
        let malformed = |why: &str| Broken::Refused(Failure::new(FailureKind::Protocol, format!("content {why}")));
        if size > CONTENT_LEN_MAX {
            return Err(malformed("announced over the limit"));
        }
        let mut content = Vec::with_capacity(size.min(RESERVE_LEN_MAX) as usize);
        while (content.len() as u64) < size {
            match self.receive(None)? {
                Incoming::Frame(ServerFrame::Chunk { number: of, data }) if of == number => {
                    if data.0.is_empty() || (content.len() + data.0.len()) as u64 > size {
                        return Err(malformed("in chunks of the wrong size"));
                    }
                    content.extend_from_slice(&data.0);
                    let done_bytes = content.len() as u64;
                    self.passed(Progress { direction: Direction::FromDaemon, done_bytes, total_bytes: size });
                }
                Incoming::Frame(ServerFrame::Cut { number: of, failure }) if of == number => {
                    return Err(Broken::Refused(*failure));
                }
                other => self.unasked(other).map_err(Broken::Refused)?,
            }
        }
        Ok(content)
    }

    fn passed(&mut self, progress: Progress) {
        if let Some(handler) = &mut self.progress {
            handler(progress);
        }
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<Incoming, Broken> {
        self.connection()?.receive(deadline)?.ok_or_else(|| Broken::Lost(std::io::ErrorKind::TimedOut.into()))
    }

    /// Keeps the list of session locks, which says what a failed resumption has lost, and what was seen of the journal.
    pub(crate) fn account(&mut self, request: &Request, reply: &Reply) {
        match (request, reply) {
            (Request::Lock(lock), Reply::Granted(grant)) if lock.ttl_ms.is_none() => {
                self.held.insert(grant.id.clone());
            }
            (Request::Unlock { id }, Reply::Done) => {
                self.held.remove(id);
            }
            (_, Reply::Committed(Committed { seq: Some(seq), head: Some(head), .. })) => {
                self.witness.committed(self.welcome.repository, *seq, *head);
                self.hello.pin = self.witness.seq();
            }
            _ => {}
        }
    }
}

/// Whether a request may wait for as long as somebody else holds a lock.
pub(crate) fn waits_for_lock(request: &Request) -> bool {
    matches!(request, Request::Lock(lock) if lock.wait != Wait::No)
}

/// Whether it matters that nobody knows whether the request was done.
pub(crate) fn writes(request: &Request) -> bool {
    match request {
        Request::Commit(_)
        | Request::Lock(_)
        | Request::Bind { .. }
        | Request::Unlock { .. }
        | Request::Renew { .. }
        | Request::Break { .. }
        | Request::Tag(_)
        | Request::Rekey(_) => true,
        Request::Prune(prune) => !prune.dry_run,
        Request::Get { .. }
        | Request::Show { .. }
        | Request::List { .. }
        | Request::Log { .. }
        | Request::Locks { .. }
        | Request::Audit { .. }
        | Request::Verify { .. }
        | Request::Status
        | Request::Access(_)
        | Request::Keys
        | Request::Backup(_)
        | Request::Changes { .. } => false,
    }
}

/// The request as it is sent now: a retry asks to wait only for what is left of the time.
pub(crate) fn still_waiting(request: &Request, elapsed: Duration) -> Request {
    let mut request = request.clone();
    if let Request::Lock(Lock { wait: Wait::AtMost { ms }, .. }) = &mut request {
        *ms = ms.saturating_sub(elapsed.as_millis() as u64);
    }
    request
}

/// The third outcome: neither done nor refused, as far as anybody can tell.
pub(crate) fn unknown(failure: Failure) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("outcome unknown: {}", failure.message))
        .hint("look at what is there (statectl log STATE, statectl locks) before you try again")
}
