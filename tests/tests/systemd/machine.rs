//! A Debian that boots: in a container with a process 1 of its own, and none of our processes in sight.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stated_tests::{Finished, Host, LIMIT, Running, present, root, skip, tool};

use crate::package::packages;

/// The root directory of a bare Debian that `.ci/debian` makes, where one can be booted.
pub fn debian() -> Option<PathBuf> {
    let named = std::env::var_os("STATED_TEST_DEBIAN").map(PathBuf::from);
    if named.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        skip("no Debian can be started here, says STATED_TEST_DEBIAN");
        return None;
    }
    let root_dir = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bare-debian"));
    let has_all = root("boot a machine")
        && ["systemd-nspawn", "nsenter", "dpkg-deb", "cargo-deb"].iter().all(|name| tool(name))
        && present(root_dir.join("usr/bin/dpkg").exists(), "there is no Debian (.ci/debian makes one)");
    has_all.then_some(root_dir)
}

/// A machine that runs; what it writes is forgotten with it.
pub struct Machine {
    nspawn: Running,
    leader: Pid,
    leader_pidfd: OwnedFd,
    host: Host,
}

/// What starts a machine, or one program without its init.
fn nspawn(root_dir: &Path) -> Command {
    let mut command = Command::new("systemd-nspawn");
    command.args(["--quiet", "--volatile=overlay", "--register=no", "--keep-unit", "--private-network"]);
    command.arg("--directory").arg(root_dir).arg(format!("--bind-ro={}:/packages", packages().display()));
    command
}

/// Runs a script on a Debian that is not booted.
pub fn run_unbooted(root_dir: &Path, script: &str) -> Finished {
    let mut command = nspawn(root_dir);
    command.args(["--pipe", "--as-pid2", "sh", "-euxc", script]);
    stated_tests::run_to_end(command)
}

impl Machine {
    /// Boots, and waits until it has.
    pub fn boot(root_dir: &Path) -> Self {
        let host = Host::new();
        let manager = UnixDatagram::bind(host.path("n")).unwrap();
        manager.set_read_timeout(Some(LIMIT)).unwrap();
        let command = nspawn(root_dir);
        let args = command.get_args().map(OsStr::to_owned);
        let own = ["--notify-ready=yes", "--boot"].map(Into::into);
        // `/sys/fs/cgroup` and such are the kernel's, whatever the environment; this is all that it reads of it.
        let call = host.call(command.get_program(), args.chain(own)).env("NOTIFY_SOCKET", host.path("n"));
        let nspawn = call.start();
        let mut leader = None;
        loop {
            let mut message = [0; 4096];
            let len = manager.recv(&mut message).expect("it boots");
            let message = String::from_utf8_lossy(&message[..len]).into_owned();
            let pid = message.lines().find_map(|line| line.strip_prefix("X_NSPAWN_LEADER_PID="));
            leader = pid.map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).or(leader);
            if message.lines().any(|line| line == "READY=1") {
                break;
            }
        }
        let leader = leader.expect("its first process has a number here");
        let leader_pidfd = pidfd_open(leader, PidfdFlags::empty()).unwrap();
        Self { nspawn, leader, leader_pidfd, host }
    }

    /// A shell script on the machine, as root, not yet run.
    fn call(&self, script: &str) -> stated_tests::Call {
        let leader = self.leader.to_string();
        let inside = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "sh", "-euc", script];
        self.host.call("nsenter", ["--target", leader.as_str(), "--all"].iter().chain(&inside))
    }

    /// Starts a shell script.
    pub fn start(&self, script: &str) -> Running {
        self.call(script).start()
    }

    /// Runs a shell script that must succeed; gives what it prints.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        self.call(script).run().ok().text()
    }

    /// As [`Self::run`], whatever comes of it.
    pub fn try_run(&self, script: &str) -> Finished {
        self.call(script).run()
    }

    /// What systemd says of a property of the daemon's service.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show --property {name} --value stated.service"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process all others end.
        let _ = pidfd_send_signal(&self.leader_pidfd, Signal::KILL);
        if !std::thread::panicking() {
            self.nspawn.exit();
        }
    }
}
