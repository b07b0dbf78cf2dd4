//! Bodies of the encoding `aws-chunked`: pieces, each of which may be signed, and checksums after them.
//!
//! By "Signature calculations: transferring a payload in multiple chunks" and "… with trailing headers" of S3's API
//! reference.

use hyper::StatusCode;

use super::refusal::Refusal;
use super::signature::{ChunkSigner, SignatureError};

/// Longest line between pieces, in bytes.
const LINE_LEN_MAX: usize = 1024;
/// Most lines after the last piece.
const TRAILERS_MAX: usize = 8;

/// How the pieces of a body are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Whether each is signed.
    pub is_signed: bool,
    /// Whether checksums come after them.
    pub has_trailer: bool,
}

impl Form {
    /// Reads what stands for the body's hash.
    pub fn read(payload: &str) -> Option<Self> {
        match payload {
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Some(Self { is_signed: false, has_trailer: true }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Some(Self { is_signed: true, has_trailer: false }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Some(Self { is_signed: true, has_trailer: true }),
            _ => None,
        }
    }

    /// The longest body that such a content may come in: pieces but the last have at least 8 KiB.
    pub fn encoded_len_max(content_len_max: usize) -> usize {
        content_len_max + content_len_max / 64 + 16 * LINE_LEN_MAX
    }
}

/// A content, and the headers that came after it.
pub type Decoded = (Vec<u8>, Vec<(String, String)>);

/// Takes the pieces out of their encoding, in place.
pub fn decode(mut body: Vec<u8>, form: Form, mut signer: ChunkSigner, len: Option<usize>) -> Result<Decoded, Refusal> {
    let cut =
        || Refusal::new(StatusCode::BAD_REQUEST, "IncompleteBody", "the body is not whole in its encoding aws-chunked");
    let (mut read, mut written) = (0, 0);
    loop {
        let line = line(&body, &mut read).ok_or_else(cut)?;
        let (digits, extension) = line.split_once(';').unwrap_or((&line, ""));
        let size = usize::from_str_radix(digits, 16).map_err(|_| cut())?;
        let end = read.checked_add(size).filter(|end| *end <= body.len()).ok_or_else(cut)?;
        if form.is_signed {
            let given = extension.strip_prefix("chunk-signature=").unwrap_or_default();
            signer.check(&body[read..end], given).map_err(mismatch)?;
        }
        if size == 0 {
            break;
        }
        body.copy_within(read..end, written);
        written += size;
        read = end + 2;
        if body.get(end..read) != Some(b"\r\n") {
            return Err(cut());
        }
    }
    let mut trailers = Vec::new();
    let mut signature = None;
    while let Some(line) = line(&body, &mut read).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(cut)?;
        match name.to_ascii_lowercase() {
            name if name == "x-amz-trailer-signature" => signature = Some(value.trim().to_owned()),
            name if trailers.len() < TRAILERS_MAX => trailers.push((name, value.trim().to_owned())),
            _ => return Err(cut()),
        }
    }
    if form.is_signed && form.has_trailer {
        let text: String = trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        signer.check_trailer(&text, signature.as_deref().unwrap_or_default()).map_err(mismatch)?;
    }
    if len.is_some_and(|len| len != written) {
        return Err(cut());
    }
    body.truncate(written);
    Ok((body, trailers))
}

fn mismatch(error: SignatureError) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", error.to_string())
}

/// The next line, without its end.
fn line(body: &[u8], read: &mut usize) -> Option<String> {
    let rest = body.get(*read..)?;
    let end = rest.iter().take(LINE_LEN_MAX).position(|byte| *byte == b'\n')?;
    *read += end + 1;
    let line = std::str::from_utf8(&rest[..end]).ok()?;
    Some(line.trim_end_matches('\r').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the reference: 66,560 bytes of `a` in pieces of 64 KiB and 1 KiB.
    const SEED: &str = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    const PIECES: [(usize, &str); 3] = [
        (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    ];

    fn signer() -> ChunkSigner {
        ChunkSigner::example("20130524T000000Z", "20130524/us-east-1/s3/aws4_request", SEED)
    }

    fn body() -> Vec<u8> {
        let mut body = Vec::new();
        for (size, signature) in PIECES {
            body.extend(format!("{size:x};chunk-signature={signature}\r\n").bytes());
            body.extend(std::iter::repeat_n(b'a', size));
            body.extend(b"\r\n");
        }
        body
    }

    const SIGNED: Form = Form { is_signed: true, has_trailer: false };

    #[test]
    fn the_references_example_is_let_in() {
        let (content, trailers) = decode(body(), SIGNED, signer(), Some(66560)).unwrap();
        assert!(content.len() == 66560 && content.iter().all(|byte| *byte == b'a') && trailers.is_empty());
    }

    #[test]
    fn what_is_changed_or_missing_is_noticed() {
        let code = |body: Vec<u8>, len| decode(body, SIGNED, signer(), len).unwrap_err().code;
        let mut changed = body();
        changed[66000] = b'b';
        assert_eq!(code(changed, None), "SignatureDoesNotMatch");
        assert_eq!(code(body()[..65700].to_vec(), None), "IncompleteBody");
        assert_eq!(code(body(), Some(66561)), "IncompleteBody");
        for start in ["x\r\n", "ffffffffffffffff\r\n", ""] {
            assert_eq!(code(start.as_bytes().to_vec(), None), "IncompleteBody", "{start}");
        }
    }

    #[test]
    fn checksums_come_after_the_content() {
        let form = Form::read("STREAMING-UNSIGNED-PAYLOAD-TRAILER").unwrap();
        let body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n".to_vec();
        let (content, trailers) = decode(body, form, signer(), Some(5)).unwrap();
        assert_eq!(content, b"hello");
        assert_eq!(trailers, [("x-amz-checksum-crc32".to_owned(), "NhCmhg==".to_owned())]);
    }
}
