//! The first words of a connection.

use stated_shared::limits::HELLO_LEN_MAX;
use stated_shared::wire::{ClientHello, FrameError, Preamble, decode};
use tokio::time::timeout;

use super::frames::{FrameReader, ReadError};
use super::limits::{EXE_LEN_MAX, HELLO_TIMEOUT};
use super::outbox::SocketOutbox;

/// Why a connection got no further than its first words.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer hung up before its hello")]
    HungUp,
    #[error("the peer speaks another protocol altogether")]
    Foreign,
    /// It was told ours, and says so itself.
    #[error("the peer speaks version {theirs} of the protocol, not {}", Preamble::OURS.protocol)]
    Version { theirs: u16 },
    #[error("no hello in {} s", HELLO_TIMEOUT.as_secs())]
    TooSlow,
}

/// What a client said at first.
pub(super) struct Greeting {
    pub(super) hello: ClientHello,
    /// Our preamble, where it goes out with the answer to the hello: a client that said everything at once then wakes once.
    pub(super) preamble: Option<[u8; Preamble::LEN]>,
}

/// Exchanges preambles and reads the hello. `Err` ends the connection.
///
/// What is not our protocol gets no byte: it may be anything, and would take our preamble for an answer of its own.
pub(super) async fn shake_hands(reader: &mut FrameReader, outbox: &SocketOutbox) -> Result<Greeting, HandshakeError> {
    let hands = async {
        let preamble = reader.bytes().await?.ok_or(HandshakeError::HungUp)?;
        let theirs = Preamble::decode(&preamble).ok_or(HandshakeError::Foreign)?.protocol;
        let is_ours = theirs == Preamble::OURS.protocol;
        let mut preamble = Some(Preamble::OURS.encode());
        if let Some(bytes) = preamble.take_if(|_| !is_ours || !reader.holds_frame()) {
            outbox.send(bytes.to_vec());
        }
        if !is_ours {
            return Err(HandshakeError::Version { theirs });
        }
        let frame = reader.frame(HELLO_LEN_MAX, Some(HELLO_TIMEOUT), None).await?.ok_or(HandshakeError::HungUp)?;
        let mut hello: ClientHello = decode(frame.body)?;
        hello.exe = hello.exe.map(|exe| printable(&exe));
        Ok(Greeting { hello, preamble })
    };
    timeout(HELLO_TIMEOUT, hands).await.unwrap_or(Err(HandshakeError::TooSlow))
}

/// What a client calls itself is shown to other users: without what moves a cursor, and not too long.
fn printable(exe: &str) -> String {
    let mut shown = String::new();
    for c in exe.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if shown.len() + c.len_utf8() > EXE_LEN_MAX {
            break;
        }
        shown.push(c);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_calls_itself_can_be_shown() {
        assert_eq!(printable("/usr/bin/statectl"), "/usr/bin/statectl");
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a?[2Jb?");
        assert_eq!(printable(&"ü".repeat(200)).len(), EXE_LEN_MAX);
    }
}
