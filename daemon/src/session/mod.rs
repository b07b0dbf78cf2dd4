//! Connections: who may speak, what form it must have, and where the answers go.
//!
//! [`serve`] accepts until the daemon stops. Each connection is one task that reads frames and one that writes what the
//! socket would not take at once. What a peer may cost is bounded before it costs: connections in number, frames and
//! answers in bytes, contents by the [`ContentBudget`](crate::engine::ContentBudget), silence in seconds. The room sees the engine as a [`Service`](crate::engine::Service)
//! and knows no journal, no machine and no key.

mod asker;
mod connection;
mod denials;
mod fetch;
mod frames;
mod handshake;
mod limits;
mod listener;
mod outbox;
#[cfg(test)]
mod tests;
mod upload;
mod validate;

pub use listener::{Rules, serve};
