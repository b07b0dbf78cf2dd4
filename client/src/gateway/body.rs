//! Reads a request's body within limits of size, time and memory.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, HeaderName};
use md5::{Digest as _, Md5};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// `Content-MD5` of RFC 1864, which Terraform's `http` backend sends and expects, and S3 accepts.
pub const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// Bytes of all bodies that one gateway holds at once.
const MEMORY_LEN_MAX: usize = 512 << 20;
/// How long a sender may pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a body may take.
const READ_MAX: Duration = Duration::from_secs(600);

/// The memory for bodies, shared by all connections.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Semaphore>);

/// A body, and the memory that it counts against.
#[derive(Debug)]
pub struct Body {
    /// Its bytes.
    pub bytes: Vec<u8>,
    _held: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Over the limit of its kind of request.
    #[error("the body is longer than {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// Other requests hold the memory.
    #[error("other requests are being read, try again")]
    Memory,
    /// The sender paused for too long.
    #[error("the body did not arrive in time")]
    Slow,
    /// The connection broke, or the length is not what was announced.
    #[error("the body did not arrive whole")]
    Cut(#[source] hyper::Error),
    /// Not the bytes that were sent.
    #[error("the body does not match its Content-MD5")]
    Md5,
}

impl BodyError {
    /// The status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Memory => StatusCode::SERVICE_UNAVAILABLE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Cut(_) | Self::Md5 => StatusCode::BAD_REQUEST,
        }
    }
}

impl Memory {
    /// All of it.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY_LEN_MAX)))
    }

    /// Reads a body of at most `max` bytes and compares it with the `Content-MD5` where there is one.
    ///
    /// Memory is counted before it is taken, and never waited for: two half-read bodies could wait for each other.
    pub async fn read(&self, mut incoming: Incoming, headers: &HeaderMap, max: usize) -> Result<Body, BodyError> {
        let announced = incoming.size_hint().lower();
        let announced = usize::try_from(announced).ok().filter(|&len| len <= max).ok_or(BodyError::TooLong { max })?;
        let mut held = self.take(announced)?;
        let mut bytes = Vec::with_capacity(announced);
        // Piece by piece: hashing a large body at once would hold up the other connections.
        let mut md5 = headers.contains_key(CONTENT_MD5).then(Md5::new);
        let end = Instant::now() + READ_MAX;
        loop {
            let frame = timeout_at(end.min(Instant::now() + PAUSE_MAX), incoming.frame());
            let Some(frame) = frame.await.map_err(|_| BodyError::Slow)? else { break };
            let Ok(data) = frame.map_err(BodyError::Cut)?.into_data() else { continue };
            let len = bytes.len() + data.len();
            if len > max {
                return Err(BodyError::TooLong { max });
            }
            if let Some(more) = len.checked_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)) {
                match (&mut held, self.take(more)?) {
                    (Some(held), Some(more)) => held.merge(more),
                    (held, more) => *held = held.take().or(more),
                }
            }
            if let Some(md5) = &mut md5 {
                md5.update(&data);
            }
            bytes.extend_from_slice(&data);
        }
        if let (Some(named), Some(md5)) = (headers.get(CONTENT_MD5), md5)
            && STANDARD.decode(named).ok().as_deref() != Some(md5.finalize().as_slice())
        {
            return Err(BodyError::Md5);
        }
        Ok(Body { bytes, _held: held })
    }

    fn take(&self, len: usize) -> Result<Option<OwnedSemaphorePermit>, BodyError> {
        let len = u32::try_from(len).map_err(|_| BodyError::Memory)?;
        if len == 0 {
            return Ok(None);
        }
        Arc::clone(&self.0).try_acquire_many_owned(len).map(Some).map_err(|_| BodyError::Memory)
    }
}
