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

    /// The account that somebody means by a name, or else by a number, which need not be anybody's. Blocks on the user
    /// database, each time.
    pub fn account(meant: &str) -> Option<Account> {
        let number = || meant.parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
        let known = uzers::get_user_by_name(meant).or_else(|| uzers::get_user_by_uid(number()?));
        match known {
            Some(user) => {
                let groups = user.groups().unwrap_or_default();
                let gids = groups.iter().map(uzers::Group::gid).chain([user.primary_group_id()]).collect();
                Some(Account { uid: user.uid(), name: user.name().to_str().map(str::to_owned), gids })
            }
            None => Some(Account { uid: number()?, name: None, gids: Vec::new() }),
        }
    }

    /// The number of a user. Blocks on the user database, each time.
    pub fn uid(name: &str) -> Option<u32> {
        uzers::get_user_by_name(name).map(|user| user.uid())
    }

    /// The number of a group. Blocks on the user database, each time.
    pub fn gid(name: &str) -> Option<u32> {
        uzers::get_group_by_name(name).map(|group| group.gid())
    }
}

/// A user as the user database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The number.
    pub uid: u32,
    /// The name, where it has one.
    pub name: Option<String>,
    /// All groups, the primary one among them.
    pub gids: Vec<u32>,
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
    fn an_account_is_meant_by_name_or_by_number() {
        let root = Users::account("root").unwrap();
        assert_eq!((root.uid, root.name.as_deref()), (0, Some("root")));
        assert!(root.gids.contains(&0));
        assert_eq!(Users::account("0"), Some(root));
        let nobody = Account { uid: 4_000_000_123, name: None, gids: vec![] };
        assert_eq!(Users::account("4000000123"), Some(nobody));
        assert_eq!(Users::account("no such user"), None);
        assert_eq!(Users::account("4294967295"), None);
        assert_eq!((Users::uid("root"), Users::gid("root"), Users::uid("no such user")), (Some(0), Some(0), None));
    }

    #[test]
    fn the_host_has_a_name() {
        assert!(!host_name().is_empty());
    }
}
