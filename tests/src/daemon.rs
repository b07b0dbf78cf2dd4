//! A daemon in the foreground, known to serve by its own word.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, pidfd_send_signal};

use crate::LIMIT;
use crate::host::{Call, Host};
use crate::running::{await_readable, pidfd};

/// A running `stated run`; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pidfd: OwnedFd,
    log: PathBuf,
    log_start: u64,
}

impl Host {
    /// Starts the daemon and waits until it says that it serves.
    #[track_caller]
    pub fn daemon(&self) -> Daemon {
        self.daemon_by(self.stated(["run"]))
    }

    /// As [`Host::daemon`], by another call, such as one through `strace`.
    #[track_caller]
    pub fn daemon_by(&self, call: Call) -> Daemon {
        self.try_daemon_by(call).unwrap_or_else(|mut daemon| {
            panic!("the daemon ended with {} at its start: {}", daemon.exit(), daemon.said())
        })
    }

    /// As [`Host::daemon_by`]; `Err` is a daemon that ended at its start.
    #[track_caller]
    pub fn try_daemon_by(&self, call: Call) -> Result<Daemon, Daemon> {
        let notify = self.path("n");
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).expect("a notify socket");
        let mut command = call.into_command();
        command.env("NOTIFY_SOCKET", &notify);
        let daemon = self.begin(command);
        if daemon.await_ready(&socket) { Ok(daemon) } else { Err(daemon) }
    }

    /// Starts the daemon and does not wait for anything.
    pub fn daemon_unready(&self) -> Daemon {
        self.begin(self.stated(["run"]).into_command())
    }

    fn begin(&self, mut command: Command) -> Daemon {
        self.by_hand.set(true);
        let log = self.path("daemon.log");
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let log_start = file.metadata().map_or(0, |metadata| metadata.len());
        let error: File = file.try_clone().expect("a descriptor");
        command.stdin(Stdio::null()).stdout(file).stderr(error);
        let child = command.spawn().expect("the daemon starts");
        Daemon { pidfd: pidfd(Pid::from_child(&child)), child, log, log_start }
    }
}

impl Daemon {
    fn await_ready(&self, socket: &UnixDatagram) -> bool {
        let limit = Timespec::try_from(LIMIT).expect("a short time");
        loop {
            let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&limit)) {
                Ok(0) => panic!("the daemon does not say that it serves: {}", self.said()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
            let told = !fds[0].revents().is_empty();
            let ended = !fds[1].revents().is_empty();
            let mut message = [0; 4096];
            if told {
                let len = socket.recv(&mut message).expect("a datagram");
                if message[..len].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                    return true;
                }
            } else if ended {
                return false;
            }
        }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it ever had, in bytes.
    pub fn memory_max_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a kernel that counts");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).expect("the daemon runs");
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.exit();
    }

    /// SIGTERM, and waits for its end, which must be a good one.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let code = self.exit();
        assert_eq!(code, 0, "{}", self.said());
    }

    /// Waits for its end; gives the exit code, or 128 + n for signal n.
    pub fn exit(&mut self) -> i32 {
        assert!(await_readable(&self.pidfd), "the daemon does not end: {}", self.said());
        let status = self.child.wait().expect("a child");
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("a code or a signal")
    }

    /// What it logged so far.
    pub fn said(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_start as usize..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
