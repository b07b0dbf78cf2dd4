//! What a service manager is told.

use std::io;

use sd_notify::NotifyState;

/// The service manager that started the daemon, where there is one; else every message goes nowhere.
#[derive(Debug, Clone, Copy)]
pub struct Supervisor;

impl Supervisor {
    /// The daemon serves.
    pub fn ready(self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The daemon is stopping.
    pub fn stopping(self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// A service manager that does not listen is no reason to stop.
    fn tell(self, state: &[NotifyState<'_>]) {
        let told: io::Result<()> = sd_notify::notify(state);
        if let Err(error) = told {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}
