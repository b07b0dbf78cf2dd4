//! The owner itself: takes what is queued, decides, makes durable, answers.

mod batch;
mod prune;
mod rekey;
mod sessions;
mod settle;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use stated_shared::{Digest, Failure, FailureKind, LockId, Reply, SessionId, StateName, Version};
use tokio::sync::oneshot;

use self::batch::{Batch, Told};
pub(super) use self::prune::OwnPrune;
pub(super) use self::rekey::{Change as KeyChange, Rekeying};
use self::sessions::Connected;
pub(super) use self::settle::Wake;
use crate::engine::budget::{ContentBudget, ContentPermit};
use crate::engine::commit::StagedBytes;
use crate::engine::follower::Follower;
use crate::engine::grants::{Doubt, GrantBook, Restored};
use crate::engine::handle;
use crate::engine::observed::{Deed, Kept, Observations};
use crate::engine::outbox::Outbox;
use crate::engine::preparation::Preparation;
use crate::engine::reclaim::Reclaim;
use crate::engine::record;
use crate::engine::seat::Commands;
use crate::engine::service::{ConnectionId, Opened};
use crate::engine::start::Keyrings;
use crate::engine::watermark::Watermark;
use crate::host::{Clock, GrantTableError, Process, fill_random};
use crate::journal::{AppendError, Fate, Journal, RecordKind};
use crate::machine::event::{Actor, Closed, Event, What};
use crate::machine::{Access, Ask, Context, Machine, Motion, Step, Time, Verdict};
use crate::vault::{SealError, Vault};

/// Commands taken into one batch at most.
const BATCH_COMMANDS_MAX: usize = 512;
/// Bytes of events and payloads after which a batch is closed; one request adds at most some 4 MiB more.
const BATCH_LEN_MAX: usize = 2 << 20;
/// How long a grant is kept of which nothing can be told after a restart.
const DOUBT_MS: u64 = 30_000;

/// A change to be decided, with what the machine must not see.
pub(super) struct Submission {
    pub session: SessionId,
    pub connection: ConnectionId,
    pub number: u64,
    pub access: Arc<dyn Access>,
    pub ask: Ask,
    /// The bytes of a commit.
    pub bytes: StagedBytes,
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

/// Runs where the owner is driven.
pub(super) type Read = Box<dyn FnOnce(&Machine, &View) -> Result<Reply, Failure> + Send>;

/// What a query sees besides the machine.
pub(super) struct View {
    pub time: Time,
    pub sessions: usize,
    pub notes: Vec<String>,
}

/// Runs where the owner is driven; what it returns runs once everything that it saw is durable.
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
    /// Somebody wants to read the audit log up to now.
    Flush(oneshot::Sender<()>),
    PruneItself(Box<OwnPrune>),
    /// Another keyring is wanted.
    Rekey(Box<Rekeying>),
    /// An event in the daemon's own name; what is called once it is durable, or has no room.
    TellItself(Box<What>, Box<dyn FnOnce(bool) + Send>),
    /// The part of the log that records are added to shall be closed; what is called once it is, or cannot be.
    BeginPart(Box<dyn FnOnce() + Send>),
    /// Something that no machine decides, for the audit log.
    Noted(Vec<Deed>),
    /// A session read a version's content.
    Fetched {
        session: SessionId,
        state: StateName,
        version: Version,
    },
    /// A session began a backup, or was refused one.
    BackedUp {
        session: SessionId,
        outcome: &'static str,
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

impl Command {
    /// Whether it usually makes a record, which several of them can share.
    pub(super) fn needs_sync(&self) -> bool {
        match self {
            Self::Submit(submission) => match &submission.ask {
                Ask::Lock(ask) => ask.lock.ttl_ms.is_some(),
                Ask::Unlock { .. } | Ask::Bind { .. } => false,
                Ask::Commit(_) | Ask::Renew { .. } | Ask::Break { .. } | Ask::Tag(_) | Ask::Prune(_) => true,
            },
            Self::Flush(_) | Self::Rekey(_) => true,
            _ => false,
        }
    }
}

/// How a batch ended.
pub(super) enum Round {
    /// It is durable and answered.
    Done {
        /// The commands that it took.
        taken: usize,
    },
    /// The owner is to be closed.
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

/// What a start hands over to the owner.
pub(super) struct Parts {
    pub machine: Machine,
    pub journal: Box<dyn Journal>,
    pub vault: Arc<Vault>,
    pub head: Digest,
    pub clock: Clock,
    pub book: GrantBook,
    pub watermark: Arc<Watermark>,
    pub budget: ContentBudget,
    pub daemon: Arc<Actor>,
    pub follower: Follower,
    pub preparation: Preparation,
    pub reclaim: Reclaim,
    pub keyrings: Arc<Keyrings>,
    /// What `status` tells as long as the daemon runs.
    pub notes: Vec<String>,
}

pub(super) struct Owner {
    pub(super) parts: Parts,
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
    /// A new part of the log is wanted after this batch.
    begins_part: Option<Box<dyn FnOnce() + Send>>,
    /// Who wants to read the audit log up to now.
    flushes: Vec<Box<dyn FnOnce() + Send>>,
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
            begins_part: None,
            flushes: Vec::new(),
        }
    }

    /// Makes the start itself durable, then takes up the locks of before it.
    pub(super) fn start(
        &mut self,
        events: Vec<Event>,
        mut entries: Vec<(String, Vec<u8>)>,
        frozen: bool,
    ) -> Result<(), Halt> {
        let steps = events.into_iter().map(|event| Step::Record(Box::new(event))).collect();
        let prepared = self.prepare(steps, BTreeMap::new());
        // Where a crash left zeros, a full disk does not keep the daemon from starting.
        self.batch.is_urgent = true;
        self.fold(prepared)?;
        let until = self.time.boottime_ms + DOUBT_MS;
        // A second stop within the first half minute does not shorten it.
        let still_frozen = GrantBook::frozen_until(&mut entries);
        let Restored { grants, doubts, released } = self.parts.book.restore(entries, self.parts.machine.locks());
        for (id, released) in released {
            self.turn(Motion::Remembered(id, released));
        }
        for grant in grants {
            // Without its names and its holder: the log is no sealed file.
            tracing::info!(lock = %grant.id, "kept a lock from before the restart");
            self.turn(Motion::Granted(Box::new(grant)));
        }
        self.doubts.extend(doubts.into_iter().map(|doubt| (until, doubt)));
        if let Some(until) = frozen.then_some(until).or(still_frozen) {
            self.parts.book.freeze(Some(until), self.parts.journal.last()).map_err(Halt::GrantTable)?;
            tracing::warn!(
                "the daemon stopped without leaving its table of locks: none is granted for {} s",
                DOUBT_MS / 1000
            );
            self.turn(Motion::Frozen(true));
            self.frozen_until = Some(until);
        }
        self.settle()?;
        self.finish(RecordKind::Batch)
    }

    /// One batch: takes what is queued, sees to what time brings, makes it durable, answers.
    pub(super) fn round(&mut self, commands: &mut Commands) -> Result<Round, Halt> {
        self.time = handle::time(&self.parts.clock);
        let mut taken = 0;
        let mut stop = false;
        while !stop
            && taken < BATCH_COMMANDS_MAX
            && self.batch.draft.len() < BATCH_LEN_MAX
            && let Some(command) = commands.next()
        {
            taken += 1;
            stop = matches!(command, Command::Stop);
            self.take(command)?;
        }
        self.pass_time()?;
        self.settle()?;
        if stop {
            return Ok(Round::Stop);
        }
        self.finish(RecordKind::Batch)?;
        self.finish_observations()?;
        Ok(Round::Done { taken })
    }

    /// The last record; then nothing unsynced can follow.
    pub(super) fn close(mut self) -> Result<(), Halt> {
        while self.observations.due_boottime_ms().is_some() {
            for kept in [Kept::ForEver, Kept::ForAWhile] {
                self.flush_observations(kept)?;
                self.finish(RecordKind::Batch)?;
            }
        }
        self.finish_observations()?;
        let event = Event { at: self.time.wall, actor: self.parts.daemon.clone(), what: What::Closed(Closed {}) };
        let prepared = self.prepare(vec![Step::Record(Box::new(event))], BTreeMap::new());
        self.batch.is_urgent = true;
        self.fold(prepared)?;
        self.finish(RecordKind::Closed)?;
        // It writes to the log, too.
        drop(self.parts.reclaim);
        self.parts.journal.close()?;
        self.parts.follower.stop();
        Ok(())
    }

    fn take(&mut self, command: Command) -> Result<(), Halt> {
        match command {
            Command::Submit(submission) => self.submit(*submission)?,
            Command::Query(query) => {
                let view = self.view();
                let told = query(&self.parts.machine, &view);
                self.batch.told.push(Told::Run(told));
            }
            Command::Read(reading) => {
                let Reading { session, connection, number, read } = *reading;
                let Some(outbox) = self.outbox(session, connection) else { return Ok(()) };
                // What is refused before it comes here may be a retry of what was done: then that is the answer.
                let done = || {
                    let actor = &self.sessions.get(&session)?.actor;
                    self.parts.machine.recall(actor, number, self.time)
                };
                let answer = read(&self.parts.machine, &self.view()).or_else(|failure| done().unwrap_or(Err(failure)));
                self.batch.told.push(Told::Reply(outbox, number, answer));
            }
            Command::Flush(done) => {
                self.flushes.push(Box::new(move || {
                    // Whoever asked may be gone.
                    let _ = done.send(());
                }));
            }
            Command::PruneItself(own) => self.prune_itself(*own)?,
            Command::Rekey(rekeying) => self.rekey(*rekeying)?,
            Command::TellItself(what, done) => self.tell_itself(*what, done)?,
            Command::BeginPart(done) => self.begins_part = Some(done),
            Command::Noted(deeds) => {
                for deed in deeds {
                    self.observations.note(deed, self.time.wall, self.time.boottime_ms);
                }
            }
            Command::Fetched { session, state, version } => {
                if let Some(connected) = self.sessions.get(&session) {
                    let (actor, name, version) = (Arc::clone(&connected.actor), Some(state), Some(version));
                    let deed = Deed { actor, verb: "get", name, version, outcome: "ok" };
                    self.observations.note(deed, self.time.wall, self.time.boottime_ms);
                }
            }
            Command::BackedUp { session, outcome } => {
                if let Some(connected) = self.sessions.get(&session) {
                    let (actor, verb) = (Arc::clone(&connected.actor), "backup");
                    let deed = Deed { actor, verb, name: None, version: None, outcome };
                    self.observations.note(deed, self.time.wall, self.time.boottime_ms);
                }
            }
            Command::Open { session, actor, outbox, done } => {
                let opened = self.open(session, *actor, outbox);
                self.batch.told.push(Told::Opened(session, done, opened));
            }
            Command::Close { session, connection } => self.close_session(session, connection),
            Command::ProcessGone { id, watch } if self.parts.book.is_current(&id, watch) => {
                self.turn(Motion::ProcessGone(id))
            }
            Command::PeerGone { session } => self.give_up_peer(session),
            Command::ProcessGone { .. } | Command::Stop => {}
        }
        Ok(())
    }

    fn submit(&mut self, mut submission: Submission) -> Result<(), Halt> {
        let (session, number) = (submission.session, submission.number);
        if matches!(submission.ask, Ask::Lock(_)) {
            self.settle_frees()?;
        }
        let Some(connected) = self.sessions.get_mut(&session).filter(|c| c.connection == submission.connection) else {
            self.batch.freed.blobs.extend(submission.ask.blobs());
            return Ok(());
        };
        if let Ask::Lock(ask) = &mut submission.ask {
            let mark = connected.mark.get_or_insert_with(|| {
                let process = Process::open(connected.actor.pid?).ok()?;
                process.pid().zip(process.start())
            });
            ask.peer = *mark;
        }
        let actor = Arc::clone(&connected.actor);
        let outbox = Arc::clone(&connected.outbox);
        let mut drawn = [0; 16];
        // The one thing that is named by the daemon.
        if matches!(&submission.ask, Ask::Lock(ask) if ask.lock.id.is_none()) {
            fill_random(&mut drawn).map_err(Halt::Entropy)?;
        }
        let access = Arc::clone(&submission.access);
        let cx = Context { time: self.time, actor: &actor, number, drawn, access: &access };
        let decision = self.parts.machine.decide(&cx, &submission.ask);
        if matches!(decision.verdict, Verdict::Restage)
            && let Some(restage) = submission.bytes.restage.take()
        {
            restage(Box::new(submission));
            return Ok(());
        }
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
            Ask::Break { .. } => format!("broken by {}", stated_shared::Actor::from(&*actor)),
            _ => String::new(),
        };
        let unlocked = self.unlocked_elsewhere(session, &submission.ask);
        // The names of a grant that is ended are gone afterwards.
        let names = self.names_of(&submission.ask);
        let recorded = decision.steps.iter().any(|step| matches!(step, Step::Record(_)));
        let StagedBytes { payloads, contents, moved, restage: _ } = submission.bytes;
        let (prepared, verdict, made) = self.place(&cx, &mut submission.ask, decision, payloads, moved);
        let verdict = match made {
            Ok(()) => match self.admit(&prepared) {
                Ok(()) => verdict,
                Err(failure) => Verdict::Refuse(failure),
            },
            Err(error) if error.fate() == Fate::Refuse => Verdict::Refuse(no_room(&error)),
            Err(error) => return Err(error.into()),
        };
        if matches!(verdict, Verdict::Refuse(_)) {
            self.parts.book.drop_waiting(session, number);
        } else {
            self.tell_broken(&prepared, &broken);
            if let Some((holder, id)) = unlocked {
                self.tell_lost(holder, &id, &format!("unlocked by {}", stated_shared::Actor::from(&*actor)));
            }
            self.batch.fresh.extend(batch::fresh(&prepared, contents));
            self.fold(prepared)?;
            self.batch.rooms.extend(submission.room);
        }
        self.observe(&actor, &submission.ask, names, &verdict, recorded);
        match verdict {
            Verdict::Reply(reply) => self.batch.told.push(Told::Reply(outbox, number, Ok(reply))),
            Verdict::Refuse(failure) => self.batch.told.push(Told::Reply(outbox, number, Err(failure))),
            Verdict::Wait(notice) => self.batch.told.push(Told::Notice(outbox, notice)),
            Verdict::Restage => {
                let failure =
                    Failure::new(FailureKind::Internal, "a content is a patch from a version that was pruned");
                self.batch.told.push(Told::Reply(outbox, number, Err(failure)));
            }
            Verdict::Recall => {
                let answer = self.parts.machine.recall(&actor, number, self.time).unwrap_or_else(|| {
                    Err(Failure::new(FailureKind::Internal, "the answer of a durable request is missing"))
                });
                self.batch.told.push(Told::Reply(outbox, number, answer));
            }
        }
        Ok(())
    }

    /// The holder, and its grant, that another session of the same user is about to end.
    fn unlocked_elsewhere(&self, session: SessionId, ask: &Ask) -> Option<(SessionId, LockId)> {
        let Ask::Unlock { id } = ask else { return None };
        let holder = self.parts.machine.locks().grant(id)?.session();
        (holder != session).then(|| (holder, id.clone()))
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
    fn observe(
        &mut self,
        actor: &Arc<Actor>,
        ask: &Ask,
        names: Vec<Option<StateName>>,
        verdict: &Verdict,
        recorded: bool,
    ) {
        let refused = match verdict {
            Verdict::Refuse(failure) => Some(failure.kind.as_str()),
            Verdict::Wait(_) | Verdict::Restage => return,
            Verdict::Reply(_) | Verdict::Recall => None,
        };
        // What was done is an event already, but for session locks and their ends.
        if refused.is_none() && recorded {
            return;
        }
        let one = |name: &StateName| vec![Some(name.clone())];
        let (verb, names): (_, Vec<_>) = match ask {
            Ask::Commit(commit) => ("commit", commit.changes.iter().map(|change| Some(change.state.clone())).collect()),
            Ask::Lock(ask) => ("lock", ask.lock.names.iter().cloned().map(Some).collect()),
            Ask::Unlock { .. } => ("unlock", names),
            Ask::Renew { .. } => ("renew", names),
            Ask::Break { name, .. } => ("break", one(name)),
            Ask::Tag(tag) => (if tag.at.is_some() { "tag" } else { "untag" }, one(&tag.state)),
            Ask::Prune(ask) if refused.is_some() => {
                ("prune", ask.states.iter().map(|of| Some(of.state.clone())).collect())
            }
            Ask::Bind { .. } | Ask::Prune(_) => return,
        };
        for name in names {
            let outcome = refused.unwrap_or("ok");
            let deed = Deed { actor: Arc::clone(actor), verb, name, version: None, outcome };
            self.observations.note(deed, self.time.wall, self.time.boottime_ms);
        }
    }
}

fn no_room(error: &AppendError) -> Failure {
    let message = match error {
        AppendError::TooLarge { .. } => error.to_string(),
        _ => format!("the state directory's disk is full: {error}"),
    };
    Failure::new(FailureKind::Storage, message)
        .hint("nothing was changed; make room, then try again (df shows the disk)")
}

const _: () = assert!(BATCH_LEN_MAX * 3 < record::PLAINTEXT_LEN_MAX);
