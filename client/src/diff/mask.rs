//! Which values are secrets.

use serde_json::Value;

/// What stands for a hidden value.
pub(crate) const HIDDEN: &str = "(sensitive)";

/// Whether secrets are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masking {
    /// Sensitive values are hidden.
    Sensitive,
    /// Everything is shown.
    None,
}

/// Words that give a secret away, without separators and in lower case.
const TELLING: [&str; 20] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "privatekey",
    "accesskey",
    "apikey",
    "sshkey",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "sharedkey",
    "accountkey",
    "storagekey",
    "credential",
    "connectionstring",
    "authorization",
    "bearer",
    "cookie",
];

/// Whether a name says that its value is a secret.
pub(super) fn is_telling(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    TELLING.iter().any(|word| plain.contains(word))
}

/// Whether a value holds a secret by its own looks: a key file, a document with telling names, a URL with a password.
pub(super) fn looks_secret(value: &Value) -> bool {
    let Value::String(text) = value else { return false };
    is_telling(text) || has_password(text)
}

/// `scheme://user:password@host`.
fn has_password(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

/// Whether an object names a secret beside its value: `{"name": "DB_PASSWORD", "value": …}`.
pub(super) fn names_secret(value: &Value) -> bool {
    let named = |key: &str| value.get(key).and_then(Value::as_str).is_some_and(is_telling);
    ["name", "key", "Name", "Key"].into_iter().any(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_tell() {
        for name in [
            "password",
            "DB_PASSWORD",
            "api-key",
            "clientSecret",
            "AccessKeyId",
            "connection_string",
            "tls_private_key",
        ] {
            assert!(is_telling(name), "{name}");
        }
        for name in ["name", "author", "key", "pass_count", "id"] {
            assert!(!is_telling(name), "{name}");
        }
    }

    #[test]
    fn values_that_tell() {
        for text in ["-----BEGIN RSA PRIVATE KEY-----", "postgres://u:p@host/db", r#"{"password":"x"}"#] {
            assert!(looks_secret(&Value::from(text)), "{text}");
        }
        for text in ["https://host/path@x:y", "https://user@host/", "10.0.0.1"] {
            assert!(!looks_secret(&Value::from(text)), "{text}");
        }
    }
}
