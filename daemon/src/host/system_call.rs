//! The system calls that no safe wrapper offers. The only unsafe code of the daemon.
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the kernel kill a program that is to be started when the thread ends that starts it, by whatever death.
pub(super) fn end_with_this_thread(command: &mut Command) {
    let ask = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec one system call is made, and nothing is allocated or locked.
    unsafe { command.pre_exec(ask) };
}

/// Keeps the pages of a value out of the swap.
pub(super) fn lock_memory<T>(value: &T) -> io::Result<()> {
    // SAFETY: the kernel looks at the addresses alone, and a reference's are mapped.
    let result = unsafe { libc::mlock(std::ptr::from_ref(value).cast(), size_of::<T>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends what [`lock_memory`] began.
pub(super) fn unlock_memory<T>(value: &T) {
    // SAFETY: as above. Pages that are not locked make no failure.
    unsafe { libc::munlock(std::ptr::from_ref(value).cast(), size_of::<T>()) };
}

/// The peer's pid (0 where it is invisible from here), effective uid and effective gid at the time it connected.
///
/// Not by rustix, whose `UCred` may not hold the pid 0, nor by interprocess, which refuses such a peer: a client in
/// a container whose socket is mounted from here is one.
pub(super) fn peer_credentials(socket: impl AsFd) -> io::Result<(u32, u32, u32)> {
    // SAFETY: `ucred` is three integers, for which any bytes are a value.
    let ucred: libc::ucred = unsafe { socket_option(socket, libc::SO_PEERCRED)? };
    Ok((ucred.pid.cast_unsigned(), ucred.uid, ucred.gid))
}

/// The peer's supplementary groups at the time it connected.
pub(super) fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let fd = socket.as_fd().as_raw_fd();
    let mut groups: Vec<libc::gid_t> = vec![0; GROUPS_EXPECTED];
    loop {
        let mut len = mem::size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: `groups` has room for the `len` bytes that the kernel may write; any bytes are group IDs.
        let result = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut len)
        };
        let count = len as usize / mem::size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel then says how many there are; they do not change any more.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Groups of a peer that need no second question.
const GROUPS_EXPECTED: usize = 32;
/// More than the kernel lets a process have (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 1 << 17;

/// A pidfd of the peer as it connected; Linux 6.5 and later.
pub(super) fn peer_pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: an integer, for which any bytes are a value.
    let fd: RawFd = unsafe { socket_option(socket, libc::SO_PEERPIDFD)? };
    if fd < 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: the kernel has just made this descriptor for us alone, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that the service manager left open for us, if it is what we want; else it is left alone.
///
/// The caller must be the only one who takes it, which holds for the numbers of `LISTEN_FDS`, taken once at the start.
pub(super) fn adopt(
    fd: RawFd,
    is_wanted: impl FnOnce(BorrowedFd<'_>) -> io::Result<bool>,
) -> io::Result<Option<OwnedFd>> {
    // SAFETY: F_GETFD touches no memory; it tells whether the number is open at all.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, as just checked, and nobody closes it meanwhile by this function's contract.
    if !is_wanted(unsafe { BorrowedFd::borrow_raw(fd) })? {
        return Ok(None);
    }
    // SAFETY: open, and nobody else's by this function's contract.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Lets the runtime watch a descriptor become readable.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, which the `AsyncFd` does only after it
    // has taken it from the runtime.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Lets the calling thread run only where a core has nothing else to do.
pub(super) fn schedule_when_idle() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads the parameters, which outlive the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads a socket option of a fixed size.
///
/// # Safety
///
/// Every byte pattern must be a valid `T`.
unsafe fn socket_option<T>(socket: impl AsFd, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has room for the `len` bytes that the kernel may write.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, option, value.as_mut_ptr().cast(), &raw mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != mem::size_of::<T>() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: zeroed, then written by the kernel; any bytes are a value by this function's contract.
    Ok(unsafe { value.assume_init() })
}
