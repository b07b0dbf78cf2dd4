//! What a start needs, looked at without starting.

use std::path::Path;
use std::sync::Arc;

use stated_shared::{Failure, FailureKind, RepositoryId};

use super::clock;
use super::failure::{foreign_keyring, keyring_failure, open_failure, storage};
use super::keys::{generations, identities};
use super::policy;
use crate::config::Settings;
use crate::disk::RealDisk;
use crate::host;
use crate::journal::{Presence, presence};
use crate::vault::{Identities, KeyringError, KeyringPlace, Recipient};

/// One thing that a start needs.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Which: `filesystem`, `key`, `format`, `policy` or `keyring`.
    pub check: &'static str,
    /// What is there, or why a start would fail.
    pub found: Result<String, Failure>,
}

/// Looks at what a start needs before it reads the log. Takes no lock, so it may be asked beside a running daemon, and
/// changes nothing.
pub fn inspect(settings: &Settings) -> Result<Vec<Inspected>, Failure> {
    let clock = &clock()?;
    let dir = &settings.state_dir;
    let presence = presence(&RealDisk, dir).map_err(open_failure);
    let is_new = matches!(presence, Ok(Presence::Absent));
    let key = if is_new && settings.identity_to_make().is_some() { None } else { Some(identities(settings, clock)) };
    let told = |loaded: &Identities| loaded.told().join(", ");
    // Nobody expects to have to touch a token, only because somebody looks.
    let key = key.map(|loaded| loaded.map(|loaded| (told(&loaded), loaded.take_plugin(), loaded.without_plugins())));
    let opened = match (&key, &presence) {
        (Some(Ok((_, takes_plugin, identities))), Ok(Presence::Present(repository))) => {
            Some(open_keyring(settings, identities, *takes_plugin, *repository))
        }
        _ => None,
    };
    let key = match key {
        None => Ok(format!("{} is made at the first start", settings.identity)),
        Some(loaded) => loaded.map(|(told, ..)| format!("{} holds the key of {told}", settings.identity)),
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
    // One that a start takes is told of by the daemon.
    if let Err(broken) = policy::load(settings) {
        inspected.push(Inspected { check: "policy", found: Err(broken) });
    }
    inspected.extend(opened.map(|found| Inspected { check: "keyring", found }));
    Ok(inspected)
}

/// Whether the key opens the keyring of this repository.
fn open_keyring(
    settings: &Settings,
    identities: &Identities,
    takes_plugin: bool,
    repository: RepositoryId,
) -> Result<String, Failure> {
    let place = KeyringPlace::new(Arc::new(RealDisk), &settings.state_dir);
    let (generation, _) = generations(&place, settings, identities)?;
    let (keyring, _) = match place.load(generation, identities) {
        Err(KeyringError::NotOurs { .. }) if takes_plugin => {
            return Ok("whether a plugin of age opens it is seen at a start".to_owned());
        }
        loaded => loaded.map_err(|error| keyring_failure(&error, settings, identities))?,
    };
    if keyring.repository() != repository {
        return Err(foreign_keyring(keyring.repository(), repository));
    }
    Ok(format!("sealed to {}", join(keyring.recipients())))
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
