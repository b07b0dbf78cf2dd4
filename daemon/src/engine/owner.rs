//! The task itself: drains the queue, decides, makes durable, answers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stated_shared::{Digest, Failure, FailureKind, LockId, Notice, Reply, SessionId, StateName, Version};
use tokio::sync::{mpsc, oneshot};

use super::budget::ContentPermit;
use super::grants::{Doubt, GrantBook};
use super::handle;
use super::observed::{Deed, Observations};
use super::outbox::Outbox;
use super::record::{self, Draft};
use super::service::{ConnectionId, Opened};
use super::watermark::Watermark;
use crate::host::{Clock, GrantTableError, Process, fill_random};
use crate::journal::{AppendError, Fate, Journal, RecordKind};
use crate::machine::event::{Actor, Closed, Event, Payload, What};
use crate::machine::{Ask, Context, Link, Machine, Motion, Step, Tenure, Time, Verdict};
use crate::vault::{SealError, Vault};

/// Commands taken into one batch at most.
const BATCH_COMMANDS_MAX: usize = 512;
/// Payload bytes after which a batch is closed.
const BATCH_PAYLOAD_LEN_MAX: usize = 2 << 20;
/// How long a grant is kept of which nothing can be told after a restart.
const DOUBT_MS: u64 = 30_000;
/// How long to wait before something that found no room on the disk is tried again.
const NO_ROOM_RETRY_MS: u64 = 1000;
/// The owner looks at the clocks at least this often: `CLOCK_BOOTTIME` runs on while the host sleeps, timers don't.
const WAKE_MS_MAX: u64 = 5000;

/// A change to be decided, with what the machine must not see.
pub(super) struct Submission {
    pub session: SessionId,
    pub connection: ConnectionId,
    pub number: u64,
    pub ask: Ask,
    /// Compressed contents of a commit that ride in the record, by state.
    pub payloads: BTreeMap<StateName, Vec<u8>>,
    /// The process that a lock is to be tied to.
    pub process: Option<Process>,
    /// Keeps the content's share of the memory budget until the commit is durable.
    pub room: Option<ContentPermit>,
}

/// A request that reads only, answered as everything else: once what it saw is durable.
pub(super) struct Reading {
    pub session: SessionId,
    pub connection: ConnectionId,
    pub number: u64,
    pub read: Read,
}

/// Runs on the owner's thread.
pub(super) type Read = Box<dyn FnOnce(&Machine, &View) -> Result<Reply, Failure> + Send>;

/// What a query sees besides the machine.
pub(super) struct View {
    pub time: Time,
    pub sessions: usize,
    pub notes: Vec<String>,
}

/// Runs on the owner's thread; what it returns runs once everything that it saw is durable.
pub(super) type Query = Box<dyn FnOnce(&Machine, &View) -> Box<dyn FnOnce() + Send> + Send>;

pub(super) enum Command {
    Open {
        session: SessionId,
        actor: Box<Actor>,
        outbox: Arc<dyn Outbox>,
        done: oneshot::Sender<Result<Opened, Failure>>,
    },
    Close {
        session: SessionId,
        connection: ConnectionId,
    },
    Submit(Box<Submission>),
    Read(Box<Reading>),
    Query(Query),
    /// Somebody was turned away.
    Denied(Box<Actor>),
    /// A session read a version's content.
    Fetched {
        session: SessionId,
        state: StateName,
        version: Version,
    },
    ProcessGone {
        id: LockId,
        watch: u64,
    },
    PeerGone {
        session: SessionId,
    },
    Stop,
}

/// Why the owner stopped otherwise than asked: the process must exit and replay.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// What is durable is unknown.
    #[error("the journal failed, so what is durable is unknown to this process")]
    Append(#[from] AppendError),
    /// The machine refused its own event.
    #[error("the machine refused its own event")]
    Divergence(#[from] crate::machine::Divergence),
    /// A record could not be sealed.
    #[error("a record could not be sealed")]
    Seal(#[from] SealError),
    /// A grant that could not be written would be lost by the next crash.
    #[error("the grant table could not be written")]
    GrantTable(#[source] GrantTableError),
    /// No randomness.
    #[error("the system gave no random bytes")]
    Entropy(#[source] std::io::Error),
}

struct Connected {
    connection: ConnectionId,
    actor: Actor,
    /// The peer's ID and start time, read when its first lock needs it.
    mark: Option<Option<(u32, u64)>>,
    outbox: Arc<dyn Outbox>,
}

/// What is told once the batch is durable.
enum Told {
    Reply(Arc<dyn Outbox>, u64, Result<Reply, Failure>),
    Notice(Arc<dyn Outbox>, Notice),
    Run(Box<dyn FnOnce() + Send>),
}

#[derive(Default)]
struct Batch {
    draft: Draft,
    told: Vec<Told>,
    rooms: Vec<ContentPermit>,
    /// Grants that events of the batch broke: out of the table once the events are durable.
    struck: Vec<LockId>,
}

/// What a start hands over to the owner.
pub(super) struct Parts {
    pub machine: Machine,
    pub journal: Box<dyn Journal>,
    pub vault: Arc<Vault>,
    pub head: Digest,
    pub clock: Clock,
    pub book: GrantBook,
    pub watermark: Arc<Watermark>,
    pub daemon: Actor,
}

pub(super) struct Owner {
    parts: Parts,
    time: Time,
    batch: Batch,
    sessions: HashMap<SessionId, Connected>,
    connections: u64,
    observations: Observations,
    /// Sessions that ended, with the time when their answers are forgotten.
    forget: VecDeque<(u64, SessionId)>,
    doubts: VecDeque<(u64, Doubt)>,
    frozen_until: Option<u64>,
    no_room_until: Option<u64>,
    /// Whether something may end or be granted by itself.
    unsettled: bool,
}

impl Owner {
    pub(super) fn new(parts: Parts) -> Self {
        let time = handle::time(&parts.clock);
        Self {
            parts,
            time,
            batch: Batch::default(),
            sessions: HashMap::new(),
            connections: 0,
            observations: Observations::default(),
            forget: VecDeque::new(),
            doubts: VecDeque::new(),
            frozen_until: None,
            no_room_until: None,
            unsettled: true,
        }
    }

    /// Makes the start itself durable, then takes up the locks of before it.
    pub(super) fn start(
        &mut self,
        events: Vec<Event>,
        entries: Vec<(String, Vec<u8>)>,
        frozen: bool,
    ) -> Result<(), Halt> {
        let steps = events.into_iter().map(|event| Step::Record(Box::new(event))).collect();
        let prepared = self.prepare(steps, BTreeMap::new());
        self.fold(prepared)?;
        let (grants, doubts) = self.parts.book.restore(entries, self.parts.machine.locks());
        for grant in grants {
            tracing::info!(lock = %grant.id, names = ?grant.names, holder = %stated_shared::Actor::from(&grant.holder), "kept a lock from before the restart");
            self.turn(Motion::Granted(Box::new(grant)))?;
        }
        let until = self.time.boottime_ms + DOUBT_MS;
        self.doubts.extend(doubts.into_iter().map(|doubt| (until, doubt)));
        if frozen {
            tracing::warn!(
                "the daemon stopped without leaving its table of locks: none is granted for {} s",
                DOUBT_MS / 1000
            );
            self.turn(Motion::Frozen(true))?;
            self.frozen_until = Some(until);
        }
        self.settle()?;
        self.finish(RecordKind::Batch)
    }

    /// Runs until it is told to stop or must halt.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), Halt> {
        loop {
            let wake = Duration::from_millis(self.wake_in_ms());
            let mut next = tokio::select! {
                biased;
                command = commands.recv() => Some(command.unwrap_or(Command::Stop)),
                () = tokio::time::sleep(wake) => None,
            };
            self.time = handle::time(&self.parts.clock);
            let mut taken = 0;
            let mut stop = false;
            while let Some(command) = next {
                if matches!(command, Command::Stop) {
                    stop = true;
                    break;
                }
                self.take(command)?;
                taken += 1;
                if taken >= BATCH_COMMANDS_MAX || self.batch.draft.payloads_len() >= BATCH_PAYLOAD_LEN_MAX {
                    break;
                }
                next = commands.try_recv().ok();
            }
            self.pass_time()?;
            self.settle()?;
            if stop {
                return self.close();
            }
            self.finish(RecordKind::Batch)?;
        }
    }

    /// The last record; then nothing unsynced can follow.
    fn close(mut self) -> Result<(), Halt> {
        while self.observations.due_boottime_ms().is_some() {
            self.flush_observations()?;
            self.finish(RecordKind::Batch)?;
        }
        let event = Event { at: self.time.wall, actor: self.parts.daemon.clone(), what: What::Closed(Closed {}) };
        let prepared = self.prepare(vec![Step::Record(Box::new(event))], BTreeMap::new());
        self.fold(prepared)?;
        self.finish(RecordKind::Closed)?;
        self.parts.journal.close()?;
        Ok(())
    }

    fn take(&mut self, command: Command) -> Result<(), Halt> {
        match command {
            Command::Submit(submission) => self.submit(*submission),
            Command::Query(query) => {
                let view = self.view();
                let told = query(&self.parts.machine, &view);
                self.batch.told.push(Told::Run(told));
                Ok(())
            }
            Command::Read(reading) => {
                let Reading { session, connection, number, read } = *reading;
                let Some(outbox) = self.outbox(session, connection) else { return Ok(()) };
                let answer = read(&self.parts.machine, &self.view());
                self.batch.told.push(Told::Reply(outbox, number, answer));
                Ok(())
            }
            Command::Denied(actor) => {
                let outcome = FailureKind::Denied.as_str();
                let deed = Deed { actor: *actor, verb: "connect", name: None, version: None, outcome };
                self.observations.note(deed, self.time.wall, self.time.boottime_ms);
                Ok(())
            }
            Command::Fetched { session, state, version } => {
                if let Some(connected) = self.sessions.get(&session) {
                    let (actor, name, version) = (connected.actor.clone(), Some(state), Some(version));
                    let deed = Deed { actor, verb: "get", name, version, outcome: "ok" };
                    self.observations.note(deed, self.time.wall, self.time.boottime_ms);
                }
                Ok(())
            }
            Command::Open { session, actor, outbox, done } => {
                let opened = self.open(session, *actor, outbox)?;
                // A client that went away meanwhile is closed by its session.
                self.batch.told.push(Told::Run(Box::new(move || drop(done.send(opened)))));
                Ok(())
            }
            Command::Close { session, connection } => self.close_session(session, connection),
            Command::ProcessGone { id, watch } if self.parts.book.is_current(&id, watch) => {
                self.turn(Motion::ProcessGone(id))
            }
            Command::PeerGone { session } => self.give_up_peer(session),
            Command::ProcessGone { .. } | Command::Stop => Ok(()),
        }
    }

    fn view(&self) -> View {
        let mut notes = Vec::new();
        if self.parts.machine.is_frozen() {
            notes.push("locks are not granted yet: the daemon stopped without telling who held them".to_owned());
        }
        let awaited =
            |grant: &&crate::machine::Grant| matches!(grant.tenure, Tenure::Session { link: Link::Awaited, .. });
        let awaited = self.parts.machine.locks().grants().filter(awaited).count();
        if awaited > 0 {
            notes.push(format!("{awaited} locks from before the restart wait for their holders to come back"));
        }
        View { time: self.time, sessions: self.sessions.len(), notes }
    }

    fn open(
        &mut self,
        session: SessionId,
        actor: Actor,
        outbox: Arc<dyn Outbox>,
    ) -> Result<Result<Opened, Failure>, Halt> {
        let locks = self.parts.machine.locks();
        let held = locks.grants().find(|grant| grant.session() == session);
        let owner = held
            .map(|grant| grant.holder.uid)
            .or_else(|| self.sessions.get(&session).map(|connected| connected.actor.uid))
            .or_else(|| self.parts.machine.answers().owner(session));
        if owner.is_some_and(|uid| uid != actor.uid) {
            return Ok(Err(Failure::new(FailureKind::Denied, "the session belongs to another user")));
        }
        let resumed = held.is_some();
        // Whoever takes a session over asks again for what it waited for.
        let left: Vec<_> = locks.waiters().filter(|w| w.grant.session() == session).map(|w| w.ticket).collect();
        for ticket in left {
            self.turn(Motion::Left(ticket))?;
        }
        if resumed {
            self.turn(Motion::Linked(session, Link::Up))?;
        }
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.sessions.insert(session, Connected { connection, actor, mark: None, outbox });
        Ok(Ok(Opened { resumed, connection }))
    }

    fn outbox(&self, session: SessionId, connection: ConnectionId) -> Option<Arc<dyn Outbox>> {
        let connected = self.sessions.get(&session).filter(|connected| connected.connection == connection)?;
        Some(Arc::clone(&connected.outbox))
    }

    fn close_session(&mut self, session: SessionId, connection: ConnectionId) -> Result<(), Halt> {
        if self.sessions.get(&session).is_none_or(|connected| connected.connection != connection) {
            return Ok(());
        }
        self.sessions.remove(&session);
        for waiter in self.parts.machine.locks().waiters().filter(|waiter| waiter.grant.session() == session) {
            self.parts.book.drop_waiting(session, waiter.grant.number);
        }
        for step in self.parts.machine.unlink(session) {
            if let Step::Move(motion) = step {
                self.turn(motion)?;
            }
        }
        if self.parts.machine.answers().owner(session).is_some() {
            self.forget.push_back((self.time.boottime_ms + stated_shared::limits::ANSWERS_KEPT_MS, session));
        }
        Ok(())
    }

    fn give_up_peer(&mut self, session: SessionId) -> Result<(), Halt> {
        if self.sessions.contains_key(&session) { Ok(()) } else { self.turn(Motion::Linked(session, Link::Down)) }
    }

    fn submit(&mut self, mut submission: Submission) -> Result<(), Halt> {
        let (session, number) = (submission.session, submission.number);
        let Some(connected) = self.sessions.get_mut(&session).filter(|c| c.connection == submission.connection) else {
            return Ok(());
        };
        if let Ask::Lock(ask) = &mut submission.ask {
            let mark = connected.mark.get_or_insert_with(|| {
                let process = Process::open(connected.actor.pid?).ok()?;
                process.pid().zip(process.start())
            });
            ask.peer = *mark;
        }
        let actor = connected.actor.clone();
        let outbox = Arc::clone(&connected.outbox);
        let mut drawn = [0; 16];
        fill_random(&mut drawn).map_err(Halt::Entropy)?;
        let drawn = LockId::from_random(drawn);
        let cx = Context { time: self.time, actor: &actor, number, drawn };
        let decision = self.parts.machine.decide(&cx, &submission.ask);
        let waits = matches!(decision.verdict, Verdict::Wait(_));
        let grants = decision.steps.iter().any(|step| matches!(step, Step::Move(Motion::Granted(_))));
        if let Some(process) = submission.process.take() {
            match &submission.ask {
                Ask::Lock(_) if waits || grants => self.parts.book.keep(session, number, process),
                Ask::Bind { id, .. } if !decision.steps.is_empty() => self.parts.book.watch(id.clone(), process),
                _ => {}
            }
        }
        let broken = match &submission.ask {
            Ask::Break { .. } => format!("broken by {}", stated_shared::Actor::from(&actor)),
            _ => String::new(),
        };
        // The names of a grant that is ended are gone afterwards.
        let names = self.names_of(&submission.ask);
        let recorded = decision.steps.iter().any(|step| matches!(step, Step::Record(_)));
        let prepared = self.prepare(decision.steps, submission.payloads);
        let verdict = match self.make_room(&prepared) {
            Ok(()) => decision.verdict,
            Err(error) if error.fate() == Fate::Refuse => Verdict::Refuse(no_room(&error)),
            Err(error) => return Err(error.into()),
        };
        if !matches!(verdict, Verdict::Refuse(_)) {
            self.tell_broken(&prepared, &broken);
            self.fold(prepared)?;
            self.batch.rooms.extend(submission.room);
        }
        self.observe(&actor, &submission.ask, names, &verdict, recorded);
        match verdict {
            Verdict::Reply(reply) => self.batch.told.push(Told::Reply(outbox, number, Ok(reply))),
            Verdict::Refuse(failure) => self.batch.told.push(Told::Reply(outbox, number, Err(failure))),
            Verdict::Wait(notice) => self.batch.told.push(Told::Notice(outbox, notice)),
            Verdict::Recall => {
                let answer = self.parts.machine.recall(&actor, number, self.time).unwrap_or_else(|| {
                    Err(Failure::new(FailureKind::Internal, "the answer of a durable request is missing"))
                });
                self.batch.told.push(Told::Reply(outbox, number, answer));
            }
        }
        Ok(())
    }

    /// The names of the grant that an ask is about; one unknown name where there is no such grant.
    fn names_of(&self, ask: &Ask) -> Vec<Option<StateName>> {
        let (Ask::Unlock { id } | Ask::Renew { id, .. }) = ask else { return Vec::new() };
        match self.parts.machine.locks().grant(id) {
            Some(grant) => grant.names.iter().cloned().map(Some).collect(),
            None => vec![None],
        }
    }

    /// Notes for the audit log what leaves no event of its own.
    fn observe(&mut self, actor: &Actor, ask: &Ask, names: Vec<Option<StateName>>, verdict: &Verdict, recorded: bool) {
        let refused = match verdict {
            Verdict::Refuse(failure) => Some(failure.kind.as_str()),
            Verdict::Wait(_) => return,
            Verdict::Reply(_) | Verdict::Recall => None,
        };
        let one = |name: &StateName| vec![Some(name.clone())];
        let (verb, names): (_, Vec<_>) = match ask {
            Ask::Commit(commit) => ("commit", commit.changes.iter().map(|change| Some(change.state.clone())).collect()),
            Ask::Lock(lock) => ("lock", lock.names.iter().cloned().map(Some).collect()),
            Ask::Unlock { .. } => ("unlock", names),
            Ask::Renew { .. } => ("renew", names),
            Ask::Break { name, .. } => ("break", one(name)),
            Ask::Bind { .. } => return,
        };
        // What was done is an event already, but for session locks and their ends.
        if refused.is_none() && recorded {
            return;
        }
        for name in names {
            let outcome = refused.unwrap_or("ok");
            let deed = Deed { actor: actor.clone(), verb, name, version: None, outcome };
            self.observations.note(deed, self.time.wall, self.time.boottime_ms);
        }
    }

    /// Tells the holders of broken grants.
    fn tell_broken(&mut self, prepared: &Prepared, why: &str) {
        for step in &prepared.steps {
            let Step::Record(event) = step else { continue };
            let What::Broken(broken) = &event.what else { continue };
            for grant in &broken.grants {
                self.tell_lost(grant.holder.session, &grant.id, why);
            }
        }
    }

    fn tell_lost(&mut self, session: SessionId, id: &LockId, why: &str) {
        if let Some(connected) = self.sessions.get(&session) {
            let notice = Notice::LockLost { id: id.clone(), why: why.to_owned() };
            self.batch.told.push(Told::Notice(Arc::clone(&connected.outbox), notice));
        }
    }

    /// What the passing of time alone does.
    fn pass_time(&mut self) -> Result<(), Halt> {
        let now = self.time.boottime_ms;
        if self.frozen_until.take_if(|until| *until <= now).is_some() {
            self.turn(Motion::Frozen(false))?;
        }
        while let Some((_, doubt)) = self.doubts.pop_front_if(|(until, _)| *until <= now) {
            match doubt {
                Doubt::Process(id) => self.turn(Motion::ProcessGone(id))?,
                Doubt::Peer(session) => self.give_up_peer(session)?,
            }
        }
        while let Some((_, session)) = self.forget.pop_front_if(|(due, _)| *due <= now) {
            if !self.sessions.contains_key(&session) {
                self.parts.machine.follow(&Motion::Forgotten(session));
            }
        }
        if self.parts.machine.next_deadline_boottime_ms().is_some_and(|deadline| deadline <= now) {
            self.unsettled = true;
        }
        if self.observations.due_boottime_ms().is_some_and(|due| due <= now) && !self.is_out_of_room() {
            self.flush_observations()?;
        }
        Ok(())
    }

    fn is_out_of_room(&self) -> bool {
        self.no_room_until.is_some_and(|until| until > self.time.boottime_ms)
    }

    fn flush_observations(&mut self) -> Result<(), Halt> {
        let steps = self.observations.take().into_iter().map(|event| Step::Record(Box::new(event))).collect();
        let prepared = self.prepare(steps, BTreeMap::new());
        match self.make_room(&prepared) {
            Ok(()) => self.fold(prepared),
            Err(error) if error.fate() == Fate::Refuse => {
                tracing::error!(%error, "no room for the audit log: what was read and locked in the last second is not in it");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends what nothing keeps any more, refuses who waited long enough, and grants what can be granted.
    fn settle(&mut self) -> Result<(), Halt> {
        if !std::mem::take(&mut self.unsettled) {
            return Ok(());
        }
        while let Some(over) = self.parts.machine.next_over(self.time, &self.parts.daemon) {
            let prepared = self.prepare(over.steps, BTreeMap::new());
            match self.make_room(&prepared) {
                Ok(()) => {}
                Err(error) if error.fate() == Fate::Refuse => break,
                Err(error) => return Err(error.into()),
            }
            let (why, outcome) =
                if over.expired { ("its time ran out", "expired") } else { ("its process is gone", "gone") };
            self.tell_lost(over.grant.session(), &over.grant.id, why);
            if !over.expired {
                for name in &over.grant.names {
                    let (actor, name) = (over.grant.holder.clone(), Some(name.clone()));
                    let deed = Deed { actor, verb: "unlock", name, version: None, outcome };
                    self.observations.note(deed, self.time.wall, self.time.boottime_ms);
                }
            }
            self.fold(prepared)?;
        }
        for (session, number, step, failure) in self.parts.machine.timed_out(self.time) {
            let prepared = self.prepare(vec![step], BTreeMap::new());
            self.fold(prepared)?;
            self.parts.book.drop_waiting(session, number);
            self.tell(session, number, Err(failure));
        }
        while let Some(passed) = self.parts.machine.next_passed(self.time) {
            let prepared = self.prepare(passed.steps, BTreeMap::new());
            match self.make_room(&prepared) {
                Ok(()) => {}
                Err(error) if error.fate() == Fate::Refuse => break,
                Err(error) => return Err(error.into()),
            }
            self.fold(prepared)?;
            if let Some(grant) = self.parts.machine.locks().grant(&passed.id) {
                for name in &grant.names {
                    let (actor, name) = (grant.holder.clone(), Some(name.clone()));
                    let deed = Deed { actor, verb: "lock", name, version: None, outcome: "ok" };
                    self.observations.note(deed, self.time.wall, self.time.boottime_ms);
                }
            }
            let reply = self.parts.machine.passed_reply(&passed.id, self.time);
            self.tell(passed.session, passed.number, reply);
        }
        self.unsettled = self.is_out_of_room();
        Ok(())
    }

    fn tell(&mut self, session: SessionId, number: u64, result: Result<Reply, Failure>) {
        if let Some(connected) = self.sessions.get(&session) {
            self.batch.told.push(Told::Reply(Arc::clone(&connected.outbox), number, result));
        }
    }

    /// Gives payloads their places in the record and events their lines; changes nothing yet.
    fn prepare(&self, mut steps: Vec<Step>, mut payloads: BTreeMap<StateName, Vec<u8>>) -> Prepared {
        let mut prepared = Prepared::default();
        let start = self.batch.draft.payloads_len();
        for step in &mut steps {
            let Step::Record(event) = step else { continue };
            if let What::Committed(committed) = &mut event.what {
                for change in &mut committed.changes {
                    let inline = change.content.as_mut().map(|content| &mut content.payload);
                    if let (Some(Payload::Inline { offset_bytes, .. }), Some(bytes)) =
                        (inline, payloads.remove(&change.state))
                    {
                        *offset_bytes = (start + prepared.payloads.len()) as u64;
                        prepared.payloads.extend_from_slice(&bytes);
                    }
                }
            }
            prepared.lines.push(record::line(event));
        }
        prepared.steps = steps;
        prepared
    }

    fn make_room(&mut self, prepared: &Prepared) -> Result<(), AppendError> {
        if prepared.lines.is_empty() {
            return Ok(());
        }
        let more = prepared.payloads.len() + prepared.lines.iter().map(Vec::len).sum::<usize>();
        let made = self.parts.journal.make_room(self.batch.draft.sealed_len_max(more));
        if made.is_err() {
            self.no_room_until = Some(self.time.boottime_ms + NO_ROOM_RETRY_MS);
        }
        made
    }

    fn fold(&mut self, prepared: Prepared) -> Result<(), Halt> {
        let seq = self.parts.journal.last().next();
        for step in prepared.steps {
            match step {
                Step::Record(event) => {
                    self.parts.machine.apply(seq, &event)?;
                    match &event.what {
                        What::Broken(broken) => {
                            self.batch.struck.extend(broken.grants.iter().map(|grant| grant.id.clone()));
                        }
                        What::LeaseEnded(_) | What::LeaseRenewed(_) | What::LeaseGranted(_) => {}
                        _ => continue,
                    }
                    self.unsettled = true;
                }
                Step::Move(motion) => self.turn(motion)?,
            }
        }
        self.batch.draft.add(&prepared.lines, &prepared.payloads);
        Ok(())
    }

    fn turn(&mut self, motion: Motion) -> Result<(), Halt> {
        // A grant alone lets nobody pass and ends nothing, unless its process is gone already: then its watch says so.
        self.unsettled |= !matches!(motion, Motion::Granted(_) | Motion::Queued(_) | Motion::Bound { .. });
        self.parts.machine.follow(&motion);
        let seq = self.parts.journal.last();
        self.parts.book.record(&motion, self.parts.machine.locks(), seq).map_err(Halt::GrantTable)
    }

    /// Makes the batch durable, then answers.
    fn finish(&mut self, kind: RecordKind) -> Result<(), Halt> {
        let batch = std::mem::take(&mut self.batch);
        if !batch.draft.is_empty() {
            let seq = self.parts.journal.last().next();
            let record = batch.draft.seal(&self.parts.vault, self.parts.head, seq, kind)?;
            self.parts.journal.append(&record)?;
            self.parts.head = record.mac;
            self.parts.watermark.rise(seq, record.mac);
        }
        for id in batch.struck {
            if self.parts.machine.locks().grant(&id).is_none() {
                self.parts.book.remove(&id, self.parts.journal.last()).map_err(Halt::GrantTable)?;
            }
        }
        for told in batch.told {
            match told {
                Told::Reply(outbox, number, result) => outbox.reply(number, result),
                Told::Notice(outbox, notice) => outbox.notice(notice),
                Told::Run(run) => run(),
            }
        }
        Ok(())
    }

    fn wake_in_ms(&self) -> u64 {
        if self.unsettled && !self.is_out_of_room() {
            return 0;
        }
        let deadlines = [
            self.parts.machine.next_deadline_boottime_ms(),
            self.observations.due_boottime_ms(),
            self.frozen_until,
            self.doubts.front().map(|(until, _)| *until),
            self.forget.front().map(|(due, _)| *due),
        ];
        let next = deadlines.into_iter().flatten().min();
        let next = if self.is_out_of_room() { self.no_room_until } else { next };
        let now = handle::time(&self.parts.clock).boottime_ms;
        next.map_or(WAKE_MS_MAX, |next| next.saturating_sub(now).min(WAKE_MS_MAX))
    }
}

/// Steps whose events have their lines and whose payloads have their places.
#[derive(Default)]
struct Prepared {
    steps: Vec<Step>,
    lines: Vec<Vec<u8>>,
    payloads: Vec<u8>,
}

fn no_room(error: &AppendError) -> Failure {
    let message = match error {
        AppendError::TooLarge { .. } => error.to_string(),
        _ => format!("the state directory's disk is full: {error}"),
    };
    Failure::new(FailureKind::Storage, message)
        .hint("nothing was changed; make room, then try again (df shows the disk)")
}

const _: () = assert!(BATCH_PAYLOAD_LEN_MAX * 2 < record::PLAINTEXT_LEN_MAX);
