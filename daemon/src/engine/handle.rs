//! What the rest of the daemon holds of the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use stated_shared::limits::{PAGE_LEN_MAX, PAGE_ROWS_MAX};
use stated_shared::wire::{Pinned, Welcome};
use stated_shared::{
    AuditFilter, ChangePage, Failure, FailureKind, Lock, LockId, LockInfo, LockPage, Part, Reply, Request, Selector,
    Seq, SessionId, StateName, StatusInfo, Timestamp, Version, VersionInfo, VersionPage,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::backup::Backups;
use super::budget::{ContentBudget, ContentPermit, HeldContent};
use super::commit::StagedBytes;
use super::delta::{self, Bases, Chain, Link};
use super::newest::NewestContent;
use super::observed::Deed;
use super::outbox::Outbox;
use super::owner::{Command, Query, Reading, Submission, View};
use super::reseal::Progress;
use super::seat::Queue;
use super::service::{ConnectionId, Denied, FetchedContent, Opened, Service, Submission as Asking};
use super::shown::{audited, deeds, readable};
use super::start::Keyrings;
use super::store::Store;
use super::watermark::Watermark;
use super::{audit, changes, verify};
use crate::host::{Clock, Process};
use crate::machine::event::{Actor as EventActor, Content as EventContent};
use crate::machine::{Access, Ask, LockAsk, Machine, Tie, Time, no_version};

/// Contents longer than this are compressed off the connection's thread.
pub(super) const STAGE_INLINE_LEN_MAX: usize = 64 << 10;

/// The last millisecond that has a date of four digits of year.
const DATE_MS_MAX: u64 = 253_402_300_799_999;

/// Facts of the daemon that do not change while it runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The daemon's version.
    pub version: String,
    /// The host's name.
    pub host: String,
    /// When it started.
    pub started: Timestamp,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The socket.
    pub socket: PathBuf,
    /// What stays of old contents by the configuration, in words.
    pub retention: Vec<String>,
    /// How long observations are told one by one, in words.
    pub audit: String,
}

/// A way to the engine, shared by all connections.
#[derive(Clone)]
pub struct Engine {
    pub(super) queue: Queue,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub facts: Facts,
    pub store: Store,
    pub backups: Arc<Backups>,
    pub watermark: Arc<Watermark>,
    /// Where contents take their room.
    pub budget: ContentBudget,
    pub epoch: stated_shared::Epoch,
    /// Of what goes on beside the connections.
    pub tracker: TaskTracker,
    /// How far a rotation is that is not through.
    pub resealing: Arc<Progress>,
    pub keyrings: Arc<Keyrings>,
}

impl Engine {
    /// Stops the owner after what is queued: the last record is written and the journal closed.
    pub async fn stop(&self) {
        // One that has stopped already needs no telling.
        let _ = self.send(Command::Stop).await;
    }

    /// Returns once the owner took a question up and all that was decided before it is durable; `Err` where it stopped.
    pub async fn pulse(&self) -> Result<(), Failure> {
        self.query(|_, _| ()).await
    }

    /// Notes something that was done to the daemon itself, for the audit log.
    pub async fn note(&self, actor: stated_shared::Actor, verb: &'static str, outcome: &'static str) {
        let deed = Deed { actor: Arc::new(actor.into()), verb, name: None, version: None, outcome };
        // An engine that has stopped notes nothing more.
        let _ = self.send(Command::Noted(vec![deed])).await;
    }

    pub(super) async fn change(
        &self,
        of: Asked,
        access: Arc<dyn Access>,
        ask: Ask,
        bytes: StagedBytes,
        process: Option<Process>,
        room: Option<ContentPermit>,
    ) -> Result<(), Failure> {
        let Asked { session, connection, number } = of;
        let submission = Submission { session, connection, number, access, ask, bytes, process, room };
        self.send(Command::Submit(Box::new(submission))).await
    }

    /// Answers with what is read from the machine where the owner is driven.
    pub(super) async fn read<F>(&self, of: Asked, read: F) -> Result<(), Failure>
    where
        F: FnOnce(&Machine, &View) -> Result<Reply, Failure> + Send + 'static,
    {
        let Asked { session, connection, number } = of;
        self.send(Command::Read(Box::new(Reading { session, connection, number, read: Box::new(read) }))).await
    }

    async fn list(
        &self,
        of: Asked,
        access: Arc<dyn Access>,
        glob: Option<String>,
        after: Option<StateName>,
    ) -> Result<(), Failure> {
        let matches = readable(glob, access)?;
        self.read(of, move |machine, _| {
            let rows = machine.states().list(after.as_ref()).filter(|info| matches(info.state.as_str()));
            let (versions, more) = page(rows, version_len);
            Ok(Reply::Versions(VersionPage { versions, more }))
        })
        .await
    }

    async fn log(&self, of: Asked, state: StateName, before: Option<Version>) -> Result<(), Failure> {
        self.read(of, move |machine, _| match machine.states().log(&state, before) {
            Some(rows) => {
                let mut unreadable = None;
                let rows = rows.map_while(|row| row.map_err(|error| unreadable = Some(error)).ok());
                let (versions, more) = page(rows, version_len);
                match unreadable {
                    Some(unreadable) => Err(unreadable.into()),
                    None => Ok(Reply::Versions(VersionPage { versions, more })),
                }
            }
            None => Err(no_version(&state, &Selector::Newest)),
        })
        .await
    }

    async fn locks(
        &self,
        of: Asked,
        access: Arc<dyn Access>,
        glob: Option<String>,
        after: Option<(StateName, LockId)>,
    ) -> Result<(), Failure> {
        let matches = readable(glob, access)?;
        self.read(of, move |machine, view| {
            let rows = machine.locks().list(after.as_ref(), view.time).filter(|row| matches(row.name.as_str()));
            let (locks, more) = page(rows, lock_len);
            Ok(Reply::Locks(LockPage { locks, more }))
        })
        .await
    }

    async fn audit(
        &self,
        access: Arc<dyn Access>,
        filter: AuditFilter,
        after: Option<(Seq, u32)>,
    ) -> Result<Reply, Failure> {
        let matches = audited(filter.glob.clone(), access)?;
        let (done, flushed) = oneshot::channel();
        self.send(Command::Flush(done)).await?;
        flushed.await.map_err(|_| stopping())?;
        let summed = self.query(|machine, _| machine.summed().cloned()).await?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let upto = (shared.watermark.get().0, summed.as_ref());
            audit::page(&shared.store, upto, &filter, &matches, after).map(Reply::Audit)
        })
        .await?
    }

    async fn verify(&self, read_data: Option<Part>) -> Result<Reply, Failure> {
        let keyring = self.query(|machine, _| machine.keyring()).await?;
        let shared = Arc::clone(&self.shared);
        let at = shared.watermark.get();
        let dir = shared.facts.state_dir.clone();
        let budget = &self.shared.budget;
        let kept_len_max = verify::KEPT_LEN_MAX.min(budget.len_max() / 4);
        let room = if read_data.is_some() { Some(budget.room(kept_len_max).await?) } else { None };
        let read_data = read_data.map(|part| (part, kept_len_max));
        blocking(move || {
            let verified = verify::verify(&shared.store, at, &dir, keyring, read_data);
            drop(room);
            Reply::Verified(verified)
        })
        .await
    }

    async fn status(&self, of: Asked, access: Arc<dyn Access>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        self.read(of, move |machine, view| {
            let (states, versions) = machine.states().count();
            let (seq, head) = shared.watermark.get();
            let facts = shared.facts.clone();
            Ok(Reply::Status(Box::new(StatusInfo {
                version: facts.version,
                pid: std::process::id(),
                host: facts.host,
                started: facts.started,
                repository: shared.store.vault.repository(),
                state_dir: facts.state_dir.display().to_string(),
                socket: facts.socket.display().to_string(),
                epoch: shared.epoch,
                seq,
                head,
                keyring: shared.store.vault.generation(),
                recipients: shared.store.vault.recipients().iter().map(ToString::to_string).collect(),
                states,
                versions,
                log_bytes: shared.store.reader.len_bytes(),
                grants: machine.locks().grant_count() as u64,
                waiters: machine.locks().waiter_count() as u64,
                sessions: view.sessions as u64,
                retention: facts.retention,
                audit: facts.audit,
                policy: access.policy(),
                notes: view.notes.clone(),
            })))
        })
        .await
    }

    async fn answer(&self, submission: Asking) -> Result<(), Failure> {
        let Asking { session, connection, number, request, process, room, access } = submission;
        let of = Asked { session, connection, number };
        let (ask, process) = match request {
            Request::Commit(commit) => return self.commit(of, access, commit, room).await,
            Request::Lock(Lock { ttl_ms: Some(_), .. }) if process.is_some() => {
                return Err(Failure::new(FailureKind::Usage, "a lease is not tied to a process"));
            }
            Request::Lock(lock) => (Ask::Lock(LockAsk { lock, tie: process.as_ref().map(tie), peer: None }), process),
            Request::Bind { id, hold, .. } => {
                let Some(process) = process else {
                    let message = "a lock is tied to a process, and none came with the request";
                    return Err(Failure::new(FailureKind::Usage, message));
                };
                (Ask::Bind { id, hold, tie: tie(&process) }, Some(process))
            }
            Request::Unlock { id } => (Ask::Unlock { id }, None),
            Request::Renew { id, ttl_ms } => (Ask::Renew { id, ttl_ms }, None),
            Request::Break { name, id } => (Ask::Break { name, id }, None),
            Request::Tag(tag) => (Ask::Tag(tag), None),
            Request::Get { .. } | Request::Changes { .. } | Request::Access(_) => {
                return Err(Failure::new(FailureKind::Internal, "it is answered elsewhere, not submitted"));
            }
            Request::Show { state, at } => {
                let show = move |machine: &Machine, _: &View| match machine.states().select(&state, &at)? {
                    Some((version, entry)) => Ok(Reply::Version(machine.states().info(&state, version, entry))),
                    None => Err(no_version(&state, &at)),
                };
                return self.read(of, show).await;
            }
            Request::List { glob, after } => return self.list(of, access, glob, after).await,
            Request::Log { state, before } => return self.log(of, state, before).await,
            Request::Locks { glob, after } => return self.locks(of, access, glob, after).await,
            Request::Status => return self.status(of, access).await,
            Request::Audit { filter, after } => {
                let answer = self.audit(access, filter, after).await;
                return self.read(of, move |_, _| answer).await;
            }
            Request::Prune(prune) => return self.prune(of, access, prune).await,
            Request::Keys => return self.keys(of).await,
            Request::Rekey(rekey) => {
                return self.rekey(of, rekey).await;
            }
            Request::Backup(step) => return self.backup(of, step).await,
            Request::Verify { read_data } => {
                let answer = self.verify(read_data).await;
                return self.read(of, move |_, _| answer).await;
            }
        };
        self.change(of, access, ask, StagedBytes::default(), process, room).await
    }

    /// Reads a version by way of those that it is patched from; keeps it where it is the newest.
    async fn load(
        &self,
        state: &StateName,
        version: Version,
        chain: Chain,
        bases: Option<Bases>,
    ) -> Result<Arc<HeldContent>, Failure> {
        let Some(Link { content: EventContent { size_bytes, sha256, .. }, .. }) = chain.first().cloned() else {
            return Err(no_version(state, &Selector::Version(version)));
        };
        // A content that alone is over the budget is refused; what it is patched from is not counted against it.
        let budget = &self.shared.budget;
        let mut room = budget.room(delta::load_len(&chain).min(budget.len_max()).max(size_bytes)).await?;
        // A small payload costs less than the way to another thread and back.
        let is_quick = chain.len() == 1 && size_bytes <= STAGE_INLINE_LEN_MAX as u64;
        let shared = Arc::clone(&self.shared);
        let load = move || shared.store.load(&chain);
        let bytes = if is_quick { load() } else { blocking(load).await? };
        let bytes = bytes.map_err(|(damaged, damage)| damage.failure(state, version, damaged))?;
        room.shrink(size_bytes);
        let bytes = HeldContent::new(bytes, Some(room));
        if let Some(bases) = bases {
            budget.newest().put(state, NewestContent { version, sha256, bases, bytes: Arc::clone(&bytes) });
        }
        Ok(bytes)
    }

    /// The present chain of a version; `None` where its content was given up.
    async fn chain_now(&self, state: &StateName, version: Version) -> Result<Option<Chain>, Failure> {
        let state = state.clone();
        let chain = self.query(move |machine, _| delta::chain(machine.states(), &state, version)).await??;
        Ok((!chain.is_empty()).then_some(chain))
    }

    /// Reads the machine where the owner is driven; the answer comes once everything that it saw is durable.
    pub(super) async fn query<T, F>(&self, read: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Machine, &View) -> T + Send + 'static,
    {
        let (done, answer) = oneshot::channel();
        let query: Query = Box::new(move |machine, view| {
            let value = read(machine, view);
            // Whoever asked may be gone.
            Box::new(move || drop(done.send(value)))
        });
        self.send(Command::Query(query)).await?;
        answer.await.map_err(|_| stopping())
    }

    pub(super) async fn send(&self, command: Command) -> Result<(), Failure> {
        self.queue.send(command).await.map_err(|_| stopping())
    }
}

impl Service for Engine {
    fn welcome(&self, resumed: bool, pin: Option<Seq>) -> Welcome {
        let (seq, head) = self.shared.watermark.get();
        let pinned = match pin {
            None => Pinned::Unasked,
            Some(pin) if pin > seq => Pinned::Beyond,
            Some(pin) if pin == seq => Pinned::At(head),
            // Of the header alone, which is short and lies in the page cache or nearly so.
            Some(pin) => match self.shared.store.reader.mac(pin) {
                Ok(mac) => Pinned::At(mac),
                Err(error) => Pinned::Unreadable(error.to_string()),
            },
        };
        Welcome {
            version: self.shared.facts.version.clone(),
            repository: self.shared.store.vault.repository(),
            epoch: self.shared.epoch,
            seq,
            head,
            resumed,
            features: Vec::new(),
            pinned,
        }
    }

    fn budget(&self) -> &ContentBudget {
        &self.shared.budget
    }

    async fn open(
        &self,
        session: SessionId,
        actor: stated_shared::Actor,
        outbox: Arc<dyn Outbox>,
    ) -> Result<Opened, Failure> {
        let (done, opened) = oneshot::channel();
        self.send(Command::Open { session, actor: Box::new(actor.into()), outbox, done }).await?;
        opened.await.map_err(|_| stopping())?
    }

    async fn close(&self, session: SessionId, connection: ConnectionId) {
        self.shared.backups.leave(session, connection).await;
        // An engine that has stopped has closed every session.
        let _ = self.send(Command::Close { session, connection }).await;
    }

    async fn submit(&self, submission: Asking) {
        let of = Asked { session: submission.session, connection: submission.connection, number: submission.number };
        if let Err(failure) = self.answer(submission).await {
            // An engine that has stopped answers nobody: the client resumes at its successor.
            let _ = self.read(of, move |_, _| Err(failure)).await;
        }
    }

    async fn fetch(
        &self,
        session: SessionId,
        _number: u64,
        state: StateName,
        at: Selector,
    ) -> Result<FetchedContent, Failure> {
        let (name, shared) = (state.clone(), Arc::clone(&self.shared));
        let (version, found) = self
            .query(move |machine, _| {
                let states = machine.states();
                let Some((version, entry)) = states.select(&state, &at)? else { return Err(no_version(&state, &at)) };
                let info = states.info(&state, version, entry);
                let Some(content) = &entry.content else { return Err(removed(&info)) };
                if let Some(by) = &entry.pruned {
                    return Err(pruned(&info, &by.actor));
                }
                let found = match shared.budget.newest().version(&state, version, content.sha256) {
                    Some(bytes) => Found::AtHand(bytes),
                    None => {
                        let bases = Bases::of(states, &state)?.filter(|bases| bases.newest() == version);
                        Found::Stored(delta::chain(states, &state, version)?, bases)
                    }
                };
                Ok((info, found))
            })
            .await??;
        let content = match found {
            Found::AtHand(bytes) => bytes,
            Found::Stored(chain, bases) => match self.load(&name, version.version, chain.clone(), bases).await {
                Ok(bytes) => bytes,
                // A prune may have moved or dropped it meanwhile; what it says now counts.
                Err(failure) => match self.chain_now(&name, version.version).await? {
                    Some(now) if now != chain => self.load(&name, version.version, now, None).await?,
                    Some(_) => return Err(failure),
                    None => return Err(no_version_any_more(&name, version.version)),
                },
            },
        };
        self.send(Command::Fetched { session, state: name, version: version.version }).await?;
        Ok(FetchedContent { version, content })
    }

    async fn changes(
        &self,
        access: Arc<dyn Access>,
        glob: Option<String>,
        after: (Seq, u32),
        wait: Duration,
    ) -> Result<ChangePage, Failure> {
        let matches: Arc<super::shown::Matches> = Arc::new(readable(glob, access)?);
        let until = Instant::now() + wait;
        let mut after = after;
        loop {
            let (last, _) = self.shared.watermark.get();
            if after.0 > last {
                let message = format!("record {} is beyond the journal's last one, {last}", after.0);
                return Err(Failure::new(FailureKind::Conflict, message).hint("see the last one with: statectl status"));
            }
            let (shared, matches) = (Arc::clone(&self.shared), Arc::clone(&matches));
            let page = blocking(move || changes::page(&shared.store, last, &*matches, after)).await??;
            if !page.changes.is_empty() || page.next.0 < last {
                return Ok(page);
            }
            after = page.next;
            if timeout_at(until, self.shared.watermark.passes(last)).await.is_err() {
                return Ok(page);
            }
        }
    }

    async fn refuse(
        &self,
        (session, connection, number): (SessionId, ConnectionId, u64),
        failure: Failure,
        denied: Denied,
    ) {
        // An engine that has stopped answers nobody: the client resumes at its successor.
        let _ = self.send(Command::Noted(deeds(denied))).await;
        let _ = self.read(Asked { session, connection, number }, move |_, _| Err(failure)).await;
    }

    fn denied(&self, denied: Denied) {
        // A full queue loses this entry and not the daemon's calm; the log has it.
        if !self.queue.try_send(Command::Noted(deeds(denied))) {
            tracing::warn!("a denial is not in the audit log: the engine is busy");
        }
    }
}

/// Where a version's content is.
enum Found {
    AtHand(Arc<HeldContent>),
    /// With what may be patched from it, where it is the newest.
    Stored(Chain, Option<Bases>),
}

/// Whose request it is.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub session: SessionId,
    pub connection: ConnectionId,
    pub number: u64,
}

/// Both clocks, read together.
pub(super) fn time(clock: &Clock) -> Time {
    Time { wall: clock.now(), boottime_ms: clock.boottime_ms() }
}

fn tie(process: &Process) -> Tie {
    Tie { mark: process.pid().zip(process.start()), gone: false }
}

/// Runs what takes long, or waits for the disk, off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a task failed");
        Failure::new(FailureKind::Internal, "the daemon failed at this request; its log says more")
    })
}

/// As many rows as fit in a page, and whether there are more.
fn page<T>(rows: impl Iterator<Item = T>, len: impl Fn(&T) -> usize) -> (Vec<T>, bool) {
    let mut page = Vec::new();
    let mut bytes = 0;
    for row in rows {
        bytes += len(&row);
        if page.len() == PAGE_ROWS_MAX || (bytes > PAGE_LEN_MAX && !page.is_empty()) {
            return (page, true);
        }
        page.push(row);
    }
    (page, false)
}

fn version_len(info: &VersionInfo) -> usize {
    let labels: usize = info.labels.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    info.state.as_str().len() + info.message.as_ref().map_or(0, String::len) + labels + 512
}

fn lock_len(info: &LockInfo) -> usize {
    info.name.as_str().len()
        + info.reason.as_ref().map_or(0, String::len)
        + info.info.as_ref().map_or(0, String::len)
        + info.operation.len()
        + 512
}

fn removed(info: &VersionInfo) -> Failure {
    let message = format!("{}@{} is a removal by {}", info.state, info.version, info.actor);
    let last = info.version.0.saturating_sub(1).max(1);
    Failure::new(FailureKind::NotFound, message)
        .hint(format!("its history is kept: statectl get '{}@{last}'", info.state))
}

fn no_version_any_more(state: &StateName, version: Version) -> Failure {
    Failure::new(FailureKind::NotFound, format!("version {version} of {state} was pruned just now"))
        .hint(format!("see which versions are kept with: statectl log '{state}'"))
}

fn pruned(info: &VersionInfo, by: &EventActor) -> Failure {
    // A clock that is far off must not stop a refusal.
    let at = info.pruned.map_or(0, |at| at.0.min(DATE_MS_MAX));
    let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at));
    let by = stated_shared::Actor::from(by);
    let message = format!("version {} of {} was pruned on {at} by {by}", info.version, info.state);
    Failure::new(FailureKind::NotFound, message)
        .hint(format!("see which versions are kept with: statectl log '{}'", info.state))
}

pub(super) fn stopping() -> Failure {
    Failure::new(FailureKind::Unavailable, "the daemon is stopping").hint("try again: statectl starts it anew")
}
