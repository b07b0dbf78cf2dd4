//! Contents on their way in and out: hashed, compressed, checked.

use std::cell::RefCell;

use serde::Deserialize;

use super::raw_frame::raw_frame;
use crate::machine::event::{Content, Payload};
use crate::vault;

/// Payloads at most this long ride in the record; larger ones are blobs.
pub const INLINE_PAYLOAD_LEN_MAX: usize = 64 << 10;

/// A content's facts and its compressed bytes.
#[derive(Debug)]
pub struct Staged {
    /// The facts; the payload's place is not known yet.
    pub content: Content,
    /// One zstd frame.
    pub payload: Vec<u8>,
}

thread_local! {
    /// Making a compressor costs more than compressing a small state.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// Hashes and compresses a content.
pub fn stage(bytes: &[u8]) -> std::io::Result<Staged> {
    let payload = raw_frame(bytes).map_or_else(|| compress(bytes), Ok)?;
    let (serial, lineage) = serial_and_lineage(bytes);
    let content = Content {
        sha256: vault::sha256(bytes),
        size_bytes: bytes.len() as u64,
        serial,
        lineage,
        payload: Payload::Inline { offset_bytes: 0, len_bytes: payload.len() as u64 },
    };
    Ok(Staged { content, payload })
}

fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?),
        };
        compressor.compress(bytes)
    })
}

/// Gives back the content of a payload, and only that content.
pub fn unstage(content: &Content, payload: &[u8]) -> Result<Vec<u8>, String> {
    let size = usize::try_from(content.size_bytes).map_err(|_| "it is too large for this host".to_owned())?;
    let bytes = zstd::bulk::decompress(payload, size).map_err(|error| format!("it does not decompress: {error}"))?;
    if bytes.len() != size || vault::sha256(&bytes) != content.sha256 {
        return Err("its SHA-256 is another".to_owned());
    }
    Ok(bytes)
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

    #[test]
    fn a_content_comes_back() {
        for bytes in [&b""[..], b"x", &[7; 100_000]] {
            let staged = stage(bytes).unwrap();
            assert_eq!(unstage(&staged.content, &staged.payload).unwrap(), bytes);
        }
    }

    #[test]
    fn another_content_does_not() {
        let one = stage(b"one").unwrap();
        let two = stage(b"two").unwrap();
        assert!(unstage(&one.content, &two.payload).is_err());
        assert!(unstage(&one.content, b"junk").is_err());
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
