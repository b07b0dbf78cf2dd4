//! Where the concrete types meet: from settings to a daemon that serves, and back to nothing.

pub(crate) mod failure;
mod founding;
mod inspect;
mod keys;
mod opening;
mod policy;
mod restore;
mod watchdog;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stated_shared::{Actor, Damage, Digest, Failure, FailureKind, RepositoryId, SessionId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::failure::{chain, foreign_keyring, halt_failure, keyring_failure, open_failure, start_failure, storage};
pub use self::founding::Founded;
#[cfg(test)]
pub(crate) use self::founding::found_repository;
use self::founding::{announce, found, new_key};
pub use self::inspect::{Inspected, inspect};
use self::keys::identities;
pub(crate) use self::opening::OpenedJournal;
use self::policy::Keeper;
pub use self::restore::{Restored, restore};
use crate::config::Settings;
use crate::disk::{Disk, RealDisk};
use crate::engine::{self, Beginning, Facts, Keyrings};
use crate::host::{self, Clock, DirectoryLock, GrantTable, Loaded, Socket, Supervisor, Users};
use crate::journal::{Ended, Journal, Loss, OpenMode, Presence, presence};
use crate::policy::Mode;
use crate::session::{self, Rules};
use crate::vault::{Identities, Keyring, KeyringError, KeyringPlace, Vault};

/// Runs the daemon until a signal or a failure ends it.
///
/// The runtime must have I/O and time.
pub async fn run(mut settings: Settings) -> Result<(), Failure> {
    harden()?;
    let held = take(&settings.state_dir)?;
    // Before any program is started, which would inherit it else.
    let activated = Socket::activated().map_err(|error| error.failure())?;
    let clock = clock()?;
    let keeper = Keeper::start(&settings, clock)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let founded = found(&*disk, &settings, &clock)?;
    if let Some(founded) = &founded {
        announce(&settings, founded);
    }
    Supervisor.starting("reading the journal");
    let identities = identities(&settings, &clock)?;
    let mut opened = open(&disk, &settings, &identities, OpenMode::Repair)?;
    // Until now a signal ended the process on the spot, as it may end at any time: a long log or somebody's token may keep a
    // start waiting.
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    host::stop_on_signals(stop.clone(), &tracker)
        .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot handle signals: {error}")))?;
    // Bound before the locks are taken up: from here on no successor starts beside us, and clients wait in line.
    let socket = match activated {
        Some(socket) => socket,
        None => {
            Socket::bind(&settings.socket, &held, settings.mode == Mode::System).map_err(|error| error.failure())?
        }
    };
    // Of one that was handed over it is the service manager who says where it is.
    settings.socket = socket.path().to_owned();
    let users = Arc::new(Users::default());
    let daemon = own_actor(&users);
    let keys = opened.vault.derive_keys("grant table");
    let table = grants_beside(&settings.socket);
    let grants = GrantTable::open(&table, &keys, clock.boot_id())
        .map_err(|error| Failure::new(FailureKind::Storage, chain(&error)))?;
    accept_loss(&*disk, &settings, &mut opened.journal, &grants.1)?;
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host::host_name(),
        started: clock.now(),
        state_dir: settings.state_dir.clone(),
        socket: settings.socket.clone(),
        retention: settings.retention.told(),
        audit: settings.audit_keep.told(),
    };
    let budget = engine::ContentBudget::new(settings.content_memory_bytes);
    let OpenedJournal { replay, journal, snapshots, loss } = opened.journal;
    let journal = Box::new(journal);
    let audit_keep = settings.audit_keep;
    let keyrings = Keyrings { place: KeyringPlace::new(disk, &settings.state_dir), own: identities.own() };
    let (policies, author) = (keeper.policies(), daemon.clone());
    let beginning =
        Beginning { replay, journal, clock, grants, facts, budget, daemon, snapshots, loss, audit_keep, keyrings };
    let (engine, mut ended) = engine::start(beginning, &tracker).map_err(start_failure)?;
    tracing::info!(socket = %settings.socket.display(), state_dir = %settings.state_dir.display(), "serving");
    Supervisor.ready(&match founded {
        Some(Founded { new_identity: true, .. }) => new_key(&settings),
        _ => "serving".to_owned(),
    });

    if let Some(limit) = Supervisor.watchdog() {
        tracker.spawn(watchdog::prove_life(engine.clone(), limit, stop.clone()));
    }
    tracker.spawn(engine.clone().retain(settings.retention.clone(), stop.clone()));
    tracker.spawn(keeper.watch(engine.clone(), author, stop.clone()));
    // A task and no part of this future: the thread that hears of a connection then serves it too, and wakes nobody.
    let mut sessions = tracker.spawn(session::serve(socket, engine.clone(), users, Rules::of(policies), stop.clone()));
    let halted = tokio::select! {
        served = &mut sessions => {
            served.map_err(|error| Failure::new(FailureKind::Internal, format!("no connections are served: {error}")))?;
            None
        }
        halted = &mut ended => Some(halted),
    };
    Supervisor.stopping();
    stop.cancel();
    let result = match halted {
        // The owner is gone already: sessions end without another answer.
        Some(result) => {
            // Cannot fail but by a panic, which is reported on its own.
            let _ = sessions.await;
            result
        }
        None => {
            engine.stop().await;
            ended.await
        }
    };
    tracker.close();
    drop(held);
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(halt)) => Err(halt_failure(&halt)),
        Err(_) => Err(Failure::new(FailureKind::Internal, "the engine's thread died")),
    }
}

/// Makes a new repository where there is none yet; `None` where there is one.
pub fn init(settings: &Settings) -> Result<Option<Founded>, Failure> {
    let _held = take(&settings.state_dir)?;
    found(&RealDisk, settings, &clock()?)
}

/// Reads everything and names what is damaged; changes nothing.
pub fn verify(settings: &Settings) -> Result<(u64, Vec<Damage>), Failure> {
    let _held = take_existing(&settings.state_dir)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    present(&*disk, settings)?;
    let opened = open(&disk, settings, &identities(settings, &clock()?)?, OpenMode::ReadOnly)?;
    let OpenedJournal { replay, journal, snapshots, .. } = &opened.journal;
    let found = engine::verify_offline(replay, journal, snapshots.place.clone(), &settings.state_dir);
    Ok((found.records, found.damage))
}

pub(crate) struct OpenedDirectory {
    pub journal: OpenedJournal,
    pub vault: Arc<Vault>,
}

/// Opens keyring and journal; the log since the last snapshot is replayed and checked on the way.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    settings: &Settings,
    identities: &Identities,
    mode: OpenMode,
) -> Result<OpenedDirectory, Failure> {
    let repository = present(&**disk, settings)?;
    let place = KeyringPlace::new(Arc::clone(disk), &settings.state_dir);
    let open_with = |loaded: &(Keyring, Digest), mode, accept| {
        let (keyring, digest) = loaded.clone();
        if keyring.repository() != repository {
            return Err(foreign_keyring(keyring.repository(), repository));
        }
        let vault = Arc::new(Vault::new(keyring, digest));
        let journal = opening::open(disk, &settings.state_dir, repository, &vault, mode, accept)?;
        Ok((journal, vault))
    };
    let counts = |loaded: &(Keyring, Digest)| {
        let opened = open_with(loaded, OpenMode::ReadOnly, None);
        let counting = opened.ok().and_then(|(journal, _)| journal.replay.keyring());
        counting.is_some_and(|(generation, _)| generation == loaded.0.generation())
    };
    let (newest, former) = keys::generations(&place, settings, identities)?;
    // Each is loaded once: it may take a token, which locks itself where it hears a wrong PIN again and again.
    let mut loaded = place.load(newest, identities);
    // A crash may have left one that never came to count, or one that counts no more: the log tells which.
    if let Some(former) = former
        && !matches!(loaded, Err(KeyringError::Plugin(_)))
        && !loaded.as_ref().is_ok_and(counts)
        && let Ok(former) = place.load(former, identities)
        && counts(&former)
    {
        loaded = Ok(former);
    }
    let loaded = loaded.map_err(|error| keyring_failure(&error, settings, identities))?;
    let (journal, vault) = open_with(&loaded, mode, settings.accept_loss)?;
    if let Ended::Torn { seq, file, offset_bytes } = journal.journal.ended() {
        tracing::warn!(%seq, file, offset_bytes, "the last record was never acknowledged and is torn: it is dropped");
    }
    Ok(OpenedDirectory { journal, vault })
}

/// What an accepted loss asks for once the table of locks is read, which may be all that knows of it.
fn accept_loss(
    disk: &dyn Disk,
    settings: &Settings,
    opened: &mut OpenedJournal,
    table: &Loaded,
) -> Result<(), Failure> {
    let last = opened.journal.last();
    if let (Some(seq), None) = (settings.accept_loss, &opened.loss) {
        if table.seq_max <= last {
            return Err(opening::nothing_lost(seq, last.next()));
        }
        opened.loss = Some(opening::accept_unseen(disk, &settings.state_dir, seq)?);
    }
    match &opened.loss {
        Some(aside) => Loss::set_aside_blobs(disk, &settings.state_dir, aside, &opened.replay.blobs())
            .map_err(|error| storage(&settings.state_dir, "move the lost blobs within", &error)),
        None => Ok(()),
    }
}

/// The repository that is there.
fn present(disk: &dyn Disk, settings: &Settings) -> Result<RepositoryId, Failure> {
    match presence(disk, &settings.state_dir).map_err(open_failure)? {
        Presence::Present(repository) => Ok(repository),
        Presence::Absent => {
            let dir = settings.state_dir.display();
            Err(Failure::new(FailureKind::NotFound, format!("{dir} holds no repository"))
                .hint("make one with: stated init"))
        }
    }
}

/// Takes the state directory for this process alone, making it where it is missing.
fn take(dir: &Path) -> Result<DirectoryLock, Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| storage(dir, "make", &error))?;
    take_existing(dir)
}

fn take_existing(dir: &Path) -> Result<DirectoryLock, Failure> {
    let metadata = fs::metadata(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(FailureKind::NotFound, format!("{} does not exist", dir.display()))
            .hint("name the state directory with --state-dir"),
        _ => storage(dir, "look at", &error),
    })?;
    if metadata.uid() != host::own_uid() {
        let message = format!("{} belongs to uid {}, not to the one that runs this", dir.display(), metadata.uid());
        return Err(
            Failure::new(FailureKind::Config, message).hint("run it as that user, or name another with --state-dir")
        );
    }
    if metadata.mode() & 0o022 != 0 {
        let message = format!("{} may be written by others (mode {:03o})", dir.display(), metadata.mode() & 0o777);
        return Err(Failure::new(FailureKind::Config, message).hint(format!("chmod 700 {}", dir.display())));
    }
    DirectoryLock::acquire(dir).map_err(|error| error.failure())
}

fn harden() -> Result<(), Failure> {
    host::harden().and_then(|()| host::raise_descriptor_limit()).map_err(|error| {
        Failure::new(FailureKind::Internal, format!("cannot forbid core dumps of the process: {error}"))
    })
}

fn clock() -> Result<Clock, Failure> {
    Clock::of_host().map_err(|error| Failure::new(FailureKind::Config, format!("cannot tell the boot ID: {error}")))
}

/// The table of grants beside a socket: of each its own, where there are several in one directory.
fn grants_beside(socket: &Path) -> PathBuf {
    match socket.file_name() {
        Some(name) if name != "stated.sock" => {
            let mut beside = name.to_owned();
            beside.push(".grants");
            socket.with_file_name(beside)
        }
        _ => socket.with_file_name("grants"),
    }
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    host::fill_random(&mut bytes)
        .map_err(|error| Failure::new(FailureKind::Internal, format!("no random bytes: {error}")))?;
    Ok(bytes)
}

/// The daemon as the author of what it does by itself.
fn own_actor(users: &Users) -> Actor {
    let uid = host::own_uid();
    Actor {
        uid,
        gid: host::own_gid(),
        pid: Some(std::process::id()),
        user: users.name(uid),
        comm: Some("stated".to_owned()),
        exe: None,
        host: host::host_name(),
        session: SessionId([0; 16]),
    }
}
