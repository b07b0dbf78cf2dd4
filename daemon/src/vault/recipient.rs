//! Whom a keyring can be sealed to: `age1…` public keys, and SSH keys of the two kinds that age knows.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use age::ssh::ParseRecipientKeyError;
use age::{ssh, x25519};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use super::sha256;

/// Someone that data can be sealed to; equal where the canonical spelling is.
#[derive(Clone)]
pub struct Recipient {
    spelling: String,
    key: PublicKey,
}

#[derive(Clone)]
enum PublicKey {
    X25519(x25519::Recipient),
    Ssh(ssh::Recipient),
}

/// A text that is no recipient of a kind that is supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// It is none of the three kinds, or is not spelled as its tool prints it.
    #[error("expected a public key: age1…, ssh-ed25519 … or ssh-rsa …")]
    Unknown,
    /// An SSH key of a kind that nothing can be sealed to.
    #[error("nothing can be sealed to a key of the kind {0}; an ssh-ed25519 key would do")]
    SshKind(String),
    /// Its modulus is too short to hold for the years that a state directory lasts.
    #[error("an RSA key must have at least 2048 bits; an ssh-ed25519 key would do")]
    RsaTooSmall,
    /// Its modulus is longer than what is supported.
    #[error("an RSA key may have at most 4096 bits; an ssh-ed25519 key would do")]
    RsaTooLarge,
}

impl Recipient {
    pub(super) fn of_x25519(key: x25519::Recipient) -> Self {
        Self { spelling: key.to_string(), key: PublicKey::X25519(key) }
    }

    /// Judges the key as its text would be judged: a private key's file says nothing of its length.
    pub(super) fn of_ssh(key: &ssh::Recipient) -> Result<Self, RecipientError> {
        key.to_string().parse()
    }

    pub(super) fn as_dyn(&self) -> &dyn age::Recipient {
        match &self.key {
            PublicKey::X25519(key) => key,
            PublicKey::Ssh(key) => key,
        }
    }

    /// How people tell the key: an age key by itself, an SSH key by what `ssh-keygen -l` prints.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        match &self.key {
            PublicKey::X25519(_) => self.spelling.clone(),
            PublicKey::Ssh(ssh::Recipient::SshRsa(wire, _) | ssh::Recipient::SshEd25519(wire, _)) => {
                let kind = self.spelling.split(' ').next().unwrap_or_default();
                format!("{kind} SHA256:{}", BASE64_STANDARD_NO_PAD.encode(sha256(wire).0))
            }
        }
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    /// Reads what `age-keygen -y` or a `.pub` file of `ssh-keygen` says. An SSH key's comment is dropped.
    fn from_str(text: &str) -> Result<Self, RecipientError> {
        let Some((kind, rest)) = text.split_once(' ') else {
            let key: x25519::Recipient = text.parse().map_err(|_| RecipientError::Unknown)?;
            // Bech32 has an upper-case spelling too; a recipient has one here, so that lists compare by text.
            return if key.to_string() == text { Ok(Self::of_x25519(key)) } else { Err(RecipientError::Unknown) };
        };
        let encoded = rest.split(' ').next().unwrap_or_default();
        let spelling = format!("{kind} {encoded}");
        let key: ssh::Recipient = spelling.parse().map_err(|error| match error {
            ParseRecipientKeyError::RsaModulusTooSmall => RecipientError::RsaTooSmall,
            ParseRecipientKeyError::RsaModulusTooLarge => RecipientError::RsaTooLarge,
            ParseRecipientKeyError::Unsupported(kind) => RecipientError::SshKind(kind),
            // Also one of ours whose key is cut short or padded otherwise.
            _ => RecipientError::Unknown,
        })?;
        if key.to_string() == spelling {
            Ok(Self { spelling, key: PublicKey::Ssh(key) })
        } else {
            Err(RecipientError::Unknown)
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelling)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.spelling == other.spelling
    }
}

impl Eq for Recipient {}

impl Hash for Recipient {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spelling.hash(state);
    }
}

/// Whom an age file's header says that it is sealed to, as far as it says so.
///
/// An X25519 stanza names nobody, on purpose. An SSH stanza carries the first 32 bits of the key's SHA-256, which are
/// the first five characters of its fingerprint.
pub(super) fn addressees(header: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut x25519 = 0;
    for line in header.split(|&byte| byte == b'\n').take_while(|line| !line.starts_with(b"--- ")) {
        let Some(stanza) = line.strip_prefix(b"-> ").and_then(|line| std::str::from_utf8(line).ok()) else { continue };
        let mut words = stanza.split(' ');
        match (words.next(), words.next()) {
            (Some("X25519"), _) => x25519 += 1,
            (Some(kind @ ("ssh-ed25519" | "ssh-rsa")), Some(tag))
                if tag.len() == 6 && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte)) =>
            {
                found.push(format!("{kind} SHA256:{}…", &tag[..5]));
            }
            _ => {}
        }
    }
    match x25519 {
        0 => {}
        1 => found.push("an age1… key (which one, its seal does not say)".to_owned()),
        n => found.push(format!("{n} age1… keys (which ones, their seals do not say)")),
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// Two public keys whose private halves nobody kept.
    pub(crate) const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";
    pub(crate) const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDE7nIXTGNuaRBN9toI/wNALuQec8mvlt0iJ7o3OaD2UvoKHJ7S8rmIn4FiQDUed/Vac3OhUibei1k+TBmm16u2Rj3klgWZOIDgi8d4vXKI5N3YBhxr3jsQ+kz1c+iZ4z/tTtz306+4K46XViVMWwyyg9j82Jn41mOAy9vdeDIfQ5fLeaGqn5KwlT61GNkZ+ozWK/ZNlQIlNCcoXxhJULIs9XrtczWyVBAea1nlDo0WHODePxoJjmsNHrpQXn5mf9O83xs10qfTUjnRUt48jRmedFy4tcra3QGmSTQ3KZne+wXXSb0cIpXLGvZjQSPHgG1hc4r3uBpiSzvesGLv79XL";

    #[test]
    fn a_recipient_has_one_spelling() {
        let age = x25519::Identity::generate().to_public().to_string();
        for text in [age.as_str(), ED25519, RSA] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
            assert!(text[..text.len() - 1].parse::<Recipient>().is_err());
            assert!(format!("{text}A").parse::<Recipient>().is_err());
            assert!(format!(" {text}").parse::<Recipient>().is_err());
        }
        assert!(age.to_uppercase().parse::<Recipient>().is_err());
        assert!("age1yubikey1qqqq".parse::<Recipient>().is_err());
        let commented: Recipient = format!("{ED25519} alice@example with a comment").parse().unwrap();
        assert_eq!(commented, ED25519.parse().unwrap());
        assert_eq!(commented.to_string(), ED25519);
    }

    #[test]
    fn keys_that_nothing_is_sealed_to_are_told_apart() {
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHFliOyIZs1gxGF3fmDxFykQhE88wy6AKDGFBfn0R6ZuvRmENABZQa9+pj9hMki+LX0qDJbmHTiWDbYv/cmFt/Q=";
        let kind = "ecdsa-sha2-nistp256".to_owned();
        assert_eq!(ecdsa.parse::<Recipient>(), Err(RecipientError::SshKind(kind)));
        assert_eq!(rsa_of_bits(1024).parse::<Recipient>(), Err(RecipientError::RsaTooSmall));
        assert_eq!(rsa_of_bits(2047).parse::<Recipient>(), Err(RecipientError::RsaTooSmall));
        assert!(rsa_of_bits(2048).parse::<Recipient>().is_ok());
        assert!(rsa_of_bits(4096).parse::<Recipient>().is_ok());
        assert_eq!(rsa_of_bits(8192).parse::<Recipient>(), Err(RecipientError::RsaTooLarge));
    }

    /// A public key with a modulus of this length: odd, and otherwise no more than that.
    pub(crate) fn rsa_of_bits(bits: usize) -> String {
        let mut modulus = vec![0x55; bits.div_ceil(8)];
        modulus[0] = 1 << ((bits - 1) % 8);
        if modulus[0] & 0x80 != 0 {
            modulus.insert(0, 0);
        }
        let mut wire = Vec::new();
        for part in [b"ssh-rsa".as_slice(), &[1, 0, 1], &modulus] {
            wire.extend((part.len() as u32).to_be_bytes());
            wire.extend(part);
        }
        format!("ssh-rsa {}", BASE64_STANDARD.encode(wire))
    }

    #[test]
    fn a_header_tells_ssh_keys_by_the_beginning_of_their_fingerprints() {
        let recipients: Vec<Recipient> = [ED25519, RSA].iter().map(|text| text.parse().unwrap()).collect();
        let x25519 = x25519::Identity::generate().to_public();
        let all = recipients.iter().map(Recipient::as_dyn).chain([&x25519 as &dyn age::Recipient]);
        let sealed = super::super::seal::seal_age(all, b"-> ssh-rsa AAAAAA").unwrap();
        let found = addressees(&sealed);
        assert_eq!(found.len(), 3, "{found:?}");
        for (recipient, told) in recipients.iter().zip(&found) {
            assert!(recipient.fingerprint().starts_with(told.trim_end_matches('…')), "{told}");
        }
        assert!(found[2].starts_with("an age1… key"));
    }
}
