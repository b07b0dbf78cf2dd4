//! Where contents are kept: payloads in records and blobs, sealed.

use std::sync::Arc;

use stated_shared::{Failure, FailureKind, Seq, SessionId, StateName, Version};
use zeroize::Zeroizing;

use super::delta::Link;
use super::record;
use super::stage;
use crate::host::fill_random;
use crate::journal::{BlobId, Blobs, Fate, LocalSnapshots, ReadError, Reader};
use crate::machine::event::{Content, Payload};
use crate::vault::Vault;

/// What is said of a payload that is not in its record any more.
pub const GONE: &str = "its payload was taken out, although no prune gave it up";

/// What it takes to read what is durable, from any thread.
#[derive(Clone)]
pub struct Store {
    /// The keys.
    pub vault: Arc<Vault>,
    /// The records.
    pub reader: Arc<dyn Reader>,
    /// The payloads that are too large for a record.
    pub blobs: Arc<dyn Blobs>,
    /// The snapshots, where there is a place for them.
    pub snapshots: Option<LocalSnapshots>,
}

impl Store {
    /// Seals a payload into a new blob and makes it durable.
    pub fn write_blob(&self, payload: &[u8]) -> Result<BlobId, Failure> {
        loop {
            let generation = self.vault.generation();
            let id = self.write_blob_once(payload)?;
            // What seals anew after a rotation finds what was there before it: not one that was being written meanwhile.
            if self.vault.generation() == generation {
                return Ok(id);
            }
            self.remove_blob(&id.to_string());
        }
    }

    fn write_blob_once(&self, payload: &[u8]) -> Result<BlobId, Failure> {
        let mut id = [0; 16];
        fill_random(&mut id)
            .map_err(|error| Failure::new(FailureKind::Internal, format!("no random bytes: {error}")))?;
        let id = BlobId(id);
        let sealed = self
            .vault
            .seal(payload)
            .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot seal: {error}")))?;
        self.blobs.write(id, &sealed).map_err(|error| {
            // A blob stands alone: whatever failed, nothing refers to it, and the journal goes on.
            let full = matches!(error.fate(), Fate::Refuse);
            let message = if full { "the state directory's disk is full" } else { "a blob could not be written" };
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Failure::new(FailureKind::Storage, format!("{message}: {error}{source}")).hint("nothing was changed")
        })?;
        Ok(id)
    }

    /// Removes a blob that nothing refers to, or nothing any more.
    pub fn remove_blob(&self, id: &str) {
        let Some(id) = blob_id(id) else { return };
        if let Err(error) = self.blobs.remove(id) {
            // The next start sweeps it.
            tracing::warn!(blob = %id, %error, "a blob that nobody needs could not be removed yet");
        }
    }

    /// The content of a chain's first version, by way of all the others; `Err` names the version that is damaged.
    ///
    /// Holds two contents of the chain at a time.
    pub fn load(&self, chain: &[Link]) -> Result<Vec<u8>, (Version, Damage)> {
        let mut base: Option<Vec<u8>> = None;
        for (after, Link { version, seq, content }) in chain.iter().enumerate().rev() {
            let damaged = |damage| (*version, damage);
            let payload = self.payload(*seq, content).map_err(damaged)?;
            let bytes = stage::unstage(content, base.as_deref(), &payload)
                .map_err(|what| damaged(self.damage(*seq, content, what)))?;
            if after == 0 {
                return Ok(bytes);
            }
            base = Some(bytes);
        }
        unreachable!("a chain has a first version")
    }

    /// The compressed content of a version.
    pub fn payload(&self, seq: Seq, content: &Content) -> Result<Zeroizing<Vec<u8>>, Damage> {
        let damaged = |what: String| self.damage(seq, content, what);
        match &content.payload {
            Payload::Inline { offset_bytes, len_bytes } => {
                let (file, at) = self.reader.place(seq);
                let record = self.reader.record(seq).map_err(|error| Damage::of(error, &file, at))?;
                let opened =
                    record::open_unchained(&self.vault, &record).map_err(|unverified| damaged(unverified.0))?;
                let payload = opened.payload(*offset_bytes, *len_bytes);
                let payload = payload.ok_or_else(|| {
                    let is_gone = opened.is_gone(*offset_bytes, *len_bytes);
                    damaged(if is_gone { GONE } else { "its payload area is too short" }.to_owned())
                })?;
                Ok(Zeroizing::new(payload.to_vec()))
            }
            Payload::Blob { id, len_bytes } => {
                let id = blob_id(id).ok_or_else(|| damaged(format!("{id} is no blob's name")))?;
                let file = self.blobs.place(id);
                let sealed = self.blobs.read(id).map_err(|error| Damage::of(error, &file, 0))?;
                let len = usize::try_from(*len_bytes).map_err(|_| damaged("it is too large".to_owned()))?;
                self.vault.open(&sealed, len).map_err(|error| damaged(format!("it does not open: {error}")))
            }
        }
    }

    /// Damage where a payload lies.
    pub fn damage(&self, seq: Seq, content: &Content, what: String) -> Damage {
        let (file, offset_bytes) = match &content.payload {
            Payload::Inline { .. } => self.reader.place(seq),
            Payload::Blob { id, .. } => (blob_id(id).map_or("blob".to_owned(), |id| self.blobs.place(id)), 0),
        };
        Damage { file, offset_bytes, what }
    }
}

/// Something durable that is not what was written.
#[derive(Debug)]
pub struct Damage {
    pub file: String,
    pub offset_bytes: u64,
    pub what: String,
}

impl Damage {
    fn of(error: ReadError, file: &str, offset_bytes: u64) -> Self {
        match error {
            ReadError::Damaged { file, offset_bytes, what } => Self { file, offset_bytes, what },
            ReadError::Missing(_) => Self { file: file.to_owned(), offset_bytes, what: "it is missing".to_owned() },
            ReadError::Read { source, .. } => {
                Self { file: file.to_owned(), offset_bytes, what: format!("it cannot be read: {source}") }
            }
        }
    }

    /// As the refusal of a version; `damaged` is that version, or one that it is patched from.
    pub fn failure(&self, state: &StateName, version: Version, damaged: Version) -> Failure {
        let Self { file, offset_bytes, what } = self;
        let needs = if damaged == version { String::new() } else { format!("it is a patch from version {damaged}: ") };
        Failure::new(
            FailureKind::Storage,
            format!("{state}@{version} cannot be read: {needs}{file} at byte {offset_bytes}: {what}"),
        )
        .hint("versions that do not need it are not touched; see all damage with: statectl verify --read-data")
    }
}

/// A blob's name as the journal holds it.
pub fn blob_id(text: &str) -> Option<BlobId> {
    text.parse::<SessionId>().ok().map(|id| BlobId(id.0))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Once;

    use stated_shared::{Generation, RepositoryId, Timestamp};

    use super::*;
    use crate::journal::{AppendError, MemoryStorage};
    use crate::vault::{ChainKey, Keyring, Own};

    /// Blobs of which the first is just written when the keys are rotated.
    struct Rotated {
        blobs: MemoryStorage,
        vault: Arc<Vault>,
        once: Once,
    }

    impl Blobs for Rotated {
        fn write(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError> {
            Blobs::write(&self.blobs, id, sealed)?;
            self.once.call_once(|| {
                let next = self.vault.keyring().rotated(ChainKey::new(&mut [8; 32]), Seq(5), Timestamp(0)).unwrap();
                let digest = next.seal(&Own::of(next.recipients())).unwrap().digest;
                self.vault.exchange(next, digest);
            });
            Ok(())
        }

        fn replace(&self, id: BlobId, sealed: &[u8]) -> Result<(), AppendError> {
            self.blobs.replace(id, sealed)
        }

        fn read(&self, id: BlobId) -> Result<Vec<u8>, ReadError> {
            Blobs::read(&self.blobs, id)
        }

        fn place(&self, id: BlobId) -> String {
            Blobs::place(&self.blobs, id)
        }

        fn remove(&self, id: BlobId) -> io::Result<()> {
            Blobs::remove(&self.blobs, id)
        }

        fn list(&self) -> io::Result<Vec<BlobId>> {
            Blobs::list(&self.blobs)
        }
    }

    #[test]
    fn a_blob_that_is_written_during_a_rotation_is_sealed_to_the_new_keys() {
        let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap();
        let (repository, key) = (RepositoryId([5; 16]), ChainKey::new(&mut [9; 32]));
        let keyring = Keyring::new(Generation(1), repository, key, vec![recipient], Timestamp(0)).unwrap();
        let digest = keyring.seal(&Own::of(keyring.recipients())).unwrap().digest;
        let (vault, storage) = (Arc::new(Vault::new(keyring, digest)), MemoryStorage::new());
        let blobs = Rotated { blobs: storage.clone(), vault: Arc::clone(&vault), once: Once::new() };
        let store =
            Store { vault: Arc::clone(&vault), reader: Arc::new(storage), blobs: Arc::new(blobs), snapshots: None };
        let id = store.write_blob(b"large").unwrap();
        assert_eq!(vault.generation(), Generation(2));
        assert_eq!(store.blobs.list().unwrap(), [id], "the first attempt is gone");
        assert!(vault.is_present(&store.blobs.read(id).unwrap()));
    }
}
