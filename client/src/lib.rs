//! The client of the state daemon: one blocking session over its Unix socket.
//!
//! [`Client::connect`] finds the daemon (or starts it), [`Client::call`] asks it. A dropped connection is resumed
//! and the outstanding request retried under its number, so that it is applied once; what nobody can know after
//! 30 s is told as such ([`FailureKind::Unavailable`], "outcome unknown").
//!
//! The library knows no terminal and prints nothing; `statectl` (feature `cli`) is built on it.
//!
//! ```no_run
//! use stated_client::{Client, ConnectOptions};
//! use stated_shared::{Bytes, Change, Commit, Content, Expect, Failure, Selector, SerialRule, StateName};
//!
//! fn main() -> Result<(), Failure> {
//!     let mut client = Client::connect(&ConnectOptions::from_env())?;
//!     let name = StateName::parse("example/greeting").expect("a valid name");
//!     client.commit(Commit {
//!         changes: vec![Change {
//!             state: name.clone(),
//!             expect: Expect::Any,
//!             content: Content::Inline(Bytes(b"hello".to_vec())),
//!         }],
//!         locks: Vec::new(),
//!         message: Some("greet".to_owned()),
//!         labels: Default::default(),
//!         serials: SerialRule::Refuse,
//!     })?;
//!     let (version, bytes) = client.get(&name, Selector::Newest)?;
//!     assert_eq!(bytes, b"hello");
//!     println!("{}@{}", version.state, version.version);
//!     Ok(())
//! }
//! ```
//!
//! [`FailureKind::Unavailable`]: stated_shared::FailureKind::Unavailable

mod autostart;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod client;
mod connection;
#[cfg(feature = "cli")]
mod diff;
mod discover;
#[cfg(feature = "cli")]
pub mod gateway;
mod launch;
mod pin;
#[cfg(feature = "cli")]
mod printable;
mod retry;
mod trust;

pub use client::Client;
pub use discover::ConnectOptions;
