//! The journal's limits and sizes, in one place; the format's document names them.

/// Longest age file of one record, in bytes; larger payloads are blobs.
pub const RECORD_LEN_MAX: usize = 8 << 20;
/// A log file at least this long is followed by a new one.
pub const SEGMENT_LEN: u64 = 64 << 20;
/// Log files are filled with zeros up to a multiple of this many bytes, ahead of the records.
pub const FILL_LEN: u64 = 256 << 10;
/// Records like the last one that a fill makes room for.
pub const FILL_RECORDS: u64 = 8;
/// What a fill makes room for beyond the record that needs it, in bytes, at most.
pub const FILL_AHEAD_LEN_MAX: u64 = 4 << 20;
/// Zero fill that ordinary records leave free, for those that must go through on a full disk.
pub const RESERVE_LEN: u64 = 64 << 10;
/// What a disk writes whole or not at all, in bytes.
pub const SECTOR_LEN: usize = 512;
/// A log file longer than this was not written by us.
pub const SEGMENT_LEN_MAX: u64 = SEGMENT_LEN + 2 * RECORD_LEN_MAX as u64;
/// Longest snapshot, in bytes: some million versions.
pub const SNAPSHOT_LEN_MAX: u64 = 1 << 30;
