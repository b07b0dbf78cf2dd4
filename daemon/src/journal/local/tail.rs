//! Torn or damaged: what the bytes after the last good record prove.
//!
//! One record at most is unsynced when a machine dies. A disk writes sectors whole or not at all, and what lay there
//! before were durable zeros; so a torn record lacks sectors, and each reads as zeros. Nothing else excuses bytes that
//! do not verify. The function is pure: it judges the bytes of a log file and changes nothing.

use stated_shared::Seq;

use super::super::limits::{FILL_LEN, RECORD_LEN_MAX, SECTOR_LEN};
use super::header::{HEADER_LEN_MAX, Header, MAGIC};

/// What follows the last good record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tail {
    /// Zeros or nothing.
    Clean,
    /// A record that was never acknowledged, in part.
    Torn,
    /// Bytes that no crash explains.
    Damaged(String),
}

/// Judges what follows `at` in the last file of the log, where record `seq` does not verify.
///
/// `refusal` is what the visitor said, had the record a header and all its bytes.
pub(super) fn judge(file: &[u8], at: usize, seq: Seq, refusal: Option<&str>) -> Tail {
    let damaged = |what: &str| Tail::Damaged(what.to_owned());
    let tail = &file[at..];
    if is_zero(tail) {
        return Tail::Clean;
    }
    if !(file.len() as u64).is_multiple_of(FILL_LEN) {
        // A record is only ever written into zero fill that ends on this boundary.
        return damaged(refusal.unwrap_or("no record here, and the file was trimmed by a clean stop"));
    }
    let Some((header, header_len)) = Header::parse(tail) else {
        return judge_headless(file, at, seq);
    };
    if header.seq != seq {
        return Tail::Damaged(format!("record {} lies here", header.seq));
    }
    let end = at + header_len + header.len;
    if end >= file.len() {
        // The fill reaches past a record before that is written.
        return damaged("the record reaches past the zero fill");
    }
    let refusal = refusal.unwrap_or("the record does not verify");
    if is_zero(&file[end..]) && lacks_a_sector(&file[at..end], at as u64) { Tail::Torn } else { damaged(refusal) }
}

/// As above, where no header parses: its sector may be what is missing.
fn judge_headless(file: &[u8], at: usize, seq: Seq) -> Tail {
    let damaged = |what: &str| Tail::Damaged(what.to_owned());
    let boundary = (at / SECTOR_LEN + 1) * SECTOR_LEN;
    let first = &file[at..boundary.min(file.len())];
    let second = &file[boundary.min(file.len())..(boundary + SECTOR_LEN).min(file.len())];
    if !(is_zero(first) || Header::is_beginning(first, seq) && is_zero(second)) {
        return damaged("no record header");
    }
    if !is_zero(&file[(at + HEADER_LEN_MAX + RECORD_LEN_MAX).min(file.len())..]) {
        return damaged("the header is zeros, and more than one record follows");
    }
    // One record at most is unsynced: a later one proves that this one was durable.
    let after = &file[boundary.min(file.len())..];
    let mut from = 0;
    while let Some(found) = after[from..].windows(MAGIC.len()).position(|window| window == MAGIC) {
        from += found;
        if Header::parse(&after[from..]).is_some() {
            return damaged("the header is zeros, and another record follows");
        }
        from += 1;
    }
    Tail::Torn
}

/// Whether a record that starts at `at` holds, of any sector that it touches, zeros only.
pub(super) fn lacks_a_sector(record: &[u8], at: u64) -> bool {
    let first_len = (SECTOR_LEN - (at % SECTOR_LEN as u64) as usize).min(record.len());
    let (first, rest) = record.split_at(first_len);
    is_zero(first) || rest.chunks(SECTOR_LEN).any(is_zero)
}

/// Whether there is nothing but zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // By comparison, not byte by byte: the standard library's is vectorised in every build.
    bytes.chunks(SECTOR_LEN).all(|chunk| *chunk == [0; SECTOR_LEN][..chunk.len()])
}

#[cfg(test)]
mod tests {
    use stated_shared::Digest;

    use super::*;

    /// Bytes without a zero, as good as ciphertext here.
    fn record(seq: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        Header { seq: Seq(seq), len, mac: Digest([0x5a; 32]), cut_bytes: 0 }.encode_into(&mut bytes);
        bytes.extend((0..len).map(|i| (i % 251 + 1) as u8));
        bytes
    }

    fn file(at: usize, tail: &[u8]) -> Vec<u8> {
        let mut file = vec![b'x'; at];
        file.extend_from_slice(tail);
        file.resize((file.len() + 1).next_multiple_of(FILL_LEN as usize), 0);
        file
    }

    fn judged(file: &[u8], at: usize) -> Tail {
        judge(file, at, Seq(7), Some("refused"))
    }

    /// Where the record starts within its sector: the header whole, cut at each field, and at the edges.
    const STARTS: [usize; 9] = [0, 1, 300, 420, 425, 440, 505, 510, 511];

    #[test]
    fn each_set_of_missing_sectors_is_torn() {
        for at in STARTS {
            let record = record(7, 1900);
            let end = at + record.len();
            let sectors = end.div_ceil(SECTOR_LEN);
            for present in 0..(1_u32 << sectors) {
                let mut file = file(at, &record);
                for sector in (0..sectors).filter(|sector| present >> sector & 1 == 0) {
                    let from = (sector * SECTOR_LEN).max(at);
                    file[from..((sector + 1) * SECTOR_LEN).min(end)].fill(0);
                }
                let expected = match present {
                    0 => Tail::Clean,
                    all if all == (1 << sectors) - 1 => Tail::Damaged("refused".to_owned()),
                    _ => Tail::Torn,
                };
                assert_eq!(judged(&file, at), expected, "start {at}, sectors {present:b}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_never_torn() {
        for at in STARTS {
            let record = record(7, 1200);
            let mut file = file(at, &record);
            for byte in at..at + record.len() {
                for bit in 0..8 {
                    file[byte] ^= 1 << bit;
                    assert!(matches!(judged(&file, at), Tail::Damaged(_)), "start {at}, byte {byte}, bit {bit}");
                    file[byte] ^= 1 << bit;
                }
            }
        }
    }

    #[test]
    fn a_record_before_a_durable_one_is_never_torn() {
        for at in STARTS {
            let first = record(7, 700);
            let mut both = first.clone();
            both.extend(record(8, 700));
            for sector in 0..(at + first.len()).div_ceil(SECTOR_LEN) {
                let mut file = file(at, &both);
                file[(sector * SECTOR_LEN).max(at)..((sector + 1) * SECTOR_LEN).min(at + first.len())].fill(0);
                assert!(matches!(judged(&file, at), Tail::Damaged(_)), "start {at}, sector {sector}");
            }
        }
    }

    #[test]
    fn half_a_missing_sector_is_not_torn() {
        for at in STARTS {
            let record = record(7, 1900);
            let mut file = file(at, &record);
            let sector = at.next_multiple_of(SECTOR_LEN) + SECTOR_LEN;
            file[sector..sector + SECTOR_LEN / 2].fill(0);
            assert_eq!(judged(&file, at), Tail::Damaged("refused".to_owned()), "start {at}");
        }
    }

    #[test]
    fn a_trimmed_file_has_no_torn_tail() {
        let record = record(7, 1900);
        let mut file = file(100, &record);
        file.truncate(100 + record.len());
        file[512..1024].fill(0);
        assert!(matches!(judged(&file, 100), Tail::Damaged(_)));
        // Nor where what is missing is its header, which would tell how far it reaches.
        file[100..512].fill(0);
        assert!(matches!(judged(&file, 100), Tail::Damaged(_)));
    }

    #[test]
    fn bytes_far_beyond_a_missing_header_are_damage() {
        let mut file = file(0, &record(7, 1900));
        file[..SECTOR_LEN].fill(0);
        assert_eq!(judged(&file, 0), Tail::Torn);
        file.resize(RECORD_LEN_MAX + 2 * FILL_LEN as usize, 0);
        file[RECORD_LEN_MAX + FILL_LEN as usize] = 1;
        assert!(matches!(judged(&file, 0), Tail::Damaged(_)));
    }

    #[test]
    fn another_records_number_is_damage() {
        let mut file = file(0, &record(9, 1900));
        file[512..1024].fill(0);
        assert_eq!(judged(&file, 0), Tail::Damaged("record 9 lies here".to_owned()));
    }
}
