//! Where a session's answers go.

use stated_shared::{Failure, Notice, Reply};

/// The engine's way back to one connection.
///
/// The engine calls it while all others wait for it, and must not be kept: an implementation sends what the socket takes at
/// once, queues the rest within a bound, and cuts the connection of a peer that does not read.
pub trait Outbox: Send + Sync {
    /// Answers a request.
    fn reply(&self, number: u64, result: Result<Reply, Failure>);

    /// Says something that nobody asked for.
    fn notice(&self, notice: Notice);
}
