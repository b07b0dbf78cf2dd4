//! A state directory made of a backup: copied, verified, marked as restored, and only then put in its place.

mod source;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use stated_shared::{Epoch, Failure, FailureKind, RepositoryId, Seq};

use self::source::Source;
use super::failure::{halt_failure, storage};
use super::keys::{SECRET_TOLD_FILE, identities};
use super::{OpenedDirectory, clock, harden, open, own_actor, take};
use crate::config::Settings;
use crate::disk::{Disk, RealDisk};
use crate::engine::{self, Returned};
use crate::host::Users;
use crate::journal::{Journal, OpenMode, RESTORING_DIR};

/// Damaged places that are named in a refusal.
const NAMED_MAX: usize = 3;
/// What a restore puts in its place, `FORMAT` last: without it no daemon starts.
const PUT: [&str; 4] = ["keys", "log", "blob", "FORMAT"];

/// What came of a restore.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The repository.
    pub repository: RepositoryId,
    /// The last record that was restored.
    pub seq: Seq,
    /// Above every epoch that was given before.
    pub epoch: Epoch,
    /// Leases that ended.
    pub leases: usize,
    /// Where what was there before is now, relative to the state directory.
    pub aside: Option<String>,
    /// The last record of that, where it could be read and is of the same repository.
    pub before: Option<Seq>,
}

/// Makes the state directory of a backup. `Err` leaves what was there as it was.
///
/// After a crash between the last steps no daemon starts on the directory until it is restored again; what was there before
/// is aside then.
pub fn restore(settings: &Settings, from: &Path, force: bool) -> Result<Restored, Failure> {
    harden()?;
    let source = Source::open(from)?;
    let dir = &settings.state_dir;
    let held = take(dir)?;
    let there = there(dir)?;
    if !there.is_empty() && !force {
        let message = format!("{} is not empty: it holds {}", dir.display(), there.join(", "));
        return Err(Failure::new(FailureKind::Conflict, message)
            .hint("nothing was changed; --force moves what is there aside, and deletes nothing"));
    }
    let staging = dir.join(RESTORING_DIR);
    clear(&staging)?;
    fs::create_dir(&staging).map_err(|error| storage(&staging, "make", &error))?;
    let aside = if there.is_empty() { None } else { Some(unused(dir)) };
    let restored = source
        .copy_into(&staging)
        .and_then(|()| mark(settings, &staging, there.iter().any(|name| name == "FORMAT"), aside.clone()));
    let restored = match restored {
        Ok(restored) => restored,
        Err(failure) => {
            // It is in nobody's way where it stays.
            let _ = clear(&staging);
            return Err(failure);
        }
    };
    if let Some(aside) = &aside {
        set_aside(dir, &there, aside)?;
    }
    for name in PUT {
        if name == "FORMAT" {
            sync(dir)?;
        }
        rename(&staging.join(name), &dir.join(name))?;
    }
    sync(dir)?;
    clear(&staging)?;
    drop(held);
    Ok(restored)
}

/// Verifies what was copied, and makes its log tell of the restore.
fn mark(settings: &Settings, staging: &Path, was_there: bool, aside: Option<String>) -> Result<Restored, Failure> {
    let clock = clock()?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let identities = identities(settings, &clock)?;
    let copied = Settings { state_dir: staging.to_owned(), accept_loss: None, ..settings.clone() };
    let (repository, records) = {
        let OpenedDirectory { journal, vault } = open(&disk, &copied, &identities, OpenMode::ReadOnly)?;
        let found = engine::verify_offline(&journal.replay, &journal.journal, None, staging);
        if !found.damage.is_empty() {
            let named = found.damage.iter().take(NAMED_MAX);
            let named: Vec<_> = named
                .map(|damage| format!("{} at byte {}: {}", damage.file, damage.offset_bytes, damage.what))
                .collect();
            let message = format!("the backup is damaged in {} places: {}", found.damage.len(), named.join("; "));
            return Err(Failure::new(FailureKind::Storage, message)
                .hint("nothing was changed; restore another backup, or recover what reads with docs/recover.sh"));
        }
        (vault.repository(), found.records)
    };
    if records == 0 {
        return Err(Failure::new(FailureKind::Conflict, "the backup has no record: there is nothing to restore")
            .hint("name another one"));
    }
    let last = if was_there { last_of(&disk, settings, &identities, repository)? } else { None };
    let OpenedDirectory { journal, .. } = open(&disk, &copied, &identities, OpenMode::Repair)?;
    let returned = Returned {
        replay: journal.replay,
        journal: Box::new(journal.journal),
        actor: own_actor(&Users::default()),
        now: clock.now(),
        seen: last.map_or(Epoch(0), |(epoch, _)| epoch),
        aside: aside.clone(),
    };
    let engine::Told { seq, epoch, leases } = engine::tell_restored(returned).map_err(|halt| {
        // The copy alone is concerned.
        Failure { hint: Some("nothing was changed; try again".to_owned()), ..halt_failure(&halt) }
    })?;
    Ok(Restored { repository, seq, epoch, leases, aside, before: last.map(|(_, seq)| seq) })
}

/// The last epoch and record of the directory that is there, where it can be read and is of this repository.
fn last_of(
    disk: &Arc<dyn Disk>,
    settings: &Settings,
    identities: &crate::vault::Identities,
    repository: RepositoryId,
) -> Result<Option<(Epoch, Seq)>, Failure> {
    Ok(match open(disk, settings, identities, OpenMode::ReadOnly) {
        Ok(opened) if opened.vault.repository() == repository => {
            Some((opened.journal.replay.epoch(), opened.journal.journal.last()))
        }
        Ok(_) => None,
        // It could be read, if only somebody touched a token.
        Err(failure) if failure.kind == FailureKind::Unavailable => return Err(failure),
        Err(failure) => {
            tracing::warn!(%failure, "what is there cannot be read, and is moved aside as it is");
            None
        }
    })
}

/// What is in the directory and is neither its lock nor a restore's own.
fn there(dir: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error| storage(dir, "list", &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name != "LOCK" && name != SECRET_TOLD_FILE && name != RESTORING_DIR && !name.starts_with(ASIDE) {
            names.push(name);
        }
    }
    // FORMAT first when they are moved: without it no daemon starts on the half of them.
    names.sort_by_key(|name| (name != "FORMAT", name.clone()));
    Ok(names)
}

/// How the directories begin that hold what was there before a restore.
const ASIDE: &str = "before-restore-";

fn unused(dir: &Path) -> String {
    let mut names = (1..).map(|n: u32| format!("{ASIDE}{n}"));
    names.find(|name| !dir.join(name).exists()).expect("some name is free")
}

fn set_aside(dir: &Path, names: &[String], aside: &str) -> Result<(), Failure> {
    let aside = dir.join(aside);
    fs::create_dir(&aside).map_err(|error| storage(&aside, "make", &error))?;
    sync(dir)?;
    for (at, name) in names.iter().enumerate() {
        rename(&dir.join(name), &aside.join(name))?;
        if at == 0 {
            sync(&aside)?;
            sync(dir)?;
        }
    }
    sync(&aside)?;
    sync(dir)
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(|error| {
        storage(from, "move", &error).hint("the restore was interrupted: do it again; what was there before is kept")
    })
}

fn clear(dir: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(storage(dir, "remove", &error)),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> Result<(), Failure> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| storage(dir, "sync", &error))
}
