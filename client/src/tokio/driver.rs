//! The task that owns the session's connection: it sends what is asked, sorts what comes, and resumes what was lost.
//!
//! What a session means (numbers, retries, pins, held locks) is the blocking [`crate::Client`]'s, which this task owns
//! and asks. Its own is only to do many requests at once and to wait without a thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use stated_shared::limits::{CHUNK_LEN_MAX, CONTENT_LEN_MAX};
use stated_shared::wire::{ClientFrame, ServerFrame, encode};
use stated_shared::{Bytes, Failure, FailureKind, LockId, Notice, Reply, Request};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::guard::LockGuard;
use crate::client::{WELCOME_MAX, is_passing, still_waiting, unknown, waits_for_lock, writes};
use crate::connection::{Broken, Connection, Incoming};
use crate::discover;
use crate::retry::{Bound, Pauses};

/// Requests without an answer; the daemon reads no further than 256.
const OUTSTANDING_MAX: usize = 128;
/// Frames that are read before others have their turn.
const FRAMES_MAX: usize = 64;
/// What is reserved for a content before its bytes arrive.
const RESERVE_LEN_MAX: u64 = 16 << 20;

/// What the handles tell the task.
pub(super) enum Command {
    /// Ask the daemon.
    Ask { request: Request, contents: Vec<Bytes>, answer: Answer },
    /// Give a grant back whose holder is gone.
    Release(LockId),
}

/// Who waits for an answer. One who is gone is found out when it is given.
pub(super) enum Answer {
    Reply(oneshot::Sender<Result<(Reply, Vec<u8>), Failure>>),
    /// A grant that nobody takes is given back by its guard.
    Guard(oneshot::Sender<Result<LockGuard, Failure>>),
    Nobody,
}

/// A request without an answer.
struct Outstanding {
    request: Request,
    contents: Arc<Vec<Bytes>>,
    answer: Answer,
    asked: Instant,
    bound: Bound,
    /// While the connection is down: until when it is waited for.
    give_up: Option<Instant>,
    /// Whether the daemon may have got it, on this connection or one before.
    sent: bool,
    /// The content that is arriving, and its whole length.
    fetched: Option<(Reply, Vec<u8>, u64)>,
}

/// How far a request is sent. It goes on also when the answer came meanwhile: the daemon counts the bytes.
struct Sending {
    number: u64,
    /// Whether its frame is encoded; its contents follow.
    begun: bool,
    contents: Arc<Vec<Bytes>>,
    /// The content that is next, and how much of it is sent.
    at: (usize, usize),
}

impl Sending {
    fn new(number: u64, contents: Arc<Vec<Bytes>>) -> Self {
        Self { number, begun: false, contents, at: (0, 0) }
    }

    /// The next piece of its contents.
    fn chunk(&mut self) -> Option<Bytes> {
        let (index, start) = self.at;
        let content = &self.contents.get(index)?.0;
        let end = (start + CHUNK_LEN_MAX).min(content.len());
        self.at = if end == content.len() { (index + 1, 0) } else { (index, end) };
        Some(Bytes(content[start..end].to_vec()))
    }
}

enum End {
    /// Nobody is left who could ask.
    Finished,
    Lost,
    Refused(Failure),
}

/// The task.
pub(super) struct Driver {
    /// Absent only while another thread connects with it.
    core: Option<crate::Client>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For the guards; the handles alone keep the task alive.
    sender: mpsc::WeakUnboundedSender<Command>,
    /// What the core says of lost locks, in passing.
    heard: std::sync::mpsc::Receiver<Notice>,
    outstanding: BTreeMap<u64, Outstanding>,
    sending: VecDeque<Sending>,
    /// Encoded and not yet sent.
    out: Vec<u8>,
    out_at: usize,
    number: u64,
    losses: HashMap<LockId, watch::Sender<Option<String>>>,
    /// The daemon said that it stops.
    closing: bool,
    finished: bool,
}

impl Driver {
    pub(super) fn new(
        mut core: crate::Client,
        commands: mpsc::UnboundedReceiver<Command>,
        sender: mpsc::WeakUnboundedSender<Command>,
        notices: broadcast::Sender<Notice>,
    ) -> Self {
        let (hear, heard) = std::sync::mpsc::channel();
        core.on_notice(Box::new(move |notice| {
            // Nobody has to listen to all of them; the losses are told to their guards.
            let _ = notices.send(notice.clone());
            let _ = hear.send(notice.clone());
        }));
        Self {
            core: Some(core),
            commands,
            sender,
            heard,
            outstanding: BTreeMap::new(),
            sending: VecDeque::new(),
            out: Vec::new(),
            out_at: 0,
            number: 0,
            losses: HashMap::new(),
            closing: false,
            finished: false,
        }
    }

    /// Serves until the last handle and the last guard are gone, which ends the session.
    pub(super) async fn run(mut self) {
        let mut connection = self.core().take_connection();
        loop {
            let Some(mut open) = connection.take() else {
                if !self.is_needed() {
                    match self.commands.recv().await {
                        Some(command) => self.take(command),
                        None => return,
                    }
                }
                match self.reconnect().await {
                    Ok(reconnected) => connection = reconnected,
                    Err(Gone) => return,
                }
                continue;
            };
            let end = match open.watched().and_then(UnixStream::from_std) {
                Ok(watched) => self.serve(&mut open, &watched).await,
                Err(error) => End::Refused(Failure::new(FailureKind::Other, format!("cannot await a socket: {error}"))),
            };
            match end {
                End::Finished => return,
                End::Lost => {}
                End::Refused(failure) => self.fail_all(&failure),
            }
        }
    }

    fn core(&mut self) -> &mut crate::Client {
        self.core.as_mut().expect("only a reconnection takes it, and gives it back")
    }

    /// Whether a lost connection is missed by anybody.
    fn is_needed(&mut self) -> bool {
        !self.outstanding.is_empty() || self.core().holds_locks()
    }

    async fn serve(&mut self, connection: &mut Connection, watched: &UnixStream) -> End {
        loop {
            self.fill();
            let has_output = self.out_at < self.out.len();
            if self.finished && !has_output {
                return End::Finished;
            }
            let interest = if has_output { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let has_room = !self.finished && self.outstanding.len() < OUTSTANDING_MAX;
            tokio::select! {
                command = self.commands.recv(), if has_room => match command {
                    Some(command) => self.take(command),
                    None => self.finished = true,
                },
                ready = watched.ready(interest) => {
                    let Ok(ready) = ready else { return End::Lost };
                    // In the closures, so that what becomes ready meanwhile is not forgotten.
                    if has_output && ready.is_writable() {
                        let written = watched.try_io(Interest::WRITABLE, || at_once(self.write(connection)));
                        if let Ok(Err(broken)) = written {
                            // What it said before it closed may answer what could not be sent.
                            return match self.read(connection) {
                                Err(Broken::Refused(failure)) => End::Refused(failure),
                                _ => broken.into(),
                            };
                        }
                    }
                    if ready.is_readable() {
                        let read = watched.try_io(Interest::READABLE, || at_once(self.read(connection)));
                        if let Ok(Err(broken)) = read {
                            return broken.into();
                        }
                    }
                }
            }
        }
    }

    /// Takes a request over, to be sent when its turn comes.
    fn take(&mut self, command: Command) {
        match command {
            Command::Ask { request, contents, answer } => {
                self.number += 1;
                let bound = Bound::new(waits_for_lock(&request));
                let contents = Arc::new(contents);
                self.sending.push_back(Sending::new(self.number, Arc::clone(&contents)));
                let (asked, sent) = (Instant::now(), false);
                let outstanding =
                    Outstanding { request, contents, answer, asked, bound, give_up: None, sent, fetched: None };
                self.outstanding.insert(self.number, outstanding);
            }
            Command::Release(id) => {
                self.losses.remove(&id);
                let (request, contents) = (Request::Unlock { id }, Vec::new());
                self.take(Command::Ask { request, contents, answer: Answer::Nobody });
            }
        }
    }

    /// Encodes what is to be sent next, where nothing is.
    fn fill(&mut self) {
        while self.out_at == self.out.len()
            && let Some(sending) = self.sending.front_mut()
        {
            (self.out, self.out_at) = (Vec::new(), 0);
            let number = sending.number;
            let frame = if std::mem::replace(&mut sending.begun, true) {
                sending.chunk().map(|data| encode(&ClientFrame::Chunk { number, data }))
            } else {
                self.outstanding.get_mut(&number).map(|outstanding| {
                    outstanding.sent = true;
                    let request = Box::new(still_waiting(&outstanding.request, outstanding.asked.elapsed()));
                    encode(&ClientFrame::Request { number, request })
                })
            };
            match frame {
                Some(Ok(frame)) => self.out = frame,
                None => drop(self.sending.pop_front()),
                Some(Err(error)) => {
                    self.sending.pop_front();
                    let failure = Failure::new(FailureKind::Usage, format!("request too large: {error}"));
                    self.deliver(number, Err(failure));
                }
            }
        }
    }

    /// Sends what the socket takes; whether it took all.
    fn write(&mut self, connection: &mut Connection) -> Result<bool, Broken> {
        self.out_at += connection.send_some(&self.out[self.out_at..])?;
        Ok(self.out_at == self.out.len())
    }

    /// Reads what is there; whether there may be more.
    fn read(&mut self, connection: &mut Connection) -> Result<bool, Broken> {
        for _ in 0..FRAMES_MAX {
            match connection.receive(Some(Instant::now()))? {
                None => return Ok(false),
                Some(Incoming::Frame(frame)) => self.frame(frame)?,
                // The handshake was over before this task had the connection.
                Some(Incoming::Welcome(_)) => {}
            }
        }
        Ok(true)
    }

    fn frame(&mut self, frame: ServerFrame) -> Result<(), Broken> {
        let malformed = |why: &str| Broken::Refused(Failure::new(FailureKind::Protocol, format!("content {why}")));
        match frame {
            ServerFrame::Reply { number, result } => match *result {
                Ok(Reply::Fetched(fetched)) => {
                    let size = fetched.version.content.as_ref().map_or(0, |content| content.size_bytes);
                    if size > CONTENT_LEN_MAX {
                        return Err(malformed("announced over the limit"));
                    }
                    let content = Vec::with_capacity(size.min(RESERVE_LEN_MAX) as usize);
                    let reply = Reply::Fetched(fetched);
                    if size == 0 {
                        self.deliver(number, Ok((reply, content)));
                    } else if let Some(outstanding) = self.outstanding.get_mut(&number) {
                        outstanding.fetched = Some((reply, content, size));
                    }
                }
                // The successor of a daemon that stops has another answer.
                Err(failure) if self.closing && is_passing(&failure) => {}
                result => self.deliver(number, result.map(|reply| (reply, Vec::new()))),
            },
            ServerFrame::Chunk { number, data } => {
                let Some(outstanding) = self.outstanding.get_mut(&number) else { return Ok(()) };
                let Some((_, content, size)) = &mut outstanding.fetched else {
                    return Err(malformed("that no answer announced"));
                };
                content.extend_from_slice(&data.0);
                let (len, size) = (content.len() as u64, *size);
                if data.0.is_empty() || len > size {
                    return Err(malformed("in chunks of the wrong size"));
                }
                if len == size
                    && let Some((reply, content, _)) = outstanding.fetched.take()
                {
                    self.deliver(number, Ok((reply, content)));
                }
            }
            ServerFrame::Cut { number, failure } => self.deliver(number, Err(*failure)),
            ServerFrame::Notice(notice) => {
                self.closing |= matches!(*notice, Notice::Closing);
                self.core().notice(*notice);
                self.tell_losses();
            }
        }
        Ok(())
    }

    /// Tells the guards of grants that are gone.
    fn tell_losses(&mut self) {
        // They are told here.
        self.core().forget_notices();
        while let Ok(notice) = self.heard.try_recv() {
            let Notice::LockLost { id, why } = notice else { continue };
            if let Some(lost) = self.losses.remove(&id) {
                // A guard may be gone meanwhile.
                let _ = lost.send(Some(why));
            }
        }
    }

    fn deliver(&mut self, number: u64, result: Result<(Reply, Vec<u8>), Failure>) {
        let Some(Outstanding { request, answer, .. }) = self.outstanding.remove(&number) else { return };
        match &result {
            Ok((reply, _)) => self.core().account(&request, reply),
            // What is not held any more needs no giving back.
            Err(failure) if failure.kind == FailureKind::NotFound && matches!(request, Request::Unlock { .. }) => {
                self.core().account(&request, &Reply::Done);
            }
            Err(_) => {}
        }
        match answer {
            // Whoever asked may be gone.
            Answer::Reply(answer) => drop(answer.send(result)),
            Answer::Guard(answer) => match result {
                Ok((Reply::Granted(grant), _)) => {
                    let (lost, told) = watch::channel(None);
                    let id = grant.id.clone();
                    match self.sender.upgrade() {
                        Some(sender) => {
                            // Guards leave without a word here; the map must not grow with each.
                            self.losses.retain(|_, lost| !lost.is_closed());
                            self.losses.insert(id, lost);
                            drop(answer.send(Ok(LockGuard::new(grant, sender, told))));
                        }
                        None => self.take(Command::Release(id)),
                    }
                }
                Ok((other, _)) => drop(answer.send(Err(crate::client::unexpected(&other)))),
                Err(failure) => drop(answer.send(Err(failure))),
            },
            Answer::Nobody => {}
        }
    }

    /// Fails whatever waits: the session cannot go on, and what it held is nobody's any more.
    fn fail_all(&mut self, failure: &Failure) {
        for number in self.outstanding.keys().copied().collect::<Vec<_>>() {
            self.give_up(number, failure.clone());
        }
        (self.sending, self.out, self.out_at) = (VecDeque::new(), Vec::new(), 0);
        self.core().lose_held(&failure.message);
        self.tell_losses();
    }

    fn give_up(&mut self, number: u64, failure: Failure) {
        let Some(outstanding) = self.outstanding.get(&number) else { return };
        let failure = if outstanding.sent && writes(&outstanding.request) { unknown(failure) } else { failure };
        self.deliver(number, Err(failure));
    }

    /// Seeks another connection for as long as somebody waits for it; `None` where nobody does any more.
    async fn reconnect(&mut self) -> Result<Option<Connection>, Gone> {
        let lost_at = Instant::now();
        self.closing = false;
        for outstanding in self.outstanding.values_mut() {
            outstanding.give_up = Some(outstanding.bound.lost(lost_at));
            outstanding.fetched = None;
        }
        let mut pauses = Pauses::new();
        let mut last = Failure::new(FailureKind::Unavailable, "the connection was lost");
        loop {
            let now = Instant::now();
            let late = |(number, outstanding): (&u64, &Outstanding)| {
                outstanding.give_up.is_some_and(|until| until <= now).then_some(*number)
            };
            for number in self.outstanding.iter().filter_map(late).collect::<Vec<_>>() {
                self.give_up(number, last.clone());
            }
            // Guards count as holders of a handle.
            if self.commands.is_closed() && self.commands.is_empty() {
                return Err(Gone);
            }
            if !self.is_needed() {
                return Ok(None);
            }
            let core = self.core.take().ok_or(Gone)?;
            let (core, attempt) = tokio::task::spawn_blocking(move || try_again(core)).await.map_err(|_| Gone)?;
            self.core = Some(core);
            match attempt {
                Ok(connection) => {
                    self.tell_losses();
                    self.send_again(lost_at);
                    return Ok(connection);
                }
                Err(Broken::Lost(error)) => last = discover::unreachable(self.core().socket(), &error),
                Err(Broken::Refused(failure)) if is_passing(&failure) => last = failure,
                Err(Broken::Refused(failure)) => {
                    self.fail_all(&failure);
                    return Ok(None);
                }
            }
            tokio::time::sleep(pauses.next()).await;
        }
    }

    /// Queues all that has no answer yet, in the order of its numbers.
    fn send_again(&mut self, lost_at: Instant) {
        (self.out, self.out_at) = (Vec::new(), 0);
        self.sending.clear();
        for (number, outstanding) in &mut self.outstanding {
            outstanding.bound.resumed(lost_at.elapsed());
            outstanding.give_up = None;
            self.sending.push_back(Sending::new(*number, Arc::clone(&outstanding.contents)));
        }
    }
}

/// What a runtime has to know of an attempt: whether the socket would have made it wait.
fn at_once(done: Result<bool, Broken>) -> io::Result<Result<(), Broken>> {
    match done {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
        Err(broken) => Ok(Err(broken)),
    }
}

/// The runtime stops, or nobody is left: so does the task.
struct Gone;

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Lost(_) => Self::Lost,
            Broken::Refused(failure) => Self::Refused(failure),
        }
    }
}

/// One attempt to resume, on a thread that may block.
fn try_again(mut core: crate::Client) -> (crate::Client, Result<Option<Connection>, Broken>) {
    let deadline = Instant::now() + WELCOME_MAX;
    loop {
        let attempt = core.try_again(None, deadline);
        match attempt.and_then(|welcome| core.welcomed(welcome).map_err(Broken::Refused)) {
            Ok(false) => {}
            attempt => {
                let connection = attempt.map(|_| core.take_connection());
                return (core, connection);
            }
        }
    }
}
