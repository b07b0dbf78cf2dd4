//! Which socket is the daemon's, and what to do where nobody listens.

use std::io;
use std::path::{Path, PathBuf};

use stated_shared::wire::ClientHello;
use stated_shared::{Failure, FailureKind};

use crate::autostart;
use crate::connection::{Broken, Connection};
use crate::pin::Witness;
use stated_shared::paths::{self, Environment, ProcessEnvironment};

/// How the daemon is found.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// The socket; the user's, then the system's, where absent.
    pub socket: Option<PathBuf>,
    /// Whether a daemon is started where none runs.
    pub autostart: bool,
    /// The state directory of a daemon that is started; the user's own where absent.
    pub state_dir: Option<PathBuf>,
    /// The program as it calls itself in the audit log.
    pub exe: Option<String>,
    /// The directory in which is kept what was seen of the journal at each socket; made where it is missing. A journal
    /// that went back is then refused ([`FailureKind::Storage`]). Without one a session notices it for itself alone.
    pub pins: Option<PathBuf>,
    /// Whether a journal that went back is believed from now on.
    pub accept_rollback: bool,
    /// Hears what a daemon that is started waits for, that a token is touched for one.
    pub on_ask: Option<fn(&str)>,
}

impl ConnectOptions {
    /// `STATED_SOCKET`, `STATED_STATE_DIR`, `STATED_NO_AUTOSTART` (any value but the empty one), and this program's path.
    pub fn from_env() -> Self {
        let env = ProcessEnvironment;
        let path = |name| env.var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            socket: path("STATED_SOCKET"),
            autostart: path("STATED_NO_AUTOSTART").is_none(),
            state_dir: path("STATED_STATE_DIR"),
            exe: std::env::current_exe().ok().map(|path| path.display().to_string()),
            pins: None,
            accept_rollback: false,
            on_ask: None,
        }
    }

    /// The state directory that a daemon would be started with.
    pub(crate) fn daemon_state_dir(&self) -> Option<PathBuf> {
        self.state_dir.clone().or_else(|| paths::user_state_dir(&ProcessEnvironment))
    }
}

/// Whether nobody listens there, so that a daemon may be started.
pub(crate) fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Connects to the first socket that answers, after starting a daemon where that is allowed.
///
/// What a daemon that was started says of its start is left in `said`. The hello asks for what was seen at that socket.
pub(crate) fn connect(
    options: &ConnectOptions,
    hello: &mut ClientHello,
    said: &mut Option<String>,
) -> Result<(Connection, PathBuf, Witness), Broken> {
    let candidates = match &options.socket {
        Some(socket) => vec![socket.clone()],
        None => paths::sockets(&ProcessEnvironment),
    };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for socket in &candidates {
        let witness = Witness::of(options.pins.as_deref(), socket);
        hello.pin = witness.seq();
        match Connection::open(socket, hello) {
            Ok(connection) => return Ok((connection, socket.clone(), witness)),
            Err(Broken::Lost(error)) if nobody_listens(&error) => last = error,
            Err(Broken::Lost(error)) => return Err(Broken::Refused(unreachable(socket, &error))),
            Err(refused) => return Err(refused),
        }
    }
    let Some(socket) = candidates.first() else { unreachable!("the system's socket is always a candidate") };
    let system_exists = options.socket.is_none() && Path::new(paths::SYSTEM_SOCKET).exists();
    if system_exists || !may_start(options, socket) {
        let socket = if system_exists { Path::new(paths::SYSTEM_SOCKET) } else { socket };
        return Err(Broken::Refused(unreachable(socket, &last)));
    }
    *said = autostart::start(options, socket).map_err(Broken::Refused)?;
    let witness = Witness::of(options.pins.as_deref(), socket);
    hello.pin = witness.seq();
    let connection = Connection::open(socket, hello)?;
    Ok((connection, socket.clone(), witness))
}

/// Whether a daemon may be started for this socket.
pub(crate) fn may_start(options: &ConnectOptions, socket: &Path) -> bool {
    options.autostart && !paths::is_system_socket(socket)
}

/// The failure of a connection attempt.
pub(crate) fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let place = socket.display();
    let start = if paths::is_system_socket(socket) { "systemctl start stated" } else { "stated run &" };
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(FailureKind::Denied, format!("may not connect to {place}")),
        io::ErrorKind::InvalidInput => {
            Failure::new(FailureKind::Usage, format!("{place} is too long for a socket's path (107 bytes)"))
                .hint("choose a shorter one with --socket or STATED_SOCKET")
        }
        io::ErrorKind::NotFound => Failure::new(FailureKind::Unavailable, format!("no daemon runs at {place}"))
            .hint(format!("start it: {start}")),
        io::ErrorKind::ConnectionRefused => {
            Failure::new(FailureKind::Unavailable, format!("no daemon listens at {place} any more"))
                .hint(format!("start it: {start}"))
        }
        _ => Failure::new(FailureKind::Unavailable, format!("cannot connect to {place}: {error}")),
    }
}
