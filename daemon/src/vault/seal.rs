//! Sealing to the repository and opening again, whole age files in memory.

use std::fmt;
use std::io::{self, Read, Write};
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, EncryptError, Encryptor, x25519};
use stated_shared::{Digest, Generation, RepositoryId, Seq};
use zeroize::Zeroizing;

use super::keyring::Keyring;
use super::recipient::Recipient;
use super::{AGE_HEADER_LEN_MAX, chain};
use crate::host::Locked;

/// What an age file takes besides its plaintext's chunks: header with grease, nonce. Reserved, not a bound.
pub(super) const AGE_HEADER_LEN_USUAL: usize = 512;
const AGE_CHUNK_LEN: usize = 64 << 10;
const AGE_TAG_LEN: usize = 16;
/// Sealings that are kept ready: enough for the records of some milliseconds.
const READY_MAX: usize = 64;
/// With fewer of them ready, more are wanted.
const READY_LOW: usize = READY_MAX / 2;
/// Room for the sealed bytes of a usual record, in one that is kept ready.
const READY_LEN: usize = 8 << 10;
/// Longest room that is kept for a larger one.
const SPARE_LEN_MAX: usize = 1 << 20;

/// Why bytes could not be sealed: a bug of ours or a system without random numbers.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The recipients were refused.
    #[error("cannot seal to these recipients")]
    Recipients(#[source] EncryptError),
    /// The stream failed.
    #[error("cannot seal")]
    Stream(#[source] io::Error),
}

/// Why an age file did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    /// It is a well-formed age file for somebody else; a flipped byte in the header can look like that too.
    #[error("not sealed to this key")]
    WrongKey,
    /// It is not what was sealed.
    #[error("{0}")]
    Damaged(String),
}

/// The open keyring: seals, opens and chains. Shared by an `Arc`; `Debug` shows the public half.
pub struct Vault {
    keys: RwLock<Arc<Locked<Keys>>>,
    /// Made ahead of their use: key agreement and header need no plaintext, and cost ten times what a small one does.
    ready: Mutex<Vec<Sealing>>,
    /// Room that was used before: memory that is new to the process costs more than what is done in it.
    spare: Mutex<Vec<u8>>,
}

/// The keyring in use.
struct Keys {
    keyring: Keyring,
    /// The SHA-256 of its file.
    digest: Digest,
    recipient: x25519::Recipient,
}

/// An age file that has its header, and waits for its content.
struct Sealing {
    /// Those that it is sealed to.
    keys: Arc<Locked<Keys>>,
    empty: Empty,
}

/// An age file to whomever, which has its header and no content.
pub(super) struct Empty {
    stream: StreamWriter<Sink>,
    sink: Sink,
}

/// Where an age file is written, to be given more room once its length is known.
#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Vault {
    /// Puts a loaded keyring to use; `keyring_digest` is the SHA-256 of its file.
    pub fn new(keyring: Keyring, keyring_digest: Digest) -> Self {
        let keys = RwLock::new(Arc::new(Locked::new(Keys::new(keyring, keyring_digest))));
        Self { keys, ready: Mutex::default(), spare: Mutex::default() }
    }

    /// Puts another keyring of the same repository to use: what is sealed from now on is sealed to that one.
    pub fn exchange(&self, keyring: Keyring, keyring_digest: Digest) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Locked::new(Keys::new(keyring, keyring_digest)));
        self.ready().clear();
    }

    fn keys(&self) -> Arc<Locked<Keys>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keyring in use, to make its successor of.
    pub fn keyring(&self) -> Keyring {
        self.keys().keyring.clone()
    }

    /// The last record that former keys were in use for; `None` where they were never rotated.
    pub fn former_last(&self) -> Option<Seq> {
        self.keys().keyring.former().first().map(|former| former.last)
    }

    /// Whether the keys in use took the place of those of this generation.
    pub fn is_rotated_from(&self, generation: Generation) -> bool {
        self.keys().keyring.former().first().is_some_and(|former| former.generation == generation)
    }

    /// Whether an age file is sealed to the keys in use, and not to former ones; no byte of its content is looked at.
    pub fn is_present(&self, sealed: &[u8]) -> bool {
        let keys = self.keys();
        is_opened(iter::once(&keys.keyring.identity as &dyn age::Identity), sealed).is_ok()
    }

    /// Seals to the repository: a complete, standard age file.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_pieces(&[plaintext])
    }

    /// As [`Vault::seal`], of a plaintext in pieces.
    pub fn seal_pieces(&self, pieces: &[&[u8]]) -> Result<Vec<u8>, SealError> {
        // Whoever prepares may be kept from its core while it holds the lock: then waiting takes longer than doing.
        let ready = self.ready.try_lock().ok().and_then(|mut ready| ready.pop());
        // One that was prepared while the keys were exchanged is of no use.
        let ready = ready.filter(|sealing| Arc::ptr_eq(&sealing.keys, &self.keys()));
        let sealing = ready.map_or_else(|| self.begin(), Ok)?;
        if sealed_len_usual(pieces.iter().map(|piece| piece.len()).sum()) > READY_LEN
            && let Ok(mut spare) = self.spare.try_lock()
        {
            sealing.empty.sink.move_to(std::mem::take(&mut *spare));
        }
        sealing.empty.fill(pieces)
    }

    /// Takes back what was sealed, for the next one to be written there.
    pub fn give_back(&self, sealed: Vec<u8>) {
        if (READY_LEN + 1..=SPARE_LEN_MAX).contains(&sealed.capacity())
            && let Ok(mut spare) = self.spare.try_lock()
            && spare.capacity() < sealed.capacity()
        {
            *spare = sealed;
        }
    }

    /// As [`Vault::seal_pieces`], by whom nobody waits for: what is prepared is left to the others.
    pub fn seal_beside(&self, pieces: &[&[u8]]) -> Result<Vec<u8>, SealError> {
        self.begin()?.empty.fill(pieces)
    }

    /// Whether [`Vault::prepare`] should be called, on a thread that nobody waits for.
    pub fn wants_preparation(&self) -> bool {
        self.ready.try_lock().is_ok_and(|ready| ready.len() < READY_LOW)
    }

    /// Does the costly part of sealings to come, until enough of them are prepared or `stop` says so.
    pub fn prepare(&self, stop: impl Fn() -> bool) -> Result<(), SealError> {
        while !stop() && self.ready().len() < READY_MAX {
            let sealing = self.begin()?;
            self.ready().push(sealing);
        }
        Ok(())
    }

    fn begin(&self) -> Result<Sealing, SealError> {
        let keys = self.keys();
        let empty = Empty::new(iter::once(&keys.recipient as &dyn age::Recipient), READY_LEN)?;
        Ok(Sealing { keys, empty })
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Sealing>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what [`Vault::seal`] gave: exactly one age file, nothing after it.
    ///
    /// A plaintext longer than `len_max` is refused before it is held.
    pub fn open(&self, sealed: &[u8], len_max: usize) -> Result<Zeroizing<Vec<u8>>, Unsealed> {
        let keys = self.keys();
        let present = iter::once(&keys.keyring.identity);
        let all = present.chain(keys.keyring.former().iter().map(|former| &former.identity));
        open_age(all.map(|identity| identity as &dyn age::Identity), sealed, len_max)
    }

    /// The chain's MAC of a record: keyed, over the MAC before it, its number, and its metadata, given in pieces.
    #[must_use]
    pub fn chain(&self, prev: Digest, seq: Seq, metadata: &[&[u8]]) -> Digest {
        chain::link(&self.keys().keyring.chain_key(seq).0, prev, seq, metadata)
    }

    /// As [`Vault::chain`], of a record of which metadata only the SHA-256 is left.
    #[must_use]
    pub fn chain_over(&self, prev: Digest, seq: Seq, metadata: &Digest) -> Digest {
        chain::link_over(&self.keys().keyring.chain_key(seq).0, prev, seq, metadata)
    }

    /// A key of its own for one use, derived from the chain key.
    #[must_use]
    pub fn derive_key(&self, label: &str) -> Zeroizing<[u8; 32]> {
        chain::derive(&self.keys().keyring.chain_key.0, label)
    }

    /// As [`Vault::derive_key`], and what former chain keys gave for the same use, the newest first.
    #[must_use]
    pub fn derive_keys(&self, label: &str) -> Vec<Zeroizing<[u8; 32]>> {
        let keys = self.keys();
        let former = keys.keyring.former().iter().map(|former| &former.chain_key);
        iter::once(&keys.keyring.chain_key).chain(former).map(|key| chain::derive(&key.0, label)).collect()
    }

    /// The HMAC of these bytes under a key of its own for one use: whoever has it was able to write history.
    #[must_use]
    pub fn tag(&self, label: &str, bytes: &[u8]) -> Digest {
        chain::tag(&self.derive_key(label), bytes)
    }

    /// Which keyring it is.
    pub fn generation(&self) -> Generation {
        self.keys().keyring.generation
    }

    /// The repository that the keyring belongs to.
    pub fn repository(&self) -> RepositoryId {
        self.keys().keyring.repository
    }

    /// The SHA-256 of the keyring's file.
    pub fn keyring_digest(&self) -> Digest {
        self.keys().digest
    }

    /// Whose keys open the keyring.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.keys().keyring.recipients.clone()
    }
}

impl Keys {
    fn new(keyring: Keyring, digest: Digest) -> Self {
        let recipient = keyring.identity.to_public();
        Self { keyring, digest, recipient }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys();
        f.debug_struct("Vault").field("keyring", &keys.keyring).field("digest", &keys.digest).finish()
    }
}

impl Empty {
    /// Wraps a new file key for these recipients, which may ask plugins; with room for so many bytes.
    pub fn new<'a>(recipients: impl Iterator<Item = &'a dyn age::Recipient>, len: usize) -> Result<Self, SealError> {
        let encryptor = Encryptor::with_recipients(recipients).map_err(SealError::Recipients)?;
        let sink = Sink(Arc::new(Mutex::new(Vec::with_capacity(len))));
        let stream = encryptor.wrap_output(sink.clone()).map_err(SealError::Stream)?;
        Ok(Self { stream, sink })
    }

    /// What is written so far.
    pub fn header(&self) -> Vec<u8> {
        self.sink.lock().clone()
    }

    /// The whole file, with this content, in pieces.
    pub fn fill(self, pieces: &[&[u8]]) -> Result<Vec<u8>, SealError> {
        write_to(self.stream, &self.sink, pieces).map_err(SealError::Stream)
    }
}

/// Seals to these recipients.
#[cfg(test)]
pub(super) fn seal_age<'a>(
    recipients: impl Iterator<Item = &'a dyn age::Recipient>,
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    Empty::new(recipients, AGE_HEADER_LEN_USUAL)?.fill(&[plaintext])
}

fn sealed_len_usual(plaintext_len: usize) -> usize {
    AGE_HEADER_LEN_USUAL + plaintext_len + (plaintext_len / AGE_CHUNK_LEN + 1) * AGE_TAG_LEN
}

fn write_to(mut stream: StreamWriter<Sink>, sink: &Sink, pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
    sink.lock().reserve(sealed_len_usual(pieces.iter().map(|piece| piece.len()).sum()));
    for piece in pieces {
        stream.write_all(piece)?;
    }
    // Without this the last chunk is missing.
    stream.finish()?;
    Ok(std::mem::take(&mut *sink.lock()))
}

impl Sink {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on in other room.
    fn move_to(&self, mut room: Vec<u8>) {
        let mut written = self.lock();
        room.clear();
        room.extend_from_slice(&written);
        *written = room;
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a header ends within [`AGE_HEADER_LEN_MAX`], so that it may be parsed.
pub(super) fn has_header(sealed: &[u8]) -> bool {
    sealed[..sealed.len().min(AGE_HEADER_LEN_MAX)].windows(5).any(|window| window == b"\n--- ")
}

/// Opens exactly one age file with the first of these identities that fits.
pub(super) fn open_age<'a>(
    identities: impl Iterator<Item = &'a dyn age::Identity>,
    sealed: &[u8],
    len_max: usize,
) -> Result<Zeroizing<Vec<u8>>, Unsealed> {
    let reader = opened(identities, sealed)?;
    // Never longer than what is sealed, so the plaintext is not copied about by a growing vector.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len().min(len_max.saturating_add(1))));
    // The reader goes on to the sealed bytes' end: what follows a last chunk fails to verify there.
    let mut bounded = reader.take(len_max as u64 + 1);
    let read = bounded.read_to_end(&mut plaintext);
    read.map_err(|_| Unsealed::Damaged("its content does not verify".to_owned()))?;
    if plaintext.len() > len_max {
        return Err(Unsealed::Damaged(format!("its content is longer than {len_max} bytes")));
    }
    Ok(plaintext)
}

/// Whether the first of these identities that fits opens an age file; no byte of its content is looked at.
pub(super) fn is_opened<'a>(
    identities: impl Iterator<Item = &'a dyn age::Identity>,
    sealed: &[u8],
) -> Result<(), Unsealed> {
    opened(identities, sealed).map(drop)
}

/// The content of an age file, of which the header verifies.
fn opened<'a, 'b>(
    identities: impl Iterator<Item = &'a dyn age::Identity>,
    sealed: &'b [u8],
) -> Result<StreamReader<&'b [u8]>, Unsealed> {
    let damaged = |what: &str| Unsealed::Damaged(what.to_owned());
    if !has_header(sealed) {
        return Err(Unsealed::Damaged(format!("no age header within {AGE_HEADER_LEN_MAX} bytes")));
    }
    let decryptor = Decryptor::new_buffered(sealed).map_err(|_| damaged("its age header is malformed"))?;
    // A passphrase's work factor is the file's choice, and nothing of ours is sealed to one.
    if decryptor.is_scrypt() {
        return Err(damaged("it is sealed to a passphrase"));
    }
    decryptor.decrypt(identities).map_err(|error| match error {
        DecryptError::NoMatchingKeys => Unsealed::WrongKey,
        _ => damaged("its age header does not verify"),
    })
}

#[cfg(test)]
mod tests {
    use stated_shared::Timestamp;

    use super::super::identity::Own;
    use super::super::keyring::ChainKey;
    use super::*;

    fn vault() -> Vault {
        let recipient = Recipient::of_x25519(x25519::Identity::generate().to_public());
        let key = ChainKey::new(&mut [9; 32]);
        let keyring = Keyring::new(Generation(1), RepositoryId([5; 16]), key, vec![recipient], Timestamp(0)).unwrap();
        let digest = keyring.seal(&Own::of(keyring.recipients())).unwrap().digest;
        Vault::new(keyring, digest)
    }

    #[test]
    fn what_is_sealed_opens() {
        let vault: Arc<dyn Send + Sync> = Arc::new(vault());
        drop(vault);
        let vault = self::vault();
        for len in [0, 1, AGE_CHUNK_LEN - 1, AGE_CHUNK_LEN, AGE_CHUNK_LEN + 1, 3 * AGE_CHUNK_LEN] {
            let plaintext: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let sealed = vault.seal(&plaintext).unwrap();
            assert_eq!(*vault.open(&sealed, len).unwrap(), plaintext);
            if len > 0 {
                assert!(matches!(vault.open(&sealed, len - 1), Err(Unsealed::Damaged(_))), "bound at {len}");
            }
        }
    }

    #[test]
    fn a_prepared_sealing_is_used_once() {
        let vault = vault();
        assert!(vault.wants_preparation());
        vault.prepare(|| false).unwrap();
        assert!(!vault.wants_preparation());
        let sealed: Vec<_> = (0..2 * READY_MAX).map(|n| (n, vault.seal(&[n as u8; 40]).unwrap())).collect();
        assert!(vault.wants_preparation());
        for (n, file) in &sealed {
            assert_eq!(*vault.open(file, 40).unwrap(), [*n as u8; 40]);
            // Of two files with one key the headers would be the same, with its share and its MAC.
            assert!(sealed.iter().all(|(other, twin)| other == n || twin[..200] != file[..200]));
        }
        vault.prepare(|| true).unwrap();
        assert!(vault.wants_preparation());
    }

    #[test]
    fn room_is_used_again_and_nothing_of_the_one_before_is_in_it() {
        let vault = vault();
        let first = vault.seal(&[1; 3 * AGE_CHUNK_LEN]).unwrap();
        let (place, old) = (first.as_ptr(), first.clone());
        vault.give_back(first);
        let second = vault.seal(&[2; AGE_CHUNK_LEN]).unwrap();
        assert_eq!(second.as_ptr(), place);
        assert_eq!(vault.open(&second, AGE_CHUNK_LEN).unwrap().as_slice(), [2; AGE_CHUNK_LEN]);
        assert_eq!(vault.open(&old, 3 * AGE_CHUNK_LEN).unwrap().as_slice(), [1; 3 * AGE_CHUNK_LEN]);
        vault.give_back(vault.seal(&[3; SPARE_LEN_MAX]).unwrap());
        assert_eq!(vault.spare.lock().unwrap().capacity(), 0, "it is too large to be kept");
    }

    #[test]
    fn a_plaintext_may_come_in_pieces() {
        let vault = vault();
        let sealed = vault.seal_pieces(&[b"one ", b"", b"two"]).unwrap();
        assert_eq!(vault.open(&sealed, 7).unwrap().as_slice(), b"one two");
    }

    #[test]
    fn bytes_after_an_age_file_are_refused() {
        let vault = vault();
        for len in [0, 10, AGE_CHUNK_LEN - 1, AGE_CHUNK_LEN, 2 * AGE_CHUNK_LEN] {
            let sealed = vault.seal(&vec![3; len]).unwrap();
            for extra in [1, 16, 17, AGE_CHUNK_LEN + 16] {
                let mut longer = sealed.clone();
                longer.resize(sealed.len() + extra, 0);
                assert!(vault.open(&longer, 1 << 30).is_err(), "{extra} after {len}");
                // Also where the reader could stop early, being at its bound.
                assert!(vault.open(&longer, len).is_err(), "{extra} after {len}, bounded");
            }
            assert!(vault.open(&sealed[..sealed.len() - 1], 1 << 30).is_err());
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let vault = vault();
        let sealed = vault.seal(b"content").unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                assert!(vault.open(&flipped, 100).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_long_header_is_refused_unparsed() {
        let vault = vault();
        let mut hostile = b"age-encryption.org/v1\n".to_vec();
        for _ in 0..AGE_HEADER_LEN_MAX / 4 {
            hostile.extend(b"-> a\n\n");
        }
        hostile.extend(b"--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n");
        assert_eq!(
            vault.open(&hostile, 100),
            Err(Unsealed::Damaged(format!("no age header within {AGE_HEADER_LEN_MAX} bytes")))
        );
    }

    #[test]
    fn another_repositorys_file_is_told_apart() {
        assert_eq!(vault().open(&vault().seal(b"x").unwrap(), 100), Err(Unsealed::WrongKey));
    }

    #[test]
    fn debug_hides_the_secrets() {
        let shown = format!("{:?}", vault());
        assert!(!shown.contains("0909") && !shown.contains("AGE-SECRET") && !shown.contains("9, 9"), "{shown}");
    }
}
