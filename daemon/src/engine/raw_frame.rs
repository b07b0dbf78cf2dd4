//! zstd frames of contents that do not compress: the content itself, behind a header.
//!
//! The compressor would come to the same result, in twice the time that sealing takes. See RFC 8878, sections 3.1.1
//! and 3.1.1.2.

/// Shorter contents are not judged.
const LEN_MIN: usize = 512;
/// Of longer ones a sample of this length is judged: spread over all of it, in pieces of a cache line.
const SAMPLE_LEN_MAX: usize = 1 << 10;
const PIECE_LEN: usize = 64;
/// What one block may hold is 128 KiB; the form of the header that is written here, some less.
const LEN_MAX: usize = 64 << 10;

const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// One segment, so no window; its length less 256 in two bytes; no checksum, no dictionary.
const DESCRIPTOR: u8 = 0b0110_0000;
/// The last block of the frame, stored as it is.
const LAST_RAW_BLOCK: u32 = 1;

/// The frame of a content whose bytes are spread as evenly as random ones; nothing for any other.
///
/// An even spread is what ciphertexts, archives and keys in binary have. Text never does. What repeats itself at
/// length may, and is then not made smaller.
pub fn raw_frame(content: &[u8]) -> Option<Vec<u8>> {
    if !(LEN_MIN..=LEN_MAX).contains(&content.len()) || !is_spread_evenly(content) {
        return None;
    }
    let len = content.len() as u32;
    let mut frame = Vec::with_capacity(content.len() + 10);
    frame.extend_from_slice(&MAGIC);
    frame.push(DESCRIPTOR);
    frame.extend_from_slice(&(len as u16).wrapping_sub(256).to_le_bytes());
    frame.extend_from_slice(&(len << 3 | LAST_RAW_BLOCK).to_le_bytes()[..3]);
    frame.extend_from_slice(content);
    Some(frame)
}

/// Whether two bytes drawn from the content are equal hardly more often than one time in 256.
fn is_spread_evenly(content: &[u8]) -> bool {
    let step = (content.len() * PIECE_LEN / SAMPLE_LEN_MAX).max(PIECE_LEN);
    let mut counts = [0_u16; 256];
    // With each byte: the pairs that it makes with those before it.
    let (mut len, mut pairs) = (0_u64, 0_u64);
    for start in (0..content.len()).step_by(step) {
        for byte in content[start..].iter().take(PIECE_LEN) {
            let count = &mut counts[usize::from(*byte)];
            pairs += u64::from(*count);
            *count += 1;
            len += 1;
        }
    }
    // Random bytes come to 1 within a tenth from 1 KiB on; Base64 comes to 4, JSON to 15.
    pairs * 2 * 256 * 4 < len * (len - 1) * 5
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as even as random ones (SplitMix64).
    fn even(len: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn a_frame_decompresses_to_its_content() {
        for len in [LEN_MIN, 513, 4096, 4099, LEN_MAX - 1, LEN_MAX] {
            let content = even(len);
            let frame = raw_frame(&content).unwrap();
            assert_eq!(frame.len(), len + 10);
            assert_eq!(zstd::bulk::decompress(&frame, len).unwrap(), content, "of {len} bytes");
        }
    }

    #[test]
    fn what_may_compress_is_left_to_the_compressor() {
        let base64: Vec<u8> = even(4096).iter().map(|byte| b'0' + byte % 64).collect();
        let half: Vec<u8> = even(2048).into_iter().chain([0; 2048]).collect();
        for content in [&base64, &half, &vec![7; 4096], &even(LEN_MIN - 1), &even(LEN_MAX + 1), &Vec::new()] {
            assert_eq!(raw_frame(content), None);
        }
    }
}
