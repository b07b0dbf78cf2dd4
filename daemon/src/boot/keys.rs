//! The key that opens the keyring: where it is, what it is behind, and what is said where it opens nothing.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stated_shared::{Failure, FailureKind, Generation};

use super::failure::{chain, keyring_failure};
use crate::config::Settings;
use crate::host::{Clock, SecretError, SecretSource};
use crate::vault::{
    IDENTITY_LEN_MAX, Identities, IdentityError, KeyringPlace, PASSPHRASE_LEN_MAX, Passphrase, Plugins, Secret,
};

/// Lies in the state directory while a secret that a plugin was told has not proved right.
pub(super) const SECRET_TOLD_FILE: &str = "secret-told";

/// The user's identities, from wherever the settings say.
pub(super) fn identities(settings: &Settings, clock: &Clock) -> Result<Identities, Failure> {
    let source = &settings.identity;
    let text = secret(source, IDENTITY_LEN_MAX, settings, clock)
        .map_err(|error| secret_failure(&error, settings, "identity"))?;
    let is_spent = Arc::new(AtomicBool::new(false));
    let secret = TokenSecret { settings: settings.clone(), clock: *clock, is_spent: Arc::clone(&is_spent) };
    let plugins = Arc::new(Plugins::new(settings.plugins.clone(), secret, *clock));
    let parsed = Identities::parse(&text, plugins, || {
        is_spent.store(true, Ordering::Relaxed);
        passphrase(settings, clock)
    });
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

/// What a plugin is told that asks for a secret: the passphrase, where nothing else was behind it.
///
/// A token locks itself where it is told a wrong one again and again, by a daemon that is started again and again for one. So
/// it is noted on the disk that a secret was told, until it proves right; meanwhile no other is.
struct TokenSecret {
    settings: Settings,
    clock: Clock,
    /// Whether the identity's file is behind the passphrase.
    is_spent: Arc<AtomicBool>,
}

impl Secret for TokenSecret {
    fn tell(&self) -> Result<Passphrase, String> {
        if self.is_spent.load(Ordering::Relaxed) {
            return Err(format!("the passphrase is that of {}", self.settings.identity));
        }
        let note = self.settings.state_dir.join(SECRET_TOLD_FILE);
        if note.exists() {
            let note = note.display();
            return Err(format!(
                "one that it was told before opened nothing, and another wrong one may lock a token; where it is right \
                 now: rm {note}"
            ));
        }
        let passphrase = passphrase(&self.settings, &self.clock).map_err(|error| chain(&error))?;
        File::create(&note).map_err(|error| format!("cannot make {}: {error}", note.display()))?;
        Ok(passphrase)
    }

    fn was_right(&self) {
        let note = self.settings.state_dir.join(SECRET_TOLD_FILE);
        if let Err(error) = fs::remove_file(&note) {
            tracing::warn!(%error, "cannot remove {}", note.display());
        }
    }
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
