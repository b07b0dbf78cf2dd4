//! Starting child processes with a step between fork and exec.
//!
//! **Invariant:** what runs between fork and exec allocates nothing, takes no lock and calls only system calls.
#![allow(
    unsafe_code,
    reason = "`pre_exec` is the only way to act between fork and exec; every step below is a bare system call"
)]

use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child leader of a session of its own, with no descriptors but the standard ones.
pub(crate) fn detach(command: &mut Command) {
    let inherited = inheritable();
    let step = move || {
        rustix::process::setsid()?;
        for &fd in &inherited {
            // SAFETY: the number is only passed to fcntl, which refuses one that is closed by now.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
        }
        Ok(())
    };
    // SAFETY: the step makes system calls only and frees nothing: the list lives in the parent's copy.
    unsafe { command.pre_exec(step) };
}

/// Descriptors above the standard ones that an exec would keep, as inherited from a careless parent.
fn inheritable() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(|&fd: &RawFd| fd > 2).collect()
}
