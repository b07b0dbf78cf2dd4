//! What the rest of the daemon holds of the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use stated_shared::limits::{PAGE_LEN_MAX, PAGE_ROWS_MAX};
use stated_shared::{
    Commit, Content, Failure, FailureKind, LockId, LockInfo, LockPage, Reply, Request, Selector, Seq, SessionId,
    StateName, StatusInfo, Timestamp, Version, VersionInfo, VersionPage,
};
use tokio::sync::{mpsc, oneshot};

use super::observed::Deed;
use super::outbox::Outbox;
use super::owner::{Command, Query, Submission, View};
use super::stage::{self, INLINE_PAYLOAD_LEN_MAX};
use super::watermark::Watermark;
use super::{audit, verify};
use crate::host::{Clock, Process, fill_random};
use crate::journal::{BlobId, Blobs, Fate, ReadError, Reader};
use crate::machine::event::{self, Actor, Payload};
use crate::machine::{Ask, CommitAsk, LockAsk, Machine, StagedChange, Tie, Time};
use crate::vault::Vault;

/// Contents longer than this are compressed off the connection's thread.
const STAGE_INLINE_LEN_MAX: usize = 64 << 10;
/// Inline payloads of one commit; what goes over it becomes a blob.
const COMMIT_INLINE_LEN_MAX: usize = 1 << 20;

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
}

/// A way to the engine, shared by all connections.
#[derive(Clone)]
pub struct Engine {
    pub(super) sender: mpsc::Sender<Command>,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub facts: Facts,
    pub vault: Arc<Vault>,
    pub reader: Arc<dyn Reader>,
    pub blobs: Arc<dyn Blobs>,
    pub watermark: Arc<Watermark>,
    pub epoch: stated_shared::Epoch,
}

/// A commit whose contents are staged.
struct StagedCommit {
    ask: CommitAsk,
    payloads: BTreeMap<StateName, Vec<u8>>,
    blobs: Vec<BlobId>,
}

impl Engine {
    /// What a client is welcomed with.
    pub fn welcome(&self, resumed: bool) -> stated_shared::wire::Welcome {
        let (seq, head) = self.shared.watermark.get();
        stated_shared::wire::Welcome {
            version: self.shared.facts.version.clone(),
            repository: self.shared.vault.repository(),
            epoch: self.shared.epoch,
            seq,
            head,
            resumed,
            features: Vec::new(),
        }
    }

    /// Opens or resumes a session: whether it held locks, and the number of this connection.
    pub async fn open(
        &self,
        session: SessionId,
        actor: stated_shared::Actor,
        outbox: Arc<dyn Outbox>,
    ) -> Result<(bool, u64), Failure> {
        let (done, opened) = oneshot::channel();
        self.send(Command::Open { session, actor: Box::new(actor.into()), outbox, done }).await?;
        opened.await.map_err(|_| stopping())?
    }

    /// The connection is gone.
    pub async fn close(&self, session: SessionId, connection: u64) {
        // An engine that has stopped has closed every session.
        let _ = self.send(Command::Close { session, connection }).await;
    }

    /// Somebody was turned away.
    pub async fn denied(&self, actor: stated_shared::Actor) {
        let deed = Deed {
            actor: actor.into(),
            verb: "connect",
            name: None,
            version: None,
            outcome: FailureKind::Denied.as_str(),
        };
        let _ = self.send(Command::Observe(Box::new(deed))).await;
    }

    /// Stops the owner after what is queued: the last record is written and the journal closed.
    pub async fn stop(&self) {
        let _ = self.send(Command::Stop).await;
    }

    /// Takes a request, and answers it by the session's outbox once the answer is durable.
    ///
    /// `Get` is not for here: see [`Engine::fetch`].
    pub async fn submit(
        &self,
        session: SessionId,
        connection: u64,
        number: u64,
        request: Request,
        process: Option<Process>,
        room: Option<Box<dyn Send>>,
        outbox: Arc<dyn Outbox>,
    ) {
        let result = match request {
            Request::Commit(commit) => {
                return self.commit((session, connection, number), commit, room, outbox).await;
            }
            Request::Lock(lock) => {
                let tie = process.as_ref().map(tie);
                let ask = LockAsk {
                    id: lock.id,
                    names: lock.names,
                    kind: lock.kind,
                    wait: lock.wait,
                    ttl_ms: lock.ttl_ms,
                    operation: lock.operation,
                    reason: lock.reason,
                    info: lock.info,
                    under: lock.under,
                    hold: lock.hold,
                    tie,
                    peer: None,
                };
                return self.change(session, connection, number, Ask::Lock(ask), process).await;
            }
            Request::Bind { id, hold, .. } => match process {
                Some(process) => {
                    let ask = Ask::Bind { id, hold, tie: tie(&process) };
                    return self.change(session, connection, number, ask, Some(process)).await;
                }
                None => Err(Failure::new(FailureKind::Usage, "a lock is tied to a process, and none came with the request")),
            },
            Request::Unlock { id } => return self.change(session, connection, number, Ask::Unlock { id }, None).await,
            Request::Renew { id, ttl_ms } => {
                return self.change(session, connection, number, Ask::Renew { id, ttl_ms }, None).await;
            }
            Request::Break { name, id } => {
                return self.change(session, connection, number, Ask::Break { name, id }, None).await;
            }
            Request::Get { .. } => Err(Failure::new(FailureKind::Internal, "contents are fetched, not submitted")),
            Request::Show { state, at } => self.show(session, state, at).await,
            Request::List { glob, after } => self.list(glob, after).await,
            Request::Log { state, before } => self.log(state, before).await,
            Request::Locks { glob, after } => self.locks(glob, after).await,
            Request::Audit { filter, after } => self.audit(filter, after).await,
            Request::Verify { read_data } => self.verify(read_data).await,
            Request::Status => self.status().await,
        };
        outbox.reply(number, result);
    }

    /// Reads a version's content, for the user of this session.
    pub async fn fetch(
        &self,
        session: SessionId,
        actor: stated_shared::Actor,
        state: StateName,
        at: Selector,
    ) -> Result<(VersionInfo, Vec<u8>), Failure> {
        debug_assert_eq!(session, actor.session);
        let name = state.clone();
        let (info, content, seq) = self
            .query(move |machine, _| match machine.states().select(&state, at) {
                Some((version, entry)) => Ok((entry.info(&state, version), entry.content.clone(), entry.seq)),
                None => Err(no_version(&state, at)),
            })
            .await??;
        let Some(content) = content else { return Err(removed(&info)) };
        let shared = Arc::clone(&self.shared);
        let version = info.version;
        let load = move || shared.load(seq, &content);
        // A small payload costs less than the way to another thread and back.
        let bytes = if info.content.as_ref().is_some_and(|c| c.size_bytes <= STAGE_INLINE_LEN_MAX as u64) {
            load()
        } else {
            blocking(load).await?
        };
        let deed = Deed { actor: actor.into(), verb: "get", name: Some(name), version: Some(version), outcome: "ok" };
        let bytes = bytes.map_err(|damage| damage.failure(&format!("{}@{version}", info.state)))?;
        self.send(Command::Observe(Box::new(deed))).await?;
        Ok((info, bytes))
    }

    /// The size of a version's content, so that room for it can be made before it is fetched.
    pub async fn size(&self, state: StateName, at: Selector) -> Result<u64, Failure> {
        self.query(move |machine, _| match machine.states().select(&state, at) {
            Some((_, entry)) => Ok(entry.content.as_ref().map_or(0, |content| content.size_bytes)),
            None => Err(no_version(&state, at)),
        })
        .await?
    }

    async fn commit(
        &self,
        (session, connection, number): (SessionId, u64, u64),
        commit: Commit,
        room: Option<Box<dyn Send>>,
        outbox: Arc<dyn Outbox>,
    ) {
        let bytes: usize = commit.changes.iter().map(|change| content_len(&change.content)).sum();
        let shared = Arc::clone(&self.shared);
        let staged = if bytes <= STAGE_INLINE_LEN_MAX {
            Ok(shared.stage(commit))
        } else {
            blocking(move || shared.stage(commit)).await
        };
        let result = match staged {
            Ok(Ok(staged)) => {
                // A refused commit leaves its blobs as orphans, swept at the next start; they are never read.
                tracing::trace!(blobs = staged.blobs.len(), "staged");
                let (ask, payloads) = (Ask::Commit(staged.ask), staged.payloads);
                let submission = Submission { session, connection, number, ask, payloads, process: None, room };
                self.send(Command::Submit(Box::new(submission))).await
            }
            Ok(Err(failure)) | Err(failure) => Err(failure),
        };
        if let Err(failure) = result {
            outbox.reply(number, Err(failure));
        }
    }

    async fn change(&self, session: SessionId, connection: u64, number: u64, ask: Ask, process: Option<Process>) {
        let payloads = BTreeMap::new();
        let submission = Submission { session, connection, number, ask, payloads, process, room: None };
        // An engine that has stopped answers nobody: the client resumes at its successor.
        let _ = self.send(Command::Submit(Box::new(submission))).await;
    }

    async fn show(&self, _session: SessionId, state: StateName, at: Selector) -> Result<Reply, Failure> {
        self.query(move |machine, _| match machine.states().select(&state, at) {
            Some((version, entry)) => Ok(Reply::Version(entry.info(&state, version))),
            None => Err(no_version(&state, at)),
        })
        .await?
    }

    async fn list(&self, glob: Option<String>, after: Option<StateName>) -> Result<Reply, Failure> {
        let matches = matcher(glob)?;
        self.query(move |machine, _| {
            let rows = machine.states().list(after.as_ref()).filter(|info| matches(info.state.as_str()));
            let (versions, more) = page(rows, version_len);
            Reply::Versions(VersionPage { versions, more })
        })
        .await
    }

    async fn log(&self, state: StateName, before: Option<Version>) -> Result<Reply, Failure> {
        self.query(move |machine, _| match machine.states().log(&state, before) {
            Some(rows) => {
                let (versions, more) = page(rows, version_len);
                Ok(Reply::Versions(VersionPage { versions, more }))
            }
            None => Err(no_version(&state, Selector::Newest)),
        })
        .await?
    }

    async fn locks(&self, glob: Option<String>, after: Option<(StateName, LockId)>) -> Result<Reply, Failure> {
        let matches = matcher(glob)?;
        self.query(move |machine, view| {
            let rows = machine.locks().list(after.as_ref(), view.time).filter(|row| matches(row.name.as_str()));
            let (locks, more) = page(rows, lock_len);
            Reply::Locks(LockPage { locks, more })
        })
        .await
    }

    async fn audit(&self, filter: stated_shared::AuditFilter, after: Option<(Seq, u32)>) -> Result<Reply, Failure> {
        let matches = matcher(filter.glob.clone())?;
        let shared = Arc::clone(&self.shared);
        blocking(move || audit::page(&shared, &filter, &matches, after).map(Reply::Audit)).await?
    }

    async fn verify(&self, read_data: bool) -> Result<Reply, Failure> {
        let keyring = self.query(|machine, _| machine.keyring()).await?;
        let shared = Arc::clone(&self.shared);
        blocking(move || Reply::Verified(verify::verify(&shared, keyring, read_data))).await
    }

    async fn status(&self) -> Result<Reply, Failure> {
        let shared = Arc::clone(&self.shared);
        self.query(move |machine, view| {
            let (states, versions) = machine.states().count();
            let (seq, head) = shared.watermark.get();
            let facts = shared.facts.clone();
            Reply::Status(Box::new(StatusInfo {
                version: facts.version,
                pid: std::process::id(),
                host: facts.host,
                started: facts.started,
                repository: shared.vault.repository(),
                state_dir: facts.state_dir.display().to_string(),
                socket: facts.socket.display().to_string(),
                epoch: shared.epoch,
                seq,
                head,
                keyring: shared.vault.generation(),
                recipients: shared.vault.recipients().iter().map(ToString::to_string).collect(),
                states,
                versions,
                log_bytes: shared.reader.len_bytes(),
                grants: machine.locks().grant_count() as u64,
                waiters: machine.locks().waiter_count() as u64,
                sessions: view.sessions as u64,
                notes: view.notes.clone(),
            }))
        })
        .await
    }

    /// Reads the machine on the owner's thread; the answer comes once everything that it saw is durable.
    async fn query<T, F>(&self, read: F) -> Result<T, Failure>
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

    async fn send(&self, command: Command) -> Result<(), Failure> {
        self.sender.send(command).await.map_err(|_| stopping())
    }
}

impl Shared {
    /// Hashes and compresses the contents; large payloads become durable blobs.
    fn stage(&self, commit: Commit) -> Result<StagedCommit, Failure> {
        let mut changes = Vec::with_capacity(commit.changes.len());
        let mut payloads = BTreeMap::new();
        let mut blobs = Vec::new();
        let mut inline_len = 0;
        for change in commit.changes {
            let content = match change.content {
                Content::Removed => None,
                Content::Streamed { .. } => {
                    return Err(Failure::new(FailureKind::Internal, "a content was not assembled"));
                }
                Content::Inline(bytes) => {
                    let mut staged = stage::stage(&bytes.0)
                        .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot compress: {error}")))?;
                    let len = staged.payload.len();
                    if len <= INLINE_PAYLOAD_LEN_MAX && inline_len + len <= COMMIT_INLINE_LEN_MAX {
                        inline_len += len;
                        payloads.insert(change.state.clone(), staged.payload);
                    } else {
                        let id = self.write_blob(&staged.payload)?;
                        staged.content.payload = Payload::Blob { id: id.to_string(), len_bytes: len as u64 };
                        blobs.push(id);
                    }
                    Some(staged.content)
                }
            };
            changes.push(StagedChange { state: change.state, expect: change.expect, content });
        }
        let ask = CommitAsk {
            changes,
            locks: commit.locks,
            message: commit.message,
            labels: commit.labels,
            serials: commit.serials,
        };
        Ok(StagedCommit { ask, payloads, blobs })
    }

    fn write_blob(&self, payload: &[u8]) -> Result<BlobId, Failure> {
        let mut id = [0; 16];
        fill_random(&mut id)
            .map_err(|error| Failure::new(FailureKind::Internal, format!("no random bytes: {error}")))?;
        let id = BlobId(id);
        let sealed = self
            .vault
            .seal(payload)
            .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot seal: {error}")))?;
        self.blobs.write(id, &sealed).map_err(|error| {
            // A blob stands alone: whatever failed, nothing refers to it, and the journal goes on.
            let full = matches!(error.fate(), Fate::Refuse);
            let message = if full { "the state directory's disk is full" } else { "a blob could not be written" };
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Failure::new(FailureKind::Storage, format!("{message}: {error}{source}")).hint("nothing was changed")
        })?;
        Ok(id)
    }

    /// A version's content.
    pub(super) fn load(&self, seq: Seq, content: &event::Content) -> Result<Vec<u8>, Damage> {
        match &content.payload {
            Payload::Inline { offset_bytes, len_bytes } => {
                let (file, at) = self.reader.place(seq);
                let damaged = |what: String| Damage { file: file.clone(), offset_bytes: at, what };
                let record = self.reader.record(seq).map_err(|error| Damage::of(error, &file, at))?;
                let opened =
                    super::record::open_unchained(&self.vault, &record).map_err(|unverified| damaged(unverified.0))?;
                let payload = opened
                    .payload(*offset_bytes, *len_bytes)
                    .ok_or_else(|| damaged("its payload area is too short".to_owned()))?;
                stage::unstage(content, payload).map_err(damaged)
            }
            Payload::Blob { id, len_bytes } => {
                let id = blob_id(id).ok_or_else(|| Damage {
                    file: "blob".to_owned(),
                    offset_bytes: 0,
                    what: format!("{id} is no blob's name"),
                })?;
                let file = self.blobs.place(id);
                let damaged = |what: String| Damage { file: file.clone(), offset_bytes: 0, what };
                let sealed = self.blobs.read(id).map_err(|error| Damage::of(error, &file, 0))?;
                let len = usize::try_from(*len_bytes).map_err(|_| damaged("it is too large".to_owned()))?;
                let payload = self
                    .vault
                    .open(&sealed, len)
                    .map_err(|error| damaged(format!("it does not open: {error}")))?;
                stage::unstage(content, &payload).map_err(damaged)
            }
        }
    }
}

/// Something durable that is not what was written.
#[derive(Debug)]
pub(super) struct Damage {
    pub file: String,
    pub offset_bytes: u64,
    pub what: String,
}

impl Damage {
    fn of(error: ReadError, file: &str, offset_bytes: u64) -> Self {
        match error {
            ReadError::Damaged { file, offset_bytes, what } => Self { file, offset_bytes, what },
            ReadError::Missing(_) => Self { file: file.to_owned(), offset_bytes, what: "it is missing".to_owned() },
            ReadError::Read { source, .. } => {
                Self { file: file.to_owned(), offset_bytes, what: format!("it cannot be read: {source}") }
            }
        }
    }

    fn failure(&self, version: &str) -> Failure {
        let Self { file, offset_bytes, what } = self;
        Failure::new(FailureKind::Storage, format!("{version} cannot be read: {file} at byte {offset_bytes}: {what}"))
            .hint("other versions are not touched by it; see all damage with: statectl verify")
    }
}

/// A blob's name as the journal holds it.
pub(super) fn blob_id(text: &str) -> Option<BlobId> {
    text.parse::<SessionId>().ok().map(|id| BlobId(id.0))
}

/// Both clocks, read together.
pub(super) fn time(clock: &Clock) -> Time {
    Time { wall: clock.now(), boottime_ms: clock.boottime_ms() }
}

fn tie(process: &Process) -> Tie {
    Tie { mark: process.pid().zip(process.start()), gone: false }
}

fn content_len(content: &Content) -> usize {
    match content {
        Content::Inline(bytes) => bytes.0.len(),
        Content::Removed | Content::Streamed { .. } => 0,
    }
}

/// Runs what takes long, or waits for the disk, off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a task failed");
        Failure::new(FailureKind::Internal, "the daemon failed at this request; its log says more")
    })
}

/// `*` stays in a part of the name, `**` crosses.
fn matcher(glob: Option<String>) -> Result<Box<dyn Fn(&str) -> bool + Send>, Failure> {
    let Some(glob) = glob else { return Ok(Box::new(|_| true)) };
    let matcher: GlobMatcher = GlobBuilder::new(&glob)
        .literal_separator(true)
        .build()
        .map_err(|error| {
            Failure::new(FailureKind::Usage, format!("{glob:?} is no glob: {}", error.kind()))
                .hint("'*' matches within a part of a name, '**' across parts")
        })?
        .compile_matcher();
    Ok(Box::new(move |name| matcher.is_match(name)))
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

fn no_version(state: &StateName, at: Selector) -> Failure {
    match at {
        Selector::Newest => Failure::new(FailureKind::NotFound, format!("no state {state}"))
            .hint("list the states with: statectl ls"),
        Selector::Version(version) => Failure::new(FailureKind::NotFound, format!("no version {version} of {state}"))
            .hint(format!("list its versions with: statectl log '{state}'")),
    }
}

fn removed(info: &VersionInfo) -> Failure {
    let message = format!("{}@{} is a removal by {}", info.state, info.version, info.actor);
    let last = info.version.0.saturating_sub(1).max(1);
    Failure::new(FailureKind::NotFound, message)
        .hint(format!("its history is kept: statectl get '{}@{last}'", info.state))
}

fn stopping() -> Failure {
    Failure::new(FailureKind::Unavailable, "the daemon is stopping").hint("try again: statectl starts it anew")
}
