//! A client that asks once: whatever happens to its connection, it neither retries nor guesses.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use stated_shared::limits::{CHUNK_LEN_MAX, FRAME_LEN_MAX, HELLO_LEN_MAX};
use stated_shared::wire::{
    ClientFrame, ClientHello, PREFIX_LEN, Preamble, ServerFrame, ServerHello, Welcome, body_len, decode, encode,
};
use stated_shared::{Bytes, Failure, Reply, Request, SessionId};

use crate::{Random, connect};

/// One connection.
#[derive(Debug)]
pub struct Direct {
    stream: UnixStream,
    number: u64,
    /// What the daemon said of itself.
    pub welcome: Welcome,
}

impl Direct {
    /// Connects and shakes hands.
    pub fn connect(socket: &Path, random: &mut Random) -> io::Result<Self> {
        let mut session = [0; 16];
        session.copy_from_slice(&random.bytes(16));
        Self::resume(socket, SessionId(session))
    }

    /// As [`Direct::connect`], in a session of before; its numbers begin anew, so the first request is a retry.
    pub fn resume(socket: &Path, session: SessionId) -> io::Result<Self> {
        let mut stream = connect(socket)?;
        let hello = ClientHello { session, exe: None, features: Vec::new(), pin: None };
        stream.write_all(&Preamble::OURS.encode())?;
        stream.write_all(&encode(&hello).map_err(io::Error::other)?)?;
        let mut preamble = [0; Preamble::LEN];
        stream.read_exact(&mut preamble)?;
        let body = frame(&mut stream, HELLO_LEN_MAX)?;
        let hello: ServerHello = decode(&body).map_err(io::Error::other)?;
        Ok(Self { stream, number: 0, welcome: hello.map_err(io::Error::other)? })
    }

    /// The connection alone: what is said on it from now on is up to the test.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Asks; an `Err` leaves open whether it was done. Contents go after the request, in chunks.
    pub fn ask(&mut self, request: Request, contents: &[Vec<u8>]) -> io::Result<Result<Reply, Failure>> {
        self.number += 1;
        let number = self.number;
        let request = ClientFrame::Request { number, request: Box::new(request) };
        self.stream.write_all(&encode(&request).map_err(io::Error::other)?)?;
        for piece in contents.iter().flat_map(|content| content.chunks(CHUNK_LEN_MAX)) {
            let chunk = ClientFrame::Chunk { number, data: Bytes(piece.to_vec()) };
            self.stream.write_all(&encode(&chunk).map_err(io::Error::other)?)?;
        }
        loop {
            match server_frame(&mut self.stream)? {
                ServerFrame::Reply { number: of, result } if of == number => return Ok(*result),
                _ => {}
            }
        }
    }
}

/// The next frame after the hellos.
pub fn server_frame(stream: &mut UnixStream) -> io::Result<ServerFrame> {
    decode(&frame(stream, FRAME_LEN_MAX)?).map_err(io::Error::other)
}

fn frame(stream: &mut UnixStream, len_max: usize) -> io::Result<Vec<u8>> {
    let mut prefix = [0; PREFIX_LEN];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; body_len(prefix, len_max).map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    Ok(body)
}
