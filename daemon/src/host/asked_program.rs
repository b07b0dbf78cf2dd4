//! A program that is asked by its standard input and answers by its standard output, within a time.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::{Clock, system_call};

/// The whole environment: what a variable of the daemon's says is none of its business.
const ENVIRONMENT: [(&str, &str); 2] = [("LC_ALL", "C.UTF-8"), ("PATH", "/usr/local/bin:/usr/bin:/bin")];
/// How long one that is through may take to end by itself.
const END_MAX: Duration = Duration::from_secs(2);

/// A running program. It is killed, with all that it started, when this is dropped or the daemon ends.
pub struct AskedProgram {
    child: Child,
    pidfd: OwnedFd,
    stdin: File,
    stdout: File,
    clock: Clock,
    deadline_ms: u64,
}

impl AskedProgram {
    /// Starts the program in `/`, with a plain environment and the daemon's standard error; `name` is what it was called by.
    ///
    /// What is not read or written within `limit` of now fails with [`ErrorKind::TimedOut`].
    pub fn start(program: &Path, name: &Path, args: &[&str], limit: Duration, clock: &Clock) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0(name).args(args).env_clear().envs(ENVIRONMENT).current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        system_call::end_with_this_thread(&mut command);
        let deadline_ms = clock.boottime_ms() + limit.as_millis() as u64;
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are piped")
        };
        let (stdin, stdout) = (OwnedFd::from(stdin), OwnedFd::from(stdout));
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let asked = Self { child, pidfd, stdin: stdin.into(), stdout: stdout.into(), clock: *clock, deadline_ms };
        for pipe in [&asked.stdin, &asked.stdout] {
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        Ok(asked)
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
        // Its end of the conversation.
        if let Ok(null) = File::open("/dev/null") {
            self.stdin = null;
        }
        self.deadline_ms = self.clock.boottime_ms() + END_MAX.as_millis() as u64;
        if self.wait(&self.pidfd, PollFlags::IN).is_ok() {
            let _ = self.child.wait();
        }
    }

    /// Waits until the descriptor can be used, or is closed at its other end.
    fn wait(&self, descriptor: impl AsFd, for_what: PollFlags) -> io::Result<()> {
        loop {
            let left = Duration::from_millis(self.deadline_ms.saturating_sub(self.clock.boottime_ms()));
            let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&descriptor, for_what)], Some(&timeout)) {
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
        self.wait(&self.stdout, PollFlags::IN)?;
        (&self.stdout).read(buffer)
    }
}

impl Write for AskedProgram {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(&self.stdin, PollFlags::OUT)?;
        (&self.stdin).write(bytes)
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
        self.deadline_ms = self.clock.boottime_ms() + END_MAX.as_millis() as u64;
        // One that the kernel cannot end, for a device that hangs, is left to it.
        if self.wait(&self.pidfd, PollFlags::IN).is_ok() {
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str, limit: Duration) -> AskedProgram {
        AskedProgram::start(
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
