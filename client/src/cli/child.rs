//! The command that runs under a lock: bound before it runs, watched while it does.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM};
use stated_shared::{Failure, FailureKind, Hold, LockId, Notice, ProcessRef, Request};

use super::output::Output;
use super::{failure, interrupt};
use crate::Client;
use crate::launch;

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
    pub(super) on_lost: OnLost,
    /// Whether the lock lives as long as the command.
    pub(super) bind: bool,
}

/// Runs the command under the lock and ends the lock after it; returns its exit code.
///
/// The flag says that an interrupt ends this process; it is cleared once the command could get the interrupt itself.
pub(super) fn run(
    command: Command,
    client: &mut Client,
    held: &Held,
    interruptible: &Arc<AtomicBool>,
    output: &Output,
) -> Result<u8, Failure> {
    let mut signals = Signals::register().map_err(|error| failure::local("handle signals", &error))?;
    let program = command.get_program().to_string_lossy().into_owned();
    // Until the command may run, an interrupt ends this process, and with it the waiting child.
    let uninterruptible = || interruptible.store(false, Ordering::Relaxed);
    let started = match held.bind {
        true => start_held(command, |pid| bind(client, &held.id, pid).inspect(|()| uninterruptible()))?,
        false => {
            uninterruptible();
            start(command)
        }
    };
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            release(client, &held.id);
            return Ok(not_started(&program, &error, output));
        }
    };
    let status = watch(&mut child, client, held, &mut signals, output)
        .map_err(|error| failure::local(format!("wait for {program}"), &error))?;
    release(client, &held.id);
    Ok(exit_code(status))
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

fn start(mut command: Command) -> io::Result<Child> {
    command.spawn()
}

/// Starts the command once `bind` has tied to its process what shall live as long as it does.
///
/// `spawn` returns after the exec, which waits for that; so a thread of its own spawns.
pub(super) fn start_held(
    mut command: Command,
    bind: impl FnOnce(Pid) -> Result<(), Failure>,
) -> Result<io::Result<Child>, Failure> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| failure::local("make a pipe", &error.into()));
    let (told, tell) = pipe()?;
    let (gate, open) = pipe()?;
    launch::hold_back(&mut command, tell, gate, open.as_raw_fd());
    let spawning = std::thread::spawn(move || {
        let child = command.spawn();
        // The command holds this process's end of the pipe on which its child tells its ID.
        drop(command);
        child
    });
    let bound = match read_pid(told) {
        Some(pid) => bind(pid),
        // No child came to be; spawn says why.
        None => Ok(()),
    };
    if bound.is_ok() {
        // A child that is gone already shows in what spawn returns.
        let _ = rustix::io::write(&open, b"!");
    }
    drop(open);
    let spawned = spawning.join().map_err(|_| Failure::new(FailureKind::Internal, "the spawning thread panicked"))?;
    bound.map(|()| spawned)
}

fn read_pid(told: OwnedFd) -> Option<Pid> {
    let mut bytes = [0; 4];
    std::fs::File::from(told).read_exact(&mut bytes).ok()?;
    Pid::from_raw(i32::from_ne_bytes(bytes))
}

/// Ties the lock to the process: by descriptor, else by its ID where daemon and client share a PID namespace.
fn bind(client: &mut Client, id: &LockId, pid: Pid) -> Result<(), Failure> {
    let request = |process| Request::Bind { id: id.clone(), hold: Hold::ConnectionOrProcess, process };
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
        match client.call_with_process(&request(ProcessRef::Descriptor), pidfd.as_fd()) {
            Ok(_) => return Ok(()),
            // The lock is gone, or nobody can tell: the other way would say the same.
            Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::Unavailable) => {
                return Err(failure);
            }
            Err(_) => {}
        }
    }
    let by_id = request(ProcessRef::Pid(pid.as_raw_nonzero().get().unsigned_abs()));
    client.call(&by_id).map(drop).map_err(|failure| {
        if failure.hint.is_some() { failure } else { failure.hint("-o ties the lock to this wrapper instead") }
    })
}

/// Waits for the command, passing on signals and acting on a lost lock.
pub(super) fn watch(
    child: &mut Child,
    client: &mut Client,
    held: &Held,
    signals: &mut Signals,
    output: &Output,
) -> io::Result<ExitStatus> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
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
                lost(&why, held.on_lost, &pidfd, output)?;
            }
        }
        let events = wait(&pidfd, client.as_fd().filter(|_| in_contact), in_contact, signals)?;
        signals.forward(&pidfd)?;
        if events.child {
            return child.wait();
        }
    }
}

fn lost(why: &str, on_lost: OnLost, pidfd: &OwnedFd, output: &Output) -> io::Result<()> {
    match on_lost {
        OnLost::Warn => output.say(&format!("the lock is lost: {why}; the command goes on")),
        OnLost::Term => {
            output.say(&format!("the lock is lost: {why}; the command gets SIGTERM"));
            signal(pidfd, Signal::TERM)?;
        }
    }
    Ok(())
}

fn signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
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
}

impl Signals {
    pub(super) fn register() -> io::Result<Self> {
        // A handler, not SIG_IGN, which the command would inherit.
        if !is_ignored(SIGQUIT) {
            signal_hook::flag::register(SIGQUIT, Arc::default())?;
        }
        let mut idle = Vec::new();
        let terminate = Self::pipe(SIGTERM, &mut idle)?;
        let hang_up = Self::pipe(SIGHUP, &mut idle)?;
        Ok(Self { terminate, hang_up, idle })
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

    pub(super) fn forward(&mut self, pidfd: &OwnedFd) -> io::Result<()> {
        let mut bytes = [0; 64];
        for (pipe, number) in [(&mut self.terminate, Signal::TERM), (&mut self.hang_up, Signal::HUP)] {
            if matches!(pipe.read(&mut bytes), Ok(count) if count > 0) {
                signal(pidfd, number)?;
            }
        }
        Ok(())
    }
}

/// Whether this process was started with a signal ignored, as `nohup` and background jobs have it: it stays so, and
/// the command inherits it.
pub(super) fn is_ignored(signal: i32) -> bool {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    let mask = IGNORED.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    });
    mask & (1 << (signal - 1)) != 0
}
