//! Connections of which no call waits for ever.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};

use crate::LIMIT;
use crate::running::await_readable;

/// Connects; that, each read and each write take [`LIMIT`] at most.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    // It holds for the connecting, too: a backlog that nobody takes from makes that wait.
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(LIMIT))?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Recv, Some(LIMIT))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

/// Waits for somebody to connect.
#[track_caller]
pub fn accept(listener: &UnixListener) -> UnixStream {
    let readable = OwnedFd::from(listener.try_clone().expect("a descriptor"));
    assert!(await_readable(&readable), "nobody connects");
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_write_timeout(Some(LIMIT))).expect("a socket");
    stream
}
