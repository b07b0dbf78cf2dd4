//! A commit before it is decided: bases are chosen, contents compressed, large payloads made durable.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use stated_shared::{Commit, Content, Expect, Failure, FailureKind, StateName, Version};

use super::budget::{ContentPermit, HeldContent};
use super::delta::{self, Bases, Chain, PATCHED_LEN_MIN};
use super::handle::{Asked, Engine, STAGE_INLINE_LEN_MAX, Shared, blocking};
use super::owner::{Command, Submission};
use super::stage::{self, INLINE_PAYLOAD_LEN_MAX};
use crate::machine::event::Payload;
use crate::machine::{Access, Ask, CommitAsk, StagedChange, States, Unreadable};

/// Inline payloads of one commit, or of one prune; what goes over it becomes a blob.
pub(super) const COMMIT_INLINE_LEN_MAX: usize = 1 << 20;

/// A commit whose contents are staged.
pub(super) struct StagedCommit {
    pub ask: CommitAsk,
    pub bytes: StagedBytes,
}

/// The bytes of a commit, by state.
#[derive(Default)]
pub(super) struct StagedBytes {
    /// Compressed contents that ride in the record.
    pub payloads: BTreeMap<StateName, Vec<u8>>,
    /// Contents that may be wanted again soon, or staged anew.
    pub contents: BTreeMap<StateName, Vec<u8>>,
    /// Compressed contents that a prune stores anew, and that ride in the record.
    pub moved: BTreeMap<(StateName, Version), Vec<u8>>,
    /// Stages the contents anew and submits them; absent where none of them is a patch.
    pub restage: Option<Restage>,
}

/// See [`StagedBytes::restage`].
pub(super) type Restage = Box<dyn FnOnce(Box<Submission>) + Send>;

impl StagedCommit {
    /// Whether some content of it is a patch.
    pub fn is_patch(&self) -> bool {
        self.ask.changes.iter().any(|change| change.content.as_ref().is_some_and(|content| content.base.is_some()))
    }
}

/// What a content is patched from.
enum Base {
    AtHand(Version, Arc<HeldContent>),
    Stored(Chain),
}

impl Engine {
    pub(super) async fn commit(
        &self,
        of: Asked,
        access: Arc<dyn Access>,
        commit: Commit,
        room: Option<ContentPermit>,
    ) -> Result<(), Failure> {
        let bytes: usize = commit.changes.iter().map(|change| content_len(&change.content)).sum();
        let bases = self.bases(&commit).await?;
        let shared = Arc::clone(&self.shared);
        let is_at_hand = bases.values().all(|base| matches!(base, Base::AtHand(..)));
        let mut staged = if bytes <= STAGE_INLINE_LEN_MAX && is_at_hand {
            shared.stage(commit, bases)?
        } else {
            blocking(move || shared.stage(commit, bases)).await??
        };
        if staged.is_patch() {
            let engine = self.clone();
            let runtime = tokio::runtime::Handle::current();
            staged.bytes.restage = Some(Box::new(move |submission| {
                let tracker = engine.shared.tracker.clone();
                tracker.spawn_on(engine.restage(submission), &runtime);
            }));
        }
        self.change(of, access, Ask::Commit(staged.ask), staged.bytes, None, room).await
    }

    /// A prune dropped what its contents are patches from: they are stored whole instead.
    async fn restage(self, submission: Box<Submission>) {
        let Submission { session, connection, number, .. } = *submission;
        let shared = Arc::clone(&self.shared);
        let staged = blocking(move || shared.stage_whole(submission)).await.flatten();
        // An engine that has stopped answers nobody: the client resumes at its successor.
        let _ = match staged {
            Ok(submission) => self.send(Command::Submit(submission)).await,
            Err(failure) => self.read(Asked { session, connection, number }, move |_, _| Err(failure)).await,
        };
    }

    /// What the contents of a commit are patched from. Other commits may come in between: the bases then are older
    /// than they could be, and as good.
    async fn bases(&self, commit: &Commit) -> Result<BTreeMap<StateName, Base>, Failure> {
        let (mut bases, elsewhere) = self.shared.bases_at_hand(commit);
        if !elsewhere.is_empty() {
            bases.extend(self.query(move |machine, _| stored_bases(machine.states(), elsewhere)).await??);
        }
        Ok(bases)
    }
}

/// The bases of states that are not at hand, for contents of these lengths.
fn stored_bases(states: &States, of: Vec<(StateName, u64)>) -> Result<Vec<(StateName, Base)>, Unreadable> {
    let chain = |(state, size_bytes): (StateName, u64)| {
        let Some(base) = Bases::of(states, &state)?.and_then(|bases| bases.choose(size_bytes)) else { return Ok(None) };
        let chain = delta::chain(states, &state, base)?;
        Ok(Some((state, Base::Stored(chain))))
    };
    of.into_iter().filter_map(|of| chain(of).transpose()).collect()
}

impl Shared {
    /// The bases that are at hand, and what is to be looked up for others: state and length of the new content.
    fn bases_at_hand(&self, commit: &Commit) -> (BTreeMap<StateName, Base>, Vec<(StateName, u64)>) {
        let mut bases = BTreeMap::new();
        let mut elsewhere = Vec::new();
        for change in &commit.changes {
            let size_bytes = content_len(&change.content) as u64;
            // What must not exist yet has nothing before it.
            if size_bytes < PATCHED_LEN_MIN || matches!(change.expect, Expect::Absent) {
                continue;
            }
            match self.budget.newest().get(&change.state) {
                Some(newest) => match newest.bases.choose(size_bytes) {
                    Some(base) if base == newest.version => {
                        bases.insert(change.state.clone(), Base::AtHand(base, newest.bytes));
                    }
                    Some(_) => elsewhere.push((change.state.clone(), size_bytes)),
                    None => {}
                },
                None => elsewhere.push((change.state.clone(), size_bytes)),
            }
        }
        (bases, elsewhere)
    }

    /// As a commit is staged, on this thread and beside the machine.
    #[cfg(test)]
    pub(super) fn stage_beside(&self, states: &States, commit: Commit) -> Result<StagedCommit, Failure> {
        let (mut bases, elsewhere) = self.bases_at_hand(&commit);
        bases.extend(stored_bases(states, elsewhere)?);
        self.stage(commit, bases)
    }

    /// Stores the contents of a commit whole that were staged as patches.
    pub(super) fn stage_whole(&self, mut submission: Box<Submission>) -> Result<Box<Submission>, Failure> {
        let Submission { ask: Ask::Commit(ask), bytes, .. } = &mut *submission else { return Ok(submission) };
        for change in &mut ask.changes {
            let Some(content) = change.content.as_mut().filter(|content| content.base.is_some()) else { continue };
            let Some(whole) = bytes.contents.get(&change.state) else {
                return Err(Failure::new(FailureKind::Internal, "a content is gone before it was stored"));
            };
            if let Payload::Blob { id, .. } = &content.payload {
                self.store.remove_blob(id);
            }
            bytes.payloads.remove(&change.state);
            let mut staged = stage::stage(whole, None)
                .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot compress: {error}")))?;
            let inline_len: usize = bytes.payloads.values().map(Vec::len).sum();
            let len = staged.payload.len();
            if len <= INLINE_PAYLOAD_LEN_MAX && inline_len + len <= COMMIT_INLINE_LEN_MAX {
                bytes.payloads.insert(change.state.clone(), staged.payload);
            } else {
                let id = self.store.write_blob(&staged.payload)?;
                staged.content.payload = Payload::Blob { id: id.to_string(), len_bytes: len as u64 };
            }
            *content = staged.content;
        }
        Ok(submission)
    }

    /// Hashes and compresses the contents; large payloads become durable blobs.
    fn stage(&self, commit: Commit, mut bases: BTreeMap<StateName, Base>) -> Result<StagedCommit, Failure> {
        let mut changes = Vec::with_capacity(commit.changes.len());
        let mut bytes = StagedBytes::default();
        let mut inline_len = 0;
        for change in commit.changes {
            let content = match change.content {
                Content::Removed => None,
                Content::Streamed { .. } => {
                    return Err(Failure::new(FailureKind::Internal, "a content was not assembled"));
                }
                Content::Inline(content) => {
                    let base = bases.remove(&change.state).and_then(|base| self.load_base(base, content.0.len()));
                    let base = base.as_ref().map(|base| (base.version, &base[..]));
                    let mut staged = stage::stage(&content.0, base)
                        .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot compress: {error}")))?;
                    // A patch may have to be stored whole after all; until it is durable its room is kept anyway.
                    if staged.content.base.is_some() || self.budget.newest().fits(content.0.len()) {
                        bytes.contents.insert(change.state.clone(), content.0);
                    }
                    let len = staged.payload.len();
                    if len <= INLINE_PAYLOAD_LEN_MAX && inline_len + len <= COMMIT_INLINE_LEN_MAX {
                        inline_len += len;
                        bytes.payloads.insert(change.state.clone(), staged.payload);
                    } else {
                        let id = self.store.write_blob(&staged.payload)?;
                        staged.content.payload = Payload::Blob { id: id.to_string(), len_bytes: len as u64 };
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
        Ok(StagedCommit { ask, bytes })
    }

    /// The base of a content of this length, with room to compare what comes back. `None` where there is no room or
    /// the base is damaged: then a whole frame does.
    fn load_base(&self, base: Base, len: usize) -> Option<LoadedBase> {
        let (version, bytes, base_len) = match &base {
            Base::AtHand(version, bytes) => (*version, Some(Arc::clone(bytes)), 0),
            Base::Stored(chain) => (chain.first()?.version, None, delta::load_len(chain)),
        };
        let room = self.budget.room_at_once(base_len + len as u64)?;
        match (bytes, base) {
            (Some(bytes), _) => Some(LoadedBase { version, bytes, _room: Some(room) }),
            (None, Base::Stored(chain)) => match self.store.load(&chain) {
                Ok(bytes) => Some(LoadedBase { version, bytes: HeldContent::new(bytes, Some(room)), _room: None }),
                Err((_, damage)) => {
                    let (file, offset) = (damage.file, damage.offset_bytes);
                    tracing::error!(file, offset, "a version cannot be read, so the next one is stored whole");
                    None
                }
            },
            (None, Base::AtHand(..)) => None,
        }
    }
}

/// A content to patch from.
struct LoadedBase {
    version: Version,
    bytes: Arc<HeldContent>,
    _room: Option<ContentPermit>,
}

impl Deref for LoadedBase {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

fn content_len(content: &Content) -> usize {
    match content {
        Content::Inline(bytes) => bytes.0.len(),
        Content::Removed | Content::Streamed { .. } => 0,
    }
}
