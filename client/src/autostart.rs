//! Starts the daemon where none runs, and waits until it serves.
//!
//! Many clients may do this at once: each starts a daemon, one of them gets the state directory's lock, the others
//! end with the exit code of a busy lock, and their clients wait for the winner's socket.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stated_shared::{Failure, FailureKind};

use crate::discover::ConnectOptions;
use crate::launch;
use crate::random::random;
use crate::retry::Pauses;
use stated_shared::paths::{Environment, ProcessEnvironment};

/// How long a daemon may take to serve, its replay included.
const START_MAX: Duration = Duration::from_secs(60);
/// How long the winner of a start race may take to serve.
const WINNER_MAX: Duration = Duration::from_secs(10);
/// How long its socket is awaited before another start is tried: the lock's holder may have been on its way out.
const WINNER_SOCKET_MAX: Duration = Duration::from_millis(500);
/// The log is set aside where it is longer than this.
const LOG_LEN_MAX: u64 = 1 << 20;
/// How many of its lines a failure quotes.
const LOG_LINES: usize = 5;

/// What of the environment tells the daemon its places and where its secrets are; no variable holds a secret itself.
const TOLD: [&str; 10] = [
    "PATH",
    "STATED_CONFIG",
    "STATED_IDENTITY_COMMAND",
    "STATED_IDENTITY_FILE",
    "STATED_LOG",
    "STATED_PASSPHRASE_COMMAND",
    "STATED_PASSPHRASE_FILE",
    "STATED_STATE_DIR",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
];
/// Those of them that are paths: the daemon runs in `/`, and they are meant from here.
const TOLD_PATHS: [&str; 3] = ["STATED_CONFIG", "STATED_IDENTITY_FILE", "STATED_PASSPHRASE_FILE"];

/// Starts the daemon beside this program, else on `PATH`, for this socket; returns once somebody serves there.
pub(crate) fn start(options: &ConnectOptions, socket: &Path) -> Result<Option<String>, Failure> {
    let state_dir = options.daemon_state_dir();
    let directory = socket.parent().filter(|_| socket.is_absolute()).ok_or_else(|| {
        Failure::new(FailureKind::Usage, "a daemon is started at an absolute socket path only")
            .hint(format!("statectl --socket \"$PWD\"/{}", socket.display()))
    })?;
    for directory in [Some(directory), state_dir.as_deref()].into_iter().flatten() {
        check_owner(directory)?;
    }
    make(directory).map_err(|error| cannot(&format!("create {}", directory.display()), &error))?;
    if start_by_systemd(options, socket) {
        return Ok(None);
    }
    let state_dir = options.state_dir.as_deref();
    Launch { program: daemon_program(), socket, state_dir, directory, on_ask: options.on_ask }.run()
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => FailureKind::Denied,
        _ => FailureKind::Unavailable,
    };
    let failure = Failure::new(kind, format!("cannot start the daemon: cannot {what}: {error}"));
    match kind {
        FailureKind::Denied => {
            failure.hint("it must be this user's own: chown it, or set XDG_STATE_HOME to another place")
        }
        _ => failure,
    }
}

/// Refuses directories of somebody else: under sudo the environment still points at the caller's own.
fn check_owner(directory: &Path) -> Result<(), Failure> {
    let Some(why) = somebody_elses(directory) else { return Ok(()) };
    Err(Failure::new(FailureKind::Denied, format!("no daemon is started: {why}"))
        .hint("run it as that user, start the system's daemon (systemctl start stated), or name another --socket"))
}

/// Makes the directory of a user's socket, for that user alone.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Why a directory, or the place where it shall be made, is not this user's own; none where it is.
pub(crate) fn somebody_elses(directory: &Path) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    for (depth, ancestor) in directory.ancestors().enumerate() {
        let Ok(metadata) = std::fs::metadata(ancestor) else { continue };
        let owner = metadata.uid();
        // A missing directory may be made below one of root's, where the mode allows it.
        if owner == own || (owner == 0 && depth > 0) {
            return None;
        }
        return Some(format!("{} belongs to uid {owner}, and this is uid {own}", ancestor.display()));
    }
    None
}

/// `stated` beside this program, else on `PATH`.
pub(crate) fn daemon_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("stated"));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("stated"))
}

/// Starts the daemon as a unit of the user's service manager, so that it does not count as part of this login session.
///
/// `false` where that does not work; a start by hand then says why, if it fails too.
fn start_by_systemd(options: &ConnectOptions, socket: &Path) -> bool {
    let env = ProcessEnvironment;
    let Some(runtime) = env.var("XDG_RUNTIME_DIR").map(PathBuf::from) else { return false };
    if !runtime.join("systemd/private").exists() || !socket.starts_with(&runtime) {
        return false;
    }
    let mut command = Command::new("systemd-run");
    command.args(["--user", "--quiet", "--collect", "--service-type=notify", "--unit=stated-autostart"]);
    for name in TOLD.iter().filter(|name| env.var(name).is_some()) {
        // Without a value, which it then takes from its own environment.
        command.arg(format!("--setenv={name}"));
    }
    tell_paths(&mut command, &env);
    command.arg("--").arg(daemon_program()).args(["run", "--socket"]).arg(socket);
    if let Some(state_dir) = &options.state_dir {
        command.arg("--state-dir").arg(state_dir);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Makes the paths in a command's environment absolute.
fn tell_paths(command: &mut Command, env: &dyn Environment) {
    for name in TOLD_PATHS {
        let Some(path) = env.var(name).filter(|path| !path.is_empty()) else { continue };
        if let Ok(path) = std::path::absolute(path) {
            command.env(name, path);
        }
    }
}

/// What one start needs to know.
struct Launch<'a> {
    program: PathBuf,
    socket: &'a Path,
    state_dir: Option<&'a Path>,
    directory: &'a Path,
    on_ask: Option<fn(&str)>,
}

/// How a start ended.
enum Outcome {
    /// It serves, and says this of its start.
    Serves(Option<String>),
    Ended(ExitStatus),
}

impl Launch<'_> {
    fn run(&self) -> Result<Option<String>, Failure> {
        let (mut log, log_path) = self.open_log()?;
        let give_up = Instant::now() + WINNER_MAX;
        loop {
            let log_start = log.seek(SeekFrom::End(0)).unwrap_or(0);
            let status = match self.attempt(&log)? {
                Outcome::Serves(said) => return Ok(said),
                Outcome::Ended(status) => status,
            };
            if status.code() != Some(i32::from(FailureKind::Busy.exit_code())) {
                return Err(ended(status, &last_lines(&mut log, log_start), &log_path));
            }
            if await_socket(self.socket, give_up.min(Instant::now() + WINNER_SOCKET_MAX)) {
                return Ok(None);
            }
            if Instant::now() >= give_up {
                return Err(ended(status, &last_lines(&mut log, log_start), &log_path));
            }
        }
    }

    fn open_log(&self) -> Result<(File, PathBuf), Failure> {
        let path = self.directory.join("stated.log");
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LEN_MAX) {
            let _ = std::fs::rename(&path, self.directory.join("stated.log.old"));
        }
        let log = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(|error| cannot(&format!("open {}", path.display()), &error))?;
        Ok((log, path))
    }

    /// Starts one daemon and waits until it says that it serves, or ends.
    fn attempt(&self, log: &File) -> Result<Outcome, Failure> {
        let ready = Ready::bind(self.directory).map_err(|error| cannot("await its start", &error))?;
        let stderr = log.try_clone().map_err(|error| cannot("share its log", &error))?;
        let mut command = Command::new(&self.program);
        command.args(["run", "--socket"]).arg(self.socket);
        if let Some(state_dir) = self.state_dir {
            command.arg("--state-dir").arg(state_dir);
        }
        command
            .current_dir("/")
            .env("NOTIFY_SOCKET", &ready.path)
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        tell_paths(&mut command, &ProcessEnvironment);
        launch::detach(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(
                FailureKind::Unavailable,
                "no daemon runs, and the program stated is neither beside this one nor on PATH",
            ),
            _ => cannot(&format!("run {}", self.program.display()), &error),
        })?;
        let outcome = ready.wait(&mut child, self.on_ask).map_err(|error| cannot("await its start", &error))?;
        if matches!(outcome, Outcome::Serves(_)) {
            reap(child);
        }
        Ok(outcome)
    }
}

/// Waits for the daemon in the background, so that it leaves no zombie in a client that outlives it.
fn reap(mut child: Child) {
    let reaper = std::thread::Builder::new().name("stated-reaper".into());
    // Without a thread the zombie stays until this process ends, which harms nobody.
    let _ = reaper.spawn(move || child.wait());
}

/// The socket on which the daemon says that it serves (sd_notify).
struct Ready {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Ready {
    fn bind(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!(".ready-{:016x}", u64::from_ne_bytes(random()?)));
        if path.as_os_str().as_bytes().len() > 107 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket's directory has too long a path"));
        }
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { path, socket })
    }

    fn wait(&self, child: &mut Child, on_ask: Option<fn(&str)>) -> io::Result<Outcome> {
        let pid = rustix::process::Pid::from_child(child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let mut deadline = Instant::now() + START_MAX;
        let mut message = [0; 4096];
        loop {
            while let Ok(len) = self.socket.recv(&mut message) {
                let lines = || message[..len].split(|&byte| byte == b'\n');
                let status = lines().find_map(|line| line.strip_prefix(b"STATUS="));
                let status = status.map(|status| String::from_utf8_lossy(status).into_owned());
                if lines().any(|line| line == b"READY=1") {
                    return Ok(Outcome::Serves(status));
                }
                if lines().any(|line| line == b"X_STATED_ASKS=1") {
                    // Somebody has to act, and the daemon sees to it that it does not take too long.
                    deadline = Instant::now() + START_MAX;
                    on_ask.into_iter().zip(&status).for_each(|(on_ask, status)| on_ask(status));
                }
            }
            if let Some(status) = child.try_wait()? {
                return Ok(Outcome::Ended(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it runs but says nothing"));
            }
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            let socket = self.socket.as_fd();
            let mut fds = [PollFd::new(&socket, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits until somebody listens on the socket.
fn await_socket(socket: &Path, deadline: Instant) -> bool {
    let mut pauses = Pauses::new();
    loop {
        // A socket says nothing when it begins to exist, so it is tried.
        if UnixStream::connect(socket).is_ok() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(pauses.next().min(left));
    }
}

/// The failure of a daemon that ended at its start, of the kind that its exit code tells.
fn ended(status: ExitStatus, lines: &str, log: &Path) -> Failure {
    // What the caller can do something about; the rest would read as if it were about the caller's own request.
    let kinds = [FailureKind::Internal, FailureKind::Storage, FailureKind::Denied, FailureKind::Config];
    let code = status.code();
    let kind = kinds.into_iter().find(|kind| code == Some(i32::from(kind.exit_code())));
    let how = match (code, status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    };
    let said = if lines.is_empty() { String::new() } else { format!("; it said:\n{lines}") };
    Failure::new(kind.unwrap_or(FailureKind::Unavailable), format!("the daemon did not start ({how}){said}"))
        .hint(format!("its log is {}", log.display()))
}

fn last_lines(log: &mut File, start: u64) -> String {
    let mut bytes = Vec::new();
    let end = log.metadata().map_or(start, |metadata| metadata.len());
    let from = start.max(end.saturating_sub(16 << 10));
    if log.seek(SeekFrom::Start(from)).is_err() || log.take(16 << 10).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
