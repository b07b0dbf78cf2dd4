//! The connection that drops and comes back: by waiting for it in a call, or in passing while a caller polls.

use std::thread::JoinHandle;
use std::time::Instant;

use stated_shared::wire::Welcome;
use stated_shared::{Failure, FailureKind, Notice};

use super::Client;
use crate::autostart;
use crate::connection::{Broken, Connection, Incoming};
use crate::discover;
use crate::retry::{Bound, Pauses};

/// The connection, or what is being done to have one again.
pub(super) enum Link {
    Up { connection: Connection, closing: bool },
    Down { start: Option<JoinHandle<Result<Option<String>, Failure>>> },
}

impl Link {
    pub(super) fn up(connection: Connection) -> Self {
        Self::Up { connection, closing: false }
    }

    pub(super) fn down() -> Self {
        Self::Down { start: None }
    }
}

/// When the next attempt in passing may be made; it is forgotten at the next welcome, not at the next connection.
pub(super) struct Passing {
    next_attempt: Instant,
    pauses: Pauses,
}

impl Passing {
    pub(super) fn new() -> Self {
        Self { next_attempt: Instant::now(), pauses: Pauses::new() }
    }
}

impl Client {
    pub(super) fn connection(&mut self) -> Result<&mut Connection, Broken> {
        match &mut self.link {
            Link::Up { connection, .. } => Ok(connection),
            Link::Down { .. } => Err(Broken::Lost(std::io::ErrorKind::NotConnected.into())),
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.link, Link::Up { closing: true, .. })
    }

    /// Makes sure of a connection whose handshake is over, as long as the bound allows.
    pub(super) fn resume(&mut self, bound: &mut Bound) -> Result<(), Broken> {
        if let Link::Up { connection, .. } = &self.link
            && connection.is_open()
        {
            return Ok(());
        }
        let lost_at = Instant::now();
        let deadline = bound.lost(lost_at);
        let mut pauses = Pauses::new();
        // An attempt made in passing may have a handshake that is not over.
        let mut begun = match std::mem::replace(&mut self.link, Link::down()) {
            Link::Up { connection, .. } => Some(connection),
            Link::Down { .. } => None,
        };
        let mut last = None;
        while Instant::now() < deadline {
            match self.try_again(begun.take(), deadline) {
                Ok(welcome) => {
                    if !self.welcomed(welcome).map_err(Broken::Refused)? {
                        continue;
                    }
                    bound.resumed(lost_at.elapsed());
                    return Ok(());
                }
                Err(Broken::Lost(error)) => last = Some(discover::unreachable(&self.socket, &error)),
                Err(Broken::Refused(failure)) if is_passing(&failure) => last = Some(failure),
                Err(refused) => return Err(refused),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            std::thread::sleep(pauses.next().min(left));
        }
        let failure = last.unwrap_or_else(|| Failure::new(FailureKind::Unavailable, "the connection was lost"));
        Err(Broken::Refused(Failure { kind: FailureKind::Unavailable, ..failure }))
    }

    /// One attempt to resume; the caller takes note of the welcome.
    pub(crate) fn try_again(&mut self, begun: Option<Connection>, deadline: Instant) -> Result<Welcome, Broken> {
        let connection = begun.map_or_else(|| self.open_again(), Ok)?;
        let (connection, welcome) = await_welcome(connection, deadline)?;
        self.link = Link::up(connection);
        Ok(welcome)
    }

    /// One attempt to connect where this session was, starting the daemon again where it may be.
    fn open_again(&self) -> Result<Connection, Broken> {
        match Connection::open(&self.socket, &self.hello) {
            Err(Broken::Lost(error))
                if discover::nobody_listens(&error) && discover::may_start(&self.options, &self.socket) =>
            {
                autostart::start(&self.options, &self.socket).map_err(Broken::Refused)?;
                Connection::open(&self.socket, &self.hello)
            }
            result => result,
        }
    }

    /// One attempt that does not wait; `true` where there is something to read again.
    pub(super) fn reopen_in_passing(&mut self) -> Result<bool, Failure> {
        let Link::Down { start } = &mut self.link else { return Ok(true) };
        if start.as_ref().is_some_and(|start| !start.is_finished()) || Instant::now() < self.passing.next_attempt {
            return Ok(false);
        }
        // How a start ended shows in whether somebody listens now.
        *start = None;
        self.passing.next_attempt = Instant::now() + self.passing.pauses.next();
        let opened = Connection::open(&self.socket, &self.hello).and_then(|mut connection| {
            connection.flush()?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                self.link = Link::up(connection);
                Ok(true)
            }
            Err(Broken::Lost(error)) => {
                if discover::nobody_listens(&error) && discover::may_start(&self.options, &self.socket) {
                    let (options, socket) = (self.options.clone(), self.socket.clone());
                    *start = std::thread::Builder::new()
                        .name("stated-start".into())
                        .spawn(move || autostart::start(&options, &socket))
                        .ok();
                }
                Ok(false)
            }
            Err(Broken::Refused(failure)) => Err(failure),
        }
    }

    /// Takes note of a handshake after the first one; `false` where there has to be another one at once.
    ///
    /// That is where somebody accepted meanwhile that the journal went back: the daemon showed a record of before.
    pub(crate) fn welcomed(&mut self, welcome: Welcome) -> Result<bool, Failure> {
        self.ahead = false;
        if welcome.repository != self.welcome.repository {
            self.link = Link::down();
            return Err(Failure::new(
                FailureKind::Unavailable,
                format!("another repository answers at {} now: {}", self.socket.display(), welcome.repository),
            ));
        }
        if let Err(failure) = self.witness.check(&welcome, &self.socket) {
            self.link = Link::down();
            if !self.witness.accepted_since() {
                return Err(failure);
            }
            self.hello.pin = self.witness.seq();
            return Ok(false);
        }
        self.witness.welcomed(&welcome);
        self.hello.pin = self.witness.seq();
        self.passing = Passing::new();
        let resumed = welcome.resumed;
        self.welcome = welcome;
        if !resumed {
            for id in std::mem::take(&mut self.held) {
                self.notice(Notice::LockLost { id, why: "the daemon restarted and does not know it any more".into() });
            }
        }
        Ok(true)
    }
}

/// Finishes the handshake.
pub(super) fn await_welcome(mut connection: Connection, deadline: Instant) -> Result<(Connection, Welcome), Broken> {
    connection.flush()?;
    match connection.receive(Some(deadline))? {
        Some(Incoming::Welcome(welcome)) => Ok((connection, *welcome)),
        Some(Incoming::Frame(_)) => {
            Err(Broken::Refused(Failure::new(FailureKind::Protocol, "the server sent a frame before its welcome")))
        }
        None => Err(Broken::Lost(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Whether the daemon will say something else in a moment.
pub(crate) fn is_passing(failure: &Failure) -> bool {
    failure.kind == FailureKind::Unavailable
}
