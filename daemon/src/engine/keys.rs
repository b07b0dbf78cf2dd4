//! Questions about the keyring, and requests for another one.

use std::sync::Arc;

use stated_shared::{Failure, FailureKind, Keys, Rekey, Reply};

use super::handle::{Asked, Engine, blocking};
use super::owner::{Command, KeyChange, Rekeying};
use crate::vault::{Envelope, KeyringError, Recipient};

impl Engine {
    pub(super) async fn keys(&self, of: Asked) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        self.read(of, move |machine, _| {
            let recipient = |recipient: Recipient| stated_shared::Recipient {
                key: recipient.to_string(),
                fingerprint: recipient.fingerprint(),
                is_own: shared.keyrings.own.recipients().contains(&recipient),
            };
            Ok(Reply::Keys(Keys {
                generation: shared.store.vault.generation(),
                recipients: shared.store.vault.recipients().into_iter().map(recipient).collect(),
                resealing: machine.resealing().map(|_| shared.resealing.get()),
            }))
        })
        .await
    }

    pub(super) async fn rekey(&self, of: Asked, rekey: Rekey) -> Result<(), Failure> {
        let Asked { session, connection, number } = of;
        let change = change(rekey)?;
        let envelope = self.envelope(&change).await?;
        self.send(Command::Rekey(Box::new(Rekeying { session, connection, number, change, envelope }))).await
    }

    /// What the next keyring is sealed in; none where nothing would change. The owner keeps everybody waiting, and waits
    /// for no plugin.
    async fn envelope(&self, change: &KeyChange) -> Result<Result<Envelope, KeyringError>, Failure> {
        let shared = Arc::clone(&self.shared);
        let present = shared.store.vault.recipients();
        if !change.is_one(&present) {
            return Ok(Err(KeyringError::OtherEnvelope));
        }
        let recipients = change.recipients(&present);
        let asks_plugin = shared.keyrings.own.asks_plugin(&recipients);
        let seal = move || Envelope::new(recipients, &shared.keyrings.own);
        if asks_plugin { blocking(seal).await } else { Ok(seal()) }
    }
}

/// What is asked of the keyring, with the public keys read.
fn change(rekey: Rekey) -> Result<KeyChange, Failure> {
    let parsed = |texts: Vec<String>| -> Result<Vec<Recipient>, Failure> {
        let parse =
            |text: String| text.trim().parse::<Recipient>().map_err(|error| error.failure(&text, FailureKind::Usage));
        texts.into_iter().map(parse).collect()
    };
    Ok(match rekey {
        Rekey::Add(texts) => KeyChange::Add(parsed(texts)?),
        Rekey::Remove(texts) => KeyChange::Remove(parsed(texts)?),
        Rekey::Rotate => KeyChange::Rotate,
    })
}
