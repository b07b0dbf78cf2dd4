//! The keyring: what opens the repository and what proves who wrote it, sealed to the users' keys.
//!
//! Its plaintext is an age identity file, so `age -d -i my.key keys/1.age` gives what opens every record and blob.
//! What is ours besides rides in comment lines, in one fixed order: a keyring is parsed, written again, and must match.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use age::secrecy::ExposeSecret;
use age::{EncryptError, x25519};
use stated_shared::limits::RECIPIENTS_MAX;
use stated_shared::{Digest, Generation, RepositoryId, Seq, Timestamp};
use zeroize::{Zeroize, Zeroizing};

use super::identity::{Identities, NotOpened, Own};
use super::plugin::{PluginError, wrapping_failed};
use super::recipient::{Recipient, addressees};
use super::seal::{AGE_HEADER_LEN_USUAL, Empty, SealError, Unsealed, has_header};
use super::{AGE_HEADER_LEN_MAX, KEYRING_FILE_LEN_MAX, sha256};
use crate::disk::{Access, Disk, Entry};

const TITLE: &str = "# stated keyring";
/// Begins what is said of former keys.
const FORMER: &str = "# former generation: ";

/// The chain key: whoever holds it can write what a start believes. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ChainKey(pub(super) Zeroizing<[u8; 32]>);

impl ChainKey {
    /// Takes 32 random bytes and wipes the caller's copy.
    pub fn new(random: &mut [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(*random));
        random.zeroize();
        key
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainKey(hidden)")
    }
}

/// One generation of the repository's keys. `Debug` shows the public half.
#[derive(Clone)]
pub struct Keyring {
    pub(super) generation: Generation,
    pub(super) repository: RepositoryId,
    pub(super) created: Timestamp,
    pub(super) recipients: Vec<Recipient>,
    pub(super) chain_key: ChainKey,
    pub(super) identity: x25519::Identity,
    /// What came before its own keys, the newest first.
    former: Vec<Former>,
}

/// Keys that were rotated out: records up to one were chained, and sealed at first, with them.
#[derive(Clone)]
pub(super) struct Former {
    pub generation: Generation,
    /// The last record of theirs.
    pub last: Seq,
    pub chain_key: ChainKey,
    pub identity: x25519::Identity,
}

/// What a keyring is sealed in: whoever shall open it is in its header, and no content is there yet.
///
/// It takes a plugin's time, and somebody's who has to touch a token; the keyring itself is made when it is needed.
pub struct Envelope {
    recipients: Vec<Recipient>,
    empty: Empty,
}

/// The directory of the keyrings.
#[derive(Clone)]
pub struct KeyringPlace {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// A keyring as it lies in `keys/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKeyring {
    /// A complete age file.
    pub bytes: Vec<u8>,
    /// The SHA-256 of `bytes`: a keyring counts only if a chained event holds it.
    pub digest: Digest,
}

/// Why a keyring could not be written or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is no such file.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// It is sealed to other keys (exit 78). One flipped byte in a recipient's stanza looks the same.
    #[error("none of the given keys opens {}", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whom it is sealed to, as far as its header says.
        sealed_to: Vec<String>,
    },
    /// It is not what was written (exit 74).
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// A keyring is never overwritten: what is sealed to it would be lost.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// No recipient, or more than [`RECIPIENTS_MAX`].
    #[error("a keyring has 1 to {RECIPIENTS_MAX} recipients, not {0}")]
    Recipients(usize),
    /// So many or so long recipients that the file could not be opened again; an RSA key takes five times the room.
    #[error("{0} recipients of these kinds do not fit a keyring's header of {AGE_HEADER_LEN_MAX} bytes")]
    HeaderTooLong(usize),
    /// None of the daemon's own keys would open it, so it could not start again.
    #[error("none of the daemon's own keys opens what is sealed to these recipients alone")]
    NotToOwn,
    /// Some of them will not be beside others: those that a quantum computer does not break, for one.
    #[error("these recipients cannot be sealed to together: {0}")]
    Incompatible(String),
    /// The envelope is for others.
    #[error("who opens the keyring was changed at the same time by somebody else")]
    OtherEnvelope,
    /// A plugin was needed to seal or open it.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The bytes could not be sealed.
    #[error("cannot seal a keyring")]
    Seal(#[source] SealError),
    /// The system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Keyring {
    /// A new generation: `age` draws the repository's identity, everything else is an argument.
    pub fn new(
        generation: Generation,
        repository: RepositoryId,
        chain_key: ChainKey,
        recipients: Vec<Recipient>,
        created: Timestamp,
    ) -> Result<Self, KeyringError> {
        let recipients = set(recipients)?;
        // The text has whole seconds; so has what is written from it again.
        let created = Timestamp(created.0 / 1000 * 1000);
        let identity = x25519::Identity::generate();
        Ok(Self { generation, repository, created, recipients, chain_key, identity, former: Vec::new() })
    }

    /// The same keys, of the next generation, for others to open.
    pub fn rewrapped(&self, recipients: Vec<Recipient>, created: Timestamp) -> Result<Self, KeyringError> {
        let chain_key = self.chain_key.clone();
        let new = Self::new(self.generation.next(), self.repository, chain_key, recipients, created)?;
        Ok(Self { identity: self.identity.clone(), former: self.former.clone(), ..new })
    }

    /// New keys for the same to open, for all records after this one.
    pub fn rotated(&self, chain_key: ChainKey, last: Seq, created: Timestamp) -> Result<Self, KeyringError> {
        let recipients = self.recipients.clone();
        let new = Self::new(self.generation.next(), self.repository, chain_key, recipients, created)?;
        let (generation, chain_key, identity) = (self.generation, self.chain_key.clone(), self.identity.clone());
        let former = std::iter::once(Former { generation, last, chain_key, identity }).chain(self.former.clone());
        Ok(Self { former: former.collect(), ..new })
    }

    /// The chain key of a record.
    pub(super) fn chain_key(&self, seq: Seq) -> &ChainKey {
        // The oldest keys that reach as far.
        let former = self.former.iter().rev().find(|former| seq <= former.last);
        former.map_or(&self.chain_key, |former| &former.chain_key)
    }

    /// What came before its own keys, the newest first.
    pub(super) fn former(&self) -> &[Former] {
        &self.former
    }

    /// Which keyring of the repository it is.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The repository that it belongs to.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Whose keys open it.
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// The keyring's file in the directory `keys/`.
    pub fn path(keys: &Path, generation: Generation) -> PathBuf {
        keys.join(format!("{generation}.age"))
    }

    /// Seals it to its recipients. Every call gives other bytes.
    pub fn seal(&self, own: &Own) -> Result<SealedKeyring, KeyringError> {
        self.seal_in(Envelope::new(self.recipients.clone(), own)?)
    }

    /// Seals it in this envelope, which must be for the same recipients.
    pub fn seal_in(&self, envelope: Envelope) -> Result<SealedKeyring, KeyringError> {
        // Who is sealed to is told inside, too.
        if envelope.recipients != self.recipients {
            return Err(KeyringError::OtherEnvelope);
        }
        let bytes = envelope.empty.fill(&[self.text().as_bytes()]).map_err(KeyringError::Seal)?;
        let digest = sha256(&bytes);
        Ok(SealedKeyring { bytes, digest })
    }

    /// Loads `keys/<generation>.age` and the SHA-256 of that file.
    ///
    /// What it says is only as true as the file: the caller compares the digest with the chained event's.
    pub fn load(
        disk: &dyn Disk,
        keys: &Path,
        generation: Generation,
        with: &Identities,
    ) -> Result<(Self, Digest), KeyringError> {
        let path = Self::path(keys, generation);
        let damaged = |what: String| KeyringError::Damaged { path: path.clone(), what };
        let bytes = disk.read(&path, KEYRING_FILE_LEN_MAX + 1).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => KeyringError::Missing(path.clone()),
            _ => KeyringError::Io { path: path.clone(), source },
        })?;
        let text = with.open(&bytes, KEYRING_FILE_LEN_MAX as usize).map_err(|not_opened| match not_opened {
            NotOpened::Unsealed(Unsealed::WrongKey) => {
                KeyringError::NotOurs { path: path.clone(), sealed_to: addressees(&bytes) }
            }
            NotOpened::Unsealed(Unsealed::Damaged(what)) => damaged(what),
            NotOpened::Plugin(error) => error.into(),
        })?;
        let keyring = Self::parse(&text).ok_or_else(|| damaged("its text is not a keyring's".to_owned()))?;
        if keyring.generation != generation {
            return Err(damaged(format!("it is generation {}", keyring.generation)));
        }
        Ok((keyring, sha256(&bytes)))
    }

    fn text(&self) -> Zeroizing<String> {
        let created = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(self.created.0));
        let chain_key = Zeroizing::new(Digest(*self.chain_key.0).to_string());
        let secret = self.identity.to_string();
        // Reserved in full, so that no outgrown copy of the secrets is left behind.
        let mut text = Zeroizing::new(String::with_capacity(
            512 + self.recipients.iter().map(|r| r.to_string().len() + 16).sum::<usize>(),
        ));
        text.push_str(&format!("{TITLE}\n# generation: {}\n# repository: {}\n", self.generation, self.repository));
        text.push_str("# chain key: ");
        text.push_str(&chain_key);
        text.push('\n');
        for recipient in &self.recipients {
            text.push_str(&format!("# sealed to: {recipient}\n"));
        }
        text.push_str(&format!("# created: {created}\n# public key: {}\n", self.identity.to_public()));
        text.push_str(secret.expose_secret());
        text.push('\n');
        for Former { generation, last, chain_key, identity } in &self.former {
            text.push_str(&format!("{FORMER}{generation}\n# up to record: {last}\n# chain key: "));
            text.push_str(&Zeroizing::new(Digest(*chain_key.0).to_string()));
            text.push('\n');
            text.push_str(identity.to_string().expose_secret());
            text.push('\n');
        }
        text
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.split(FORMER);
        let own = parts.next()?;
        let created = humantime::parse_rfc3339(field(own, "created").next()?).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let keyring = Self {
            generation: field(own, "generation").next()?.parse().ok()?,
            repository: field(own, "repository").next()?.parse().ok()?,
            created: Timestamp(created.as_secs() * 1000),
            recipients: field(own, "sealed to").map(|text| text.parse().ok()).collect::<Option<_>>()?,
            chain_key: chain_key(own)?,
            identity: identity(own)?,
            former: parts.map(Former::parse).collect::<Option<_>>()?,
        };
        (keyring.text().as_str() == text).then_some(keyring)
    }
}

impl Former {
    fn parse(part: &str) -> Option<Self> {
        Some(Self {
            generation: part.lines().next()?.parse().ok()?,
            last: Seq(field(part, "up to record").next()?.parse().ok()?),
            chain_key: chain_key(part)?,
            identity: identity(part)?,
        })
    }
}

/// Recipients are a set: sorted here, and each once.
fn set(mut recipients: Vec<Recipient>) -> Result<Vec<Recipient>, KeyringError> {
    recipients.sort_by_key(Recipient::to_string);
    recipients.dedup();
    if recipients.is_empty() || recipients.len() > RECIPIENTS_MAX {
        return Err(KeyringError::Recipients(recipients.len()));
    }
    Ok(recipients)
}

impl Envelope {
    /// For these recipients, who must be such that the daemon opens it again.
    pub fn new(recipients: Vec<Recipient>, own: &Own) -> Result<Self, KeyringError> {
        let recipients = set(recipients)?;
        let for_age: Vec<_> = recipients.iter().map(|recipient| recipient.for_age(own.plugins())).collect();
        let empty =
            Empty::new(for_age.iter().map(|recipient| &**recipient), AGE_HEADER_LEN_USUAL).map_err(not_wrapped)?;
        drop(for_age);
        let header = empty.header();
        // What would not open again is not written.
        if !has_header(&header) {
            return Err(KeyringError::HeaderTooLong(recipients.len()));
        }
        if !own.opens(&recipients, &header)? {
            return Err(KeyringError::NotToOwn);
        }
        Ok(Self { recipients, empty })
    }
}

/// What was wrong with the recipients.
fn not_wrapped(error: SealError) -> KeyringError {
    let SealError::Recipients(refused) = &error else { return KeyringError::Seal(error) };
    if let Some(error) = wrapping_failed(refused) {
        return error.clone().into();
    }
    match refused {
        EncryptError::IncompatibleRecipients { .. } => KeyringError::Incompatible(refused.to_string()),
        _ => KeyringError::Seal(error),
    }
}

fn field<'a>(text: &'a str, name: &'static str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": "))
}

fn chain_key(text: &str) -> Option<ChainKey> {
    let key: Digest = field(text, "chain key").next()?.parse().ok()?;
    Some(ChainKey(Zeroizing::new(key.0)))
}

fn identity(text: &str) -> Option<x25519::Identity> {
    text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-"))?.parse().ok()
}

impl KeyringPlace {
    /// Of this state directory.
    pub fn new(disk: Arc<dyn Disk>, state_dir: &Path) -> Self {
        Self { disk, dir: state_dir.join("keys") }
    }

    /// The generations of which there is a keyring, the newest first.
    pub fn generations(&self) -> Result<Vec<Generation>, KeyringError> {
        let failed = |source| KeyringError::Io { path: self.dir.clone(), source };
        let generation = |entry: Entry| entry.name.to_str()?.strip_suffix(".age")?.parse().ok();
        let entries = match self.disk.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.map_err(failed)?,
        };
        let mut generations: Vec<Generation> = entries.into_iter().filter_map(generation).collect();
        generations.sort_unstable_by(|a, b| b.cmp(a));
        Ok(generations)
    }

    /// See [`Keyring::load`].
    pub fn load(&self, generation: Generation, with: &Identities) -> Result<(Keyring, Digest), KeyringError> {
        Keyring::load(&*self.disk, &self.dir, generation, with)
    }

    /// See [`SealedKeyring::write`].
    pub fn write(&self, sealed: &SealedKeyring, generation: Generation) -> Result<(), KeyringError> {
        sealed.write(&*self.disk, &self.dir, generation)
    }

    /// Removes keyrings that do not count: of former generations, whoever opens one reads what is sealed to its keys; one of
    /// the next never came to count.
    pub fn keep_only(&self, generation: Generation) -> Result<(), KeyringError> {
        let others: Vec<_> = self.generations()?.into_iter().filter(|other| *other != generation).collect();
        for other in &others {
            let path = Keyring::path(&self.dir, *other);
            self.disk.remove(&path).map_err(|source| KeyringError::Io { path, source })?;
        }
        match others.is_empty() {
            true => Ok(()),
            false => {
                self.disk.sync_dir(&self.dir).map_err(|source| KeyringError::Io { path: self.dir.clone(), source })
            }
        }
    }
}

impl SealedKeyring {
    /// Writes it to `keys/<generation>.age`, durably: afterwards it is there whole, or not at all.
    ///
    /// `keys` exists already. A keyring that is there is never replaced.
    pub fn write(&self, disk: &dyn Disk, keys: &Path, generation: Generation) -> Result<(), KeyringError> {
        let path = Keyring::path(keys, generation);
        let tmp = keys.join(format!("{generation}.tmp"));
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AlreadyExists => KeyringError::Exists(path),
                _ => KeyringError::Io { path, source },
            }
        };
        let file = disk.open(&tmp, Access::Replace).map_err(failed(&tmp))?;
        file.write_at(&self.bytes, 0).and_then(|()| file.sync_all()).map_err(failed(&tmp))?;
        // Not rename(2) alone, which would replace a keyring in silence.
        disk.rename_new(&tmp, &path).map_err(failed(&path))?;
        disk.sync_dir(keys).map_err(failed(keys))
    }
}

/// A text is a keyring in one spelling only, and no age file of whatever form makes more than an error.
#[cfg(fuzzing)]
pub fn fuzz_keyring(bytes: &[u8]) {
    if let Some(keyring) = Keyring::parse(bytes) {
        assert_eq!(keyring.text().as_bytes(), bytes);
    }
    let identity = age::x25519::Identity::generate();
    let opened = super::seal::open_age(std::iter::once(&identity as &dyn age::Identity), bytes, 1 << 20);
    assert!(opened.is_err(), "nothing is sealed to a key that was just made");
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("generation", &self.generation)
            .field("repository", &self.repository)
            .field("recipients", &self.recipients)
            .field("public_key", &self.identity.to_public())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::super::recipient;
    use super::*;
    use crate::disk::RealDisk;

    fn user() -> (Identities, Recipient) {
        let identities = super::super::identity::tests::user();
        let recipient = identities.recipients().remove(0);
        (identities, recipient)
    }

    fn keyring(recipients: Vec<Recipient>) -> Keyring {
        let key = ChainKey::new(&mut [9; 32]);
        Keyring::new(Generation(1), RepositoryId([5; 16]), key, recipients, Timestamp(1_764_000_000_123)).unwrap()
    }

    fn own(keyring: &Keyring) -> Own {
        Own::of(keyring.recipients())
    }

    fn sealed(recipients: Vec<Recipient>) -> Result<SealedKeyring, KeyringError> {
        let keyring = keyring(recipients);
        keyring.seal(&own(&keyring))
    }

    #[test]
    fn each_recipient_opens_it_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let ((alice, a), (bob, b), (eve, _)) = (user(), user(), user());
        let written = keyring(vec![a, b]);
        let sealed = written.seal(&own(&written)).unwrap();
        sealed.write(&RealDisk, dir.path(), Generation(1)).unwrap();
        for user in [&alice, &bob] {
            let (loaded, digest) = Keyring::load(&RealDisk, dir.path(), Generation(1), user).unwrap();
            assert_eq!(digest, sealed.digest);
            assert_eq!(*loaded.text(), *written.text());
            assert_eq!(loaded.recipients(), written.recipients());
        }
        assert!(matches!(Keyring::load(&RealDisk, dir.path(), Generation(1), &eve), Err(KeyringError::NotOurs { .. })));
        assert!(matches!(Keyring::load(&RealDisk, dir.path(), Generation(2), &alice), Err(KeyringError::Missing(_))));
        assert_eq!(fs::metadata(dir.path().join("1.age")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_keyring_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (_, recipient) = user();
        let first = sealed(vec![recipient.clone()]).unwrap();
        first.write(&RealDisk, dir.path(), Generation(1)).unwrap();
        let second = sealed(vec![recipient]).unwrap();
        assert!(matches!(second.write(&RealDisk, dir.path(), Generation(1)), Err(KeyringError::Exists(_))));
        assert_eq!(fs::read(dir.path().join("1.age")).unwrap(), first.bytes);
    }

    #[test]
    fn every_flipped_byte_of_it_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, recipient) = user();
        let sealed = sealed(vec![recipient]).unwrap();
        for at in 0..sealed.bytes.len() {
            let mut bytes = sealed.bytes.clone();
            bytes[at] ^= 1;
            fs::write(dir.path().join("1.age"), &bytes).unwrap();
            let error = Keyring::load(&RealDisk, dir.path(), Generation(1), &alice).unwrap_err();
            assert!(matches!(error, KeyringError::Damaged { .. } | KeyringError::NotOurs { .. }), "byte {at}: {error}");
        }
        fs::write(dir.path().join("1.age"), &sealed.bytes[..sealed.bytes.len() - 1]).unwrap();
        let error = Keyring::load(&RealDisk, dir.path(), Generation(1), &alice).unwrap_err();
        assert!(matches!(error, KeyringError::Damaged { .. }));
    }

    #[test]
    fn another_generations_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, recipient) = user();
        sealed(vec![recipient]).unwrap().write(&RealDisk, dir.path(), Generation(2)).unwrap();
        let error = Keyring::load(&RealDisk, dir.path(), Generation(2), &alice).unwrap_err();
        assert!(matches!(error, KeyringError::Damaged { .. }));
    }

    #[test]
    fn a_text_that_would_be_written_otherwise_is_no_keyring() {
        let keyring = keyring(vec![user().1, user().1]);
        let text = keyring.text();
        assert!(Keyring::parse(text.as_bytes()).is_some());
        assert!(Keyring::parse(format!("{}\n", *text).as_bytes()).is_none());
        assert!(Keyring::parse(text.replace("# generation: 1", "# generation: 01").as_bytes()).is_none());
        assert!(Keyring::parse(text.replace("# chain key", "# chain-key").as_bytes()).is_none());
    }

    #[test]
    fn ssh_recipients_stand_in_it_in_one_spelling() {
        let [ed25519, rsa] = [recipient::tests::ED25519, recipient::tests::RSA];
        let keyring = keyring(vec![format!("{rsa} a comment").parse().unwrap(), ed25519.parse().unwrap(), user().1]);
        let text = keyring.text();
        assert!(text.contains(&format!("# sealed to: {ed25519}\n# sealed to: {rsa}\n")), "{}", *text);
        assert_eq!(Keyring::parse(text.as_bytes()).unwrap().recipients(), keyring.recipients());
        assert!(Keyring::parse(text.replace(ed25519, &format!("{ed25519} comment")).as_bytes()).is_none());
    }

    #[test]
    fn a_keyring_that_would_not_open_again_is_not_sealed() {
        let of_bits = |bits: usize| recipient::tests::rsa_of_bits(bits).parse::<Recipient>().unwrap();
        // Lengths that differ make the keys differ.
        let long = |count: usize| sealed((0..count).map(|index| of_bits(4096 - index)).collect());
        assert!(matches!(long(30), Err(KeyringError::HeaderTooLong(30))));
        assert!(long(20).is_ok());
    }

    #[test]
    fn debug_hides_the_secrets() {
        let keyring = keyring(vec![user().1]);
        let shown = format!("{keyring:?} {:?}", keyring.chain_key);
        assert!(!shown.contains("0909") && !shown.contains("AGE-SECRET") && !shown.contains("9, 9"), "{shown}");
    }

    #[test]
    fn a_keyring_nobody_opens_is_refused() {
        let key = ChainKey::new(&mut [9; 32]);
        let made = Keyring::new(Generation(1), RepositoryId([5; 16]), key, vec![], Timestamp(0));
        assert!(matches!(made, Err(KeyringError::Recipients(0))));
    }
}
