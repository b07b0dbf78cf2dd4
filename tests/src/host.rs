//! A host of its own: private directories, and an environment that holds nothing else.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, pidfd_send_signal};
use serde_json::Value;
use stated_client::{Client, ConnectOptions};
use tempfile::TempDir;

use crate::bound::Bound;
use crate::running::{Finished, Running, await_readable, pidfd};
use crate::{programs, survivors, tools};

/// A user's home, runtime directory and so on, below one temporary directory.
///
/// Dropping it kills whatever was started with it, autostarted daemons included.
#[derive(Debug)]
pub struct Host {
    dir: TempDir,
    _bound: Bound,
    /// Whether the test starts daemons itself: then no client may come first after a restart.
    pub(crate) by_hand: Cell<bool>,
}

/// A call of a program on a host, not yet made.
#[derive(Debug)]
pub struct Call {
    command: Command,
    stdin: Vec<u8>,
}

impl Host {
    /// A host on which nothing was ever started.
    pub fn new() -> Self {
        let base = Some(std::env::temp_dir()).filter(|dir| tools::is_short(dir)).unwrap_or_else(|| "/tmp".into());
        let dir = tempfile::Builder::new().prefix("st").rand_bytes(8).tempdir_in(base).expect("a temporary directory");
        let host = Self { dir, _bound: Bound::of_this_test(), by_hand: Cell::new(false) };
        for path in [host.home(), host.runtime_dir(), host.path("s"), host.path("c"), host.path("w")] {
            fs::DirBuilder::new().mode(0o700).create(path).expect("a directory");
        }
        host
    }

    /// A path below the host's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The user's home.
    pub fn home(&self) -> PathBuf {
        self.path("h")
    }

    /// `XDG_RUNTIME_DIR`.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path("r")
    }

    /// Where the user's daemon keeps its state.
    pub fn state_dir(&self) -> PathBuf {
        self.path("s/stated")
    }

    /// The directory of the user's configuration.
    pub fn config_dir(&self) -> PathBuf {
        self.path("c/stated")
    }

    /// The key that the first start makes.
    pub fn identity(&self) -> PathBuf {
        self.config_dir().join("identity.txt")
    }

    /// Where the user's daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("stated/stated.sock")
    }

    /// The table of session locks beside the socket.
    pub fn grant_table(&self) -> PathBuf {
        self.runtime_dir().join("stated/grants")
    }

    /// Writes a file that a command may read.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path("w").join(name);
        fs::write(&path, content).expect("written");
        path
    }

    /// A program with this host's environment and nothing of ours.
    ///
    /// Once the test has started a daemon itself, clients start none.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("XDG_RUNTIME_DIR", self.runtime_dir())
            .env("XDG_STATE_HOME", self.path("s"))
            .env("XDG_CONFIG_HOME", self.path("c"))
            .env("TMPDIR", self.path("w"))
            .current_dir(self.path("w"))
            .process_group(0);
        if self.by_hand.get() {
            command.env("STATED_NO_AUTOSTART", "1");
        }
        command
    }

    /// `statectl` with these arguments.
    pub fn statectl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        self.call(programs::statectl(), args)
    }

    /// `stated` with these arguments.
    pub fn stated<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call {
        self.call(programs::stated(), args)
    }

    /// Any program with these arguments.
    pub fn call<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Call {
        let mut command = self.command(program);
        command.args(args);
        Call { command, stdin: Vec::new() }
    }

    /// As [`Self::call`], by another user, with the group of the same number and no other.
    pub fn call_as<A: AsRef<OsStr>>(
        &self,
        uid: u32,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Call {
        let mut command = self.command("setpriv");
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}")).args(["--clear-groups", "--"]);
        command.arg(program).args(args);
        Call { command, stdin: Vec::new() }
    }

    /// Runs `statectl`, which must succeed; gives its output.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.statectl(args).run().ok().text()
    }

    /// Writes a version; gives what `put` prints.
    #[track_caller]
    pub fn put(&self, state: &str, content: &[u8]) -> String {
        self.statectl(["put", state]).stdin(content).run().ok().text()
    }

    /// Reads a version.
    #[track_caller]
    pub fn get(&self, state: &str) -> Vec<u8> {
        self.statectl(["get", state]).run().ok().stdout
    }

    /// `statectl status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.statectl(["status", "--json"]).run().ok().object()
    }

    /// `statectl locks --json`.
    #[track_caller]
    pub fn locks(&self) -> Vec<Value> {
        self.statectl(["locks", "--json"]).run().ok().objects()
    }

    /// Checks the state directory offline; no daemon may run.
    #[track_caller]
    pub fn verify(&self) -> String {
        self.stated(["verify"]).run().ok().text()
    }

    /// How the client library finds this host's daemon; it starts none.
    pub fn options(&self) -> ConnectOptions {
        let exe = Some("test".to_owned());
        ConnectOptions { socket: Some(self.socket()), exe, ..ConnectOptions::default() }
    }

    /// A session of the client library.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(&self.options()).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`Host::client`], starting the daemon as `statectl` does.
    #[track_caller]
    pub fn client_started(&self) -> Client {
        self.statectl(["ls"]).run().ok();
        self.client()
    }

    /// Stops the daemon that a client started, in good order.
    #[track_caller]
    pub fn stop_daemon(&self) {
        let pid = self.status()["pid"].as_u64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pidfd = pidfd(pid.expect("a process ID"));
        pidfd_send_signal(&pidfd, Signal::TERM).expect("the daemon runs");
        assert!(await_readable(&pidfd), "the daemon does not end");
    }

    /// The path of the program `statectl`, for calls through other programs.
    pub fn statectl_path(&self) -> PathBuf {
        programs::statectl()
    }

    /// The path of the program `stated`, for calls through other programs.
    pub fn stated_path(&self) -> PathBuf {
        programs::stated()
    }

    /// Changes the permission bits of a file.
    pub fn chmod(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of ours");
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        survivors::kill(&self.home(), &self.state_dir());
    }
}

impl Call {
    /// What it reads from standard input; nothing where not said.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable of its environment.
    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Where it runs; the host's own directory for files where not said.
    #[must_use]
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// The command as it would be run.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it, its standard input left open.
    pub fn start(self) -> Running {
        let mut running = Running::start(self.command);
        if !self.stdin.is_empty() {
            running.feed(self.stdin);
        }
        running
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        let mut running = Running::start(self.command);
        running.feed(self.stdin);
        running.finish()
    }
}
