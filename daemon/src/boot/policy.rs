//! Reads the policy's file, at the start and whenever it may have changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stated_shared::{Actor, Failure, FailureKind, Timestamp};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::engine::Engine;
use crate::host::{Clock, DirectoryWatch, GuardedFile, GuardedFileError, Users};
use crate::policy::{Directory, FILE_LEN_MAX, Mode, Policies, Policy, PolicyError};

/// After a hint: an editor may write a file in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// The file is looked at this often even where nothing was heard: not every file system tells.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// As [`LOOK_EVERY`], where its directory cannot be watched.
const LOOK_UNWATCHED_EVERY: Duration = Duration::from_millis(500);

/// What the audit log calls a policy that was read, or was to be.
const DEED: &str = "policy";

/// What was in the file when it was looked at, or why it was not read.
type Seen = Result<Option<GuardedFile>, String>;

/// Keeps the policy in force that the file has.
pub(super) struct Keeper {
    file: PathBuf,
    /// Whether the configuration names it, so that it must be there.
    is_named: bool,
    mode: Mode,
    policies: Arc<Policies>,
    seen: Seen,
    clock: Clock,
}

/// What came of a look at the file.
enum Looked {
    AsBefore,
    Loaded(Policy, Option<Timestamp>),
    Broken(Failure),
}

impl Keeper {
    /// Reads it for a start, which a broken one refuses.
    pub fn start(settings: &Settings, clock: Clock) -> Result<Self, Failure> {
        let (policy, read) = load(settings)?;
        let loaded = read.is_some().then(|| clock.now());
        if loaded.is_some() {
            tracing::info!(file = %settings.policy.display(), rules = policy.rule_count(), "read the policy");
        }
        warn_of_unknown(&policy);
        let policies = Arc::new(Policies::new(policy, settings.policy.display().to_string(), loaded));
        let (file, is_named) = (settings.policy.clone(), settings.policy_is_named);
        Ok(Self { file, is_named, mode: settings.mode, policies, seen: Ok(read), clock })
    }

    /// What it keeps.
    pub fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies)
    }

    /// Reads the file anew whenever it may have changed, until the daemon stops.
    pub async fn watch(mut self, engine: Engine, daemon: Actor, stop: CancellationToken) {
        let mut watch = DirectoryWatch::new();
        let noted = |verb, outcome| engine.note(daemon.clone(), verb, outcome);
        if matches!(self.seen, Ok(Some(_))) {
            noted(DEED, "ok").await;
        }
        let mut is_watched = true;
        loop {
            // Before it is read: what changes after that is heard of.
            let watched = watch.watch(&DirectoryWatch::places_of(&self.file));
            if let Err(error) = &watched {
                watch.forget();
                if is_watched {
                    tracing::debug!(%error, "the policy's directory cannot be watched, so the file is looked at instead");
                }
            }
            is_watched = watched.is_ok();
            let looked;
            (self, looked) = self.look().await;
            match looked {
                Looked::AsBefore => {}
                Looked::Loaded(policy, loaded) => {
                    let rules = policy.rule_count();
                    warn_of_unknown(&policy);
                    self.policies.replace(policy, loaded);
                    noted(DEED, "ok").await;
                    tracing::info!(file = %self.file.display(), rules, "read the policy anew");
                }
                Looked::Broken(failure) => {
                    self.policies.keep(failure.message.clone());
                    noted(DEED, FailureKind::Config.as_str()).await;
                    tracing::error!("{}: the policy of before stays in force", failure.message);
                }
            }
            let every = if is_watched { LOOK_EVERY } else { LOOK_UNWATCHED_EVERY };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = watch.hint() => tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(SETTLE) => {}
                },
                () = sleep(every) => {}
            }
        }
    }

    /// Looks at the file where a slow disk, or a slow user database, keeps nobody waiting.
    async fn look(self) -> (Self, Looked) {
        let looked = tokio::task::spawn_blocking(move || {
            let mut keeper = self;
            let looked = keeper.look_now();
            (keeper, looked)
        });
        looked.await.expect("nothing in it panics, and the runtime is there as long as this task")
    }

    fn look_now(&mut self) -> Looked {
        let read = read(&self.file, self.is_named);
        let seen = read.clone().map_err(|failure| failure.message);
        if seen == self.seen {
            return Looked::AsBefore;
        }
        self.seen = seen;
        let parsed = read.and_then(|file| Ok((parse(&self.file, file.as_ref(), self.mode)?, file)));
        match parsed {
            Ok((policy, file)) => Looked::Loaded(policy, file.map(|_| self.clock.now())),
            Err(failure) => Looked::Broken(failure),
        }
    }
}

/// The policy of the settings, and its file where there is one.
pub(super) fn load(settings: &Settings) -> Result<(Policy, Option<GuardedFile>), Failure> {
    let file = read(&settings.policy, settings.policy_is_named)?;
    Ok((parse(&settings.policy, file.as_ref(), settings.mode)?, file))
}

fn read(path: &std::path::Path, is_named: bool) -> Result<Option<GuardedFile>, Failure> {
    let file = GuardedFile::read(path, FILE_LEN_MAX).map_err(|error| {
        let failure = Failure::new(FailureKind::Config, format!("the policy is not read: {error}"));
        match &error {
            GuardedFileError::Exposed { mend, .. } => failure.hint(mend),
            _ => failure.hint(format!("look at it: ls -l {}", path.display())),
        }
    })?;
    if file.is_none() && is_named {
        let message = format!("the policy is not there: {}", path.display());
        return Err(Failure::new(FailureKind::Config, message).hint("the key policy of the configuration names it"));
    }
    Ok(file)
}

fn parse(path: &std::path::Path, file: Option<&GuardedFile>, mode: Mode) -> Result<Policy, Failure> {
    let Some(file) = file else { return Ok(Policy::without_rules(mode)) };
    Policy::parse(&file.text, mode, &HostDirectory).map_err(|error| {
        let PolicyError { line, message, hint } = error;
        let failure = Failure::new(FailureKind::Config, format!("{}:{line}: {message}", path.display()));
        failure.hint(hint.unwrap_or_else(|| "see its grammar and examples in docs/policy.md".to_owned()))
    })
}

fn warn_of_unknown(policy: &Policy) {
    for unknown in policy.unknown() {
        tracing::warn!("the policy names {unknown}, whom this host does not know: that gives nobody anything");
    }
}

/// The host's users and groups.
struct HostDirectory;

impl Directory for HostDirectory {
    fn uid(&self, user: &str) -> Option<u32> {
        Users::uid(user)
    }

    fn gid(&self, group: &str) -> Option<u32> {
        Users::gid(group)
    }
}
