//! Names of users and of the host.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Users whose names are remembered; over this the memory starts anew.
const NAMES_MAX: usize = 4096;

/// The user database, remembered.
///
/// A name is asked for once in a start of the daemon: the database may be a directory server that is slow or gone.
#[derive(Debug, Default)]
pub struct Users {
    names: Mutex<HashMap<u32, Option<String>>>,
}

impl Users {
    /// The name, where it is remembered: `Some(None)` is a user without one. Never blocks.
    pub fn remembered(&self, uid: u32) -> Option<Option<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned()
    }

    /// The name of a user. Blocks on the user database the first time, so not for the executor.
    pub fn name(&self, uid: u32) -> Option<String> {
        if let Some(name) = self.remembered(uid) {
            return name;
        }
        let name = uzers::get_user_by_uid(uid).and_then(|user| user.name().to_str().map(str::to_owned));
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(uid, name.clone());
        name
    }
}

/// The effective user ID of the daemon.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group ID of the daemon.
pub fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// The host's name as the kernel has it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_once() {
        let users = Users::default();
        assert_eq!(users.remembered(0), None);
        assert_eq!(users.name(0).as_deref(), Some("root"));
        assert_eq!(users.remembered(0), Some(Some("root".to_owned())));
        assert_eq!(users.name(4_000_000_123), None);
        assert_eq!(users.remembered(4_000_000_123), Some(None));
    }

    #[test]
    fn the_host_has_a_name() {
        assert!(!host_name().is_empty());
    }
}
