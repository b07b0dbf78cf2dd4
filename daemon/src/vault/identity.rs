//! Users' keys: age identity files as `age-keygen` writes them, and `age1…` recipients.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use age::secrecy::ExposeSecret;
use age::x25519;
use stated_shared::Timestamp;
use zeroize::Zeroizing;

use super::IDENTITY_FILE_LEN_MAX;

/// Someone that data can be sealed to: an `age1…` public key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient(pub(super) x25519::Recipient);

/// A text that is no recipient of a kind that is supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an age X25519 recipient (age1…)")]
pub struct RecipientError;

impl FromStr for Recipient {
    type Err = RecipientError;
    fn from_str(text: &str) -> Result<Self, RecipientError> {
        let parsed: x25519::Recipient = text.parse().map_err(|_| RecipientError)?;
        // Bech32 has an upper-case spelling too; a recipient has one here, so that lists compare by text.
        if parsed.to_string() == text { Ok(Self(parsed)) } else { Err(RecipientError) }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.0)
    }
}

/// The secret keys of one identity file. `Debug` shows how many, never what.
pub struct Identities {
    pub(super) keys: Vec<x25519::Identity>,
}

impl Identities {
    /// Who data must be sealed to for these keys to open it.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.keys.iter().map(|key| Recipient(key.to_public())).collect()
    }

    pub(super) fn as_dyn(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.keys.iter().map(|key| key as &dyn age::Identity)
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({} hidden)", self.keys.len())
    }
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

/// Why an identity file could not be used; all of these are configuration (exit 78).
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no such file.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// Group or others have rights on it.
    #[error("{} has mode {mode:04o}: others may read or change it (chmod 600)", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds comments at most.
    #[error("{} holds no key", .0.display())]
    Empty(PathBuf),
    /// A line is neither a comment nor an X25519 secret key: a plugin's, an SSH key, or a file behind a passphrase.
    #[error("{} holds something other than AGE-SECRET-KEY-1 keys on line {line}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Which line, from 1; its text may be a secret.
        line: usize,
    },
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
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
    Ok(Recipient(key.to_public()))
}

/// Reads the keys of an age identity file.
pub fn load_identities(path: &Path) -> Result<Identities, IdentityError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing(path.to_path_buf()),
        _ => IdentityError::Io { path: path.to_path_buf(), source },
    };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, not of the path: what was judged is what is read.
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_path_buf(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    file.take(IDENTITY_FILE_LEN_MAX).read_to_end(&mut text).map_err(failed)?;
    let mut keys = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let key = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        keys.push(key.ok_or_else(|| IdentityError::Unsupported { path: path.to_path_buf(), line: index + 1 })?);
    }
    if keys.is_empty() { Err(IdentityError::Empty(path.to_path_buf())) } else { Ok(Identities { keys }) }
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CREATED: Timestamp = Timestamp(1_764_000_000_000);

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_made_identity_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/key.txt");
        let recipient = create_identity(&path, CREATED).unwrap();
        assert_eq!(load_identities(&path).unwrap().recipients(), std::slice::from_ref(&recipient));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# created: 2025-11-24T16:00:00Z\n# public key: {recipient}\nAGE-SECRET-")));
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let (_dir, path) = written("precious", 0o600);
        assert!(matches!(create_identity(&path, CREATED), Err(CreateIdentityError::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn each_unusable_file_has_its_own_error() {
        let key = identity_text(&x25519::Identity::generate(), CREATED);
        assert!(matches!(load_identities(Path::new("/nonexistent/key")), Err(IdentityError::Missing(_))));
        for mode in [0o640, 0o604, 0o620] {
            let (_dir, path) = written(&key, mode);
            assert!(matches!(load_identities(&path), Err(IdentityError::Exposed { mode: m, .. }) if m == mode));
        }
        let (_dir, path) = written("# only words\n\n", 0o600);
        assert!(matches!(load_identities(&path), Err(IdentityError::Empty(_))));
        for line in ["AGE-PLUGIN-YUBIKEY-1QQQQ", "age-encryption.org/v1", "AGE-SECRET-KEY-1QQQ"] {
            let (_dir, path) = written(&format!("# words\n{line}\n"), 0o600);
            assert!(matches!(load_identities(&path), Err(IdentityError::Unsupported { line: 2, .. })), "{line}");
        }
    }

    #[test]
    fn a_recipient_has_one_spelling() {
        let text = x25519::Identity::generate().to_public().to_string();
        assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        assert!(text.to_uppercase().parse::<Recipient>().is_err());
        assert!("age1yubikey1qqqq".parse::<Recipient>().is_err());
        assert!(text[..text.len() - 1].parse::<Recipient>().is_err());
    }

    #[test]
    fn debug_hides_the_keys() {
        let identities = Identities { keys: vec![x25519::Identity::generate()] };
        assert_eq!(format!("{identities:?}"), "Identities(1 hidden)");
    }
}
