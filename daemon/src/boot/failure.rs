//! What is said where a start cannot go on.

use std::io;
use std::path::Path;

use stated_shared::{Failure, FailureKind, RepositoryId};

use super::opening;
use crate::config::Settings;
use crate::engine::{Halt, StartError};
use crate::journal::OpenError;
use crate::vault::{Identities, KeyringError};

pub(super) fn foreign_keyring(keyring: RepositoryId, format: RepositoryId) -> Failure {
    let message = format!("the keyring is of repository {keyring}, and FORMAT of {format}");
    Failure::new(FailureKind::Storage, message).hint("one of them was copied from elsewhere")
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

pub(super) fn keyring_failure(error: &KeyringError, settings: &Settings, tried: &Identities) -> Failure {
    match error {
        KeyringError::NotOurs { path, sealed_to } => {
            let tried = tried.told();
            let sealed_to = match sealed_to.as_slice() {
                [] => "nobody that its header names".to_owned(),
                names => names.join(", "),
            };
            let message = format!(
                "{} opens nothing: it holds {}, and {} is sealed to {sealed_to}",
                settings.identity,
                tried.join(", "),
                path.display()
            );
            Failure::new(FailureKind::Config, message).hint(format!(
                "name the key that it was sealed to: identity = \"…\" in {}, or STATED_IDENTITY_FILE; see whose a key is \
                 with: age-keygen -y KEY, or ssh-keygen -l -f KEY",
                settings.config.display()
            ))
        }
        KeyringError::NotToOwn | KeyringError::Recipients(0) => {
            let message = format!("{} would not open what is sealed to the configured recipients", settings.identity);
            Failure::new(FailureKind::Config, message).hint(format!(
                "a plugin's identity does not say its recipient: put that into recipients in {}",
                settings.config.display()
            ))
        }
        KeyringError::Recipients(_) | KeyringError::HeaderTooLong(_) => {
            Failure::new(FailureKind::Config, error.to_string())
                .hint(format!("shorten the list recipients in {}", settings.config.display()))
        }
        KeyringError::Plugin(plugin) => Failure::new(plugin.kind(), error.to_string()).hint(plugin.hint()),
        KeyringError::Incompatible(_) => Failure::new(FailureKind::Config, error.to_string())
            .hint(format!("change recipients in {}", settings.config.display())),
        _ => Failure::new(FailureKind::Storage, chain(error)),
    }
}

pub(super) fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Lost { last, .. } => {
            Failure::new(FailureKind::Storage, chain(&error)).hint(opening::loss_hint(last.next()))
        }
        StartError::Halt(halt) => halt_failure(&halt),
        _ => Failure::new(FailureKind::Storage, chain(&error)),
    }
}

pub(super) fn halt_failure(halt: &Halt) -> Failure {
    Failure::new(FailureKind::Storage, chain(halt))
        .hint("what was acknowledged is safe; start the daemon again to replay it")
}

pub(super) fn storage(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Storage, format!("cannot {what} {}: {error}", path.display()))
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
