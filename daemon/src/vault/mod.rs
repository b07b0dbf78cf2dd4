//! The only user of `age`: identities, the keyring, sealing, and the chain that says who wrote.
//!
//! Everything on disk is a standard age file, so that stock tools recover it. Recipients are public and age does not
//! say who wrote a file; whatever is believed is therefore keyed by the chain key, which only the keyring holds.
//!
//! **Invariant:** the vault knows no event, no name and no journal, reads no clock, and draws no random number outside
//! `age` itself.

mod chain;
mod identity;
mod keyring;
mod plugin;
mod recipient;
mod seal;

pub use chain::{same, sha256};
pub use identity::{CreateIdentityError, Identities, IdentityError, Own, Passphrase, create_identity};
#[cfg(fuzzing)]
pub use keyring::fuzz_keyring;
pub use keyring::{ChainKey, Envelope, Keyring, KeyringError, KeyringPlace, SealedKeyring};
pub use plugin::{PluginError, Plugins, Secret};
pub use recipient::{Recipient, RecipientError};
pub use seal::{SealError, Unsealed, Vault};

/// Longest header of an age file that is parsed, in bytes: the parser takes quadratic time.
pub const AGE_HEADER_LEN_MAX: usize = 16 << 10;
/// Longest identity that is read, in bytes.
pub const IDENTITY_LEN_MAX: u64 = 64 << 10;
/// Longest passphrase that is read, with all that stands behind it, in bytes.
pub const PASSPHRASE_LEN_MAX: u64 = 4 << 10;
/// Longest keyring file that is read, in bytes.
pub const KEYRING_FILE_LEN_MAX: u64 = 1 << 20;
