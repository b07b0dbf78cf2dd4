//! What the daemon asks of its host: time, randomness, processes, signals, the socket file and the state directory's lock.
//!
//! The only room that reads a clock, draws random bytes or names a process; the others get what they need as
//! arguments. It knows no session, no event and no journal.

mod asked_program;
mod clock;
mod directory_lock;
mod directory_watch;
mod entropy;
mod grant_table;
mod guarded_file;
mod hardening;
mod locked;
mod notify;
mod peer;
mod process;
mod scheduling;
mod secret;
mod signals;
mod socket;
mod system_call;
mod user;

pub use asked_program::{ASKED_MAX, AskedProgram};
#[cfg(test)]
pub use clock::Held;
pub use clock::{BootId, Clock};
pub use directory_lock::{DirectoryLock, DirectoryLockError, is_locked, network_filesystem_of};
pub use directory_watch::DirectoryWatch;
pub use entropy::fill_random;
#[cfg(test)]
pub use entropy::seeded;
pub use grant_table::{GrantTable, GrantTableError, Loaded, Origin};
pub use guarded_file::{GuardedFile, GuardedFileError, guarded_program};
pub use hardening::{harden, raise_descriptor_limit};
pub use locked::Locked;
pub use notify::Supervisor;
pub use peer::Peer;
pub use process::{Process, ProcessError, Reopened};
pub use scheduling::run_when_idle;
pub use secret::{SecretError, SecretSource};
pub use signals::stop_on_signals;
pub use socket::{Socket, SocketError};
pub use user::{Account, Users, host_name, own_gid, own_uid};
