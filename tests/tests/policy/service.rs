//! A daemon in system mode, reached by users of the host.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stated_tests::{Call, Finished, Host, Running, present, root, skip, tool};
use tempfile::TempDir;

/// A user of the host: a number, and the groups besides that of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub name: &'static str,
    pub uid: u32,
    pub groups: &'static [u32],
}

/// `daemon` in the user database of each Debian, whom a rule names.
pub const READER: User = User { name: "reader", uid: 1, groups: &[] };
/// `bin`, likewise.
pub const WRITER: User = User { name: "writer", uid: 2, groups: &[] };
/// Of the supplementary group `games`, whom a rule names.
pub const OPERATOR: User = User { name: "operator", uid: 60_001, groups: &[60] };
pub const AUDITOR: User = User { name: "auditor", uid: 60_002, groups: &[] };
pub const KEEPER: User = User { name: "keeper", uid: 60_003, groups: &[] };
/// As the operator, with more groups than the daemon asks for at first.
pub const CROWDED: User = User { name: "crowded", uid: 60_005, groups: &GROUPS };
const GROUPS: [u32; 100] = {
    let mut groups = [60; 100];
    let mut at = 0;
    while at < 99 {
        groups[at] = 70_000 + at as u32;
        at += 1;
    }
    groups
};
/// No rule is about this one, nor about its groups.
pub const STRANGER: User = User { name: "stranger", uid: 60_004, groups: &[100] };
pub const ROOT: User = User { name: "root", uid: 0, groups: &[] };

pub const RULES: &str = r#"
[[rule]]
user = "daemon"
names = "team/**"
verbs = "read"

[[rule]]
user = "bin"
names = ["team/**", "secret/**"]
verbs = ["read", "write", "lock"]

[[rule]]
group = "games"
names = "team/**"
verbs = ["read", "break"]

[[rule]]
uid = 60002
names = "**"
verbs = "audit"

[[rule]]
uid = 60003
names = "**"
verbs = ["read", "admin"]
"#;

/// The daemon, and where it is reached.
pub struct Service {
    pub host: Host,
    daemon: RefCell<Running>,
    directory: TempDir,
}

impl Service {
    /// Starts it in system mode with these rules.
    pub fn start(rules: &str) -> Option<Self> {
        Self::start_in("system", rules)
    }

    /// Starts it in a mode, where everybody reaches and believes it.
    pub fn start_in(mode: &str, rules: &str) -> Option<Self> {
        if !root("act as several users") || !tool("setpriv") || !present(knows_the_users(), "daemon, bin and games") {
            return None;
        }
        let Ok(directory) = tempfile::Builder::new().prefix("st").tempdir_in("/run") else {
            skip("needs a /run to write to");
            return None;
        };
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let host = Host::new();
        // Their programs run here; what is below stays closed to them.
        fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(host.path("w"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::create_dir(host.config_dir()).unwrap();
        fs::write(host.config_dir().join("config.toml"), format!("mode = {mode:?}\n")).unwrap();
        fs::write(policy_of(&host), rules).unwrap();
        let socket = directory.path().join("s");
        let mut daemon = host.stated([OsStr::new("run"), OsStr::new("--socket"), socket.as_os_str()]).start();
        daemon.says(" serving ");
        Some(Self { host, daemon: RefCell::new(daemon), directory })
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn policy(&self) -> PathBuf {
        policy_of(&self.host)
    }

    /// Puts a new file in the place of the policy.
    pub fn edit(&self, rules: &str) {
        let new = self.policy().with_extension("new");
        fs::write(&new, rules).unwrap();
        fs::rename(new, self.policy()).unwrap();
    }

    /// A program of a user.
    pub fn program(&self, user: User, program: &Path, args: &[&str]) -> Call {
        let id = [format!("--reuid={}", user.uid), format!("--regid={}", user.uid)];
        let groups = match user.groups {
            [] => "--clear-groups".to_owned(),
            groups => format!("--groups={}", groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        };
        let command = id.iter().map(String::as_bytes).chain([groups.as_bytes(), b"--", program.as_os_str().as_bytes()]);
        let command = command.chain(args.iter().map(|arg| arg.as_bytes())).map(OsStr::from_bytes);
        self.host.call("setpriv", command).env("STATED_SOCKET", self.socket()).env("HOME", "/nonexistent")
    }

    /// `statectl` of a user.
    pub fn of(&self, user: User, args: &[&str]) -> Call {
        self.program(user, &self.host.statectl_path(), args)
    }

    /// As [`Service::of`], run to its end.
    pub fn run(&self, user: User, args: &[&str]) -> Finished {
        self.of(user, args).run()
    }

    /// Writes a version.
    #[track_caller]
    pub fn put(&self, user: User, state: &str, content: &str) {
        self.of(user, &["put", state]).stdin(content).run().ok();
    }

    /// The names that a listing of a user shows.
    #[track_caller]
    pub fn names(&self, user: User, args: &[&str], field: &str) -> Vec<String> {
        let rows = self.run(user, &[args, &["--json"]].concat()).ok().objects();
        rows.iter().map(|row| row[field].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until the daemon has read the policy once more; what it says of that.
    pub fn reading(&self) -> String {
        self.daemon.borrow_mut().says("the policy ")
    }
}

fn policy_of(host: &Host) -> PathBuf {
    host.config_dir().join("policy.toml")
}

/// Whether the host has the users and the group that the rules name.
fn knows_the_users() -> bool {
    let has = |file: &str, line: &str| {
        fs::read_to_string(file).is_ok_and(|text| text.lines().any(|other| other.starts_with(line)))
    };
    has("/etc/passwd", "daemon:x:1:") && has("/etc/passwd", "bin:x:2:") && has("/etc/group", "games:x:60:")
}
