//! What a service manager is told.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Whether the daemon serves already.
static IS_READY: AtomicBool = AtomicBool::new(false);

/// The service manager that started the daemon, where there is one; else every message goes nowhere.
#[derive(Debug, Clone, Copy)]
pub struct Supervisor;

impl Supervisor {
    /// What the daemon does before it serves.
    pub fn starting(self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// What somebody has to do before the start goes on; a client that waits for it shows that. Later it is said nowhere.
    pub fn asks(self, text: &str) {
        if !IS_READY.load(Ordering::Relaxed) {
            self.tell(&[NotifyState::Status(text), NotifyState::Custom("X_STATED_ASKS=1")]);
        }
    }

    /// The daemon serves.
    pub fn ready(self, status: &str) {
        IS_READY.store(true, Ordering::Relaxed);
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The daemon is stopping.
    pub fn stopping(self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Within what time it wants to hear that the daemon lives; it kills one that says nothing. None where it does not.
    pub fn watchdog(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
    }

    /// The daemon lives.
    pub fn alive(self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// A service manager that does not listen is no reason to stop.
    fn tell(self, state: &[NotifyState<'_>]) {
        let told: io::Result<()> = sd_notify::notify(state);
        if let Err(error) = told {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}
