//! Backups: records and blobs as they are stored, a piece at a time, all of one record's time, while commits go on.
//!
//! Nothing is copied ahead. A backup holds what is there: as long as it lasts no blob is removed and no part of the log is
//! put in the place of another, so that what was needed when it began is there to its end. Records that come later are
//! beyond its last one.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stated_shared::limits::{BACKUP_IDLE_MS_MAX, BACKUP_PIECE_LEN_MAX, PAGE_ROWS_MAX};
use stated_shared::{
    BackupBegun, BackupPart, BackupStep, BlobName, Bytes, Digest, Failure, FailureKind, Generation, Reply,
    RepositoryId, Seq, SessionId,
};
use tokio::sync::oneshot;

use super::handle::{Asked, Engine, blocking, stopping};
use super::owner::Command;
use super::service::ConnectionId;
use super::store::Store;
use crate::host::Clock;
use crate::journal::{BlobId, ReadError};
use crate::vault::KeyringPlace;

/// A record is read as a whole, and an answer is made of it: what one step may have in memory.
const STEP_LEN_MAX: u64 = 9 << 20;

/// How often the keyrings are looked for while one gives way to the next.
const TRIES_MAX: u32 = 8;

/// The backups that are under way, and what waits for their end.
pub(super) struct Backups {
    store: Store,
    clock: Clock,
    held: Mutex<Held>,
    /// How many there are: every connection's end asks, and must not wait for the lock, under which files are written.
    count: AtomicUsize,
}

#[derive(Default)]
struct Held {
    backups: HashMap<SessionId, UnderWay>,
    /// Blobs that nothing needs but, perhaps, a backup.
    freed: Vec<String>,
}

struct UnderWay {
    connection: ConnectionId,
    asked_boottime_ms: u64,
    upto: Seq,
    blobs: Arc<[BlobId]>,
}

impl Backups {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, held: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// Removes blobs that nothing durable needs, once no backup may need them.
    pub fn remove(&self, blobs: impl IntoIterator<Item = String>) {
        let mut held = self.lock();
        held.freed.extend(blobs);
        self.sweep(held);
    }

    /// Does what changes records that are there, unless there is a backup that may need them as they are.
    pub fn unless_held<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let held = self.lock();
        // Held all along: a backup that begins now sees what was done.
        held.backups.is_empty().then(change)
    }

    /// The connection is gone, and its backup with it.
    pub async fn leave(self: &Arc<Self>, session: SessionId, connection: ConnectionId) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let backups = Arc::clone(self);
        // What it says is logged; whoever asked is gone.
        let _ = blocking(move || backups.end(session, |backup| backup.connection == connection)).await;
    }

    fn begin(&self, of: Asked) {
        let backup = UnderWay {
            connection: of.connection,
            asked_boottime_ms: self.clock.boottime_ms(),
            upto: Seq(0),
            blobs: Arc::default(),
        };
        let mut held = self.lock();
        held.backups.insert(of.session, backup);
        self.count.store(held.backups.len(), Ordering::Release);
    }

    fn fill(&self, session: SessionId, upto: Seq, blobs: Vec<BlobId>) {
        if let Some(backup) = self.lock().backups.get_mut(&session) {
            (backup.upto, backup.blobs) = (upto, blobs.into());
        }
    }

    fn end(&self, session: SessionId, is_meant: impl FnOnce(&UnderWay) -> bool) {
        let mut held = self.lock();
        if held.backups.get(&session).is_some_and(is_meant) {
            held.backups.remove(&session);
            self.count.store(held.backups.len(), Ordering::Release);
            self.sweep(held);
        }
    }

    /// The last record and the blobs of the session's backup.
    fn of(&self, session: SessionId) -> Result<(Seq, Arc<[BlobId]>), Failure> {
        let mut held = self.lock();
        let backup = held.backups.get_mut(&session).ok_or_else(|| {
            Failure::new(
                FailureKind::Unavailable,
                "the backup is not under way any more: its connection was lost, or idle",
            )
            .hint("begin it anew; what is complete of it is not fetched again")
        })?;
        backup.asked_boottime_ms = self.clock.boottime_ms();
        Ok((backup.upto, Arc::clone(&backup.blobs)))
    }

    /// Without the backups that ask for nothing any more.
    fn lock(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.boottime_ms();
        held.backups.retain(|session, backup| {
            let is_idle = now.saturating_sub(backup.asked_boottime_ms) > BACKUP_IDLE_MS_MAX;
            if is_idle {
                tracing::warn!(%session, "a backup asked for nothing for long, and is given up");
            }
            !is_idle
        });
        held
    }

    fn sweep(&self, mut held: MutexGuard<'_, Held>) {
        if held.backups.is_empty() {
            // Held all along: a backup that begins now misses nothing.
            std::mem::take(&mut held.freed).iter().for_each(|blob| self.store.remove_blob(blob));
        }
    }
}

impl Engine {
    /// Answers one step of a backup.
    pub(super) async fn backup(&self, of: Asked, step: BackupStep) -> Result<(), Failure> {
        let begins = matches!(step, BackupStep::Begin { .. });
        let answer = match step {
            BackupStep::Begin { has } => self.begin_backup(of, has).await,
            BackupStep::End => {
                let backups = Arc::clone(&self.shared.backups);
                blocking(move || backups.end(of.session, |_| true)).await.map(|()| Reply::Done)
            }
            step => self.backup_part(of, step).await.map(Reply::Backup),
        };
        if begins {
            let outcome = answer.as_ref().map_or_else(|failure| failure.kind.as_str(), |_| "ok");
            self.send(Command::BackedUp { session: of.session, outcome }).await?;
        }
        self.read(of, move |_, _| answer).await
    }

    async fn begin_backup(&self, of: Asked, has: Option<(RepositoryId, Seq, Digest)>) -> Result<Reply, Failure> {
        let shared = Arc::clone(&self.shared);
        // Before it is looked what there is: what leaves after that is held.
        let backups = Arc::clone(&shared.backups);
        blocking(move || backups.begin(of)).await?;
        let begun = self.fill_backup(of, has).await;
        if begun.is_err() {
            blocking(move || shared.backups.end(of.session, |_| true)).await?;
        }
        begun.map(|begun| Reply::Backup(BackupPart::Begun(begun)))
    }

    async fn fill_backup(&self, of: Asked, has: Option<(RepositoryId, Seq, Digest)>) -> Result<BackupBegun, Failure> {
        let mut tries = 0;
        let (seq, head, blobs, files) = loop {
            let ((seq, head), blobs, keyring) = self.see_all().await?;
            let shared = Arc::clone(&self.shared);
            let files = blocking(move || small_files(&shared.keyrings.place, &shared.facts.state_dir)).await?;
            // The keyring that counts at the record may have given way to the next one meanwhile.
            let wanted = keyring.map(|generation| format!("keys/{generation}.age"));
            let is_there = |files: &Vec<(String, Bytes)>| {
                wanted.as_ref().is_none_or(|wanted| files.iter().any(|(path, _)| path == wanted))
            };
            tries += 1;
            match files {
                Ok(files) if is_there(&files) || tries == TRIES_MAX => break (seq, head, blobs, files),
                Err(error) if tries == TRIES_MAX => {
                    let message = format!("cannot read the keyrings and FORMAT: {error}");
                    return Err(
                        Failure::new(FailureKind::Storage, message).hint("see what is wrong with: statectl verify")
                    );
                }
                Ok(_) | Err(_) => {}
            }
        };
        let repository = self.shared.store.vault.repository();
        if let Some(has) = has {
            let shared = Arc::clone(&self.shared);
            blocking(move || shared.store.is_older(has, (repository, seq))).await??;
        }
        self.shared.backups.fill(of.session, seq, blobs);
        Ok(BackupBegun { repository, seq, head, files })
    }

    /// The last record, the blobs that its versions need, and the keyring that counts.
    async fn see_all(&self) -> Result<((Seq, Digest), Vec<BlobId>, Option<Generation>), Failure> {
        let (done, seen) = oneshot::channel();
        let watermark = Arc::clone(&self.shared.watermark);
        self.send(Command::Query(Box::new(move |machine, _| {
            // The names are in the order of the digits, and so of the bytes.
            let blobs: Vec<BlobId> = machine.states().blobs().into_iter().filter_map(|id| id.parse().ok()).collect();
            let keyring = machine.keyring().map(|(generation, _)| generation);
            // Called when the record is durable that has the last of what was seen, and before there is another.
            Box::new(move || drop(done.send((watermark.get(), blobs, keyring))))
        })))
        .await?;
        seen.await.map_err(|_| stopping())
    }

    async fn backup_part(&self, of: Asked, step: BackupStep) -> Result<BackupPart, Failure> {
        let (upto, blobs) = self.shared.backups.of(of.session)?;
        let budget = self.shared.budget.clone();
        let room = budget.room(STEP_LEN_MAX.min(budget.len_max())).await?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let part = shared.store.backup_part(upto, &blobs, step);
            drop(room);
            part.map_err(|error| unread(&error))
        })
        .await?
    }
}

impl Store {
    /// Whether what a backup has is the beginning of this journal.
    fn is_older(
        &self,
        (repository, has, mac): (RepositoryId, Seq, Digest),
        (own, last): (RepositoryId, Seq),
    ) -> Result<(), Failure> {
        let what = if repository != own {
            format!("the backup is of repository {repository}, and this is {own}")
        } else if has > last {
            format!("the backup has record {has}, and the journal ends with {last}: it went back since")
        } else if self.reader.mac(has).map_err(|error| unread(&error))? != mac {
            format!("record {has} of the backup is another one than the journal's: it went back and has grown since")
        } else {
            return Ok(());
        };
        Err(Failure::new(FailureKind::Conflict, what)
            .hint("the backup was left as it is; if the journal is the right one, begin another backup beside it"))
    }

    fn backup_part(&self, upto: Seq, blobs: &[BlobId], step: BackupStep) -> Result<BackupPart, ReadError> {
        match step {
            BackupStep::Blobs { after } => {
                let start = after.map_or(0, |after| blobs.partition_point(|id| *id <= BlobId(after.0)));
                let rows = blobs[start..].iter().take(PAGE_ROWS_MAX);
                let rows: Result<Vec<_>, _> = rows
                    .map(|id| match self.blobs.len_bytes(*id) {
                        Ok(len) => Ok((BlobName(id.0), Some(len))),
                        // The rest shall not be lost with it.
                        Err(ReadError::Missing(_)) => Ok((BlobName(id.0), None)),
                        Err(error) => Err(error),
                    })
                    .collect();
                let rows = rows?;
                let more = start + rows.len() < blobs.len();
                Ok(BackupPart::Blobs { blobs: rows, more })
            }
            BackupStep::Blob { name, offset_bytes } => {
                let bytes = self.blobs.piece(BlobId(name.0), offset_bytes, BACKUP_PIECE_LEN_MAX)?;
                Ok(BackupPart::Blob(Bytes(bytes)))
            }
            BackupStep::Begin { .. } | BackupStep::End => unreachable!("they are no parts"),
            BackupStep::Records { from, offset_bytes } => {
                let (mut seq, mut offset) = (from, usize::try_from(offset_bytes).unwrap_or(usize::MAX));
                let mut bytes = Vec::new();
                while seq <= upto {
                    let stored = self.reader.stored(seq)?;
                    let rest = stored.get(offset..).unwrap_or_default();
                    let left = BACKUP_PIECE_LEN_MAX - bytes.len();
                    if rest.len() > left {
                        // Else a record would be read again and again for the room that is left.
                        if bytes.is_empty() {
                            bytes.extend_from_slice(&rest[..left]);
                            offset += left;
                        }
                        break;
                    }
                    bytes.extend_from_slice(rest);
                    (seq, offset) = (seq.next(), 0);
                }
                Ok(BackupPart::Records { bytes: Bytes(bytes), next: (seq, offset as u64) })
            }
        }
    }
}

/// The keyrings, the newest of them where they are too many for one answer, and last `FORMAT`.
fn small_files(place: &KeyringPlace, dir: &Path) -> io::Result<Vec<(String, Bytes)>> {
    let (mut files, mut len) = (Vec::new(), 0);
    for generation in place.generations().map_err(io::Error::other)? {
        let path = format!("keys/{generation}.age");
        let bytes = fs::read(dir.join(&path))?;
        len += bytes.len();
        if len > BACKUP_PIECE_LEN_MAX {
            break;
        }
        files.push((path, Bytes(bytes)));
    }
    files.push(("FORMAT".to_owned(), Bytes(fs::read(dir.join("FORMAT"))?)));
    Ok(files)
}

fn unread(error: &ReadError) -> Failure {
    Failure::new(FailureKind::Storage, format!("the backup cannot go on: {error}"))
        .hint("see all damage with: statectl verify")
}
