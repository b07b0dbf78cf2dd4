//! Tells a signal to all processes of a job from one to this process alone.
//!
//! Whoever stops a job often signals all that belongs to it: its process group (`timeout`, a runner, a terminal that hangs
//! up) or each process for itself (systemd). The command then has its signal already, and a second one may mean more:
//! Terraform gives up what it was about to save. So a process stands beside the command and does nothing but hear signals:
//! what reached it, reached the command too.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::super::child::Signals;
use crate::gateway::process::program;
use crate::held_back::is_ignored;

/// The hidden verb that it is started with.
pub(in super::super) const VERB: &str = "hear-signals";

/// How long after this process the last of a job is signalled, at most.
const SPREAD: Duration = Duration::from_millis(200);

/// The process, and where it tells what it heard.
pub(super) struct Sentinel {
    process: Child,
    terminate: UnixStream,
    hang_up: UnixStream,
}

impl Sentinel {
    /// Starts this program once more, and returns when that hears.
    pub(super) fn start() -> io::Result<Self> {
        let ((terminate, its_terminate), (hang_up, its_hang_up)) = (UnixStream::pair()?, UnixStream::pair()?);
        let mut command = Command::new(program());
        command.arg(VERB).stdin(OwnedFd::from(its_terminate)).stdout(OwnedFd::from(its_hang_up)).stderr(Stdio::null());
        command.current_dir("/");
        let process = command.spawn()?;
        // The command holds the other ends, whose end would not be seen otherwise.
        drop(command);
        let mut sentinel = Self { process, terminate, hang_up };
        sentinel.hang_up.read_exact(&mut [0])?;
        for pipe in [&sentinel.terminate, &sentinel.hang_up] {
            pipe.set_nonblocking(true)?;
        }
        Ok(sentinel)
    }

    /// The signals that came to this process alone, and so are to be passed on.
    pub(super) fn not_heard(&mut self, signals: &mut Signals) -> Vec<Signal> {
        let (heard, mut alone): (Vec<_>, Vec<_>) =
            signals.arrived().into_iter().partition(|signal| self.hears(*signal));
        if !heard.is_empty() {
            // Some signal twice what they stop: `timeout` its child, and then its group. Both are one.
            std::thread::sleep(SPREAD);
            alone
                .extend(signals.arrived().into_iter().filter(|signal| !heard.contains(signal) && !self.hears(*signal)));
        }
        alone
    }

    /// Whether it got this signal too.
    fn hears(&mut self, signal: Signal) -> bool {
        let pipe = if signal == Signal::TERM { &mut self.terminate } else { &mut self.hang_up };
        // It is there, or comes, or never does: then the wait ends by itself. Whatever fails says that nothing was heard.
        let spread = Timespec::try_from(SPREAD).ok();
        let waited = poll(&mut [PollFd::new(&*pipe, PollFlags::IN)], spread.as_ref());
        waited.is_ok() && matches!(pipe.read(&mut [0; 64]), Ok(1..))
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The life of the process: it tells what it hears, until nobody listens.
pub(in super::super) fn run() -> ExitCode {
    match hear() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn hear() -> io::Result<()> {
    for signal in [SIGINT, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    let (stdin, stdout) = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    for (signal, pipe) in [(SIGTERM, stdin.try_clone()?), (SIGHUP, stdout.try_clone()?)] {
        if !is_ignored(signal) {
            signal_hook::low_level::pipe::register(signal, pipe)?;
        }
    }
    rustix::io::write(&stdout, b"!")?;
    UnixStream::from(stdin).read_exact(&mut [0])
}
