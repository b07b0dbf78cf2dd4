//! Where the demo plays: a directory, an environment, and a daemon that ends with it.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use stated_shared::{Failure, FailureKind, Reply, Request, StatusInfo};
use tempfile::TempDir;

use crate::cli::output::Output;
use crate::cli::{child, failure};
use crate::held_back::is_ignored;
use crate::printable::printable;
use crate::{Client, ConnectOptions};

/// Where the daemon's socket is below the directory, which is the demo's home.
const SOCKET: &str = ".local/state/stated/run/stated.sock";
/// Longest path of a socket, in bytes (sockaddr_un).
const SOCKET_LEN_MAX: usize = 107;
/// How long the daemon may take to stop.
const STOP_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The place, and how it is told.
pub(super) struct Stage<'a> {
    place: Place,
    programs: PathBuf,
    interrupted: Arc<AtomicBool>,
    /// Nobody reads what is printed any more.
    unread: Cell<bool>,
    output: &'a Output,
}

/// The directory. Its daemon is stopped before it goes.
struct Place {
    root: PathBuf,
    /// Removes the directory; none where it is kept.
    temporary: Option<TempDir>,
}

/// A command that runs beside the others.
pub(super) struct Running {
    command: String,
    child: Child,
    input: Option<ChildStdin>,
    printed: BufReader<PipeReader>,
    shown: String,
}

/// What a command must do.
pub(super) struct Expected {
    code: u8,
    says: &'static str,
    says_too: &'static str,
    hides: Option<&'static str>,
}

/// A step as programs read it.
#[derive(Serialize)]
struct Step<'a> {
    command: &'a str,
    output: &'a str,
    code: u8,
}

impl Expected {
    /// Exit code 0, and to say this.
    pub(super) fn done(says: &'static str) -> Self {
        Self::failure(0, says)
    }

    /// This exit code, and to say this.
    pub(super) fn failure(code: u8, says: &'static str) -> Self {
        Self { code, says, says_too: "", hides: None }
    }

    /// And to say this too.
    pub(super) fn and(self, says_too: &'static str) -> Self {
        Self { says_too, ..self }
    }

    /// And not to say this.
    pub(super) fn without(self, hides: &'static str) -> Self {
        Self { hides: Some(hides), ..self }
    }

    fn is_met(&self, code: u8, output: &str) -> bool {
        code == self.code
            && output.contains(self.says)
            && output.contains(self.says_too)
            && !self.hides.is_some_and(|text| output.contains(text))
    }
}

impl<'a> Stage<'a> {
    /// Makes the directory and says where it is.
    pub(super) fn build(keep: Option<&Path>, output: &'a Output) -> Result<Self, Failure> {
        let exe = std::env::current_exe().map_err(|error| failure::local("find this program", &error))?;
        let programs = exe.parent().unwrap_or(Path::new("/")).to_path_buf();
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            if !is_ignored(signal) {
                signal_hook::flag::register(signal, Arc::clone(&interrupted))
                    .map_err(|error| failure::local("handle signals", &error))?;
            }
        }
        let place = match keep {
            Some(directory) => Place::kept(directory)?,
            None => Place::temporary()?,
        };
        let stage = Self { place, programs, interrupted, unread: Cell::new(false), output };
        if !stage.finds("stated") {
            let message =
                format!("the daemon's program, stated, is neither in {} nor on PATH", stage.programs.display());
            return Err(Failure::new(FailureKind::Unavailable, message).hint("build both: cargo build --release"));
        }
        if !output.json {
            let end = if keep.is_some() { "kept" } else { "removed at the end" };
            let root = stage.place.root.display();
            stage.print(&format!("A demo in {root}, with a daemon and a key of its own; {end}."))?;
        }
        Ok(stage)
    }

    /// Whether a signal asked for the end.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Whether whoever read this has enough (`statectl demo | head`).
    pub(super) fn unread(&self) -> bool {
        self.unread.get()
    }

    /// Prints a line. Never ends the process, as others may: the daemon must be stopped.
    fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| {
            self.unread.set(error.kind() == io::ErrorKind::BrokenPipe);
            failure::local("write to standard output", &error)
        })
    }

    /// Whether the commands find a program.
    pub(super) fn finds(&self, program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&path));
        directories.any(|directory| {
            rustix::fs::access(directory.join(program), rustix::fs::Access::EXEC_OK).is_ok()
                && directory.join(program).is_file()
        })
    }

    /// Writes a file that the commands use.
    pub(super) fn file(&self, name: &str, content: &str) -> Result<(), Failure> {
        fs::write(self.place.root.join(name), content).map_err(|error| failure::local(format!("write {name}"), &error))
    }

    /// Says what comes next.
    pub(super) fn remark(&self, text: &str) -> Result<(), Failure> {
        if self.output.json {
            return Ok(());
        }
        self.print(&format!("\n{}", self.output.paint("36", &format!("# {text}"))))
    }

    /// Runs a command as it is printed, and checks what it does.
    pub(super) fn run(&mut self, command: &str, expected: &Expected) -> Result<(), Failure> {
        self.prompt(command, "")?;
        let running = self.spawn(command, Stdio::null(), None)?;
        self.finish(running, expected)
    }

    /// Begins a command that goes on beside the next ones. Its standard input stays open.
    pub(super) fn start(&mut self, command: &str) -> Result<Running, Failure> {
        self.prompt(command, " &")?;
        self.spawn(command, Stdio::piped(), Some(0))
    }

    /// Waits for one line of a command, and prints it.
    pub(super) fn show_line(&self, running: &mut Running) -> Result<(), Failure> {
        let mut line = Vec::new();
        running
            .printed
            .read_until(b'\n', &mut line)
            .map_err(|error| failure::local(format!("read what {} prints", running.command), &error))?;
        self.show(running, &line)
    }

    /// Prints the rest of what a command says, waits for its end, and checks it.
    pub(super) fn finish(&self, mut running: Running, expected: &Expected) -> Result<(), Failure> {
        let cannot = |error| failure::local(format!("run {}", running.command), &error);
        let mut rest = Vec::new();
        running.printed.read_to_end(&mut rest).map_err(cannot)?;
        let code = child::exit_code(running.child.wait().map_err(cannot)?);
        self.show(&mut running, &rest)?;
        if self.output.json {
            let step = Step { command: &running.command, output: &running.shown, code };
            self.print(&serde_json::to_string(&step).map_err(|error| failure::local("write JSON", &error.into()))?)?;
        } else if code != 0 {
            self.print(&self.output.paint("2", &format!("[exit code {code}]")))?;
        }
        if expected.is_met(code, &running.shown) {
            return Ok(());
        }
        let Expected { code: wanted, says, .. } = expected;
        let message = format!("expected exit code {wanted} and the words \"{says}\" of: {}", running.command);
        Err(Failure::new(FailureKind::Other, message)
            .hint("keep the directory for a look around: statectl demo --keep DIR"))
    }

    /// The process ID of the daemon.
    pub(super) fn daemon(&self) -> Result<u32, Failure> {
        Ok(self.place.status()?.pid)
    }

    /// Stops the daemon, removes the directory, and says so.
    pub(super) fn leave(self) -> Result<(), Failure> {
        self.place.stop()?;
        let root = self.place.root.clone();
        let ending = match self.place.temporary.is_some() {
            false => {
                let path = self.programs.display();
                let unset = "-u XDG_STATE_HOME -u XDG_CONFIG_HOME -u XDG_RUNTIME_DIR";
                let root = root.display();
                format!("The daemon is stopped. Look around: env {unset} HOME={root} {path}/statectl ls")
            }
            true => format!("The daemon is stopped and {} is removed.", root.display()),
        };
        let output = self.output;
        // Told only when it is true.
        self.place.remove()?;
        if output.json { Ok(()) } else { output.print(&format!("\n{ending}")) }
    }

    fn prompt(&self, command: &str, end: &str) -> Result<(), Failure> {
        if self.interrupted() {
            return Err(Failure::new(FailureKind::Other, "interrupted"));
        }
        if self.output.json {
            return Ok(());
        }
        self.print(&format!("$ {}", self.output.paint("1", &format!("{command}{end}"))))
    }

    fn show(&self, running: &mut Running, bytes: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(bytes);
        running.shown.push_str(&text);
        if self.output.json || text.is_empty() {
            return Ok(());
        }
        self.print(printable(&text).trim_end_matches('\n'))
    }

    /// Runs a command in a shell whose home is the directory, and which knows nothing of the user's own settings.
    fn spawn(&self, command: &str, input: Stdio, group: Option<i32>) -> Result<Running, Failure> {
        let cannot = |error| failure::local(format!("run {command}"), &error);
        let (printed, print) = io::pipe().map_err(cannot)?;
        let mut shell = Command::new("sh");
        // What goes on in the background has a group of its own, as a shell would have it.
        if let Some(group) = group {
            shell.process_group(group);
        }
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["STATED_", "XDG_", "TF_", "TERRAFORM_"].iter().any(|prefix| name.starts_with(prefix)) {
                shell.env_remove(&*name);
            }
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(self.programs.clone()).chain(std::env::split_paths(&path)))
            .map_err(|error| failure::local("set PATH", &io::Error::other(error)))?;
        shell
            .args(["-c", command])
            .current_dir(&self.place.root)
            .env("HOME", &self.place.root)
            .env("PATH", path)
            // What Terraform would ask its makers for, and how it colours.
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_CLI_ARGS", "-no-color")
            .env("TF_IN_AUTOMATION", "1")
            .stdin(input)
            .stdout(print.try_clone().map_err(cannot)?)
            .stderr(print);
        let mut child = shell.spawn().map_err(cannot)?;
        let input = child.stdin.take();
        let printed = BufReader::new(printed);
        Ok(Running { command: command.to_owned(), child, input, printed, shown: String::new() })
    }
}

impl Running {
    /// Lets a command that waits for a line on its standard input go on.
    pub(super) fn go_on(&mut self) {
        if let Some(mut input) = self.input.take() {
            // A command that is gone says so by its exit code.
            let _ = input.write_all(b"\n");
        }
    }
}

impl Drop for Running {
    /// For an end before the end: what went on beside the demo must not start a daemon after it.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::TERM);
            // The end of what they print is the end of all that it started.
            let _ = self.printed.read_to_end(&mut Vec::new());
            let _ = self.child.wait();
        }
    }
}

impl Place {
    /// Where temporary files go, unless sockets would get too long a path there.
    fn temporary() -> Result<Self, Failure> {
        let make = |parent: &Path| {
            tempfile::Builder::new()
                .prefix("stated-demo-")
                .tempdir_in(parent)
                .map_err(|error| failure::local(format!("make a directory in {}", parent.display()), &error))
        };
        let mut directory = make(&std::env::temp_dir())?;
        if directory.path().join(SOCKET).as_os_str().len() > SOCKET_LEN_MAX {
            directory = make(Path::new("/tmp"))?;
        }
        Ok(Self { root: directory.path().to_path_buf(), temporary: Some(directory) })
    }

    fn kept(directory: &Path) -> Result<Self, Failure> {
        let cannot = |error| failure::local(format!("make {}", directory.display()), &error);
        let root = std::path::absolute(directory).map_err(cannot)?;
        if root.join(SOCKET).as_os_str().len() > SOCKET_LEN_MAX {
            let message = format!("{} has too long a path for the daemon's socket", root.display());
            return Err(Failure::new(FailureKind::Usage, message).hint("choose a shorter one"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(cannot)?;
        if fs::read_dir(&root).map_err(cannot)?.next().is_some() {
            let message = format!("{} is not empty", root.display());
            return Err(Failure::new(FailureKind::Usage, message).hint("choose a directory that does not exist yet"));
        }
        Ok(Self { root, temporary: None })
    }

    fn status(&self) -> Result<StatusInfo, Failure> {
        let options = ConnectOptions { socket: Some(self.root.join(SOCKET)), ..ConnectOptions::default() };
        match Client::connect(&options)?.call(&Request::Status)? {
            Reply::Status(info) => Ok(*info),
            _ => Err(failure::unexpected()),
        }
    }

    /// Stops the daemon where one runs, and waits for its end.
    fn stop(&self) -> Result<(), Failure> {
        let pid = match self.status() {
            Ok(info) => i32::try_from(info.pid).ok().and_then(Pid::from_raw),
            Err(failure) if failure.kind == FailureKind::Unavailable => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let cannot = |error: rustix::io::Errno| failure::local("stop the daemon", &error.into());
        let Some(pid) = pid else { return Ok(()) };
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(cannot)?;
        pidfd_send_signal(&pidfd, Signal::TERM).map_err(cannot)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&STOP_MAX)).map_err(cannot)? {
            0 => pidfd_send_signal(&pidfd, Signal::KILL).map_err(cannot),
            _ => Ok(()),
        }
    }

    /// Removes a temporary directory.
    fn remove(mut self) -> Result<(), Failure> {
        match self.temporary.take() {
            Some(directory) => directory.close().map_err(|error| failure::local("remove the directory", &error)),
            None => Ok(()),
        }
    }
}

impl Drop for Place {
    /// For an end before the end; the directory removes itself after it.
    fn drop(&mut self) {
        if let Err(failure) = self.stop() {
            tell!("statectl: {}", failure.message);
        }
    }
}
