//! Processes that locks are tied to.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::system_call;

/// A process, held by a descriptor that stays with it also when its number is given to another.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    pid: Option<u32>,
    /// In how many PID namespaces it has a number, from the daemon's on; where the descriptor told.
    depth: Option<usize>,
    /// Read when somebody asks.
    start: OnceLock<Option<u64>>,
}

/// Why there is no such process to hold.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The descriptor is something else: whoever sent it could otherwise decide when it becomes readable.
    #[error("the descriptor is not a pidfd")]
    NotAPidfd,
    /// The process is gone already, or never was.
    #[error("no process has the ID {0}")]
    Gone(u32),
    /// The kernel refused.
    #[error("cannot open the process {pid}")]
    Open {
        /// Its number.
        pid: u32,
        /// Why.
        source: io::Error,
    },
}

/// What became of a process that was known before a restart.
#[derive(Debug)]
pub enum Reopened {
    /// It ended; its number may be another's now.
    Gone,
    /// It lives.
    Alive(Process),
    /// Neither can be told.
    Unknown,
}

impl Process {
    /// Takes a descriptor that a peer sent, if it is a pidfd.
    ///
    /// Its number and start are known only where it shares a PID namespace with the daemon.
    pub fn from_descriptor(pidfd: OwnedFd) -> Result<Self, ProcessError> {
        let number = pidfd.as_raw_fd();
        let (pid, depth) = match read(&format!("/proc/thread-self/fdinfo/{number}")) {
            Ok(info) => match field(&info, "Pid:").and_then(|pid| pid.parse::<i64>().ok()) {
                // 0 is a process in a namespace that is not seen from here; -1 one that is gone.
                Some(pid) => {
                    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0);
                    (pid, pid.and_then(|_| depth_of(&info)))
                }
                None => return Err(ProcessError::NotAPidfd),
            },
            // Before Linux 5.14 a process that is not dumpable cannot read this of itself; the link it always can.
            Err(_) => {
                let target = fs::read_link(format!("/proc/thread-self/fd/{number}")).unwrap_or_default();
                let target = target.to_string_lossy();
                if target != "anon_inode:[pidfd]" && !target.starts_with("pidfd:[") {
                    return Err(ProcessError::NotAPidfd);
                }
                (None, None)
            }
        };
        Ok(Self { pidfd, pid, depth, start: OnceLock::new() })
    }

    /// Opens a process by its number in the daemon's PID namespace.
    ///
    /// The number may already be another's; the caller knows who promised to keep the process alive meanwhile.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcessError::Gone(pid))?;
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pidfd, pid: Some(pid), depth: None, start: OnceLock::new() }),
            // ENOENT and EINVAL are what kernels say of a thread that leads no process.
            Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => Err(ProcessError::Gone(pid)),
            Err(errno) => Err(ProcessError::Open { pid, source: errno.into() }),
        }
    }

    /// Opens the process that had this number and this start in the present boot.
    pub fn reopen(pid: u32, start: u64) -> Reopened {
        match Self::open(pid) {
            Ok(process) => match process.start() {
                Some(now) if now == start => {
                    if process.is_gone() {
                        Reopened::Gone
                    } else {
                        Reopened::Alive(process)
                    }
                }
                Some(_) => Reopened::Gone,
                None if process.is_gone() => Reopened::Gone,
                None => Reopened::Unknown,
            },
            Err(ProcessError::Gone(_)) => Reopened::Gone,
            Err(_) => Reopened::Unknown,
        }
    }

    /// The process that runs this code.
    pub fn own() -> Result<Self, ProcessError> {
        Self::open(std::process::id())
    }

    /// Its number, where it shares a PID namespace with the daemon.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// When it started, in clock ticks since the boot: with the number, what tells it from its successors.
    ///
    /// It is known where it was asked for before the process ended.
    pub fn start(&self) -> Option<u64> {
        *self.start.get_or_init(|| self.read("stat").as_deref().and_then(start_of))
    }

    /// Whether it has ended. Zombies have.
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A failure of poll says nothing of the process, and a lock must not end by mistake.
        matches!(poll(&mut fds, Some(&at_once)), Ok(1..)) && fds[0].revents().contains(PollFlags::IN)
    }

    /// Returns when the process has ended. `Err` means that the runtime cannot watch it.
    pub async fn gone(&self) -> io::Result<()> {
        // A descriptor can be registered once; a copy of its own lets any number of tasks wait.
        let pidfd = system_call::watch(self.pidfd.try_clone()?)?;
        loop {
            let mut ready = pidfd.readable().await?;
            if self.is_gone() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Its command name, made fit to print; absent where it cannot be seen or the process is gone.
    pub fn comm(&self) -> Option<String> {
        let comm = self.read("comm")?;
        Some(comm.trim_end_matches('\n').chars().map(|c| if c.is_control() { '?' } else { c }).collect())
    }

    /// Its real and effective user IDs.
    pub fn users(&self) -> Option<(u32, u32)> {
        let status = self.read("status")?;
        let mut uids = field(&status, "Uid:")?.split_whitespace();
        Some((uids.next()?.parse().ok()?, uids.next()?.parse().ok()?))
    }

    /// Whether it counts processes in the daemon's PID namespace, so that a number means the same to both.
    ///
    /// `false` also where that cannot be told.
    pub fn shares_pid_namespace(&self) -> bool {
        let depth = self.depth.or_else(|| self.read("status").as_deref().and_then(depth_of));
        depth == Some(1)
    }

    /// A file of `/proc/PID`, if the number was still this process's after it was read.
    fn read(&self, file: &str) -> Option<String> {
        let text = read(&format!("/proc/{}/{file}", self.pid?)).ok()?;
        // Only the end of a process sets its number free.
        (!self.is_gone()).then_some(text)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// A file of `/proc`, whose size nothing tells; what this room reads there is short.
fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(64 << 10).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// In how many PID namespaces a process has a number: of `/proc/PID/status`, or of what tells of its pidfd.
fn depth_of(text: &str) -> Option<usize> {
    Some(field(text, "NSpid:")?.split_whitespace().count())
}

/// The rest of the first line that starts with `key`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// Field 22 of `/proc/PID/stat`. The second field is a name in parentheses that may itself hold spaces and parentheses.
fn start_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that has answered: right after `spawn` the kernel may still call it by its parent's name.
    fn child() -> Child {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    }

    #[tokio::test]
    async fn a_process_is_gone_when_it_ends_and_for_every_waiter() {
        let mut child = child();
        let process = Process::open(child.id()).unwrap();
        assert!(!process.is_gone());
        assert_eq!(process.comm().as_deref(), Some("cat"));
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(process.users(), Some((uid, uid)));
        let (first, second) = (process.gone(), process.gone());
        drop(child.stdin.take());
        let (first, second) = tokio::join!(first, second);
        first.unwrap();
        second.unwrap();
        assert!(process.is_gone());
        assert_eq!(process.comm(), None, "a zombie's name would be its own still, but a reused number's would not");
        child.wait().unwrap();
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let mut child = child();
        let process = Process::open(child.id()).unwrap();
        let (pid, start) = (process.pid().unwrap(), process.start().unwrap());
        assert!(matches!(Process::reopen(pid, start), Reopened::Alive(_)));
        assert!(matches!(Process::reopen(pid, start + 1), Reopened::Gone));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(Process::reopen(pid, start), Reopened::Gone));
        assert!(matches!(Process::open(0), Err(ProcessError::Gone(0))));
        assert!(matches!(Process::open(u32::MAX), Err(ProcessError::Gone(u32::MAX))));
    }

    #[test]
    fn only_a_pidfd_is_taken_for_a_process() {
        let own = Process::own().unwrap();
        let taken = Process::from_descriptor(own.pidfd.try_clone().unwrap()).unwrap();
        assert_eq!((taken.pid(), taken.start()), (Some(std::process::id()), own.start()));
        assert!(own.start().is_some());
        assert!(taken.shares_pid_namespace() && own.shares_pid_namespace());
        let (reader, _writer) = io::pipe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        // A file that says what fdinfo says of a pidfd is still a file.
        let file = dir.path().join("fdinfo");
        fs::write(&file, "Pid:\t1\n").unwrap();
        let others: [OwnedFd; 3] =
            [reader.into(), File::open(&file).unwrap().into(), File::open("/proc/self").unwrap().into()];
        for other in others {
            assert!(matches!(Process::from_descriptor(other), Err(ProcessError::NotAPidfd)));
        }
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let rest = (3..=22).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_of(&format!("1 (a) b (c) {rest} 0")), Some(22));
        assert_eq!(start_of("1 (a"), None);
        assert_eq!(start_of("1 (a) 3 4"), None);
    }
}
