//! Another keyring: for others to open, or with new keys.
//!
//! It is written and durable before the record that makes it count, and chained and sealed with its keys is that record
//! already. The one before leaves after that, so a crash leaves two of them at most, of which the journal names one.

use std::collections::BTreeMap;
use std::sync::Arc;

use stated_shared::{Failure, FailureKind, Reply, SessionId};

use super::batch::Told;
use super::{Halt, Owner, no_room};
use crate::engine::observed::Deed;
use crate::engine::service::ConnectionId;
use crate::host::fill_random;
use crate::journal::{Fate, RecordKind};
use crate::machine::Step;
use crate::machine::event::{Actor, Event, Rekeyed, What};
use crate::vault::{ChainKey, Envelope, Keyring, KeyringError, Recipient};

/// What becomes of the keyring.
pub(in crate::engine) enum Change {
    Add(Vec<Recipient>),
    Remove(Vec<Recipient>),
    Rotate,
}

impl Change {
    /// Whether it changes anything, and removes nobody who is not there.
    pub fn is_one(&self, present: &[Recipient]) -> bool {
        match self {
            Self::Add(new) => new.iter().any(|recipient| !present.contains(recipient)),
            Self::Remove(gone) => gone.iter().all(|recipient| present.contains(recipient)),
            Self::Rotate => true,
        }
    }

    /// Who opens the keyring after it.
    pub fn recipients(&self, present: &[Recipient]) -> Vec<Recipient> {
        match self {
            Self::Add(new) => present.iter().chain(new).cloned().collect(),
            Self::Remove(gone) => present.iter().filter(|recipient| !gone.contains(recipient)).cloned().collect(),
            Self::Rotate => present.to_vec(),
        }
    }
}

/// Who wants it.
pub(in crate::engine) struct Rekeying {
    pub session: SessionId,
    pub connection: ConnectionId,
    pub number: u64,
    pub change: Change,
    /// Made for those who open it after the change.
    pub envelope: Result<Envelope, KeyringError>,
}

/// A keyring that could follow the one in use.
struct Successor {
    keyring: Keyring,
    added: Vec<String>,
    removed: Vec<String>,
    rotated: bool,
}

impl Owner {
    pub(super) fn rekey(&mut self, rekeying: Rekeying) -> Result<(), Halt> {
        let Rekeying { session, connection, number, change, envelope } = rekeying;
        let Some(outbox) = self.outbox(session, connection) else { return Ok(()) };
        let Some(connected) = self.sessions.get(&session) else { return Ok(()) };
        let actor = Arc::clone(&connected.actor);
        let answer = match self.parts.machine.recall(&actor, number, self.time) {
            Some(answer) => answer,
            None => self.exchange(&actor, number, change, envelope)?,
        };
        if let Err(failure) = &answer {
            let deed = Deed { actor, verb: "rekey", name: None, version: None, outcome: failure.kind.as_str() };
            self.observations.note(deed, self.time.wall, self.time.boottime_ms);
        }
        self.batch.told.push(Told::Reply(outbox, number, answer));
        Ok(())
    }

    fn exchange(
        &mut self,
        actor: &Arc<Actor>,
        number: u64,
        change: Change,
        envelope: Result<Envelope, KeyringError>,
    ) -> Result<Result<Reply, Failure>, Halt> {
        // Of the record that tells of it nothing may come before, since that is sealed to the keys before.
        self.finish(RecordKind::Batch)?;
        let present = self.parts.vault.generation();
        let Successor { keyring, added, removed, rotated } = match self.successor(change)? {
            Ok(Some(successor)) => successor,
            Ok(None) => return Ok(Ok(Reply::Rekeyed(present))),
            Err(failure) => return Ok(Err(failure)),
        };
        let (keyrings, generation) = (Arc::clone(&self.parts.keyrings), keyring.generation());
        let place = &keyrings.place;
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => return Ok(Err(refused(&error))),
        };
        let written = keyring.seal_in(envelope).and_then(|sealed| {
            // What an earlier attempt left.
            place.keep_only(present)?;
            place.write(&sealed, generation)?;
            Ok(sealed.digest)
        });
        let digest = match written {
            Ok(digest) => digest,
            Err(error) => return Ok(Err(refused(&error))),
        };
        let rekeyed = Rekeyed { number, generation, keyring: digest, added, removed, rotated };
        let event = Event { at: self.time.wall, actor: Arc::clone(actor), what: What::Rekeyed(rekeyed) };
        let prepared = self.prepare(vec![Step::Record(Box::new(event))], BTreeMap::new());
        match self.make_room(&prepared) {
            Ok(()) => {}
            Err(error) if error.fate() == Fate::Refuse => {
                // Whatever is left of it, the next attempt or start removes.
                let _ = place.keep_only(present);
                return Ok(Err(no_room(&error)));
            }
            Err(error) => return Err(error.into()),
        }
        self.parts.vault.exchange(keyring, digest);
        self.fold(prepared)?;
        self.finish(RecordKind::Batch)?;
        if let Err(error) = place.keep_only(generation) {
            tracing::warn!("a keyring that does not count any more could not be removed yet: {error}");
        }
        if self.parts.machine.resealing().is_some() {
            self.parts.reclaim.rotated();
        }
        tracing::info!(%generation, rotated, "another keyring counts");
        Ok(Ok(Reply::Rekeyed(generation)))
    }

    /// `None` where nothing would change.
    fn successor(&self, change: Change) -> Result<Result<Option<Successor>, Failure>, Halt> {
        let present = self.parts.vault.keyring();
        let now = self.time.wall;
        let spelled = |recipients: &[Recipient]| recipients.iter().map(ToString::to_string).collect();
        let recipients = change.recipients(present.recipients());
        let successor = match change {
            Change::Add(mut new) => {
                new.retain(|recipient| !present.recipients().contains(recipient));
                if new.is_empty() {
                    return Ok(Ok(None));
                }
                present.rewrapped(recipients, now).map(|keyring| (keyring, spelled(&new), Vec::new(), false))
            }
            Change::Remove(gone) => {
                if let Some(stranger) = gone.iter().find(|recipient| !present.recipients().contains(recipient)) {
                    let message = format!("{} does not open the keyring", stranger.fingerprint());
                    let failure = Failure::new(FailureKind::NotFound, message);
                    return Ok(Err(failure.hint("list who does with: statectl key ls")));
                }
                if recipients.is_empty() {
                    return Ok(Err(refused(&KeyringError::NotToOwn)));
                }
                present.rewrapped(recipients, now).map(|keyring| (keyring, Vec::new(), spelled(&gone), false))
            }
            Change::Rotate => {
                let mut drawn = [0; 32];
                fill_random(&mut drawn).map_err(Halt::Entropy)?;
                let key = ChainKey::new(&mut drawn);
                let last = self.parts.journal.last();
                present.rotated(key, last, now).map(|keyring| (keyring, Vec::new(), Vec::new(), true))
            }
        };
        Ok(successor
            .map(|(keyring, added, removed, rotated)| Some(Successor { keyring, added, removed, rotated }))
            .map_err(|error| refused(&error)))
    }
}

fn refused(error: &KeyringError) -> Failure {
    let as_it_was = "nothing was changed: the keyring is as it was";
    let (kind, hint) = match error {
        KeyringError::NotToOwn => {
            let message = "no key of the daemon's own would open the keyring, so it could not start again";
            let failure = Failure::new(FailureKind::Conflict, message);
            return failure.hint("add a key that it shall have, restart it with that one, then do this");
        }
        KeyringError::OtherEnvelope => (FailureKind::Conflict, "see who does, with: statectl key ls".to_owned()),
        KeyringError::Plugin(plugin) => (plugin.kind(), plugin.hint()),
        KeyringError::Recipients(_) | KeyringError::HeaderTooLong(_) | KeyringError::Incompatible(_) => {
            (FailureKind::Usage, as_it_was.to_owned())
        }
        KeyringError::Seal(_) => (FailureKind::Internal, as_it_was.to_owned()),
        KeyringError::Missing(_)
        | KeyringError::NotOurs { .. }
        | KeyringError::Damaged { .. }
        | KeyringError::Exists(_)
        | KeyringError::Io { .. } => (FailureKind::Storage, as_it_was.to_owned()),
    };
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Failure::new(kind, format!("{error}{source}")).hint(hint)
}
