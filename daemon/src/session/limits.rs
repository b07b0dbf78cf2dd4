//! What one connection, and all of them together, may cost the daemon.

use std::time::Duration;

use stated_shared::limits::CHUNK_LEN_MAX;

/// Connections of the whole daemon.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// Connections of one user.
pub(super) const CONNECTIONS_PER_UID_MAX: usize = 1024;
/// Connections that are being told at the same time that they are refused; more are closed without a word.
pub(super) const REFUSALS_MAX: usize = 64;
/// Denials of one user in a second that the audit log has with their names: it keeps them for ever. Of more it is told
/// that there were.
pub(super) const DENIALS_NAMED_MAX: u32 = 64;
/// Requests of one connection that have no answer yet; more are not read.
pub(super) const OUTSTANDING_MAX: usize = 256;

/// Preamble and hello must be complete by then.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A frame that has begun must be complete by then; a content's next chunk must begin.
pub(super) const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Slowest content that is waited for, in bytes a second, beyond [`FRAME_TIMEOUT`].
pub(super) const UPLOAD_RATE_MIN: u64 = 1 << 20;
/// A request waits this long for room for its content.
pub(super) const ROOM_TIMEOUT: Duration = Duration::from_secs(30);
/// A peer that takes no byte for this long, while there are some for it, is cut.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a connection that is not read is asked whether its peer is there.
pub(super) const HANG_UP_PERIOD: Duration = Duration::from_secs(1);
/// Answers in flight get this long when the daemon stops.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// A refused peer gets this long to read why.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// The accept loop rests this long when the system has no descriptor for it.
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The read buffer of an idle connection, in bytes.
pub(super) const BUFFER_LEN_MIN: usize = 8 << 10;
/// Frames longer than this take room from [`LARGE_FRAMES_LEN_MAX`], in bytes.
pub(super) const SMALL_FRAME_LEN_MAX: usize = 64 << 10;
/// All frames over [`SMALL_FRAME_LEN_MAX`] that are being read, in bytes.
pub(super) const LARGE_FRAMES_LEN_MAX: u64 = 64 << 20;
/// The body of a frame with the longest chunk: tag, number and length take at most 19 bytes.
pub(super) const CHUNK_FRAME_LEN_MAX: usize = CHUNK_LEN_MAX + 32;

/// Bytes that wait for one peer to read; a peer that lets more pile up is cut.
pub(super) const PENDING_LEN_MAX: usize = 4 << 20;
/// Contents are sent while fewer bytes than this wait.
pub(super) const PENDING_LEN_LOW: usize = 256 << 10;
/// Bytes that wait for all peers together; whoever makes it more is cut.
pub(super) const PENDING_TOTAL_LEN_MAX: usize = 256 << 20;
/// Longest `exe` of an actor, in bytes.
pub(super) const EXE_LEN_MAX: usize = 256;
