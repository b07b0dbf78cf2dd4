//! Every limit of the protocol, in one place; each is checked before anything is allocated.

/// Longest frame body on the socket, in bytes.
pub const FRAME_LEN_MAX: usize = 1 << 20;
/// Longest handshake frame body, in bytes: a peer that has not said hello yet gets little room.
pub const HELLO_LEN_MAX: usize = 4 << 10;
/// Content at most this long rides in the frame of its request; longer content follows in chunks.
pub const INLINE_CONTENT_LEN_MAX: usize = 256 << 10;
/// Content bytes in one chunk frame.
pub const CHUNK_LEN_MAX: usize = 256 << 10;
/// Largest content of one state, in bytes.
pub const CONTENT_LEN_MAX: u64 = 1 << 30;
/// Largest total content of one commit, in bytes.
pub const COMMIT_LEN_MAX: u64 = 1 << 30;
/// Longest state or lock name, in bytes of UTF-8.
pub const NAME_LEN_MAX: usize = 4096;
/// Longest tag, in bytes.
pub const TAG_LEN_MAX: usize = 128;
/// Tags of one state.
pub const TAGS_PER_STATE_MAX: usize = 1024;
/// Recipients of a keyring.
pub const RECIPIENTS_MAX: usize = 100;
/// Longest text of a recipient, in bytes: an SSH key of 4096 bits with its comment.
pub const RECIPIENT_LEN_MAX: usize = 2048;
/// Longest lock ID, in bytes.
pub const LOCK_ID_LEN_MAX: usize = 128;
/// Longest message of a commit or reason of a lock, in bytes.
pub const MESSAGE_LEN_MAX: usize = 4096;
/// Longest lock document that a foreign protocol may attach to a lock, in bytes.
pub const LOCK_INFO_LEN_MAX: usize = 16 << 10;
/// States in one commit.
pub const COMMIT_CHANGES_MAX: usize = 256;
/// Labels of one commit, and the bytes of one key or value.
pub const LABELS_MAX: usize = 32;
/// Longest label key or value, in bytes.
pub const LABEL_LEN_MAX: usize = 256;
/// Names in one lock request.
pub const LOCK_NAMES_MAX: usize = 64;
/// Slots of a semaphore.
pub const SEMAPHORE_SLOTS_MAX: u32 = 1 << 16;
/// Waiting lock requests in the whole daemon.
pub const WAITERS_MAX: usize = 4096;
/// Grants in the whole daemon.
pub const GRANTS_MAX: usize = 16 << 10;
/// Locks within locks, the outermost counted.
pub const NESTING_MAX: usize = 16;
/// Rows in one page of a list, and the bytes after which a page ends early.
pub const PAGE_ROWS_MAX: usize = 512;
/// A page ends before it grows past this many bytes, well below [`FRAME_LEN_MAX`].
pub const PAGE_LEN_MAX: usize = 512 << 10;
/// Descriptors that may arrive with one frame.
pub const FRAME_DESCRIPTORS_MAX: usize = 4;
/// Answers remembered for one session, so that a retry is answered and not applied twice.
pub const ANSWERS_PER_SESSION_MAX: usize = 64;
/// Sessions whose answers are remembered.
pub const ANSWER_SESSIONS_MAX: usize = 64 << 10;
/// How long clients retry before they call the outcome unknown, in milliseconds.
pub const RETRY_MS_MAX: u64 = 30_000;
/// How old an answer may be by the journal's own time before it is forgotten, in milliseconds: far more than
/// [`RETRY_MS_MAX`].
pub const ANSWER_AGE_MS_MAX: u64 = 600_000;
/// How long answers outlive the end of their session, in milliseconds of daemon uptime.
pub const ANSWERS_KEPT_MS: u64 = 60_000;
/// Longest TTL of a lease, in milliseconds (a year).
pub const LEASE_TTL_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// Shortest TTL of a lease, in milliseconds.
pub const LEASE_TTL_MS_MIN: u64 = 1000;
/// How long a request for changes may wait for one, in milliseconds; then it is answered without.
pub const CHANGES_WAIT_MS_MAX: u64 = 60_000;
/// A backup that asks for nothing for so long is given up by the daemon, in milliseconds.
pub const BACKUP_IDLE_MS_MAX: u64 = 600_000;
/// Bytes of records or of a blob in one answer, well below [`FRAME_LEN_MAX`].
pub const BACKUP_PIECE_LEN_MAX: usize = 512 << 10;
/// Parts that all payloads are divided in at most, to be read one after the other.
pub const PARTS_MAX: u32 = 1 << 16;
