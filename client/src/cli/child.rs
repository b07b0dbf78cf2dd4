//! The command that runs under a lock: bound before it runs, watched while it does.

use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM};
use stated_shared::{Failure, FailureKind, LockId, Notice};

use super::output::Output;
use super::{failure, interrupt};
use crate::Client;
use crate::held_back::{HeldBack, is_ignored};

/// How often a lost connection is tried while the command runs.
const RECONNECT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// What happens to the command where the lock is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnLost {
    /// It gets SIGTERM.
    Term,
    /// It goes on, after a message.
    Warn,
}

/// The lock that a command runs under.
pub(super) struct Held {
    pub(super) id: LockId,
    /// As the command is told it.
    pub(super) fence: String,
    pub(super) on_lost: OnLost,
}

/// Lets the command go that waits for its lock, and ends the lock after it; returns its exit code.
///
/// The flag says that signals end this process; it is cleared once the command could get them.
pub(super) fn run(
    command: HeldBack,
    program: &str,
    client: &mut Client,
    held: &Held,
    mut signals: Signals,
    interruptible: &Arc<AtomicBool>,
    output: &Output,
) -> Result<u8, Failure> {
    let cannot = |error: io::Error| failure::local(format!("wait for {program}"), &error);
    // Until the command may run, signals end this process, and with it the waiting child.
    interruptible.store(false, Ordering::Relaxed);
    let running = command.let_go(&held.fence).map_err(cannot)?;
    watch(running.pidfd(), client, held, &mut signals, output).map_err(cannot)?;
    let ended = running.wait();
    release(client, &held.id);
    Ok(ended.map_or_else(|error| not_started(program, &error, output), exit_code))
}

/// Ends this process with 130 on an interrupt, as long as the flag is set.
pub(super) fn exit_on_interrupt(output: &Output) -> Result<Arc<AtomicBool>, Failure> {
    let waiting = Arc::new(AtomicBool::new(true));
    interrupt::end_this(&waiting, output)?;
    Ok(waiting)
}

/// 128 + n for a signal, as shells have it.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

pub(super) fn not_started(program: &str, error: &io::Error, output: &Output) -> u8 {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let code = if missing { 127 } else { 126 };
    let look = if missing { "command -v" } else { "ls -l" };
    let failure = Failure::new(FailureKind::Other, format!("cannot run {program}: {error}"))
        .hint(format!("look at it: {look} {}", failure::quoted(program)));
    failure::report(&failure, code, output);
    code
}

/// Ends the lock, where the daemon is there; without it the lock ends by itself, with this connection and the command.
fn release(client: &mut Client, id: &LockId) {
    if client.as_fd().is_some() {
        // A lock that was lost has been told of already.
        let _ = client.unlock(id);
    }
}

/// Waits for the command's end, passing on signals and acting on a lost lock.
pub(super) fn watch(
    pidfd: &OwnedFd,
    client: &mut Client,
    held: &Held,
    signals: &mut Signals,
    output: &Output,
) -> io::Result<()> {
    let mut in_contact = true;
    loop {
        // Before the first wait too: a notice may have come together with the last answer.
        let notices = if in_contact { client.poll_notices() } else { Ok(Vec::new()) };
        let notices = notices.unwrap_or_else(|failure| {
            in_contact = false;
            output.say(&format!("the daemon is out of reach, the lock may be lost: {failure}"));
            Vec::new()
        });
        for notice in notices {
            if let Notice::LockLost { id, why } = notice
                && id == held.id
            {
                lost(&why, held.on_lost, pidfd, output)?;
            }
        }
        let events = wait(pidfd, client.as_fd().filter(|_| in_contact), in_contact, signals)?;
        for arrived in signals.arrived() {
            signal(pidfd, arrived)?;
        }
        if events.child {
            return Ok(());
        }
    }
}

fn lost(why: &str, on_lost: OnLost, pidfd: &OwnedFd, output: &Output) -> io::Result<()> {
    match on_lost {
        OnLost::Warn => output.say(&format!("the lock is lost: {why}; the command goes on")),
        OnLost::Term => {
            signal(pidfd, Signal::TERM)?;
            output.say(&format!("the lock is lost: {why}; the command gets SIGTERM"));
        }
    }
    Ok(())
}

pub(super) fn signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        // It has ended in the meantime.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

/// What a wait ended with, besides signals.
pub(super) struct Events {
    pub(super) child: bool,
}

/// Waits for the command's end, for a signal, and for news from the daemon where there is a client.
pub(super) fn wait(
    pidfd: &OwnedFd,
    client: Option<BorrowedFd<'_>>,
    in_contact: bool,
    signals: &Signals,
) -> io::Result<Events> {
    let timeout = (in_contact && client.is_none()).then_some(&RECONNECT_PAUSE);
    let mut fds = vec![
        PollFd::new(pidfd, PollFlags::IN),
        PollFd::new(&signals.terminate, PollFlags::IN),
        PollFd::new(&signals.hang_up, PollFlags::IN),
    ];
    fds.extend(client.as_ref().map(|client| PollFd::new(client, PollFlags::IN)));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Events { child: !fds[0].revents().is_empty() }),
        Err(error) => Err(error.into()),
    }
}

/// The signals that this process passes on; an interrupt or quit reaches the command from the terminal itself.
pub(super) struct Signals {
    terminate: UnixStream,
    hang_up: UnixStream,
    /// The other ends of pipes that no signal feeds: closed, they would read as end of file for ever.
    #[allow(dead_code, reason = "kept open, never written to")]
    idle: Vec<UnixStream>,
    /// Whether one was passed on.
    came: bool,
}

impl Signals {
    /// Handles them from now on. While the flag is set, where one is given, they still do what they do by default.
    pub(super) fn register(ends: Option<&Arc<AtomicBool>>) -> io::Result<Self> {
        let handled = [SIGQUIT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
        for signal in handled {
            if let Some(ends) = ends {
                signal_hook::flag::register_conditional_default(signal, Arc::clone(ends))?;
            }
            // A handler, not SIG_IGN, which the command would inherit.
            if signal == SIGQUIT {
                signal_hook::flag::register(signal, Arc::default())?;
            }
        }
        let mut idle = Vec::new();
        let terminate = Self::pipe(SIGTERM, &mut idle)?;
        let hang_up = Self::pipe(SIGHUP, &mut idle)?;
        Ok(Self { terminate, hang_up, idle, came: false })
    }

    fn pipe(signal: i32, idle: &mut Vec<UnixStream>) -> io::Result<UnixStream> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        if is_ignored(signal) {
            idle.push(write);
        } else {
            signal_hook::low_level::pipe::register(signal, write)?;
        }
        Ok(read)
    }

    /// Whether one came at any time.
    pub(super) fn came(&self) -> bool {
        self.came
    }

    /// What came since the last time.
    pub(super) fn arrived(&mut self) -> Vec<Signal> {
        let mut arrived = Vec::new();
        for (pipe, signal) in [(&mut self.terminate, Signal::TERM), (&mut self.hang_up, Signal::HUP)] {
            if matches!(pipe.read(&mut [0; 64]), Ok(1..)) {
                self.came = true;
                arrived.push(signal);
            }
        }
        arrived
    }
}
