//! The key that opens the keyring: where it is, what it is behind, and what is said where it opens nothing.

use std::sync::Arc;

use stated_shared::{Failure, FailureKind, Generation};

use super::failure::{chain, keyring_failure};
use crate::config::Settings;
use crate::host::{Clock, SecretError, SecretSource};
use crate::vault::{
    IDENTITY_LEN_MAX, Identities, IdentityError, KeyringPlace, PASSPHRASE_LEN_MAX, Passphrase, Plugins,
};

/// The user's identities, from wherever the settings say.
pub(super) fn identities(settings: &Settings, clock: &Clock) -> Result<Identities, Failure> {
    let source = &settings.identity;
    let text = secret(source, IDENTITY_LEN_MAX, settings, clock)
        .map_err(|error| secret_failure(&error, settings, "identity"))?;
    let parsed = Identities::parse(&text, Arc::new(plugins(settings, clock)), || passphrase(settings, clock));
    parsed.map_err(|error| {
        let failure = Failure::new(FailureKind::Config, format!("{source}: {}", chain(&error)));
        let config = settings.config.display();
        match error {
            IdentityError::Passphrase(PassphraseError::Secret(error)) => {
                secret_failure(&error, settings, "passphrase_file")
            }
            IdentityError::Passphrase(_) => failure.hint(format!(
                "name a file with STATED_PASSPHRASE_FILE or a command with STATED_PASSPHRASE_COMMAND, or set \
                 passphrase_file or passphrase_command in {config}"
            )),
            IdentityError::WrongPassphrase => {
                let from = settings.passphrase.as_ref().map(|from| format!(", which is {from}")).unwrap_or_default();
                failure.hint(format!(
                    "its first line must be the passphrase{from}; try it with: age -d, or ssh-keygen -y -f"
                ))
            }
            _ => failure
                .hint("it must be an age identity, as age-keygen or a plugin makes it, or an OpenSSH private key"),
        }
    })
}

/// The plugins that may be asked. What opens a user's key is also what its token may ask for.
fn plugins(settings: &Settings, clock: &Clock) -> Plugins {
    let (of, clock) = (settings.clone(), *clock);
    let secret = move || match passphrase(&of, &clock) {
        Ok(passphrase) => Some(passphrase),
        Err(error) => {
            tracing::warn!("a plugin of age asks for a secret, and there is none: {}", chain(&error));
            None
        }
    };
    Plugins::new(settings.plugins.clone(), secret, clock)
}

fn passphrase(settings: &Settings, clock: &Clock) -> Result<Passphrase, PassphraseError> {
    let source = settings.passphrase.as_ref().ok_or(PassphraseError::NotGiven)?;
    Passphrase::first_line(&secret(source, PASSPHRASE_LEN_MAX, settings, clock)?)
        .ok_or_else(|| PassphraseError::Empty(source.clone()))
}

/// The newest keyring, and the one before where both lie there: a crash left the one or the other too many, and the log
/// tells which.
pub(super) fn generations(
    place: &KeyringPlace,
    settings: &Settings,
    tried: &Identities,
) -> Result<(Generation, Option<Generation>), Failure> {
    let there = place.generations().map_err(|error| keyring_failure(&error, settings, tried))?;
    let newest = there.first().copied().unwrap_or(Generation(1));
    Ok((newest, there.get(1).copied().filter(|former| former.next() == newest)))
}

/// Why the passphrase of a key could not be had.
#[derive(Debug, thiserror::Error)]
enum PassphraseError {
    #[error("nothing says where that is")]
    NotGiven,
    #[error("{0} is empty, longer than one line of {PASSPHRASE_LEN_MAX} bytes, or no UTF-8")]
    Empty(SecretSource),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

fn secret(
    source: &SecretSource,
    len_max: u64,
    settings: &Settings,
    clock: &Clock,
) -> Result<zeroize::Zeroizing<Vec<u8>>, SecretError> {
    source.read(len_max, settings.credentials_dir.as_deref(), clock)
}

/// `setting` is what names another file in the configuration.
fn secret_failure(error: &SecretError, settings: &Settings, setting: &str) -> Failure {
    let failure = Failure::new(FailureKind::Config, chain(error));
    match error {
        SecretError::Missing(_) if setting == "identity" => failure.hint(format!(
            "put back the key that the keyring was sealed to, or name it: identity = \"…\" in {}",
            settings.config.display()
        )),
        SecretError::Missing(_) => failure.hint(format!("name it: {setting} = \"…\" in {}", settings.config.display())),
        SecretError::Exposed { path, .. } => failure.hint(format!("chmod 600 {}", path.display())),
        SecretError::Io { .. } => failure.hint("it must be a file that this user may read"),
        SecretError::Start { .. } | SecretError::Failed { .. } | SecretError::TooSlow { .. } => {
            failure.hint("run it by hand with: sh -c; it gets no terminal, and prints the secret and nothing else")
        }
    }
}
