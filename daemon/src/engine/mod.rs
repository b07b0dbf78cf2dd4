//! The one owner of machine and journal.
//!
//! Requests come through one bounded queue. The owner decides each against the machine, folds the steps in, appends the
//! events of the whole batch as one record, and only then lets anyone hear an answer. Refusals and reads wait likewise,
//! since they may have seen what is not durable yet.

mod ageing;
mod audit;
mod backup;
mod beside;
mod budget;
mod changes;
mod commit;
mod contents;
mod delta;
mod follower;
mod grants;
mod handle;
mod keys;
mod missing;
mod newest;
mod observed;
mod outbox;
mod owner;
mod preparation;
mod prune;
mod raw_frame;
mod reclaim;
mod record;
mod reseal;
mod restored;
mod retention;
mod rewrite;
mod seat;
mod service;
mod shown;
mod snapshot;
mod stage;
mod start;
#[cfg(test)]
mod stepped;
mod store;
mod summary;
mod verify;
mod walk;
mod watermark;

pub use crate::machine::Access;
pub use ageing::AuditKeep;
pub use budget::{ContentBudget, ContentPermit, HeldContent};
pub use handle::{Engine, Facts};
pub use outbox::Outbox;
pub use owner::Halt;
#[cfg(fuzzing)]
pub use record::fuzz_record;
pub use restored::{Returned, Told, tell as tell_restored};
pub use retention::{Retention, Section};
pub use service::{ConnectionId, Denied, FetchedContent, Opened, Service, Submission};
#[cfg(test)]
pub(crate) use snapshot::SnapshotError;
pub use snapshot::open as open_snapshot;
pub use start::{Beginning, Ended, Keyrings, Replay, Snapshots, StartError, start};
#[cfg(test)]
pub(crate) use stepped::{Aged, Stepped};
pub(crate) use summary::EMPTIED;
pub use verify::verify_offline;
