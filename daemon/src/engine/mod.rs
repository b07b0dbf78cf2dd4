//! The one owner of machine and journal.
//!
//! Requests come through one bounded queue. The owner decides each against the machine, folds the steps in, appends the
//! events of the whole batch as one record, and only then lets anyone hear an answer. Refusals and reads wait likewise,
//! since they may have seen what is not durable yet.

mod audit;
mod budget;
mod grants;
mod handle;
mod observed;
mod outbox;
mod owner;
mod preparation;
mod raw_frame;
mod record;
mod seat;
mod service;
mod stage;
mod start;
mod store;
mod verify;
mod watermark;

pub use budget::{ContentBudget, ContentPermit};
pub use handle::{Engine, Facts};
pub use outbox::Outbox;
pub use owner::Halt;
pub use service::{ConnectionId, FetchedContent, Opened, Service, Submission};
pub use start::{Beginning, Ended, Replay, StartError, start};
pub use verify::verify_offline;
