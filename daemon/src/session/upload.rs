//! Content that follows its request in chunks.

use std::time::Duration;

use stated_shared::limits::{CHUNK_LEN_MAX, COMMIT_LEN_MAX};
use stated_shared::wire::{ClientFrame, FrameError, decode};
use stated_shared::{Bytes, Commit, Content};
use tokio::time::timeout;

use super::frames::{FrameReader, ReadError};
use super::limits::{CHUNK_FRAME_LEN_MAX, FRAME_TIMEOUT, UPLOAD_RATE_MIN};

/// Why the content did not arrive. The connection is of no use then: what follows cannot be told from frames.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the connection ended within a content")]
    Truncated,
    #[error("a frame other than the request's next chunk arrived")]
    Foreign,
    #[error("a chunk of {0} bytes is empty, over the limit, or over its content's end")]
    ChunkLen(usize),
    #[error("the content was not complete after {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("no memory for a content of {0} bytes")]
    OutOfMemory(u64),
}

/// The contents that a request announced, and what becomes of them.
pub(super) struct Upload<'a> {
    reader: &'a mut FrameReader,
    number: u64,
    total_len: u64,
}

impl<'a> Upload<'a> {
    /// Of a request with this number and this much streamed content.
    pub(super) fn new(reader: &'a mut FrameReader, number: u64, total_len: u64) -> Self {
        Self { reader, number, total_len }
    }

    /// Replaces each streamed content by its bytes. The caller holds room for all of them.
    pub(super) async fn receive(mut self, commit: &mut Commit) -> Result<(), UploadError> {
        let time = self.time();
        timeout(time, self.receive_all(commit)).await.unwrap_or(Err(UploadError::TooSlow(time)))
    }

    /// Reads the chunks of a request that was refused, so that the connection lives on.
    pub(super) async fn discard(mut self) -> Result<(), UploadError> {
        let time = self.time();
        timeout(time, self.discard_all()).await.unwrap_or(Err(UploadError::TooSlow(time)))
    }

    fn time(&self) -> Duration {
        FRAME_TIMEOUT + Duration::from_secs(self.total_len.min(COMMIT_LEN_MAX) / UPLOAD_RATE_MIN)
    }

    async fn receive_all(&mut self, commit: &mut Commit) -> Result<(), UploadError> {
        for change in &mut commit.changes {
            if let Content::Streamed { size_bytes } = change.content {
                change.content = Content::Inline(Bytes(self.content(size_bytes).await?));
            }
        }
        Ok(())
    }

    async fn discard_all(&mut self) -> Result<(), UploadError> {
        let mut rest = self.total_len;
        while rest > 0 {
            rest -= self.chunk(rest).await?.len() as u64;
        }
        Ok(())
    }

    async fn content(&mut self, len: u64) -> Result<Vec<u8>, UploadError> {
        let mut content = Vec::new();
        let reserved = usize::try_from(len).is_ok_and(|len| content.try_reserve_exact(len).is_ok());
        if !reserved {
            return Err(UploadError::OutOfMemory(len));
        }
        while (content.len() as u64) < len {
            let chunk = self.chunk(len - content.len() as u64).await?;
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    }

    /// The next chunk, of at most the bytes that its content lacks.
    async fn chunk(&mut self, rest: u64) -> Result<Vec<u8>, UploadError> {
        // Without room of its own: the request's covers it, and asking for more while holding that could wait for ever.
        let frame = self.reader.frame(CHUNK_FRAME_LEN_MAX, Some(FRAME_TIMEOUT), None).await?;
        let frame = frame.ok_or(UploadError::Truncated)?;
        match decode(frame.body)? {
            ClientFrame::Chunk { number, data: Bytes(data) } if number == self.number => {
                let len = data.len();
                if len == 0 || len > CHUNK_LEN_MAX || len as u64 > rest {
                    return Err(UploadError::ChunkLen(len));
                }
                Ok(data)
            }
            _ => Err(UploadError::Foreign),
        }
    }
}
