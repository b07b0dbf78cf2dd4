//! Where the concrete types meet: from settings to a daemon that serves, and back to nothing.

mod opening;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use stated_shared::{Actor, Damage, Failure, FailureKind, Generation, RepositoryId, SessionId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::opening::OpenedJournal;
use crate::config::Settings;
use crate::disk::{Disk, RealDisk};
use crate::engine::{self, Beginning, Facts, Halt, StartError};
use crate::host::{self, Clock, DirectoryLock, GrantTable, Loaded, Socket, Supervisor, Users};
use crate::journal::{Ended, Journal, LocalJournal, Loss, OpenError, OpenMode, Presence, presence};
use crate::session::{self, Rules};
use crate::vault::{self, ChainKey, Identities, IdentityError, Keyring, KeyringError, Recipient, Vault};

/// What a first start made, for its user to know.
#[derive(Debug, Clone)]
pub struct Founded {
    /// The new repository.
    pub repository: RepositoryId,
    /// The identity file, where it was made too.
    pub new_identity: bool,
    /// Whose keys open it.
    pub recipients: Vec<String>,
}

/// Runs the daemon until a signal or a failure ends it.
///
/// The runtime must be a multi-threaded one with I/O and time.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let tracker = TaskTracker::new();
    host::stop_on_signals(stop.clone(), &tracker)
        .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot handle signals: {error}")))?;
    serve(settings, stop, tracker).await
}

/// As [`run`], until `stop` is cancelled: what tests boot.
pub async fn serve(settings: Settings, stop: CancellationToken, tracker: TaskTracker) -> Result<(), Failure> {
    harden()?;
    let held = take(&settings.state_dir)?;
    let clock = clock()?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let founded = found(&*disk, &settings, &clock)?;
    if let Some(founded) = &founded {
        announce(&settings, founded);
    }
    let mut opened = open(&disk, &settings, &identities(&settings)?, OpenMode::Repair)?;
    // Bound before the locks are taken up: from here on no successor starts beside us, and clients wait in line.
    let socket = match Socket::activated().map_err(|error| error.failure())? {
        Some(socket) => socket,
        None => Socket::bind(&settings.socket, &held).map_err(|error| error.failure())?,
    };
    let users = Arc::new(Users::default());
    let daemon = own_actor(&users);
    let key = opened.vault.derive_key("grant table");
    let table = settings.socket.with_file_name("grants");
    let grants = GrantTable::open(&table, &key, clock.boot_id())
        .map_err(|error| Failure::new(FailureKind::Storage, chain(&error)))?;
    accept_loss(&*disk, &settings, &mut opened.journal, &grants.1)?;
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host::host_name(),
        started: clock.now(),
        state_dir: settings.state_dir.clone(),
        socket: settings.socket.clone(),
    };
    let budget = engine::ContentBudget::new(settings.content_memory_bytes);
    let OpenedJournal { replay, journal, snapshots, loss } = opened.journal;
    let journal = Box::new(journal);
    let beginning = Beginning { replay, journal, clock, grants, facts, budget, daemon, snapshots, loss };
    let (engine, mut ended) = engine::start(beginning, &tracker).map_err(start_failure)?;
    tracing::info!(socket = %settings.socket.display(), state_dir = %settings.state_dir.display(), "serving");
    Supervisor.ready(&match founded {
        Some(Founded { new_identity: true, .. }) => new_key(&settings),
        _ => "serving".to_owned(),
    });

    let sessions = session::serve(socket, engine.clone(), users, Rules::default(), stop.clone());
    tokio::pin!(sessions);
    let halted = tokio::select! {
        () = &mut sessions => None,
        halted = &mut ended => Some(halted),
    };
    Supervisor.stopping();
    stop.cancel();
    let result = match halted {
        // The owner is gone already: sessions end without another answer.
        Some(result) => {
            sessions.await;
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
    let opened = open(&disk, settings, &identities(settings)?, OpenMode::ReadOnly)?;
    let OpenedJournal { replay, journal, .. } = &opened.journal;
    let found = engine::verify_offline(replay, journal, &settings.state_dir);
    Ok((found.records, found.damage))
}

/// One thing that a start needs.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Which: `filesystem`, `key`, `format` or `keyring`.
    pub check: &'static str,
    /// What is there, or why a start would fail.
    pub found: Result<String, Failure>,
}

/// Looks at what a start needs before it reads the log. Takes no lock, so it may be asked beside a running daemon, and
/// changes nothing.
pub fn inspect(settings: &Settings) -> Vec<Inspected> {
    let dir = &settings.state_dir;
    let presence = presence(&RealDisk, dir).map_err(open_failure);
    let is_new = matches!(presence, Ok(Presence::Absent));
    let key = if is_new && !settings.identity_is_configured && !settings.identity.exists() {
        None
    } else {
        Some(identities(settings))
    };
    let opened = match (&key, &presence) {
        (Some(Ok(identities)), Ok(Presence::Present(repository))) => {
            Some(open_keyring(settings, identities, *repository))
        }
        _ => None,
    };
    let key = match key {
        None => Ok(format!("{} is made at the first start", settings.identity.display())),
        Some(loaded) => loaded
            .map(|loaded| format!("{} holds the key of {}", settings.identity.display(), join(&loaded.recipients()))),
    };
    let format = presence.map(|presence| match presence {
        Presence::Absent => format!("{} holds no repository yet: the first start makes one", dir.display()),
        Presence::Present(repository) => format!("{} holds repository {repository}", dir.display()),
    });
    let mut inspected = vec![
        Inspected { check: "filesystem", found: filesystem(dir) },
        Inspected { check: "format", found: format },
        Inspected { check: "key", found: key },
    ];
    inspected.extend(opened.map(|found| Inspected { check: "keyring", found }));
    inspected
}

/// Whether the key opens the keyring of this repository.
fn open_keyring(settings: &Settings, identities: &Identities, repository: RepositoryId) -> Result<String, Failure> {
    let (keyring, _) = Keyring::load(&RealDisk, &settings.state_dir.join("keys"), Generation(1), identities)
        .map_err(|error| keyring_failure(&error, settings))?;
    if keyring.repository() != repository {
        return Err(foreign_keyring(keyring.repository(), repository));
    }
    Ok(format!("sealed to {}", join(keyring.recipients())))
}

fn foreign_keyring(keyring: RepositoryId, format: RepositoryId) -> Failure {
    let message = format!("the keyring is of repository {keyring}, and FORMAT of {format}");
    Failure::new(FailureKind::Storage, message).hint("one of them was copied from elsewhere")
}

fn join(recipients: &[Recipient]) -> String {
    recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether locks on the directory's filesystem, or on that of its place to come, can be relied on.
fn filesystem(dir: &Path) -> Result<String, Failure> {
    let there = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    match host::network_filesystem_of(there).map_err(|error| storage(there, "look at", &error))? {
        None => Ok(format!("{} is on a local filesystem", there.display())),
        Some(filesystem) => {
            let message = format!("{} is on {filesystem}, whose locks cannot be relied on", there.display());
            Err(Failure::new(FailureKind::Config, message).hint("stated run --state-dir LOCAL_DIRECTORY"))
        }
    }
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
    let keys = settings.state_dir.join("keys");
    let (keyring, digest) =
        Keyring::load(&**disk, &keys, Generation(1), identities).map_err(|error| keyring_failure(&error, settings))?;
    if keyring.repository() != repository {
        return Err(foreign_keyring(keyring.repository(), repository));
    }
    let vault = Arc::new(Vault::new(keyring, digest));
    let journal = opening::open(disk, &settings.state_dir, repository, &vault, mode, settings.accept_loss)?;
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

/// The first start: the identity, then the repository.
fn found(disk: &dyn Disk, settings: &Settings, clock: &Clock) -> Result<Option<Founded>, Failure> {
    if presence(disk, &settings.state_dir).map_err(open_failure)? != Presence::Absent {
        return Ok(None);
    }
    let new_identity = !settings.identity_is_configured && !settings.identity.exists();
    if new_identity {
        vault::create_identity(&settings.identity, clock.now())
            .map_err(|error| Failure::new(FailureKind::Config, chain(&error)))?;
    }
    let identities = identities(settings)?;
    let mut recipients = identities.recipients();
    for text in &settings.recipients {
        recipients.push(text.parse::<Recipient>().map_err(|error| {
            Failure::new(FailureKind::Config, format!("recipient {text:?}: {error}"))
                .hint("a recipient is a public key such as age1…, as age-keygen -y prints it")
        })?);
    }
    let (repository, recipients) = found_repository(disk, settings, &identities, recipients, clock)?;
    let recipients = recipients.iter().map(ToString::to_string).collect();
    Ok(Some(Founded { repository, new_identity, recipients }))
}

/// The keyring, then the empty journal, `FORMAT` last. Each step survives a crash after it.
pub(crate) fn found_repository(
    disk: &dyn Disk,
    settings: &Settings,
    identities: &Identities,
    recipients: Vec<Recipient>,
    clock: &Clock,
) -> Result<(RepositoryId, Vec<Recipient>), Failure> {
    let keys = settings.state_dir.join("keys");
    match disk.create_dir(&keys) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(storage(&keys, "make", &error)),
        _ => {}
    }
    // An interrupted first start left a keyring that nothing refers to yet: it is taken up, or else in the way.
    let (repository, recipients) = match Keyring::load(disk, &keys, Generation(1), identities) {
        Ok((keyring, _)) => {
            // It may have died before its directory was synced, and nothing may outlive the keyring.
            disk.sync_dir(&keys).map_err(|error| storage(&keys, "sync", &error))?;
            (keyring.repository(), keyring.recipients().to_vec())
        }
        Err(KeyringError::Missing(_)) => {
            let repository = RepositoryId(random()?);
            let keyring =
                Keyring::new(Generation(1), repository, ChainKey::new(&mut random()?), recipients, clock.now())
                    .map_err(|error| keyring_failure(&error, settings))?;
            let sealed = keyring.seal().map_err(|error| keyring_failure(&error, settings))?;
            sealed.write(disk, &keys, Generation(1)).map_err(|error| keyring_failure(&error, settings))?;
            (repository, keyring.recipients().to_vec())
        }
        Err(error) => return Err(keyring_failure(&error, settings)),
    };
    LocalJournal::create(disk, &settings.state_dir, repository).map_err(open_failure)?;
    Ok((repository, recipients))
}

fn announce(settings: &Settings, founded: &Founded) {
    tracing::info!(repository = %founded.repository, state_dir = %settings.state_dir.display(), "made a new repository");
    if founded.new_identity {
        tracing::warn!("{}", new_key(settings));
    }
}

/// What the user of a new key must know. The client that started the daemon passes it on.
fn new_key(settings: &Settings) -> String {
    format!(
        "made the key that opens every state, {}: back it up, without it nobody reads them again",
        settings.identity.display()
    )
}

fn identities(settings: &Settings) -> Result<Identities, Failure> {
    vault::load_identities(&settings.identity).map_err(|error| {
        let failure = Failure::new(FailureKind::Config, chain(&error));
        match error {
            IdentityError::Missing(_) => failure.hint(format!(
                "put back the key that the keyring was sealed to, or name it: identity = \"…\" in {}",
                settings.identity.with_file_name("config.toml").display()
            )),
            IdentityError::Exposed { path, .. } => failure.hint(format!("chmod 600 {}", path.display())),
            _ => failure.hint("it must be an age identity file that only its owner may read (chmod 600)"),
        }
    })
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

pub(crate) fn open_failure(error: OpenError) -> Failure {
    let failure = Failure::new(FailureKind::Storage, chain(&error));
    match error {
        OpenError::Damaged { .. } => failure.hint(
            "nothing was changed; see everything that is damaged with: stated verify, and put the files back from a copy",
        ),
        OpenError::Io { path, .. } => failure.hint(format!("look at it: ls -ld {}", path.display())),
        _ => failure,
    }
}

fn keyring_failure(error: &KeyringError, settings: &Settings) -> Failure {
    match error {
        KeyringError::NotOurs(_) => {
            let message = format!("{} opens nothing: {error}", settings.identity.display());
            Failure::new(FailureKind::Config, message)
                .hint("name the key that it was sealed to: identity = \"…\" in config.toml")
        }
        KeyringError::Recipients(_) => Failure::new(FailureKind::Config, error.to_string()),
        _ => Failure::new(FailureKind::Storage, chain(error)),
    }
}

fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Lost { last, .. } => {
            Failure::new(FailureKind::Storage, chain(&error)).hint(opening::loss_hint(last.next()))
        }
        StartError::Halt(halt) => halt_failure(&halt),
        _ => Failure::new(FailureKind::Storage, chain(&error)),
    }
}

fn halt_failure(halt: &Halt) -> Failure {
    Failure::new(FailureKind::Storage, chain(halt))
        .hint("what was acknowledged is safe; start the daemon again to replay it")
}

fn storage(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Storage, format!("cannot {what} {}: {error}", path.display()))
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
