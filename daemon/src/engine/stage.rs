//! Contents on their way in and out: hashed, compressed, checked.

use std::cell::RefCell;
use std::io::{self, Read};

use serde::Deserialize;
use stated_shared::Version;
use zstd::bulk::Compressor;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

use super::delta::LARGE_LEN;
use super::raw_frame::raw_frame;
use crate::machine::event::{Content, Payload};
use crate::vault;

/// Payloads at most this long ride in the record; larger ones are blobs.
pub const INLINE_PAYLOAD_LEN_MAX: usize = 64 << 10;
/// Contents at most this long are compressed by a compressor that stays, since making one costs more than its work.
const SMALL_LEN_MAX: usize = 64 << 10;
/// A patch of at most this share of its content is taken without a look at the whole frame.
const PATCH_SHARE: usize = 8;

/// A content's facts and its compressed bytes.
#[derive(Debug)]
pub struct Staged {
    /// The facts; the payload's place is not known yet.
    pub content: Content,
    /// One zstd frame.
    pub payload: Vec<u8>,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// Hashes and compresses a content, as a patch from an earlier version where that is smaller.
///
/// What was compressed is decompressed and compared before it is given back: nothing is acknowledged that cannot be
/// read again.
pub fn stage(bytes: &[u8], base: Option<(Version, &[u8])>) -> io::Result<Staged> {
    let (payload, base) = match raw_frame(bytes) {
        Some(payload) => (payload, None),
        None => smaller(bytes, base)?,
    };
    let (serial, lineage) = serial_and_lineage(bytes);
    let content = Content {
        sha256: vault::sha256(bytes),
        size_bytes: bytes.len() as u64,
        serial,
        lineage,
        payload: Payload::Inline { offset_bytes: 0, len_bytes: payload.len() as u64 },
        base,
    };
    Ok(Staged { content, payload })
}

/// The smaller of a patch and a whole frame.
fn smaller(bytes: &[u8], base: Option<(Version, &[u8])>) -> io::Result<(Vec<u8>, Option<Version>)> {
    let patch = match base {
        Some((version, base)) => patch(bytes, base)?.map(|payload| (payload, Some(version))),
        None => None,
    };
    match patch {
        Some(patch) if patch.0.len() <= bytes.len() / PATCH_SHARE => Ok(patch),
        patch => {
            let whole = whole(bytes)?;
            let best = patch.filter(|(payload, _)| payload.len() < whole.len());
            Ok(best.unwrap_or((whole, None)))
        }
    }
}

/// Gives back the content of a payload, and only that content. `base` is the content that it is a patch from.
pub fn unstage(content: &Content, base: Option<&[u8]>, payload: &[u8]) -> Result<Vec<u8>, String> {
    let size = usize::try_from(content.size_bytes).map_err(|_| "it is too large for this host".to_owned())?;
    let bytes = decompress(payload, base, size).map_err(|error| format!("it does not decompress: {error}"))?;
    if bytes.len() != size || vault::sha256(&bytes) != content.sha256 {
        return Err("its SHA-256 is another".to_owned());
    }
    Ok(bytes)
}

fn whole(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let payload = if bytes.len() <= SMALL_LEN_MAX {
        COMPRESSOR.with_borrow_mut(|slot| {
            let compressor = match slot {
                Some(compressor) => compressor,
                None => slot.insert(Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?),
            };
            compressor.compress(bytes)
        })?
    } else {
        let compressed = compress(bytes, None, whole_parameters(bytes.len()), compress_bound(bytes.len()))?;
        compressed.ok_or_else(|| io::Error::other("a frame is over its bound"))?
    };
    checked(bytes, None, payload)
}

/// `None` where the base does not help.
fn patch(bytes: &[u8], base: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut best: Option<Vec<u8>> = None;
    for parameters in patch_parameters(bytes.len().max(base.len())) {
        let len_max = best.as_ref().map_or(bytes.len() / 2, Vec::len);
        best = compress(bytes, Some(base), parameters, len_max)?.or(best);
    }
    best.map(|payload| checked(bytes, Some(base), payload)).transpose()
}

/// As measured, see docs/adr/0002-contents-are-patches.md.
fn whole_parameters(len: usize) -> &'static [CParameter] {
    if len < LARGE_LEN as usize {
        // The parser of a high level, and tables that fit into a processor's cache.
        &[
            CParameter::CompressionLevel(16),
            CParameter::SearchLog(1),
            CParameter::ChainLog(12),
            CParameter::HashLog(14),
            CParameter::EnableLongDistanceMatching(true),
        ]
    } else {
        &[CParameter::CompressionLevel(3), CParameter::EnableLongDistanceMatching(true)]
    }
}

/// What is tried, the smallest taken. As measured, see docs/adr/0002-contents-are-patches.md.
fn patch_parameters(len: usize) -> &'static [&'static [CParameter]] {
    if len <= SMALL_LEN_MAX {
        &[&[CParameter::CompressionLevel(3)]]
    } else if len < LARGE_LEN as usize {
        &[
            // Finds whatever repeats, at little cost.
            &[CParameter::CompressionLevel(3), CParameter::EnableLongDistanceMatching(true)],
            // Nearly the size of level 19 in a small part of its time: the long-distance table finds what repeats, so
            // the match finder's own can be tiny. Fails where nothing else compresses, hence not alone.
            &[
                CParameter::CompressionLevel(19),
                CParameter::SearchLog(1),
                CParameter::ChainLog(12),
                CParameter::HashLog(14),
                CParameter::EnableLongDistanceMatching(true),
                CParameter::LdmHashRateLog(3),
                CParameter::LdmMinMatch(16),
            ],
        ]
    } else {
        &[&[CParameter::CompressionLevel(3), CParameter::EnableLongDistanceMatching(true)]]
    }
}

/// One frame of at most `len_max` bytes; `None` where it would be longer.
fn compress(
    bytes: &[u8],
    base: Option<&[u8]>,
    parameters: &[CParameter],
    len_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut context = CCtx::create();
    for parameter in parameters {
        context.set_parameter(*parameter).map_err(named)?;
    }
    if let Some(base) = base {
        // The window must reach from the content's end to the base's beginning.
        let window_log = usize::BITS - (base.len() + bytes.len()).leading_zeros();
        context.set_parameter(CParameter::WindowLog(window_log.clamp(10, 31))).map_err(named)?;
        context.ref_prefix(base).map_err(named)?;
    }
    let mut payload = Vec::with_capacity(len_max);
    match context.compress2(&mut payload, bytes) {
        Ok(_) => {
            payload.shrink_to_fit();
            Ok(Some(payload))
        }
        Err(code) if zstd::zstd_safe::is_error_kind(code, ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) => Ok(None),
        Err(code) => Err(named(code)),
    }
}

fn decompress(payload: &[u8], base: Option<&[u8]>, size: usize) -> io::Result<Vec<u8>> {
    let Some(base) = base else { return zstd::bulk::decompress(payload, size) };
    let mut context = DCtx::create();
    context.ref_prefix(base).map_err(named)?;
    let mut bytes = Vec::with_capacity(size);
    context.decompress(&mut bytes, payload).map_err(named)?;
    Ok(bytes)
}

/// Equal bytes have an equal SHA-256.
fn checked(bytes: &[u8], base: Option<&[u8]>, payload: Vec<u8>) -> io::Result<Vec<u8>> {
    let comes_back = if base.is_some() || bytes.len() <= SMALL_LEN_MAX {
        decompress(&payload, base, bytes.len())? == bytes
    } else {
        streams_back(bytes, &payload)?
    };
    if comes_back { Ok(payload) } else { Err(io::Error::other("what was compressed does not come back")) }
}

/// Without the content a second time in memory.
fn streams_back(bytes: &[u8], payload: &[u8]) -> io::Result<bool> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?;
    decoder.window_log_max(31)?;
    let mut piece = vec![0; 128 << 10];
    let mut rest = bytes;
    loop {
        let len = decoder.read(&mut piece)?;
        match rest.strip_prefix(&piece[..len]) {
            Some(_) if len == 0 => return Ok(rest.is_empty()),
            Some(behind) => rest = behind,
            None => return Ok(false),
        }
    }
}

fn named(code: usize) -> io::Error {
    io::Error::other(zstd::zstd_safe::get_error_name(code))
}

/// Terraform's own fields, where the content is a state of Terraform or an encrypted one of OpenTofu.
fn serial_and_lineage(bytes: &[u8]) -> (Option<u64>, Option<String>) {
    #[derive(Deserialize)]
    struct Head {
        serial: Option<u64>,
        lineage: Option<String>,
        version: Option<u64>,
        encryption_version: Option<String>,
    }
    let is_object = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !is_object {
        return (None, None);
    }
    match serde_json::from_slice(bytes) {
        Ok(Head { serial: Some(serial), lineage: Some(lineage), version, encryption_version })
            if version.is_some() || encryption_version.is_some() =>
        {
            (Some(serial), Some(lineage))
        }
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that differ from seed to seed and do not repeat.
    fn content(seed: u8, len: usize) -> Vec<u8> {
        let lines = (0_u32..)
            .flat_map(|n| format!("{}\n", vault::sha256(&[&[seed], &n.to_be_bytes()[..]].concat())).into_bytes());
        lines.take(len).collect()
    }

    #[test]
    fn a_content_comes_back() {
        for bytes in [&b""[..], b"x", &[7; 100_000]] {
            let staged = stage(bytes, None).unwrap();
            assert_eq!(unstage(&staged.content, None, &staged.payload).unwrap(), bytes);
        }
    }

    #[test]
    fn a_frame_that_grows_beyond_its_content_takes_no_more_room_than_that() {
        // Of some kilobytes, a gigabyte of zeros: the frame says so itself, or does not.
        for says_so in [true, false] {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
            if says_so {
                encoder.set_pledged_src_size(Some(1 << 30)).unwrap();
            }
            io::copy(&mut io::repeat(0).take(1 << 30), &mut encoder).unwrap();
            let bomb = encoder.finish().unwrap();
            assert!(bomb.len() < 100_000, "{}", bomb.len());
            let mut content = stage(b"little", None).unwrap().content;
            content.payload = Payload::Inline { offset_bytes: 0, len_bytes: bomb.len() as u64 };
            for base in [None, Some(&b"base"[..])] {
                let refused = unstage(&content, base, &bomb).unwrap_err();
                assert!(refused.starts_with("it does not decompress"), "{refused}");
            }
        }
    }

    #[test]
    fn a_content_comes_back_from_the_version_that_it_is_patched_from_and_from_no_other() {
        for len in [200, SMALL_LEN_MAX + 1, LARGE_LEN as usize + 1] {
            let base = content(1, len);
            let mut bytes = base.clone();
            bytes[len / 2..len / 2 + 5].copy_from_slice(b"12345");
            let staged = stage(&bytes, Some((Version(7), &base))).unwrap();
            assert_eq!(staged.content.base, Some(Version(7)));
            assert!(staged.payload.len() < 100 + len / 5000, "{len}: {}", staged.payload.len());
            assert_eq!(unstage(&staged.content, Some(&base), &staged.payload).unwrap(), bytes);
            assert!(unstage(&staged.content, Some(&content(3, len)), &staged.payload).is_err());
            assert!(unstage(&staged.content, None, &staged.payload).is_err());
        }
    }

    #[test]
    fn what_does_not_compress_is_patched_as_well() {
        let noise: Vec<u8> = (0_u32..10_000).flat_map(|n| vault::sha256(&n.to_be_bytes()).0).collect();
        let bytes = [&noise[..1000], b"changed", &noise[1000..]].concat();
        let staged = stage(&bytes, Some((Version(1), &noise))).unwrap();
        assert!(staged.payload.len() < 1000, "{}", staged.payload.len());
    }

    #[test]
    fn a_base_that_does_not_help_is_left_alone() {
        let bytes = content(1, 100_000);
        for base in [content(2, 100_000), b"x".to_vec(), Vec::new()] {
            let staged = stage(&bytes, Some((Version(1), &base))).unwrap();
            assert_eq!(staged.content.base, None);
            assert_eq!(unstage(&staged.content, None, &staged.payload).unwrap(), bytes);
        }
        let staged = stage(b"", Some((Version(1), &bytes))).unwrap();
        assert_eq!(staged.content.base, None);
        // A frame of its own is smaller still.
        let staged = stage(&[7; 100_000], Some((Version(1), &bytes))).unwrap();
        assert!(staged.payload.len() < 40, "{}", staged.payload.len());
    }

    #[test]
    fn another_content_does_not() {
        let one = stage(b"one", None).unwrap();
        let two = stage(b"two", None).unwrap();
        assert!(unstage(&one.content, None, &two.payload).is_err());
        assert!(unstage(&one.content, None, b"junk").is_err());
    }

    #[test]
    fn serials_are_read_from_states_only() {
        let state = br#" {"version":4,"terraform_version":"1.11.4","serial":3,"lineage":"l","resources":[]}"#;
        assert_eq!(serial_and_lineage(state), (Some(3), Some("l".to_owned())));
        let sealed = br#"{"serial":3,"lineage":"l","meta":{},"encrypted_data":"x","encryption_version":"v0"}"#;
        assert_eq!(serial_and_lineage(sealed), (Some(3), Some("l".to_owned())));
        assert_eq!(serial_and_lineage(br#"{"serial":3,"lineage":"l"}"#), (None, None));
        assert_eq!(serial_and_lineage(b"[1]"), (None, None));
        assert_eq!(serial_and_lineage(b"\xff"), (None, None));
    }
}
