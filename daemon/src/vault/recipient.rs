//! Whom a keyring can be sealed to: `age1…` public keys, those of plugins too, and SSH keys of the two kinds that age knows.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use age::ssh::ParseRecipientKeyError;
use age::{ssh, tag, x25519};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use stated_shared::{Failure, FailureKind};

use super::plugin::{Plugins, Wrapping, plugin_of};
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
    /// A token's, of which age itself makes use; only its plugin opens what is sealed to it.
    Tag(tag::Recipient),
    Ssh(ssh::Recipient),
    /// One that takes this plugin.
    Plugin(String),
}

/// A text that is no recipient of a kind that is supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// It is none of the kinds, or is not spelled as its tool prints it.
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

impl RecipientError {
    /// What is said of the text that is none.
    pub fn failure(&self, text: &str, kind: FailureKind) -> Failure {
        let hint = "a recipient is a public key: what age-keygen -y or a plugin prints, or the line in id_ed25519.pub";
        Failure::new(kind, format!("recipient {text:?}: {self}")).hint(hint)
    }
}

impl Recipient {
    pub(super) fn of_x25519(key: x25519::Recipient) -> Self {
        Self { spelling: key.to_string(), key: PublicKey::X25519(key) }
    }

    /// Judges the key as its text would be judged: a private key's file says nothing of its length.
    pub(super) fn of_ssh(key: &ssh::Recipient) -> Result<Self, RecipientError> {
        key.to_string().parse()
    }

    /// The recipient for `age` to seal to, which may ask a plugin.
    pub(super) fn for_age<'a>(&'a self, plugins: &'a Plugins) -> Box<dyn age::Recipient + 'a> {
        match &self.key {
            PublicKey::X25519(key) => Box::new(key.clone()),
            PublicKey::Tag(key) => Box::new(key.clone()),
            PublicKey::Ssh(key) => Box::new(key.clone()),
            PublicKey::Plugin(name) => Box::new(Wrapping { plugins, name, recipient: &self.spelling }),
        }
    }

    /// Whether a plugin is asked to seal to it.
    pub(super) fn takes_plugin(&self) -> bool {
        matches!(self.key, PublicKey::Plugin(_))
    }

    /// How people tell the key: an age key by itself, an SSH key by what `ssh-keygen -l` prints.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        match &self.key {
            PublicKey::X25519(_) | PublicKey::Tag(_) | PublicKey::Plugin(_) => self.spelling.clone(),
            PublicKey::Ssh(ssh::Recipient::SshRsa(wire, _) | ssh::Recipient::SshEd25519(wire, _)) => {
                let kind = self.spelling.split(' ').next().unwrap_or_default();
                format!("{kind} SHA256:{}", BASE64_STANDARD_NO_PAD.encode(sha256(wire).0))
            }
        }
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    /// Reads what `age-keygen -y`, a plugin or a `.pub` file of `ssh-keygen` says. An SSH key's comment is dropped.
    fn from_str(text: &str) -> Result<Self, RecipientError> {
        let Some((kind, rest)) = text.split_once(' ') else {
            return Self::of_bech32(text).ok_or(RecipientError::Unknown);
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

impl Recipient {
    fn of_bech32(text: &str) -> Option<Self> {
        // Bech32 has an upper-case spelling too; a recipient has one here, so that lists compare by text.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        if let Ok(key) = text.parse::<x25519::Recipient>() {
            return Some(Self::of_x25519(key));
        }
        let key = match text.parse::<tag::Recipient>() {
            Ok(key) => PublicKey::Tag(key),
            // As in age1NAME1…
            Err(_) => PublicKey::Plugin(plugin_of(text, |begins| begins.strip_prefix("age1").map(str::to_owned))?),
        };
        Some(Self { spelling: text.to_owned(), key })
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
            // Grease, which age adds so that readers learn to pass over what they do not know.
            (Some(kind), _) if kind.ends_with("-grease") => {}
            (Some(kind), _) => found.push(format!("a key of the kind {kind}")),
            (None, _) => {}
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
        for text in ["age1yubikey1qqqq", "age11qqqq", "AGE-PLUGIN-YUBIKEY-1QVHULF"] {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
        let commented: Recipient = format!("{ED25519} alice@example with a comment").parse().unwrap();
        assert_eq!(commented, ED25519.parse().unwrap());
        assert_eq!(commented.to_string(), ED25519);
    }

    #[test]
    fn a_tokens_key_is_sealed_to_without_its_plugin_and_any_other_plugins_is_not() {
        let tag = "age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e";
        let plugin = "age1token1v9nk2vttw9eku6r28qcx5wttvumxwct2xenr2dmh8p6hvufhxc6h5arpw3unqenhv46kz6mdxdsk5cm4v5mhwurdw9kk5mt48qusmyagw3".to_owned();
        let sealed = |text: &str| {
            let recipient: Recipient = text.parse().unwrap();
            assert_eq!((recipient.to_string(), recipient.fingerprint()), (text.to_owned(), text.to_owned()));
            let none = Plugins::default();
            super::super::seal::seal_age(std::iter::once(&*recipient.for_age(&none)), b"x")
        };
        assert_eq!(addressees(&sealed(tag).unwrap()), ["a key of the kind p256tag"]);
        let error = sealed(&plugin).unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.to_string().contains("no program for token"), "{source}");
        for other in [plugin.to_uppercase(), plugin.replace("age1", "AGE1"), format!("{plugin}q"), tag.to_uppercase()] {
            assert!(other.parse::<Recipient>().is_err(), "{other}");
        }
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
        let none = Plugins::default();
        let all: Vec<_> = recipients.iter().map(|recipient| recipient.for_age(&none)).collect();
        let all = all.iter().map(|recipient| &**recipient).chain([&x25519 as &dyn age::Recipient]);
        let sealed = super::super::seal::seal_age(all, b"-> ssh-rsa AAAAAA").unwrap();
        let found = addressees(&sealed);
        assert_eq!(found.len(), 3, "{found:?}");
        for (recipient, told) in recipients.iter().zip(&found) {
            assert!(recipient.fingerprint().starts_with(told.trim_end_matches('…')), "{told}");
        }
        assert!(found[2].starts_with("an age1… key"));
    }
}
