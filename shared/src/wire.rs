//! Frames: a length, then one bincode value, on the socket and nowhere else.
//!
//! A connection starts with a [`Preamble`] from each side, whose form never changes, so that any two
//! builds can tell each other their versions. Then the client sends a [`ClientHello`] and the server
//! answers with a [`ServerHello`]; from there on [`ClientFrame`]s and [`ServerFrame`]s. See docs/protocol.md.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits::{FRAME_LEN_MAX, HELLO_LEN_MAX};
use crate::{Bytes, Digest, Epoch, Failure, Notice, Reply, RepositoryId, Request, Seq, SessionId};

/// The version of everything after the preamble.
pub const PROTOCOL: u16 = 1;

/// The first bytes of either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// The sender's [`PROTOCOL`].
    pub protocol: u16,
}

impl Preamble {
    /// Its length in bytes.
    pub const LEN: usize = 8;
    const MAGIC: &[u8; 6] = b"stated";

    /// This build's preamble.
    pub const OURS: Self = Self { protocol: PROTOCOL };

    /// The bytes to send.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..6].copy_from_slice(Self::MAGIC);
        bytes[6..].copy_from_slice(&self.protocol.to_be_bytes());
        bytes
    }

    /// `None` where the peer speaks something else altogether.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (magic, protocol) = bytes.split_at(6);
        (magic == Self::MAGIC).then(|| Self { protocol: u16::from_be_bytes([protocol[0], protocol[1]]) })
    }
}

/// The client's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// The session to open, or to resume after a lost connection.
    pub session: SessionId,
    /// The program as it calls itself.
    pub exe: Option<String>,
    /// Additions to the protocol that the client knows; none exist yet.
    pub features: Vec<String>,
    /// A record that the client saw here before, and asks to be shown again.
    pub pin: Option<Seq>,
}

/// The server's first frame; after a failure it closes.
pub type ServerHello = Result<Welcome, Failure>;

/// The facts of the daemon that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The daemon's version.
    pub version: String,
    /// The repository that it keeps.
    pub repository: RepositoryId,
    /// This start of the daemon.
    pub epoch: Epoch,
    /// The last durable record.
    pub seq: Seq,
    /// The chain's MAC at that record.
    pub head: Digest,
    /// Whether the session held locks that it has again.
    pub resumed: bool,
    /// Additions to the protocol that both sides know.
    pub features: Vec<String>,
    /// The record that the client asked for.
    pub pinned: Pinned,
}

/// What became of the record that a client saw before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pinned {
    /// The client asked for none.
    Unasked,
    /// It is there, and this is the chain's MAC at it.
    At(Digest),
    /// The journal ends before it.
    Beyond,
    /// It is there and cannot be read: why.
    Unreadable(String),
}

/// From client to server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ClientFrame {
    /// A request; its content follows in chunks where it says so.
    Request {
        /// Grows by one with each new request of the session; a retry keeps it.
        number: u64,
        /// What is asked.
        request: Box<Request>,
    },
    /// A piece of the content of a request.
    Chunk {
        /// The request.
        number: u64,
        /// At least one byte, at most [`crate::limits::CHUNK_LEN_MAX`].
        data: Bytes,
    },
}

/// From server to client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ServerFrame {
    /// The answer to a request.
    Reply {
        /// The request.
        number: u64,
        /// Done, or why not.
        result: Box<Result<Reply, Failure>>,
    },
    /// A piece of the content that a `Reply::Fetched` announced.
    Chunk {
        /// The request.
        number: u64,
        /// At least one byte, at most [`crate::limits::CHUNK_LEN_MAX`].
        data: Bytes,
    },
    /// The content that was announced cannot be read to its end.
    Cut {
        /// The request.
        number: u64,
        /// Why.
        failure: Box<Failure>,
    },
    /// Something that nobody asked for.
    Notice(Box<Notice>),
}

/// A value that is not a frame. The peer's fault on receipt, ours on sending.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("frame of {len} bytes is over the limit of {max}")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Not a value of this protocol.
    #[error("frame does not decode: {0}")]
    Malformed(String),
    /// Bytes after the value.
    #[error("frame has {0} bytes too many")]
    Trailing(usize),
}

/// The length prefix, in bytes.
pub const PREFIX_LEN: usize = 4;

/// Reads the length prefix and checks it, before anything is allocated.
pub fn body_len(prefix: [u8; PREFIX_LEN], len_max: usize) -> Result<usize, FrameError> {
    let len = u32::from_be_bytes(prefix) as usize;
    if len > len_max { Err(FrameError::TooLong { len, max: len_max }) } else { Ok(len) }
}

/// Encodes a value with its length prefix.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; PREFIX_LEN];
    bincode::serde::encode_into_std_write(value, &mut frame, bincode::config::standard())
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    let len = frame.len() - PREFIX_LEN;
    if len > FRAME_LEN_MAX {
        return Err(FrameError::TooLong { len, max: FRAME_LEN_MAX });
    }
    frame[..PREFIX_LEN].copy_from_slice(&(len as u32).to_be_bytes());
    Ok(frame)
}

/// Decodes the body of a frame; every byte must be consumed.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    // The limit bounds what a length inside the body can make bincode allocate.
    let config = bincode::config::standard().with_limit::<{ FRAME_LEN_MAX * 2 }>();
    let (value, consumed) =
        bincode::serde::decode_from_slice(body, config).map_err(|error| FrameError::Malformed(error.to_string()))?;
    if consumed == body.len() { Ok(value) } else { Err(FrameError::Trailing(body.len() - consumed)) }
}

const _: () = assert!(HELLO_LEN_MAX <= FRAME_LEN_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Selector, StateName};

    #[test]
    fn a_frame_reads_back() {
        let frame = ClientFrame::Request {
            number: 7,
            request: Box::new(Request::Get { state: StateName::parse("a/b").unwrap(), at: Selector::Newest }),
        };
        let bytes = encode(&frame).unwrap();
        let len = body_len(bytes[..4].try_into().unwrap(), FRAME_LEN_MAX).unwrap();
        assert_eq!(len, bytes.len() - 4);
        assert_eq!(decode::<ClientFrame>(&bytes[4..]).unwrap(), frame);
    }

    #[test]
    fn trailing_bytes_and_bad_names_are_refused() {
        let mut bytes = encode(&Request::Status).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<Request>(&bytes[4..]), Err(FrameError::Trailing(1))));
        let bytes = encode(&("../etc/passwd", 0u8)).unwrap();
        assert!(decode::<(StateName, u8)>(&bytes[4..]).is_err());
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        // An enormous byte string announced in nine bytes.
        let body = [1, 7, 253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(decode::<ClientFrame>(&body), Err(FrameError::Malformed(_))));
        assert!(matches!(body_len([0xff; 4], FRAME_LEN_MAX), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn the_preamble_never_changes() {
        assert_eq!(&Preamble { protocol: 1 }.encode(), b"stated\x00\x01");
        assert_eq!(Preamble::decode(b"stated\x01\x02"), Some(Preamble { protocol: 0x102 }));
        assert_eq!(Preamble::decode(b"GET / HT"), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<ClientFrame>(&body);
            let _ = decode::<ServerFrame>(&body);
            let _ = decode::<ClientHello>(&body);
        }
    }
}
