//! A program that is asked by its standard input, or only started, and answers by its standard output, within a time.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use zeroize::Zeroizing;

use super::{Clock, system_call};

/// The whole environment of a plain one: what a variable of the daemon's says is none of its business.
const PLAIN_ENVIRONMENT: [(&str, &str); 2] = [("LC_ALL", "C.UTF-8"), ("PATH", "/usr/local/bin:/usr/bin:/bin")];
/// What one does not get of the daemon's own environment: it would speak for the daemon.
const NOT_FOR_OTHERS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];
/// How long one may take: somebody may have to type, or to touch a token.
pub const ASKED_MAX: Duration = Duration::from_secs(45);
/// How long one that is through may take to end by itself.
const END_MAX: Duration = Duration::from_secs(2);

/// A running program. It is killed, with all that it started, when this is dropped or the daemon ends.
pub struct AskedProgram {
    child: Child,
    pidfd: OwnedFd,
    /// Until it is to hear no more.
    stdin: Option<File>,
    stdout: File,
    clock: Clock,
    deadline_ms: u64,
}

impl AskedProgram {
    /// Starts the program with a plain environment; `name` is what it was called by.
    ///
    /// What is not read or written within `limit` of now fails with [`ErrorKind::TimedOut`].
    pub fn plain(program: &Path, name: &Path, args: &[&str], limit: Duration, clock: &Clock) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0(name).args(args).env_clear().envs(PLAIN_ENVIRONMENT);
        Self::start(command, limit, clock)
    }

    /// Starts a shell with this line, in the daemon's own environment.
    pub fn shell(line: &str, limit: Duration, clock: &Clock) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        for name in NOT_FOR_OTHERS {
            command.env_remove(name);
        }
        Self::start(command, limit, clock)
    }

    /// In `/`, with the daemon's standard error, and of its own group, so that all of it can be ended.
    fn start(mut command: Command, limit: Duration, clock: &Clock) -> io::Result<Self> {
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        system_call::end_with_this_thread(&mut command);
        let deadline_ms = clock.boottime_ms() + limit.as_millis() as u64;
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are piped")
        };
        let (stdin, stdout) = (OwnedFd::from(stdin), OwnedFd::from(stdout));
        let held = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).and_then(|pidfd| {
            rustix::fs::fcntl_setfl(&stdin, OFlags::NONBLOCK)?;
            rustix::fs::fcntl_setfl(&stdout, OFlags::NONBLOCK)?;
            Ok(pidfd)
        });
        match held {
            Ok(pidfd) => {
                let (stdin, stdout) = (Some(stdin.into()), stdout.into());
                Ok(Self { child, pidfd, stdin, stdout, clock: *clock, deadline_ms })
            }
            Err(error) => {
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Tells it nothing, and reads what it prints until it ends: at most `len_max` bytes and one more.
    ///
    /// Its end counts, and not the end of its output: an agent that it leaves behind may hold that open.
    pub fn output(mut self, len_max: u64, output: &mut Vec<u8>) -> io::Result<ExitStatus> {
        self.stdin = None;
        let mut is_open = true;
        loop {
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN), PollFd::new(&self.stdout, PollFlags::IN)];
            self.wait(&mut fds[..if is_open { 2 } else { 1 }])?;
            let ended = !fds[0].revents().is_empty();
            if is_open {
                is_open = drain(&mut self.stdout, len_max, output)?;
            }
            if ended {
                return self.child.wait();
            }
        }
    }

    /// Does something in a time that is not the program's.
    pub fn aside<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun_ms = self.clock.boottime_ms();
        let done = work();
        self.deadline_ms += self.clock.boottime_ms() - begun_ms;
        done
    }

    /// Lets a program end that is through: with what it leaves running, an agent that keeps a token open for one.
    pub fn end(mut self) {
        self.stdin = None;
        self.reap();
    }

    /// Waits for its end, for a little while.
    fn reap(&mut self) {
        self.deadline_ms = self.clock.boottime_ms() + END_MAX.as_millis() as u64;
        if self.wait(&mut [PollFd::new(&self.pidfd, PollFlags::IN)]).is_ok() {
            let _ = self.child.wait();
        }
    }

    /// Waits until one of the descriptors can be used, or is closed at its other end.
    fn wait(&self, descriptors: &mut [PollFd<'_>]) -> io::Result<()> {
        loop {
            let left = Duration::from_millis(self.deadline_ms.saturating_sub(self.clock.boottime_ms()));
            let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
            match poll(descriptors, Some(&timeout)) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for AskedProgram {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(&mut [PollFd::new(&self.stdout, PollFlags::IN)])?;
        (&self.stdout).read(buffer)
    }
}

impl Write for AskedProgram {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(mut stdin) = self.stdin.as_ref() else { return Err(ErrorKind::BrokenPipe.into()) };
        self.wait(&mut [PollFd::new(stdin, PollFlags::OUT)])?;
        stdin.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for AskedProgram {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Not reaped yet, so the number is still its own.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        // One that the kernel cannot end, for a device that hangs, is left to it.
        self.reap();
    }
}

/// Reads what is there; whether more may come. What is over the limit is read and dropped, so that the writer ends.
fn drain(stdout: &mut File, len_max: u64, output: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = Zeroizing::new([0; 4096]);
    loop {
        match stdout.read(&mut buffer[..]) {
            Ok(0) => return Ok(false),
            Ok(len) => {
                let room = (len_max as usize + 1).saturating_sub(output.len());
                output.extend(&buffer[..len.min(room)]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str, limit: Duration) -> AskedProgram {
        AskedProgram::plain(
            Path::new("/bin/sh"),
            Path::new("/x/named"),
            &["-c", line],
            limit,
            &Clock::of_host().unwrap(),
        )
        .unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_answers_what_it_is_asked() {
        let mut asked = shell("read line; echo \"<$line>\"", LONG);
        asked.write_all(b"question\n").unwrap();
        let mut answer = String::new();
        asked.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "<question>\n");
    }

    #[test]
    fn it_is_called_by_its_name_and_may_leave_an_agent() {
        let mut asked = shell("sleep 1000 & echo $!; tr '\\0' ' ' </proc/$$/cmdline | cut -d' ' -f1; read rest", LONG);
        let mut said = String::new();
        while said.lines().count() < 2 {
            let mut line = [0; 64];
            let len = asked.read(&mut line).unwrap();
            said.push_str(std::str::from_utf8(&line[..len]).unwrap());
        }
        let (pid, name) = said.trim().split_once('\n').unwrap();
        assert_eq!(name, "/x/named");
        let agent = Pid::from_raw(pid.parse().unwrap()).unwrap();
        asked.end();
        rustix::process::kill_process(agent, Signal::KILL).expect("it runs still");
    }

    #[test]
    fn another_time_than_its_own_does_not_count() {
        let mut asked = shell("read line; echo \"<$line>\"", Duration::from_millis(200));
        let late = asked.deadline_ms + 1;
        let clock = asked.clock;
        asked.aside(|| while clock.boottime_ms() < late {});
        asked.write_all(b"question\n").unwrap();
        assert_eq!(asked.read(&mut [0; 32]).unwrap(), 11);
    }

    #[test]
    fn its_environment_has_nothing_of_the_daemons() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some());
        let mut said = String::new();
        shell("exec env", LONG).read_to_string(&mut said).unwrap();
        let mut names: Vec<&str> = said.lines().map(|line| line.split('=').next().unwrap()).collect();
        // The shell's own two.
        names.retain(|name| !["PWD", "_"].contains(name));
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "PATH"]);
    }

    #[test]
    fn one_that_does_not_answer_fails_in_time_and_ends_with_all_that_it_started() {
        let mut asked = shell("sleep 1000 & echo $!; exec sleep 1000", LONG);
        let mut line = [0; 32];
        let len = asked.read(&mut line).unwrap();
        let pid = std::str::from_utf8(&line[..len]).unwrap().trim().parse().unwrap();
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), rustix::process::PidfdFlags::empty());
        let pidfd = pidfd.unwrap();
        asked.deadline_ms = 0;
        assert_eq!(asked.read(&mut line).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(asked);
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
    }

    #[test]
    fn one_that_does_not_listen_fails_in_time() {
        let mut asked = shell("exec sleep 1000", Duration::ZERO);
        // More than its pipe holds.
        assert_eq!(asked.write_all(&[b'x'; 1 << 20]).unwrap_err().kind(), ErrorKind::TimedOut);
        let mut asked = shell("exec true", LONG);
        asked.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(asked.write_all(&[b'x'; 1 << 20]).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
