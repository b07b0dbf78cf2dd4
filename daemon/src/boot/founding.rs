//! The first start: a key, a keyring, an empty journal, each step so that it survives a crash after it.

use std::io;

use stated_shared::{Failure, FailureKind, Generation, RepositoryId};

use super::failure::{chain, keyring_failure, open_failure, storage};
use super::keys::identities;
use super::random;
use crate::config::Settings;
use crate::disk::Disk;
use crate::host::Clock;
use crate::journal::{LocalJournal, Presence, presence};
use crate::vault::{self, ChainKey, Identities, Keyring, KeyringError, Recipient};

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

/// The first start: the identity, then the repository.
pub(super) fn found(disk: &dyn Disk, settings: &Settings, clock: &Clock) -> Result<Option<Founded>, Failure> {
    if presence(disk, &settings.state_dir).map_err(open_failure)? != Presence::Absent {
        return Ok(None);
    }
    let parse = |text: &String| text.parse::<Recipient>().map_err(|error| error.failure(text, FailureKind::Config));
    // Before a key is made that somebody would have to take care of.
    let others = settings.recipients.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let new_identity = settings.identity_to_make();
    if let Some(path) = new_identity {
        vault::create_identity(path, clock.now()).map_err(|error| Failure::new(FailureKind::Config, chain(&error)))?;
    }
    let new_identity = new_identity.is_some();
    let identities = identities(settings, clock)?;
    let recipients = identities.recipients().into_iter().chain(others).collect();
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
    let failed = |error: KeyringError| keyring_failure(&error, settings, identities);
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
            let chain_key = ChainKey::new(&mut random()?);
            let keyring =
                Keyring::new(Generation(1), repository, chain_key, recipients, clock.now()).map_err(failed)?;
            let sealed = keyring.seal(&identities.own()).map_err(failed)?;
            sealed.write(disk, &keys, Generation(1)).map_err(failed)?;
            (repository, keyring.recipients().to_vec())
        }
        Err(error) => return Err(failed(error)),
    };
    LocalJournal::create(disk, &settings.state_dir, repository).map_err(open_failure)?;
    Ok((repository, recipients))
}

pub(super) fn announce(settings: &Settings, founded: &Founded) {
    tracing::info!(repository = %founded.repository, state_dir = %settings.state_dir.display(), "made a new repository");
    if founded.new_identity {
        tracing::warn!("{}", new_key(settings));
    }
}

/// What the user of a new key must know. The client that started the daemon passes it on.
pub(super) fn new_key(settings: &Settings) -> String {
    format!(
        "made the key that opens every state, {}: back it up, or add one that is kept elsewhere (statectl key add); without \
         any nobody reads them again",
        settings.identity
    )
}
