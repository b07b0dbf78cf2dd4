//! The beginning of a session: a hello on its way, and perhaps a request right behind it.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stated_shared::wire::{ClientFrame, ClientHello, encode};
use stated_shared::{Failure, FailureKind, Request, SessionId};

use super::Client;
use super::exchange::FIRST;
use super::resume::{Link, Passing, await_welcome};
use crate::connection::{Broken, Connection};
use crate::discover::{self, ConnectOptions};
use crate::pin::Witness;
use crate::random::random;
use crate::retry::Pauses;

/// A session whose daemon has not said yet what it is.
///
/// Who listens is believed by its uid, and the hello is sent; what keeps the journal is not known. What is asked here
/// may change nothing that lasts: a daemon whose journal went back is found out only by [`Opening::finish`].
pub(crate) struct Opening {
    options: ConnectOptions,
    hello: ClientHello,
    deadline: Instant,
    pauses: Pauses,
    daemon_said: Option<String>,
    connection: Connection,
    socket: PathBuf,
    witness: Witness,
    ahead: bool,
}

impl Opening {
    /// Finds the daemon, starting one where that is allowed, and says hello to it.
    pub(crate) fn begin(options: &ConnectOptions, welcome_max: Duration) -> Result<Self, Failure> {
        let session =
            random().map_err(|error| Failure::new(FailureKind::Other, format!("no random numbers: {error}")))?;
        let exe = options.exe.clone();
        let mut hello = ClientHello { session: SessionId(session), exe, features: Vec::new(), pin: None };
        let deadline = Instant::now() + welcome_max;
        let (mut pauses, mut daemon_said) = (Pauses::new(), None);
        let found = find(options, &mut hello, &mut daemon_said, deadline, &mut pauses)?;
        let (connection, socket, witness) = found;
        let options = options.clone();
        Ok(Self { options, hello, deadline, pauses, daemon_said, connection, socket, witness, ahead: false })
    }

    /// The socket that answers.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "statectl alone asks ahead"))]
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends the session's first request before the daemon has answered to the hello.
    ///
    /// It is to be asked again, as the first request of the finished session, which then only waits for the answer.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "statectl alone asks ahead"))]
    pub(crate) fn ask_ahead(&mut self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        let frame = encode(&ClientFrame::Request { number: FIRST, request: Box::new(request.clone()) })
            .map_err(|error| Failure::new(FailureKind::Usage, format!("request too large: {error}")))?;
        // A connection that is lost already shows when the welcome is awaited.
        self.ahead = self.connection.send(&frame, descriptor).is_ok();
        Ok(())
    }

    /// Waits for the welcome, and believes the journal or not.
    pub(crate) fn finish(mut self) -> Result<Client, Failure> {
        loop {
            let error = match await_welcome(self.connection, self.deadline) {
                Ok((connection, welcome)) => {
                    match self.witness.check(&welcome, &self.socket) {
                        Ok(()) => self.witness.welcomed(&welcome),
                        Err(failure) if failure.kind == FailureKind::Storage && self.options.accept_rollback => {
                            self.witness.accept(&welcome);
                        }
                        Err(failure) => return Err(failure),
                    }
                    self.hello.pin = self.witness.seq();
                    return Ok(Client {
                        options: self.options,
                        socket: self.socket,
                        hello: self.hello,
                        welcome,
                        witness: self.witness,
                        daemon_said: self.daemon_said,
                        link: Link::up(connection),
                        passing: Passing::new(),
                        number: 0,
                        ahead: self.ahead,
                        held: BTreeSet::new(),
                        handler: None,
                        progress: None,
                        kept: Vec::new(),
                    });
                }
                Err(Broken::Refused(failure)) => return Err(failure),
                Err(Broken::Lost(error)) => error,
            };
            // A daemon that stops may still accept and then drop the connection: its successor answers, where this one did.
            pause(&error, self.deadline, &mut self.pauses)?;
            let options = ConnectOptions { socket: Some(self.socket), ..self.options.clone() };
            let found = find(&options, &mut self.hello, &mut self.daemon_said, self.deadline, &mut self.pauses)?;
            (self.connection, self.socket, self.witness) = found;
            self.ahead = false;
        }
    }
}

/// A connection whose hello is sent.
fn find(
    options: &ConnectOptions,
    hello: &mut ClientHello,
    said: &mut Option<String>,
    deadline: Instant,
    pauses: &mut Pauses,
) -> Result<(Connection, PathBuf, Witness), Failure> {
    loop {
        let opened = discover::connect(options, hello, said).and_then(|(mut connection, socket, witness)| {
            connection.flush()?;
            Ok((connection, socket, witness))
        });
        match opened {
            Ok(opened) => return Ok(opened),
            Err(Broken::Refused(failure)) => return Err(failure),
            Err(Broken::Lost(error)) => pause(&error, deadline, pauses)?,
        }
    }
}

fn pause(error: &std::io::Error, deadline: Instant, pauses: &mut Pauses) -> Result<(), Failure> {
    if Instant::now() >= deadline {
        return Err(Failure::new(FailureKind::Unavailable, format!("the daemon does not answer: {error}"))
            .hint("statectl status"));
    }
    std::thread::sleep(pauses.next());
    Ok(())
}
