//! Who is at the other end of a socket.

use std::io;
use std::os::fd::AsFd;

use super::process::Process;
use super::system_call;

/// The process at the other end, as it was when it connected: the kernel's word.
#[derive(Debug)]
pub struct Peer {
    /// Its effective user ID.
    pub uid: u32,
    /// Its effective group ID.
    pub gid: u32,
    /// Its supplementary group IDs.
    pub groups: Vec<u32>,
    /// Its process ID, where it can be seen from the daemon's PID namespace.
    pub pid: Option<u32>,
    /// Its command name, where it can be seen.
    pub comm: Option<String>,
    /// Whether the process IDs that it sends mean the same processes here.
    pub shares_pid_namespace: bool,
}

impl Peer {
    /// Asks the kernel.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let (pid, uid, gid) = system_call::peer_credentials(&socket)?;
        let pid = (pid != 0).then_some(pid);
        let groups = system_call::peer_groups(&socket)?;
        // By pidfd the name is surely the peer's; before Linux 6.5 it is that of whoever has its number now.
        let process = match system_call::peer_pidfd(&socket) {
            Ok(pidfd) => Process::from_descriptor(pidfd).ok(),
            Err(_) => pid.and_then(|pid| Process::open(pid).ok()),
        };
        let comm = process.as_ref().and_then(Process::comm);
        let shares_pid_namespace = process.as_ref().is_some_and(Process::shares_pid_namespace);
        Ok(Self { uid, gid, groups, pid, comm, shares_pid_namespace })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_is_known_by_the_kernel() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert_eq!(
            peer.groups,
            rustix::process::getgroups().unwrap().into_iter().map(|gid| gid.as_raw()).collect::<Vec<_>>()
        );
        assert_eq!(peer.pid, Some(std::process::id()));
        assert!(peer.comm.is_some());
    }
}
