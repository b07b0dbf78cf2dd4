//! Foreign protocols, translated to requests of the daemon in the user's own rights.
//!
//! A gateway is a process of its own. It listens on loopback or a Unix socket, lets in who knows the run's
//! credential, and speaks Terraform's `http` backend and the parts of S3, DynamoDB and STS that state clients need
//! (docs/gateway.md). The one that `exec` starts lives until the work is gone, so that killing `exec` neither frees a
//! lock under a living Terraform nor takes away the place where it saves its state.
//!
//! **Invariant:** each protocol has a room (`terraform`, `s3`, `dynamodb`, `sts`) that knows no socket; what they mean
//! by a state, a lock and a write is said once, in `model`, which reaches the daemon only through [`Backend`]; what
//! the daemon decides is never decided again here.

mod aws;
mod backend;
mod body;
pub mod configuration;
pub mod control;
mod daemon;
mod dynamodb;
pub mod environment;
mod guard;
mod lock_document;
mod model;
pub mod owner;
mod percent;
pub mod process;
mod proxy;
mod s3;
pub mod scope;
pub mod server;
pub mod standing;
mod sts;
pub mod terraform;
mod work;

pub mod default_name;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use stated_shared::limits::LABEL_LEN_MAX;
use stated_shared::{Digest, Timestamp};

pub use aws::Place;
pub use backend::Backend;
pub use guard::{Credential, random_hex};
#[cfg(fuzzing)]
pub use lock_document::fuzz_bodies;

/// Largest state that a gateway takes, in bytes.
pub const STATE_LEN_MAX: usize = 256 << 20;

/// The label that says where a version was written from.
pub const DIRECTORY_LABEL: &str = "directory";

/// `host:/absolute/path`; the path's SHA-256 where it is too long for a label.
pub fn directory_label(host: &str, directory: &Path) -> String {
    let label = format!("{host}:{}", directory.display());
    if label.len() <= LABEL_LEN_MAX {
        return label;
    }
    let digest: [u8; 32] = Sha256::digest(label.as_bytes()).into();
    format!("sha256:{}", Digest(digest))
}

/// The wall clock's time as it is kept.
fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
