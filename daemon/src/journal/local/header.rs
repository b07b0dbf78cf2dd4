//! The line before each record: the only plain text of the log.
//!
//! `stated1 <seq> <length> <mac> <check>\n`, numbers in lower-case hexadecimal without leading zeros; before the check
//! comes, where payloads of the record were given up and are gone, how many bytes of them. It has one
//! spelling: what is parsed and written again must match. The check (the line's own SHA-256, cut to 8 digits) makes
//! a flipped length tell itself apart from a longer record that was cut by a crash.

use sha2::{Digest as _, Sha256};
use stated_shared::{Digest, Seq};

use super::super::limits::RECORD_LEN_MAX;

pub(super) const MAGIC: &[u8] = b"stated1 ";
const MAC_DIGITS: usize = 64;
const CHECK_DIGITS: usize = 8;
/// The longest line: magic, 16 digits of seq, 6 of length, MAC, 6 of what is gone, check, four spaces and the newline.
pub(super) const HEADER_LEN_MAX: usize = MAGIC.len() + 16 + 1 + 6 + 1 + MAC_DIGITS + 1 + 6 + 1 + CHECK_DIGITS + 1;

/// What a header line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The record's number.
    pub seq: Seq,
    /// The length of the age file that follows, in bytes.
    pub len: usize,
    /// The chain's MAC at the record.
    pub mac: Digest,
    /// Bytes of its payloads that are gone.
    pub cut_bytes: u64,
}

impl Header {
    /// Adds the line to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        let start = out.len();
        let Self { seq, len, mac, cut_bytes } = self;
        write!(out, "stated1 {:x} {len:x} {mac} ", seq.0).expect("a vector takes everything");
        if *cut_bytes > 0 {
            write!(out, "{cut_bytes:x} ").expect("a vector takes everything");
        }
        let check = check(&out[start..]);
        out.extend_from_slice(&check);
        out.push(b'\n');
    }

    /// The header that `bytes` begin with, and its length.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let line_len = bytes.iter().take(HEADER_LEN_MAX).position(|&byte| byte == b'\n')? + 1;
        let line = &bytes[..line_len];
        let text = std::str::from_utf8(line.strip_prefix(MAGIC)?).ok()?;
        let mut fields = text.strip_suffix('\n')?.split(' ');
        let mut header = Self {
            seq: Seq(u64::from_str_radix(fields.next()?, 16).ok()?),
            len: usize::from_str_radix(fields.next()?, 16).ok()?,
            mac: fields.next()?.parse().ok()?,
            cut_bytes: 0,
        };
        if let (Some(cut), Some(_)) = (fields.next(), fields.next()) {
            header.cut_bytes = u64::from_str_radix(cut, 16).ok()?;
        }
        if header.len > RECORD_LEN_MAX || header.cut_bytes > RECORD_LEN_MAX as u64 {
            return None;
        }
        let mut again = Vec::with_capacity(HEADER_LEN_MAX);
        header.encode_into(&mut again);
        (again == line).then_some((header, line_len))
    }

    /// Whether `bytes` are the beginning, and only the beginning, of the header that this record has when it is appended:
    /// then nothing of it is gone.
    pub fn is_beginning(bytes: &[u8], seq: Seq) -> bool {
        let mut known = MAGIC.to_vec();
        known.extend_from_slice(format!("{:x} ", seq.0).as_bytes());
        let Some(rest) = bytes.strip_prefix(known.as_slice()) else {
            return known.starts_with(bytes);
        };
        let digits = |field: &[u8]| field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut fields = rest.split(|&byte| byte == b' ');
        let len = fields.next().unwrap_or_default();
        let (mac, check) = (fields.next(), fields.next());
        digits(len)
            && len.len() <= 6
            && !(len.starts_with(b"0") && len.len() > 1)
            && (mac.is_none() || !len.is_empty())
            && mac.is_none_or(|mac| digits(mac) && mac.len() <= MAC_DIGITS)
            && check.is_none_or(|check| {
                digits(check) && check.len() <= CHECK_DIGITS && mac.is_some_and(|mac| mac.len() == MAC_DIGITS)
            })
            && fields.next().is_none()
    }
}

/// The first digits of the SHA-256 of the line up to here, its last space included.
fn check(line: &[u8]) -> [u8; CHECK_DIGITS] {
    let mut digits = [0; CHECK_DIGITS];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(Sha256::digest(line)) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    digits
}

/// A header that parses has this one spelling, and each part of its line is the beginning of it.
#[cfg(fuzzing)]
pub fn fuzz_header(bytes: &[u8]) {
    if let Some((header, len)) = Header::parse(bytes) {
        let mut again = Vec::new();
        header.encode_into(&mut again);
        assert_eq!(again, bytes[..len]);
        let is_whole = header.cut_bytes == 0;
        assert!(!is_whole || (0..len).all(|cut| Header::is_beginning(&bytes[..cut], header.seq)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(header: &Header) -> Vec<u8> {
        let mut line = Vec::new();
        header.encode_into(&mut line);
        line
    }

    const SAMPLE: Header = Header { seq: Seq(0x1a), len: 0x1f3, mac: Digest([0xab; 32]), cut_bytes: 0 };
    const CUT: Header = Header { cut_bytes: 0x2c, ..SAMPLE };

    /// A change here breaks every directory there is.
    #[test]
    fn the_header_is_the_documented_one() {
        let line = "stated1 1a 1f3 abababababababababababababababababababababababababababababababab 1e99f8a6\n";
        assert_eq!(String::from_utf8(encoded(&SAMPLE)).unwrap(), line);
        let line = "stated1 1a 1f3 abababababababababababababababababababababababababababababababab 2c 32f613a9\n";
        assert_eq!(String::from_utf8(encoded(&CUT)).unwrap(), line);
        let cut_bytes = RECORD_LEN_MAX as u64;
        let longest = Header { seq: Seq(u64::MAX), len: RECORD_LEN_MAX, mac: Digest([0; 32]), cut_bytes };
        assert_eq!(encoded(&longest).len(), HEADER_LEN_MAX);
    }

    #[test]
    fn a_header_reads_back_and_leaves_the_rest() {
        let mut bytes = encoded(&SAMPLE);
        let len = bytes.len();
        bytes.extend(b"age-encryption.org/v1\n");
        assert_eq!(Header::parse(&bytes), Some((SAMPLE, len)));
        assert_eq!(Header::parse(&bytes[..len - 1]), None);
        assert_eq!(Header::parse(&encoded(&CUT)).map(|(header, _)| header), Some(CUT));
    }

    #[test]
    fn a_header_has_one_spelling() {
        let line = String::from_utf8(encoded(&SAMPLE)).unwrap();
        let respell = |from: &str, to: &str| {
            let body = line.replace(from, to);
            let body = &body[..body.len() - CHECK_DIGITS - 1];
            let mut bytes = body.as_bytes().to_vec();
            let check = check(&bytes);
            bytes.extend(check);
            bytes.push(b'\n');
            Header::parse(&bytes)
        };
        assert!(respell("1a", "1a").is_some());
        for (from, to) in
            [("1a", "01a"), ("1a", "1A"), ("1f3", "+1f3"), ("1f3", "01f3"), ("ab ", "AB "), (" 1a", "  1a")]
        {
            assert!(respell(from, to).is_none(), "{to}");
        }
        assert!(respell("1f3", "800001").is_none(), "over the limit");
        assert!(respell("1f3", "800000").is_some());
        for (cut, is_one) in [("2c ", true), ("0 ", false), ("02c ", false), ("800001 ", false), ("2c 2c ", false)] {
            assert_eq!(respell("ab ", &format!("ab {cut}")).is_some(), is_one, "{cut}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        for line in [encoded(&SAMPLE), encoded(&CUT)] {
            for at in 0..line.len() {
                for bit in 0..8 {
                    let mut flipped = line.clone();
                    flipped[at] ^= 1 << bit;
                    assert_eq!(Header::parse(&flipped), None, "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn every_beginning_is_recognised_and_nothing_else() {
        let line = encoded(&SAMPLE);
        for len in 0..line.len() {
            assert!(Header::is_beginning(&line[..len], SAMPLE.seq), "{len}");
            if len > 8 {
                assert!(!Header::is_beginning(&line[..len], Seq(0xfff)), "another record's, {len}");
            }
        }
        assert!(!Header::is_beginning(&line, SAMPLE.seq), "a whole line is no beginning");
        assert!(!Header::is_beginning(b"stated1 1a 1f3 ab\0", SAMPLE.seq));
        assert!(!Header::is_beginning(b"stated1 1a 1f3 ab ", SAMPLE.seq));
        assert!(!Header::is_beginning(b"stated1 1a  ", SAMPLE.seq));
        assert!(!Header::is_beginning(b"stated1 1a 0f", SAMPLE.seq));
    }
}
