//! Settings: flags, environment, the user's file, the system's file, defaults, in this order.

mod audit;
mod retention;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stated_shared::paths::{self, Environment};
use stated_shared::{Failure, FailureKind, Seq};

use crate::engine::{AuditKeep, Retention};
use crate::host::{SecretSource, own_uid};
use crate::policy::Mode;

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
    identity_command: Option<String>,
    passphrase_file: Option<PathBuf>,
    passphrase_command: Option<String>,
    #[serde(default)]
    recipients: Vec<String>,
    #[serde(default)]
    plugins: BTreeMap<String, PathBuf>,
    state_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    content_memory_mib: Option<u64>,
    mode: Option<ModeName>,
    policy: Option<PathBuf>,
    retention: Option<toml::Value>,
    audit: Option<toml::Value>,
}

/// Whom the daemon serves.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeName {
    User,
    System,
}

/// What the daemon runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the states are.
    pub state_dir: PathBuf,
    /// Where clients connect.
    pub socket: PathBuf,
    /// The configuration file, which need not exist.
    pub config: PathBuf,
    /// The key that opens the keyring.
    pub identity: SecretSource,
    /// Whether the environment or a configuration named it; else the first start makes it.
    pub identity_is_configured: bool,
    /// What the key may be behind.
    pub passphrase: Option<SecretSource>,
    /// Where systemd hands over a service's secrets.
    pub credentials_dir: Option<PathBuf>,
    /// Further recipients that a new keyring is sealed to.
    pub recipients: Vec<String>,
    /// The programs of the plugins of age that may be asked, by the plugins' names.
    pub plugins: BTreeMap<String, PathBuf>,
    /// Content bytes that the daemon holds in memory at once.
    pub content_memory_bytes: u64,
    /// What the daemon keeps when it prunes by itself; it does not without.
    pub retention: Retention,
    /// How long what was read and locked is told one by one.
    pub audit_keep: AuditKeep,
    /// What may be done where no rule says anything.
    pub mode: Mode,
    /// The rules of who may do what.
    pub policy: PathBuf,
    /// Whether the configuration names it; else it need not exist.
    pub policy_is_named: bool,
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
        let filed = |failure: Failure| {
            let message = format!("{}: {}", path.display(), failure.message);
            Failure { message, ..failure }
        };
        let retention = retention::retention(file.retention).map_err(filed)?;
        let audit_keep = audit::keep(file.audit).map_err(filed)?;
        absolute_only(&file.plugins).map_err(filed)?;
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
        let file_or_command = |what, filed: Option<PathBuf>, command, keys: &str| {
            let filed = filed.map(|path| absolute(&beside(path))).transpose()?;
            match by_environment(env, what)? {
                Some(source) => Ok(Some(source)),
                None => one_source(filed, command, &format!("{keys} in {}", path.display())),
            }
        };
        let credentials_dir = env.var("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credential = |name: &str| {
            let path = credentials_dir.as_ref()?.join(name);
            path.exists().then_some(SecretSource::File(path))
        };
        let identity =
            file_or_command("IDENTITY", file.identity, file.identity_command, "identity and identity_command")?
                .or_else(|| credential("stated.identity"));
        let passphrase = file_or_command(
            "PASSPHRASE",
            file.passphrase_file,
            file.passphrase_command,
            "passphrase_file and passphrase_command",
        )?
        .or_else(|| credential("stated.passphrase"));
        // The system's configuration is root's, and its daemon not somebody who could write there.
        let is_system = user_dir.is_none() && flags.config.is_none();
        let key_dir = if is_system { Path::new(paths::SYSTEM_KEY_DIR) } else { &*dir };
        let mode = match file.mode {
            Some(ModeName::User) => Mode::User { owner: own_uid() },
            Some(ModeName::System) => Mode::System,
            None if is_system || paths::is_system_socket(&socket) => Mode::System,
            None => Mode::User { owner: own_uid() },
        };
        Ok(Self {
            mode,
            policy_is_named: file.policy.is_some(),
            policy: absolute(&beside(file.policy.unwrap_or_else(|| PathBuf::from("policy.toml"))))?,
            state_dir: absolute(&state_dir)?,
            socket: absolute(&socket)?,
            identity_is_configured: identity.is_some(),
            identity: match identity {
                Some(identity) => identity,
                None => SecretSource::File(absolute(&key_dir.join("identity.txt"))?),
            },
            passphrase,
            credentials_dir,
            config: path,
            recipients: file.recipients,
            plugins: file.plugins,
            content_memory_bytes: file.content_memory_mib.unwrap_or(CONTENT_MEMORY_MIB).max(1) << 20,
            retention,
            audit_keep,
            accept_loss: None,
        })
    }
}

impl Settings {
    /// The identity file that a first start makes: where nobody named one, and none is there.
    pub fn identity_to_make(&self) -> Option<&Path> {
        match &self.identity {
            SecretSource::File(path) if !self.identity_is_configured && !path.exists() => Some(path),
            _ => None,
        }
    }
}

/// Where the environment says that a secret is: `STATED_…_FILE` or `STATED_…_COMMAND`; an empty one counts as none.
fn by_environment(env: &dyn Environment, what: &str) -> Result<Option<SecretSource>, Failure> {
    let [file, command] = ["FILE", "COMMAND"].map(|kind| format!("STATED_{what}_{kind}"));
    let named = |name: &str| env.var(name).filter(|value| !value.is_empty());
    let path = named(&file).map(|path| absolute(Path::new(&path))).transpose()?;
    let line = named(&command).map(|line| line.into_string()).transpose();
    let line = line.map_err(|_| Failure::new(FailureKind::Config, format!("{command} is not UTF-8")))?;
    one_source(path, line, &format!("{file} and {command}"))
}

/// One place for a secret, or none; two would leave open which of them counts.
fn one_source(file: Option<PathBuf>, command: Option<String>, names: &str) -> Result<Option<SecretSource>, Failure> {
    match (file, command) {
        (Some(_), Some(_)) => {
            Err(Failure::new(FailureKind::Config, format!("{names} exclude each other"))
                .hint("keep the one that counts"))
        }
        (Some(file), None) => Ok(Some(SecretSource::File(file))),
        (None, Some(command)) => Ok(Some(SecretSource::Command(command))),
        (None, None) => Ok(None),
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
            .hint("it may hold: identity, identity_command, passphrase_file, passphrase_command, recipients, state_dir, socket, \
             content_memory_mib, mode, policy, [plugins], [retention], [audit]")
    })
}

/// What is found by a search, or from wherever a file is, could be another program than was meant.
fn absolute_only(plugins: &BTreeMap<String, PathBuf>) -> Result<(), Failure> {
    match plugins.iter().find(|(_, path)| !path.is_absolute()) {
        None => Ok(()),
        Some((name, path)) => {
            let message = format!("plugins.{name} = {path:?} is not an absolute path");
            Err(Failure::new(FailureKind::Config, message)
                .hint(format!("see where it is: command -v age-plugin-{name}")))
        }
    }
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

    struct With<'a>(&'a Home, &'a [(&'a str, &'a str)]);

    impl Environment for With<'_> {
        fn var(&self, name: &str) -> Option<OsString> {
            let own = self.1.iter().find(|(key, _)| *key == name);
            own.map(|(_, value)| OsString::from(value)).or_else(|| self.0.var(name))
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_where_secrets_are() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("c.toml");
        std::fs::write(&config, "identity = \"my.key\"\npassphrase_command = \"pass show key\"\n").unwrap();
        let flags = || Flags { config: Some(config.clone()), ..Flags::default() };
        let home = Home(home.path().to_path_buf());
        let filed = Settings::gather(flags(), &home).unwrap();
        assert_eq!(filed.passphrase, Some(SecretSource::Command("pass show key".into())));
        let env = [("STATED_IDENTITY_COMMAND", "cat k"), ("STATED_PASSPHRASE_FILE", "/p")];
        let both = Settings::gather(flags(), &With(&home, &env)).unwrap();
        assert_eq!(both.identity, SecretSource::Command("cat k".into()));
        assert!(both.identity_is_configured);
        assert_eq!(both.passphrase, Some(SecretSource::File("/p".into())));
        let empty = [("STATED_IDENTITY_COMMAND", ""), ("STATED_PASSPHRASE_FILE", "")];
        let kept = Settings::gather(flags(), &With(&home, &empty)).unwrap();
        assert_eq!((kept.identity, kept.passphrase), (filed.identity, filed.passphrase));
    }

    #[test]
    fn what_systemd_hands_over_counts_where_nothing_else_is_named() {
        let home = tempfile::tempdir().unwrap();
        let given = home.path().join("given");
        std::fs::create_dir(&given).unwrap();
        let env = [("CREDENTIALS_DIRECTORY", given.to_str().unwrap())];
        let home = Home(home.path().to_path_buf());
        let gather = || Settings::gather(Flags::default(), &With(&home, &env)).unwrap();
        assert!(!gather().identity_is_configured && gather().passphrase.is_none());
        std::fs::write(given.join("stated.identity"), "").unwrap();
        std::fs::write(given.join("stated.passphrase"), "").unwrap();
        assert_eq!(gather().identity, SecretSource::File(given.join("stated.identity")));
        assert!(gather().identity_is_configured, "it is not for the daemon to make");
        assert_eq!(gather().passphrase, Some(SecretSource::File(given.join("stated.passphrase"))));
        let named = [env[0], ("STATED_IDENTITY_FILE", "/k")];
        let named = Settings::gather(Flags::default(), &With(&home, &named)).unwrap();
        assert_eq!(named.identity, SecretSource::File("/k".into()));
    }

    #[test]
    fn without_a_home_everything_is_the_systems() {
        struct Nothing;
        impl Environment for Nothing {
            fn var(&self, _: &str) -> Option<OsString> {
                None
            }
        }
        let system = Settings::gather(Flags::default(), &Nothing).unwrap();
        assert_eq!(system.state_dir, Path::new("/var/lib/stated"));
        assert_eq!(system.socket, Path::new("/run/stated/stated.sock"));
        assert_eq!(system.identity, SecretSource::File("/var/lib/stated-key/identity.txt".into()));
        assert_eq!(system.identity_to_make(), Some(Path::new("/var/lib/stated-key/identity.txt")));
        assert_eq!((system.mode, system.policy_is_named), (Mode::System, false));
        assert_eq!(system.policy, Path::new("/etc/stated/policy.toml"));
    }

    #[test]
    fn the_mode_is_the_systems_at_its_socket_or_where_it_is_said() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("c.toml");
        let env = Home(home.path().to_path_buf());
        let user = Mode::User { owner: own_uid() };
        for (text, socket, mode) in [
            ("", None, user),
            ("", Some("/run/stated/stated.sock"), Mode::System),
            ("mode = \"user\"\n", Some("/run/stated/stated.sock"), user),
            ("mode = \"system\"\n", None, Mode::System),
        ] {
            std::fs::write(&config, format!("{text}policy = \"rules/p.toml\"\n")).unwrap();
            let socket = socket.map(PathBuf::from);
            let flags = Flags { config: Some(config.clone()), socket, ..Flags::default() };
            let settings = Settings::gather(flags, &env).unwrap();
            assert_eq!(settings.mode, mode, "{text}");
            assert_eq!((settings.policy, settings.policy_is_named), (home.path().join("rules/p.toml"), true));
        }
        std::fs::write(&config, "mode = \"open\"\n").unwrap();
        let flags = Flags { config: Some(config), ..Flags::default() };
        assert_eq!(Settings::gather(flags, &env).unwrap_err().kind, FailureKind::Config);
    }

    #[test]
    fn a_secret_has_one_place() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("c.toml");
        std::fs::write(&config, "passphrase_file = \"p\"\npassphrase_command = \"pass\"\n").unwrap();
        let flags = Flags { config: Some(config), ..Flags::default() };
        let home = Home(home.path().to_path_buf());
        let failure = Settings::gather(flags, &home).unwrap_err();
        assert!(failure.kind == FailureKind::Config && failure.message.contains("passphrase_command"), "{failure}");
        let env = [("STATED_IDENTITY_FILE", "/k"), ("STATED_IDENTITY_COMMAND", "cat k")];
        let failure = Settings::gather(Flags::default(), &With(&home, &env)).unwrap_err();
        assert!(failure.message.contains("STATED_IDENTITY_COMMAND"), "{failure}");
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join(".config/stated");
        std::fs::create_dir_all(&config).unwrap();
        let env = Home(home.path().to_path_buf());
        let plain = Settings::gather(Flags::default(), &env).unwrap();
        assert_eq!(plain.state_dir, home.path().join(".local/state/stated"));
        assert_eq!(plain.identity, SecretSource::File(config.join("identity.txt")));
        assert!(!plain.identity_is_configured);
        std::fs::write(config.join("config.toml"), "identity = \"my.key\"\nstate_dir = \"/srv/s\"\n").unwrap();
        let filed = Settings::gather(Flags::default(), &env).unwrap();
        assert_eq!(filed.state_dir, Path::new("/srv/s"));
        assert_eq!(filed.identity, SecretSource::File(config.join("my.key")));
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
