//! The client of the state daemon: sessions over its Unix socket, for any Rust program.
//!
//! `stated` keeps named documents of bytes (*states*) versioned, encrypted and locked, for all processes of one host.
//! This library finds the daemon, or starts it, and asks it. `statectl` (feature `cli`) is built on it.
//!
//! # Quick start
//!
//! ```no_run
//! use stated_client::{Client, ConnectOptions};
//! use stated_shared::{Commit, Failure, Selector, StateName};
//!
//! fn main() -> Result<(), Failure> {
//!     let mut client = Client::connect(&ConnectOptions::from_env())?;
//!     let name = StateName::parse("example/greeting").expect("a valid name");
//!     let mut commit = Commit::put(name.clone(), b"hello".to_vec());
//!     commit.message = Some("greet".to_owned());
//!     client.commit(commit)?;
//!     let (version, bytes) = client.get(&name, Selector::Newest)?;
//!     assert_eq!(bytes, b"hello");
//!     println!("{}@{}", version.state, version.version);
//!     Ok(())
//! }
//! ```
//!
//! # Three outcomes
//!
//! A request is **done** (`Ok`: what it wrote survives a power loss), **refused** (`Err`: nothing was changed, and
//! [`Failure`] says why, often with a hint; its [`FailureKind`] is the exit code of `statectl`), or its outcome is
//! **unknown**: [`FailureKind::Unavailable`] with a message that begins so. Then look at what is there before you try
//! again, best with a condition ([`Expect::Version`]) that lets a second try be refused.
//!
//! ```no_run
//! use stated_client::Client;
//! use stated_shared::{Commit, Expect, FailureKind, StateName, Version};
//!
//! # fn write(client: &mut Client, name: StateName, content: Vec<u8>) {
//! let mut commit = Commit::put(name, content);
//! commit.changes[0].expect = Expect::Version(Version(7));
//! match client.commit(commit) {
//!     Ok(committed) => println!("done: version {}", committed.states[0].version),
//!     Err(failure) if failure.kind == FailureKind::Conflict => println!("somebody wrote meanwhile: {failure}"),
//!     Err(failure) if failure.kind == FailureKind::Unavailable => println!("nobody knows: {failure}"),
//!     Err(failure) => println!("refused: {failure}"),
//! }
//! # }
//! ```
//!
//! # Retries
//!
//! A connection that drops is not the program's business: the session is resumed (its daemon started again, where that
//! is allowed) and the request sent again under its number, which the daemon applies once. After 30 s of that the
//! outcome is unknown. Waiting for a lock counts only the time without a connection.
//!
//! # Locks
//!
//! [`Client::lock`] takes a lock on one or many names, all or none; [`Lock::exclusive`] is the plain one. A session lock
//! ends with the session, or with the process that it is tied to ([`Hold`]); a lease ([`Lock::ttl_ms`]) ends with its
//! time. A commit relies on a lock by its ID ([`Commit::locks`]): where that is gone, the commit is refused, so a
//! holder that was too slow writes nothing. News of a lost lock comes by [`Client::on_notice`] and
//! [`Client::poll_notices`].
//!
//! ```no_run
//! use stated_client::Client;
//! use stated_shared::{Commit, Failure, Lock, StateName};
//!
//! # fn deploy(client: &mut Client, name: StateName) -> Result<(), Failure> {
//! let grant = client.lock(&Lock::exclusive([name.clone()], "deploy"), None)?;
//! let mut commit = Commit::put(name, b"deployed".to_vec());
//! commit.locks = vec![grant.id.clone()];
//! client.commit(commit)?;
//! client.unlock(&grant.id)
//! # }
//! ```
//!
//! # A journal that goes back
//!
//! The daemon cannot tell an old copy of its directory from the newest. A session can, and one process from the next
//! where [`ConnectOptions::pins`] names a place: a journal without the record that was seen last is refused
//! ([`FailureKind::Storage`]), unless [`ConnectOptions::accept_rollback`] says otherwise.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `tokio` | the module [`tokio`](mod@crate::tokio): the same for asynchronous programs, with guards for locks |
//! | `cli` (default) | the program `statectl` and its gateways; a library needs it not: `default-features = false` |
//!
//! The library knows no terminal and prints nothing.
//!
//! [`Commit::locks`]: stated_shared::Commit::locks
//! [`Expect::Version`]: stated_shared::Expect::Version
//! [`Failure`]: stated_shared::Failure
//! [`FailureKind`]: stated_shared::FailureKind
//! [`FailureKind::Storage`]: stated_shared::FailureKind::Storage
//! [`FailureKind::Unavailable`]: stated_shared::FailureKind::Unavailable
//! [`Hold`]: stated_shared::Hold
//! [`Lock::exclusive`]: stated_shared::Lock::exclusive
//! [`Lock::ttl_ms`]: stated_shared::Lock::ttl_ms

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
#[cfg(feature = "cli")]
mod held_back;
mod launch;
mod pin;
#[cfg(feature = "cli")]
mod printable;
mod random;
mod retry;
#[cfg(feature = "tokio")]
pub mod tokio;
mod trust;

pub use client::{Client, Direction, Progress};
pub use discover::ConnectOptions;
