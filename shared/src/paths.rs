//! Where sockets and data are, by the rules of the command line.
//!
//! Both sides find each other by them. Every function takes the environment as an argument, so that a test never
//! changes the process's own; no file is looked at.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The socket of the system's daemon.
pub const SYSTEM_SOCKET: &str = "/run/stated/stated.sock";

/// The state directory of the system's daemon.
pub const SYSTEM_STATE_DIR: &str = "/var/lib/stated";
/// Where the first start of the system's daemon makes its key: not among the data, which are copied for a backup.
pub const SYSTEM_KEY_DIR: &str = "/var/lib/stated-key";
/// The configuration directory of the system's daemon.
pub const SYSTEM_CONFIG_DIR: &str = "/etc/stated";

/// The names that matter here, as `std::env::var_os` gives them.
pub trait Environment {
    /// The value of a variable.
    fn var(&self, name: &str) -> Option<OsString>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

/// A directory from a variable; a relative one is ignored, as the XDG specification asks.
fn directory(env: &dyn Environment, name: &str) -> Option<PathBuf> {
    env.var(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// `$XDG_STATE_HOME`, else `~/.local/state`; none without a home.
pub fn state_home(env: &dyn Environment) -> Option<PathBuf> {
    directory(env, "XDG_STATE_HOME").or_else(|| directory(env, "HOME").map(|home| home.join(".local/state")))
}

/// The socket of the user's daemon: in the runtime directory, else below the state home.
pub fn user_socket(env: &dyn Environment) -> Option<PathBuf> {
    match directory(env, "XDG_RUNTIME_DIR") {
        Some(runtime) => Some(runtime.join("stated/stated.sock")),
        None => state_home(env).map(|home| home.join("stated/run/stated.sock")),
    }
}

/// The state directory of the user's daemon.
pub fn user_state_dir(env: &dyn Environment) -> Option<PathBuf> {
    state_home(env).map(|home| home.join("stated"))
}

/// The configuration directory of the user.
pub fn user_config_dir(env: &dyn Environment) -> Option<PathBuf> {
    directory(env, "XDG_CONFIG_HOME")
        .or_else(|| directory(env, "HOME").map(|home| home.join(".config")))
        .map(|home| home.join("stated"))
}

/// The sockets to try in this order, where none was named.
pub fn sockets(env: &dyn Environment) -> Vec<PathBuf> {
    user_socket(env).into_iter().chain([PathBuf::from(SYSTEM_SOCKET)]).collect()
}

/// Whether a path is the system daemon's socket, which only an administrator starts.
pub fn is_system_socket(path: &Path) -> bool {
    path == Path::new(SYSTEM_SOCKET)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(&'static [(&'static str, &'static str)]);

    impl Environment for Fixed {
        fn var(&self, name: &str) -> Option<OsString> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        }
    }

    #[test]
    fn the_runtime_directory_comes_first() {
        let env = Fixed(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/a")]);
        assert_eq!(sockets(&env), [Path::new("/run/user/7/stated/stated.sock"), Path::new(SYSTEM_SOCKET)]);
        assert_eq!(user_state_dir(&env), Some("/home/a/.local/state/stated".into()));
    }

    #[test]
    fn without_a_runtime_directory_the_socket_is_below_the_state_home() {
        let env = Fixed(&[("XDG_STATE_HOME", "/s"), ("HOME", "/home/a")]);
        assert_eq!(user_socket(&env), Some("/s/stated/run/stated.sock".into()));
        let env = Fixed(&[("XDG_STATE_HOME", "relative"), ("HOME", "/home/a")]);
        assert_eq!(user_socket(&env), Some("/home/a/.local/state/stated/run/stated.sock".into()));
    }

    #[test]
    fn without_a_home_only_the_system_is_left() {
        assert_eq!(sockets(&Fixed(&[])), [Path::new(SYSTEM_SOCKET)]);
    }
}
