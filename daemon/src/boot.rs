//! Where the concrete types meet: from settings to a daemon that serves, and back to nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use stated_shared::{Actor, Damage, Failure, FailureKind, Generation, RepositoryId, SessionId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::engine::{self, Beginning, Facts, Halt, Replay, StartError};
use crate::host::{self, Clock, DirectoryLock, GrantTable, Socket, Supervisor, Users};
use crate::journal::{Ended, LocalJournal, OpenError, OpenMode, Presence, presence};
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
    let founded = found(&settings, &clock)?;
    if let Some(founded) = &founded {
        announce(&settings, founded);
    }
    let opened = open(&settings, OpenMode::Repair)?;
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
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host::host_name(),
        started: clock.now(),
        state_dir: settings.state_dir.clone(),
        socket: settings.socket.clone(),
    };
    let budget = engine::ContentBudget::new(settings.content_memory_bytes);
    let journal = Box::new(opened.journal);
    let beginning = Beginning { replay: opened.replay, journal, clock, grants, facts, budget, daemon };
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
        Err(_) => Err(Failure::new(FailureKind::Internal, "the engine panicked")),
    }
}

/// Makes a new repository where there is none yet; `None` where there is one.
pub fn init(settings: &Settings) -> Result<Option<Founded>, Failure> {
    let _held = take(&settings.state_dir)?;
    found(settings, &clock()?)
}

/// Reads everything and names what is damaged; changes nothing.
pub fn verify(settings: &Settings) -> Result<(u64, Vec<Damage>), Failure> {
    let _held = take_existing(&settings.state_dir)?;
    let opened = open(settings, OpenMode::ReadOnly)?;
    let found = engine::verify_offline(&opened.replay, &opened.journal, &settings.state_dir);
    Ok((found.records, found.damage))
}

struct OpenedDirectory {
    replay: Replay,
    journal: LocalJournal,
    vault: Arc<Vault>,
}

/// Opens keyring and journal; the log is replayed and checked on the way.
fn open(settings: &Settings, mode: OpenMode) -> Result<OpenedDirectory, Failure> {
    let repository = match presence(&settings.state_dir).map_err(open_failure)? {
        Presence::Present(repository) => repository,
        Presence::Absent => {
            let dir = settings.state_dir.display();
            return Err(Failure::new(FailureKind::NotFound, format!("{dir} holds no repository"))
                .hint("make one with: stated init"));
        }
    };
    let identities = identities(settings)?;
    let keys = settings.state_dir.join("keys");
    let (keyring, digest) =
        Keyring::load(&keys, Generation(1), &identities).map_err(|error| keyring_failure(&error, settings))?;
    if keyring.repository() != repository {
        let message = format!("the keyring is of repository {}, and FORMAT of {repository}", keyring.repository());
        return Err(Failure::new(FailureKind::Storage, message).hint("one of them was copied from elsewhere"));
    }
    let vault = Arc::new(Vault::new(keyring, digest));
    let mut replay = Replay::new(Arc::clone(&vault));
    let journal = LocalJournal::open(&settings.state_dir, repository, mode, &mut |record| replay.visit(record))
        .map_err(open_failure)?;
    if let Ended::Torn { seq, file, offset_bytes } = journal.ended() {
        tracing::warn!(%seq, file, offset_bytes, "the last record was never acknowledged and is torn: it is dropped");
    }
    Ok(OpenedDirectory { replay, journal, vault })
}

/// The first start: identity, keyring, then the empty journal, `FORMAT` last. Each step survives a crash after it.
fn found(settings: &Settings, clock: &Clock) -> Result<Option<Founded>, Failure> {
    if presence(&settings.state_dir).map_err(open_failure)? != Presence::Absent {
        return Ok(None);
    }
    let keys = settings.state_dir.join("keys");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&keys).map_err(|error| storage(&keys, "make", &error))?;
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
    // An interrupted first start left a keyring that nothing refers to yet: it is taken up, or else in the way.
    let (repository, recipients) = match Keyring::load(&keys, Generation(1), &identities) {
        Ok((keyring, _)) => (keyring.repository(), keyring.recipients().to_vec()),
        Err(KeyringError::Missing(_)) => {
            let repository = RepositoryId(random()?);
            let keyring =
                Keyring::new(Generation(1), repository, ChainKey::new(&mut random()?), recipients, clock.now())
                    .map_err(|error| keyring_failure(&error, settings))?;
            let sealed = keyring.seal().map_err(|error| keyring_failure(&error, settings))?;
            sealed.write(&keys, Generation(1)).map_err(|error| keyring_failure(&error, settings))?;
            (repository, keyring.recipients().to_vec())
        }
        Err(error) => return Err(keyring_failure(&error, settings)),
    };
    LocalJournal::create(&settings.state_dir, repository).map_err(open_failure)?;
    let recipients = recipients.iter().map(ToString::to_string).collect();
    Ok(Some(Founded { repository, new_identity, recipients }))
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

fn open_failure(error: OpenError) -> Failure {
    let failure = Failure::new(FailureKind::Storage, chain(&error));
    match error {
        OpenError::Damaged { .. } => failure.hint(
            "nothing was changed; see everything that is damaged with: stated verify, and put the files back from a copy",
        ),
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
        StartError::Lost { .. } => Failure::new(FailureKind::Storage, chain(&error))
            .hint("the state directory went back in time: put the newer one back, or move the file grants beside the socket away"),
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
