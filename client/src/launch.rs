//! Starting child processes with a step between fork and exec: the only unsafe code of this crate.
//!
//! **Invariant:** what runs between fork and exec allocates nothing, takes no lock and calls only system calls.
#![allow(
    unsafe_code,
    reason = "`pre_exec` is the only way to act between fork and exec; every step below is a bare system call"
)]

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;

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

/// Makes the child tell its process ID and then wait for leave, before it becomes another program.
///
/// The child writes its ID (four bytes, native order) to `tell` and goes on when one byte comes through `gate`. End
/// of file there means that the caller is gone: then the child ends too, since nobody holds its lock.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "statectl's verbs hold children; the library does not"))]
pub(crate) fn hold_back(command: &mut Command, tell: OwnedFd, gate: OwnedFd, gate_writer: RawFd) {
    let step = move || {
        // The fork copied the caller's end too; the gate would never read end of file while it is open here.
        // SAFETY: the descriptor is the child's own copy, and nothing in the child uses it again.
        unsafe { rustix::io::close(gate_writer) };
        let pid = rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes();
        if rustix::io::write(&tell, &pid)? != pid.len() {
            return Err(Errno::IO.into());
        }
        let mut byte = [0];
        loop {
            match rustix::io::read(&gate, &mut byte) {
                Ok(0) => return Err(Errno::CANCELED.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    // SAFETY: the step makes system calls only.
    unsafe { command.pre_exec(step) };
}
