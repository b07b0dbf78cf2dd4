//! The end of everything that a host started.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::files::contains;
use crate::running::await_readable;

/// How often it looks for what is left.
const ROUNDS_MAX: usize = 1000;

/// Kills every process whose home this is, and the daemon of this state directory; waits until they are gone.
pub(crate) fn kill(home: &Path, state_dir: &Path) {
    kill_daemon(state_dir);
    let mark = [b"HOME=", home.as_os_str().as_encoded_bytes(), b"\0"].concat();
    // A process may start another while it is looked for: so until none is found.
    let gone = (0..ROUNDS_MAX).any(|_| !kill_marked(&mark));
    if !gone {
        eprintln!("processes of {} start others faster than they can be killed", home.display());
    }
    // The client that was just killed may have started one.
    kill_daemon(state_dir);
}

/// By the environment that the process began with.
fn kill_marked(mark: &[u8]) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // The descriptor first: the process that is looked at is the one that gets the signal.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if fs::read(entry.path().join("environ")).is_ok_and(|environment| contains(&environment, mark)) {
            found.push(pidfd);
        }
    }
    let any = !found.is_empty();
    found.into_iter().for_each(end);
    any
}

/// A daemon hides its environment; the lock file says who it is, as long as the lock is held.
fn kill_daemon(state_dir: &Path) {
    let Ok(file) = fs::File::open(state_dir.join("LOCK")) else { return };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return;
    }
    let owner = fs::read_to_string(state_dir.join("LOCK")).unwrap_or_default();
    let pid = owner.split(|c: char| !c.is_ascii_digit()).find_map(|digits| digits.parse().ok()).and_then(Pid::from_raw);
    let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        end(pidfd);
    }
}

fn end(pidfd: OwnedFd) {
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    if !await_readable(&pidfd) {
        eprintln!("a process does not end after SIGKILL");
    }
}
