//! The one task that owns machine and journal.

mod outbox;

pub use outbox::Outbox;
