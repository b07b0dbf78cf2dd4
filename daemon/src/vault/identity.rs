//! Users' keys: age identity files, also behind a passphrase, plugins' identities in them, and OpenSSH private keys.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use age::armor::ArmoredReader;
use age::secrecy::{ExposeSecret, SecretString};
use age::ssh::UnsupportedKey;
use age::{DecryptError, Decryptor, scrypt, ssh, x25519};
use stated_shared::{Digest, Timestamp};
use zeroize::Zeroizing;

use super::plugin::{PluginError, Plugins, Unwrapping, plugin_of};
use super::recipient::{Recipient, RecipientError};
use super::seal::{Unsealed, has_header, is_opened, open_age};
use super::{IDENTITY_LEN_MAX, PASSPHRASE_LEN_MAX, sha256};

/// The largest work factor of a passphrase that is accepted: 2^22 takes 4 GiB of memory. Stock `age` has the same.
const SCRYPT_WORK_FACTOR_MAX: u8 = 22;

const AGE_MAGIC: &[u8] = b"age-encryption.org/v1\n";
const ARMOR_BEGIN: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const PEM_BEGIN: &[u8] = b"-----BEGIN ";

/// The secret keys of one user. `Debug` shows how many, never what.
pub struct Identities {
    keys: Vec<Key>,
    kept: Vec<Kept>,
    plugins: Arc<Plugins>,
    /// The last one that a plugin opened, by the SHA-256 of the file: nobody should have to touch a token twice for it.
    opened: Mutex<Option<(Digest, Zeroizing<Vec<u8>>)>>,
}

/// What a start learns of its user's keys and the daemon goes on with: none of the secret ones.
pub struct Own {
    recipients: Vec<Recipient>,
    kept: Vec<Kept>,
    plugins: Arc<Plugins>,
}

/// Identities that one plugin keeps the keys of.
#[derive(Clone)]
struct Kept {
    plugin: String,
    /// As secret as the plugin makes them; most say only where the key is.
    identities: Vec<Zeroizing<String>>,
}

struct Key {
    secret: Secret,
    recipient: Recipient,
}

enum Secret {
    X25519(x25519::Identity),
    Ssh(ssh::Identity),
}

/// A passphrase; wiped when dropped. `Debug` hides it.
#[derive(Debug)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Takes the first line of a text; `None` where that is empty, not UTF-8, or over [`PASSPHRASE_LEN_MAX`].
    #[must_use]
    pub fn first_line(text: &[u8]) -> Option<Self> {
        let line = text.split(|&byte| byte == b'\n').next()?;
        let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
        // Exactly as long as it will be: shrinking or growing it would leave a copy behind.
        let mut owned = String::with_capacity(line.len());
        owned.push_str(line);
        let fits = !line.is_empty() && line.len() as u64 <= PASSPHRASE_LEN_MAX;
        fits.then(|| Self(SecretString::from(owned)))
    }

    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Why a text is no identity that can be used; all of these are configuration (exit 78).
///
/// `E` is why a passphrase could not be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError<E: std::error::Error + 'static> {
    /// It holds comments at most.
    #[error("it holds no key")]
    Empty,
    /// It is longer than [`IDENTITY_LEN_MAX`].
    #[error("it is longer than {IDENTITY_LEN_MAX} bytes")]
    TooLong,
    /// A line is neither a comment nor a key of age's or a plugin's.
    #[error("line {line} is no AGE-SECRET-KEY-1 key, and no plugin's identity")]
    Line {
        /// Which line, from 1; its text may be a secret.
        line: usize,
    },
    /// A private key that is not one of OpenSSH's that age knows.
    #[error("{0}")]
    Ssh(String),
    /// An SSH key that nothing may be sealed to.
    #[error(transparent)]
    Recipient(#[from] RecipientError),
    /// It is behind a passphrase, and none could be had.
    #[error("it is behind a passphrase")]
    Passphrase(#[source] E),
    /// The passphrase does not fit, or the file is damaged: these look the same.
    #[error("the passphrase does not open it")]
    WrongPassphrase,
    /// Trying the passphrase would take too much memory and time.
    #[error("its passphrase has the work factor {0}, and {SCRYPT_WORK_FACTOR_MAX} is the most")]
    ExcessiveWork(u8),
    /// It is an age file, and not one behind a passphrase.
    #[error("it is an age file that is not sealed to a passphrase, or a damaged one")]
    Sealed,
}

impl Identities {
    /// Reads an age identity file, one that `age -p` sealed, or an OpenSSH private key.
    ///
    /// `passphrase` is asked once, and only where one is needed; `plugins` are asked when something is to be opened or sealed.
    pub fn parse<E: std::error::Error + 'static>(
        text: &[u8],
        plugins: Arc<Plugins>,
        passphrase: impl FnOnce() -> Result<Passphrase, E>,
    ) -> Result<Self, IdentityError<E>> {
        if text.len() as u64 > IDENTITY_LEN_MAX {
            return Err(IdentityError::TooLong);
        }
        let (keys, kept) = if text.starts_with(AGE_MAGIC) || text.starts_with(ARMOR_BEGIN) {
            lines(&unsealed(text, passphrase)?)?
        } else if text.starts_with(PEM_BEGIN) {
            (vec![ssh_key(text, passphrase)?], Vec::new())
        } else {
            lines(text)?
        };
        let is_empty = keys.is_empty() && kept.is_empty();
        if is_empty { Err(IdentityError::Empty) } else { Ok(Self { keys, kept, plugins, opened: Mutex::default() }) }
    }

    /// Who data must be sealed to for these keys to open it; what a plugin keeps does not say.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.keys.iter().map(|key| key.recipient.clone()).collect()
    }

    /// What people tell these keys by.
    pub fn told(&self) -> Vec<String> {
        let keys = self.keys.iter().map(|key| key.recipient.fingerprint());
        keys.chain(self.kept.iter().map(|kept| format!("age-plugin-{}", kept.plugin))).collect()
    }

    /// What the daemon keeps of them.
    pub fn own(&self) -> Own {
        Own { recipients: self.recipients(), kept: self.kept.clone(), plugins: Arc::clone(&self.plugins) }
    }

    /// Opens one age file: by the keys themselves, and where none fits by those that plugins keep.
    pub(super) fn open(&self, sealed: &[u8], len_max: usize) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let secrets = self.keys.iter().map(|key| match &key.secret {
            Secret::X25519(secret) => secret as &dyn age::Identity,
            Secret::Ssh(secret) => secret,
        });
        if self.kept.is_empty() {
            return open_age(secrets, sealed, len_max).map_err(NotOpened::Unsealed);
        }
        let digest = sha256(sealed);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = opened.as_ref().filter(|(of, _)| *of == digest) {
            return Ok(text.clone());
        }
        let text =
            by_plugins_too(secrets, &self.kept, &self.plugins, |identities| open_age(identities, sealed, len_max))?;
        Ok(opened.insert((digest, text)).1.clone())
    }

    /// Whether a plugin keeps some of these keys.
    pub fn take_plugin(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Those of the keys that are here.
    #[must_use]
    pub fn without_plugins(self) -> Self {
        Self { kept: Vec::new(), ..self }
    }
}

impl Own {
    /// The private halves of these, and no plugin.
    #[cfg(test)]
    pub fn of(recipients: &[Recipient]) -> Self {
        Self { recipients: recipients.to_vec(), kept: Vec::new(), plugins: Arc::default() }
    }

    /// Whose private halves the daemon has.
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// What is asked where somebody who is sealed to has a plugin.
    pub(super) fn plugins(&self) -> &Plugins {
        &self.plugins
    }

    /// Whether a plugin is asked to seal to these, or to open what is sealed to them.
    pub fn asks_plugin(&self, recipients: &[Recipient]) -> bool {
        recipients.iter().any(Recipient::takes_plugin) || !self.is_among(recipients) && !self.kept.is_empty()
    }

    fn is_among(&self, recipients: &[Recipient]) -> bool {
        recipients.iter().any(|recipient| self.recipients.contains(recipient))
    }

    /// Whether the daemon opens what is sealed to these; where it takes a plugin to tell, that opens such a file's header.
    pub(super) fn opens(&self, recipients: &[Recipient], header: &[u8]) -> Result<bool, PluginError> {
        if self.is_among(recipients) {
            return Ok(true);
        }
        match by_plugins_too(std::iter::empty(), &self.kept, &self.plugins, |identities| is_opened(identities, header))
        {
            Ok(()) => Ok(true),
            Err(NotOpened::Plugin(error)) => Err(error),
            Err(NotOpened::Unsealed(_)) => Ok(false),
        }
    }
}

/// Why an age file did not open.
pub(super) enum NotOpened {
    Unsealed(Unsealed),
    /// No key fits, and a plugin that keeps one could not be asked.
    Plugin(PluginError),
}

fn by_plugins_too<'a, T>(
    secrets: impl Iterator<Item = &'a dyn age::Identity>,
    kept: &[Kept],
    plugins: &Plugins,
    open: impl FnOnce(&mut dyn Iterator<Item = &dyn age::Identity>) -> Result<T, Unsealed>,
) -> Result<T, NotOpened> {
    let failed = Mutex::new(None);
    let kept: Vec<Unwrapping<'_>> = kept
        .iter()
        .map(|Kept { plugin, identities }| Unwrapping { plugins, name: plugin, identities, failed: &failed })
        .collect();
    let kept = kept.iter().map(|unwrapping| unwrapping as &dyn age::Identity);
    let opened = open(&mut secrets.map(|secret| secret as &dyn age::Identity).chain(kept));
    opened.map_err(|unsealed| match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) if unsealed == Unsealed::WrongKey => NotOpened::Plugin(error),
        _ => NotOpened::Unsealed(unsealed),
    })
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({} hidden)", self.keys.len() + self.kept.len())
    }
}

/// The keys of an identity file as `age-keygen` writes it.
fn lines<E: std::error::Error>(text: &[u8]) -> Result<(Vec<Key>, Vec<Kept>), IdentityError<E>> {
    let (mut keys, mut kept) = (Vec::new(), Vec::<Kept>::new());
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let line = std::str::from_utf8(line).map_err(|_| IdentityError::Line { line: index + 1 })?;
        if let Ok(key) = line.parse::<x25519::Identity>() {
            keys.push(Key { recipient: Recipient::of_x25519(key.to_public()), secret: Secret::X25519(key) });
            continue;
        }
        // As in AGE-PLUGIN-NAME-1…; Bech32 has a lower-case spelling too, which is no identity's.
        let name = |begins: &str| Some(begins.strip_prefix("AGE-PLUGIN-")?.strip_suffix('-')?.to_ascii_lowercase());
        let plugin = plugin_of(line, name).ok_or(IdentityError::Line { line: index + 1 })?;
        let identity = Zeroizing::new(line.to_owned());
        // Of one plugin all are asked for at once.
        match kept.iter_mut().find(|kept| kept.plugin == plugin) {
            Some(kept) => kept.identities.push(identity),
            None => kept.push(Kept { plugin, identities: vec![identity] }),
        }
    }
    Ok((keys, kept))
}

/// The identity file in one that `age -p` sealed.
fn unsealed<E: std::error::Error>(
    text: &[u8],
    passphrase: impl FnOnce() -> Result<Passphrase, E>,
) -> Result<Zeroizing<Vec<u8>>, IdentityError<E>> {
    let mut sealed = Vec::with_capacity(text.len());
    ArmoredReader::new(text).read_to_end(&mut sealed).map_err(|_| IdentityError::Sealed)?;
    if !has_header(&sealed) {
        return Err(IdentityError::Sealed);
    }
    let decryptor = Decryptor::new_buffered(sealed.as_slice()).map_err(|_| IdentityError::Sealed)?;
    if !decryptor.is_scrypt() {
        return Err(IdentityError::Sealed);
    }
    let mut identity = scrypt::Identity::new(passphrase().map_err(IdentityError::Passphrase)?.0);
    identity.set_max_work_factor(SCRYPT_WORK_FACTOR_MAX);
    let identity: &dyn age::Identity = &identity;
    let mut reader = decryptor.decrypt(std::iter::once(identity)).map_err(|error| match error {
        DecryptError::ExcessiveWork { required, .. } => IdentityError::ExcessiveWork(required),
        _ => IdentityError::WrongPassphrase,
    })?;
    // Never longer than what is sealed, so no outgrown copy of the secret is left behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len()));
    reader.read_to_end(&mut plaintext).map_err(|_| IdentityError::WrongPassphrase)?;
    Ok(plaintext)
}

fn ssh_key<E: std::error::Error>(
    text: &[u8],
    passphrase: impl FnOnce() -> Result<Passphrase, E>,
) -> Result<Key, IdentityError<E>> {
    let unknown = || IdentityError::Ssh("it is no OpenSSH private key that age could use".to_owned());
    let parsed = ssh::Identity::from_buffer(text, None).map_err(|_| unknown())?;
    let secret = match parsed {
        ssh::Identity::Unencrypted(_) => parsed,
        ssh::Identity::Encrypted(key) => {
            let passphrase = passphrase().map_err(IdentityError::Passphrase)?;
            key.decrypt(passphrase.0).map_err(|_| IdentityError::WrongPassphrase)?.into()
        }
        ssh::Identity::Unsupported(key) => {
            return Err(match key {
                UnsupportedKey::EncryptedPem => {
                    IdentityError::Ssh("it is in the old PEM format; ssh-keygen -p converts it".to_owned())
                }
                UnsupportedKey::EncryptedSsh(cipher) => {
                    IdentityError::Ssh(format!("it is encrypted by {cipher}; ssh-keygen -p converts it"))
                }
                UnsupportedKey::Hardware(kind) | UnsupportedKey::Type(kind) => RecipientError::SshKind(kind).into(),
            });
        }
    };
    let recipient = ssh::Recipient::try_from(secret.clone()).map_err(|_| unknown())?;
    Ok(Key { recipient: Recipient::of_ssh(&recipient)?, secret: Secret::Ssh(secret) })
}

/// Why an identity file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateIdentityError {
    /// A key is never overwritten: what is sealed to it would be lost.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The system refused.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Draws a key and writes it to a new file that only its owner may read, durably.
///
/// The file is what `age-keygen` writes. Missing parent directories are made with mode 0700.
pub fn create_identity(path: &Path, created: Timestamp) -> Result<Recipient, CreateIdentityError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => CreateIdentityError::Exists(path),
            _ => CreateIdentityError::Io { path, source },
        }
    };
    let parent = parent(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed(parent))?;
    let key = x25519::Identity::generate();
    let text = identity_text(&key, created);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed(path))?;
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed(parent))?;
    Ok(Recipient::of_x25519(key.to_public()))
}

/// An identity file's text, as `age-keygen` writes it.
pub(super) fn identity_text(key: &x25519::Identity, created: Timestamp) -> Zeroizing<String> {
    let secret = key.to_string();
    let created = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(created.0));
    let public = key.to_public();
    // Reserved in full, so that no outgrown copy of the secret is left behind.
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str(&format!("# created: {created}\n# public key: {public}\n"));
    text.push_str(secret.expose_secret());
    text.push('\n');
    text
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
pub(super) mod tests {
    use std::convert::Infallible;
    use std::os::unix::fs::MetadataExt;

    use age::Encryptor;
    use age::armor::{ArmoredWriter, Format};

    use super::*;

    const CREATED: Timestamp = Timestamp(1_764_000_000_000);

    /// A new user's keys.
    pub(crate) fn user() -> Identities {
        read(identity_text(&x25519::Identity::generate(), CREATED).as_bytes()).unwrap()
    }

    fn read(text: &[u8]) -> Result<Identities, IdentityError<Infallible>> {
        Identities::parse(text, Arc::default(), || panic!("no passphrase is needed"))
    }

    fn read_with(text: &[u8], passphrase: &str) -> Result<Identities, IdentityError<Infallible>> {
        Identities::parse(text, Arc::default(), || Ok(Passphrase::first_line(passphrase.as_bytes()).unwrap()))
    }

    /// What `age -p` writes, with less work.
    fn sealed(text: &[u8], passphrase: &str, work_factor: u8, format: Format) -> Vec<u8> {
        let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.to_owned()));
        recipient.set_work_factor(work_factor);
        let recipient: &dyn age::Recipient = &recipient;
        let mut sealed = Vec::new();
        let armor = ArmoredWriter::wrap_output(&mut sealed, format).unwrap();
        let mut writer = Encryptor::with_recipients(std::iter::once(recipient)).unwrap().wrap_output(armor).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap().finish().unwrap();
        sealed
    }

    #[test]
    fn a_made_identity_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/key.txt");
        let recipient = create_identity(&path, CREATED).unwrap();
        assert_eq!(read(&fs::read(&path).unwrap()).unwrap().recipients(), std::slice::from_ref(&recipient));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# created: 2025-11-24T16:00:00Z\n# public key: {recipient}\nAGE-SECRET-")));
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(create_identity(&path, CREATED), Err(CreateIdentityError::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn each_unusable_text_has_its_own_error() {
        assert!(matches!(read(b"# only words\n\n"), Err(IdentityError::Empty)));
        let plugin = "AGE-PLUGIN-FOOBAR-1QVHULF";
        assert_eq!(read(plugin.as_bytes()).unwrap().told(), ["age-plugin-foobar"]);
        for line in ["AGE-PLUGIN-YUBIKEY-1QQQQ", &plugin.to_lowercase(), "age-encryption.org/v2", "AGE-SECRET-KEY-1QQQ"]
        {
            let text = format!("# words\n{line}\n");
            assert!(matches!(read(text.as_bytes()), Err(IdentityError::Line { line: 2 })), "{line}");
        }
        assert!(matches!(read(&vec![b'#'; IDENTITY_LEN_MAX as usize + 1]), Err(IdentityError::TooLong)));
        for text in ["-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "-----BEGIN PRIVATE KEY-----\nAAAA\n"] {
            assert!(matches!(read(text.as_bytes()), Err(IdentityError::Ssh(_))), "{text}");
        }
    }

    #[test]
    fn an_identity_file_behind_a_passphrase_opens_by_it_alone() {
        let key = x25519::Identity::generate();
        let text = identity_text(&key, CREATED);
        for format in [Format::Binary, Format::AsciiArmor] {
            let sealed = sealed(text.as_bytes(), "open sesame", 4, format);
            let opened = read_with(&sealed, "open sesame\r\nand a second line").unwrap();
            assert_eq!(opened.recipients(), [Recipient::of_x25519(key.to_public())]);
            assert!(matches!(read_with(&sealed, "open says me"), Err(IdentityError::WrongPassphrase)));
            let none: Result<_, IdentityError<std::fmt::Error>> =
                Identities::parse(&sealed, Arc::default(), || Err(std::fmt::Error));
            assert!(matches!(none, Err(IdentityError::Passphrase(_))));
            let cut = &sealed[..sealed.len() - 40];
            assert!(matches!(
                read_with(cut, "open sesame"),
                Err(IdentityError::WrongPassphrase | IdentityError::Sealed)
            ));
        }
    }

    #[test]
    fn a_file_cannot_ask_for_all_of_the_memory() {
        let sealed = sealed(b"", "p", 4, Format::Binary);
        let text = String::from_utf8_lossy(&sealed).replacen(" 4\n", " 23\n", 1);
        let header = &text.as_bytes()[..text.find("\n--- ").unwrap() + 49];
        let mut asked = header.to_vec();
        asked.extend(&sealed[sealed.len() - 32..]);
        assert!(
            matches!(read_with(&asked, "p"), Err(IdentityError::ExcessiveWork(23))),
            "{:?}",
            read_with(&asked, "p")
        );
    }

    #[test]
    fn a_file_that_is_sealed_to_a_key_is_no_identity() {
        let recipient = user().recipients().remove(0);
        let none = Plugins::default();
        let recipient = recipient.for_age(&none);
        let sealed = super::super::seal::seal_age(std::iter::once(&*recipient), b"x").unwrap();
        assert!(matches!(read(&sealed), Err(IdentityError::Sealed)));
    }

    #[test]
    fn debug_hides_the_secrets() {
        assert_eq!(format!("{:?}", user()), "Identities(1 hidden)");
        let passphrase = Passphrase::first_line(b"open sesame").unwrap();
        assert!(!format!("{passphrase:?}").contains("sesame"));
    }

    #[test]
    fn a_passphrase_is_one_line_and_whole() {
        assert!(Passphrase::first_line(b"\nx").is_none());
        assert!(Passphrase::first_line(b"\xff").is_none());
        let longest = vec![b'x'; PASSPHRASE_LEN_MAX as usize];
        assert!(Passphrase::first_line(&longest).is_some());
        assert!(Passphrase::first_line(&[longest, b"x".to_vec()].concat()).is_none());
    }
}
