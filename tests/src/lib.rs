//! The harness of the black-box tests: hosts of their own, the real programs, and waits for events.
//!
//! **Invariant:** a test never sleeps and never looks at how long something took. It waits for an event (a process's
//! end, a line of output, a datagram of readiness), each wait has a limit, and running into it is a failure.
//! Whatever a test started is gone when its [`Host`] is dropped, also after a panic.

mod bound;
mod commits;
mod daemon;
mod direct;
mod files;
mod held;
mod host;
mod peer;
mod process;
mod programs;
mod random;
mod running;
mod survivors;
mod terraform_state;
mod tools;

pub use commits::{Commits, commit, state};
pub use daemon::Daemon;
pub use direct::{Direct, server_frame};
pub use files::{contains, files_below, flip, read};
pub use held::{Held, Waiting};
pub use host::{Call, Host};
pub use peer::{accept, connect};
pub use process::Process;
pub use programs::directory as programs_dir;
pub use random::Random;
pub use running::{Finished, Running, run_to_end, run_within};
pub use terraform_state::TerraformState;
pub use tools::{present, root, sha256, skip, tool};

use std::time::Duration;

/// How long anything may take before the test fails.
pub const LIMIT: Duration = Duration::from_secs(150);

/// How long cargo may take to build what a test runs.
pub const BUILD_LIMIT: Duration = Duration::from_secs(900);
