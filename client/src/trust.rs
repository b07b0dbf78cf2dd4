//! Whether the process that listens on a socket may be believed.
//!
//! A client hands secrets to whoever listens. It believes root, itself, and the owner of the socket's directory
//! where only root could have given that directory away.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stated_shared::{Failure, FailureKind};

/// Refuses a listener whose uid (`SO_PEERCRED`: who called `listen`) is none of the believed ones.
pub(crate) fn check(stream: impl AsFd, socket: &Path) -> Result<(), Failure> {
    let peer = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|error| Failure::new(FailureKind::Unavailable, format!("cannot tell who serves the socket: {error}")))?
        .uid
        .as_raw();
    let own = rustix::process::geteuid().as_raw();
    if believes(peer, own, || protected_owner(socket)) {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Denied, format!("uid {peer} serves {}, which is not believed", socket.display()))
        .hint("name the right socket with --socket or STATED_SOCKET"))
}

fn believes(peer: u32, own: u32, protected_owner: impl FnOnce() -> Option<u32>) -> bool {
    peer == 0 || peer == own || protected_owner() == Some(peer)
}

/// The owner of the socket's directory, where root alone could create or replace that directory.
fn protected_owner(socket: &Path) -> Option<u32> {
    let directory: PathBuf = std::fs::canonicalize(socket).ok()?.parent()?.to_owned();
    // A sticky directory such as /tmp is no protection: whoever comes first owns the name.
    let root_alone =
        |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0);
    let protected = directory.ancestors().skip(1).all(root_alone);
    protected.then(|| std::fs::metadata(&directory).ok().map(|metadata| metadata.uid())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_oneself_and_the_protected_owner_are_believed() {
        assert!(believes(0, 1000, || None));
        assert!(believes(1000, 1000, || None));
        assert!(believes(998, 1000, || Some(998)));
        assert!(!believes(998, 1000, || None));
        assert!(!believes(998, 0, || Some(997)));
    }

    #[test]
    fn a_directory_below_tmp_is_not_protected() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        std::fs::write(&socket, "").unwrap();
        assert_eq!(protected_owner(&socket), None);
    }
}
