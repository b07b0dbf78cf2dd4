//! A started program: its lines as they come, its end, and what it left.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::LIMIT;

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    pidfd: OwnedFd,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
}

#[derive(Debug)]
struct Lines {
    receiver: Receiver<Vec<u8>>,
}

/// What a program left.
#[derive(Debug, Clone)]
pub struct Finished {
    what: String,
    /// Its exit code, or 128 + n where signal n ended it.
    pub code: i32,
    /// All of its standard output that was not read before.
    pub stdout: Vec<u8>,
    /// All of its standard error that was not read before.
    pub stderr: String,
}

/// Runs a program of no host, without input, to its end.
pub fn run_to_end(command: Command) -> Finished {
    run_within(command, LIMIT)
}

/// As [`run_to_end`], where that may take longer than anything else.
pub fn run_within(command: Command, limit: Duration) -> Finished {
    Running::start(command).finish_within(limit)
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let what = format!("{command:?}").chars().rev().take(200).collect::<String>().chars().rev().collect();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let pidfd = pidfd(Pid::from_child(&child));
        let stdout = Lines::of(child.stdout.take().expect("piped"));
        let stderr = Lines::of(child.stderr.take().expect("piped"));
        Self { what, stdin: child.stdin.take(), child, pidfd, stdout, stderr }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output.
    pub fn line(&mut self) -> String {
        self.stdout.next(&self.what).unwrap_or_else(|| panic!("{}: its output ended: {}", self.what, self.complaints()))
    }

    /// The next line of its standard error that contains this text.
    pub fn says(&mut self, text: &str) -> String {
        loop {
            match self.stderr.next(&self.what) {
                Some(line) if line.contains(text) => return line,
                Some(_) => {}
                None => panic!("{}: it ended without saying {text:?}", self.what),
            }
        }
    }

    /// The next line of its standard output that contains this text.
    pub fn prints(&mut self, text: &str) -> String {
        loop {
            match self.line() {
                line if line.contains(text) => return line,
                _ => {}
            }
        }
    }

    fn complaints(&self) -> String {
        let said: Vec<u8> = self.stderr.receiver.try_iter().flatten().collect();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Writes to its standard input from the side, then closes that.
    pub fn feed(&mut self, bytes: Vec<u8>) {
        if let Some(mut stdin) = self.stdin.take() {
            // A program that does not read is none of the writer's business.
            thread::spawn(move || drop(stdin.write_all(&bytes)));
        }
    }

    /// Closes its standard input, for it and its children.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).unwrap_or_else(|error| panic!("{}: {error}", self.what));
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for its end, but not for that of its output, which children may hold; gives the exit code.
    pub fn exit(&mut self) -> i32 {
        self.exit_within(LIMIT)
    }

    fn exit_within(&mut self, limit: Duration) -> i32 {
        let ended = await_readable_within(&self.pidfd, limit);
        assert!(ended, "{}: still running after {limit:?}: {}", self.what, self.complaints());
        let status = self.child.wait().expect("a child");
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("a code or a signal")
    }

    /// Closes its input, waits for its end, and collects what it left.
    pub fn finish(self) -> Finished {
        self.finish_within(LIMIT)
    }

    fn finish_within(mut self, limit: Duration) -> Finished {
        self.close_stdin();
        let code = self.exit_within(limit);
        let (stdout, stderr) = (self.stdout.rest(&self.what), self.stderr.rest(&self.what));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Finished { what: self.what.clone(), code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || Self::pump(pipe, &sender));
        Self { receiver }
    }

    fn pump(pipe: impl Read, sender: &Sender<Vec<u8>>) {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            match pipe.read_until(b'\n', &mut line) {
                Ok(1..) if sender.send(line).is_ok() => {}
                _ => return,
            }
        }
    }

    fn next(&mut self, what: &str) -> Option<String> {
        match self.receiver.recv_timeout(LIMIT) {
            Ok(line) => Some(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{what}: no line in {LIMIT:?}"),
        }
    }

    fn rest(&mut self, what: &str) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.receiver.recv_timeout(LIMIT) {
                Ok(line) => all.extend(line),
                Err(RecvTimeoutError::Disconnected) => return all,
                Err(RecvTimeoutError::Timeout) => panic!("{what}: its output does not end"),
            }
        }
    }
}

impl Finished {
    /// Checks the exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, expected, "{}\n{}\n{}", self.what, self.text(), self.stderr);
        self
    }

    /// Checks that it did what it was asked.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Its standard output as text, without the last line's end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Its standard output as one JSON object a line.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.text().lines().map(parse).collect()
    }

    /// Its standard output as one JSON object.
    #[track_caller]
    pub fn object(&self) -> Value {
        let mut objects = self.objects();
        assert_eq!(objects.len(), 1, "{}", self.text());
        objects.remove(0)
    }

    /// Its whole standard output as one JSON document.
    #[track_caller]
    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{}: {error}", self.text()))
    }

    /// The failure that the last line of its standard error tells programs.
    #[track_caller]
    pub fn error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        let line: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{last:?}: {error}"));
        line["error"].clone()
    }

    /// Checks that standard error holds this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{:?} is not in: {}", text, self.stderr);
        self
    }
}

pub(crate) fn pidfd(pid: Pid) -> OwnedFd {
    pidfd_open(pid, PidfdFlags::empty()).expect("a process of ours")
}

/// Waits until a descriptor is readable: a process's when that has ended.
pub(crate) fn await_readable(fd: &OwnedFd) -> bool {
    await_readable_within(fd, LIMIT)
}

pub(crate) fn await_readable_within(fd: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).expect("a short time");
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
