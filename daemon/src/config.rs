//! Settings: flags, environment, the user's file, the system's file, defaults, in this order.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use stated_shared::paths::{self, Environment};
use stated_shared::{Failure, FailureKind, Seq};

/// Content bytes that the daemon holds in memory at once, where the configuration does not say.
const CONTENT_MEMORY_MIB: u64 = 1024;

/// What was said on the command line or, failing that, in the environment.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The state directory.
    pub state_dir: Option<PathBuf>,
    /// The socket.
    pub socket: Option<PathBuf>,
}

/// A configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    identity: Option<PathBuf>,
    #[serde(default)]
    recipients: Vec<String>,
    state_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    content_memory_mib: Option<u64>,
}

/// What the daemon runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the states are.
    pub state_dir: PathBuf,
    /// Where clients connect.
    pub socket: PathBuf,
    /// The age identity file that opens the keyring.
    pub identity: PathBuf,
    /// Whether a configuration named it; else the first start makes it.
    pub identity_is_configured: bool,
    /// Further recipients that a new keyring is sealed to.
    pub recipients: Vec<String>,
    /// Content bytes that the daemon holds in memory at once.
    pub content_memory_bytes: u64,
    /// The first record of the log's end that is lost, where somebody accepts that; of the command line only.
    pub accept_loss: Option<Seq>,
}

impl Settings {
    /// Gathers the settings.
    pub fn gather(flags: Flags, env: &dyn Environment) -> Result<Self, Failure> {
        let user_dir = paths::user_config_dir(env);
        let (path, file) = match &flags.config {
            Some(path) => (path.clone(), read(path, true)?),
            None => {
                let system = Path::new(paths::SYSTEM_CONFIG_DIR).join("config.toml");
                match &user_dir {
                    Some(dir) if dir.join("config.toml").exists() => {
                        (dir.join("config.toml"), read(&dir.join("config.toml"), true)?)
                    }
                    // The system's file speaks for the system's daemon; of it, users take nothing but what they lack.
                    Some(dir) => (dir.join("config.toml"), File::default()),
                    None => (system.clone(), read(&system, false)?),
                }
            }
        };
        let dir = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let beside = |path: PathBuf| dir.join(path);
        let state_dir = flags
            .state_dir
            .or(file.state_dir.map(beside))
            .or_else(|| paths::user_state_dir(env))
            .unwrap_or_else(|| PathBuf::from(paths::SYSTEM_STATE_DIR));
        let socket = flags
            .socket
            .or(file.socket.map(beside))
            .or_else(|| paths::user_socket(env))
            .unwrap_or_else(|| PathBuf::from(paths::SYSTEM_SOCKET));
        Ok(Self {
            state_dir: absolute(&state_dir)?,
            socket: absolute(&socket)?,
            identity_is_configured: file.identity.is_some(),
            identity: absolute(&file.identity.map_or_else(|| dir.join("identity.txt"), beside))?,
            recipients: file.recipients,
            content_memory_bytes: file.content_memory_mib.unwrap_or(CONTENT_MEMORY_MIB).max(1) << 20,
            accept_loss: None,
        })
    }
}

fn read(path: &Path, must_exist: bool) -> Result<File, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(File::default()),
        Err(error) => {
            return Err(Failure::new(FailureKind::Config, format!("cannot read {}: {error}", path.display())));
        }
    };
    toml::from_str(&text).map_err(|error| {
        let message = format!("{} is no configuration of stated: {}", path.display(), error.message());
        Failure::new(FailureKind::Config, message)
            .hint("it may hold: identity, recipients, state_dir, socket, content_memory_mib")
    })
}

/// Relative to where the daemon was started: it may go elsewhere later.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::new(FailureKind::Config, format!("{} is no path: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    struct Home(PathBuf);

    impl Environment for Home {
        fn var(&self, name: &str) -> Option<OsString> {
            (name == "HOME").then(|| self.0.clone().into())
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join(".config/stated");
        std::fs::create_dir_all(&config).unwrap();
        let env = Home(home.path().to_path_buf());
        let plain = Settings::gather(Flags::default(), &env).unwrap();
        assert_eq!(plain.state_dir, home.path().join(".local/state/stated"));
        assert_eq!(plain.identity, config.join("identity.txt"));
        assert!(!plain.identity_is_configured);
        std::fs::write(config.join("config.toml"), "identity = \"my.key\"\nstate_dir = \"/srv/s\"\n").unwrap();
        let filed = Settings::gather(Flags::default(), &env).unwrap();
        assert_eq!(filed.state_dir, Path::new("/srv/s"));
        assert_eq!(filed.identity, config.join("my.key"));
        assert!(filed.identity_is_configured);
        let flags = Flags { state_dir: Some("/flag".into()), ..Flags::default() };
        assert_eq!(Settings::gather(flags, &env).unwrap().state_dir, Path::new("/flag"));
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c.toml");
        std::fs::write(&path, "identitty = \"x\"\n").unwrap();
        let flags = Flags { config: Some(path), ..Flags::default() };
        let failure = Settings::gather(flags, &Home(home.path().to_path_buf())).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Config);
        assert!(failure.message.contains("identitty"), "{failure}");
    }
}
