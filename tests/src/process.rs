//! Processes that something else started.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, pidfd_send_signal};

use crate::running::{await_readable, pidfd};

/// A process, held so that its ID cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes hold of a process that runs.
    #[track_caller]
    pub fn open(pid: u32) -> Self {
        Self { pid, pidfd: pidfd(Pid::from_raw(pid.cast_signed()).expect("a process ID")) }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).expect("the process runs");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn await_end(&self) {
        assert!(await_readable(&self.pidfd), "process {} does not end", self.pid);
    }
}
