//! Who asked.

use serde::{Deserialize, Serialize};

use crate::SessionId;

/// The author of a request, as the kernel and the client said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The peer's effective user ID: the kernel's word.
    pub uid: u32,
    /// The peer's effective group ID: the kernel's word.
    pub gid: u32,
    /// The peer's process ID, where it shares a PID namespace with the daemon: the kernel's word.
    pub pid: Option<u32>,
    /// The name of `uid` in the daemon's user database.
    pub user: Option<String>,
    /// The peer's command name, where visible: the kernel's word.
    pub comm: Option<String>,
    /// The peer's program as the client calls it: never proof of anything.
    pub exe: Option<String>,
    /// The host that the daemon runs on.
    pub host: String,
    /// The session that asked.
    pub session: SessionId,
}

impl std::fmt::Display for Actor {
    /// `alice@build-7 (pid 4211)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.user {
            Some(user) => f.write_str(user)?,
            None => write!(f, "uid {}", self.uid)?,
        }
        write!(f, "@{}", self.host)?;
        match self.pid {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}
