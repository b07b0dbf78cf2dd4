//! Checksums of contents, by the names that S3's headers have for them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::HeaderName;
use sha2::{Digest as _, Sha256};
use stated_shared::ContentInfo;

use super::super::aws::Answer;
use super::super::aws::refusal::Refusal;
use super::Call;

const PREFIX: &str = "x-amz-checksum-";
const SHA256: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const TYPE: HeaderName = HeaderName::from_static("x-amz-checksum-type");
/// Polynomials, bits reversed: of IEEE 802.3, of Castagnoli, and of NVMe.
const CRC32: u64 = 0xedb8_8320;
const CRC32C: u64 = 0x82f6_3b78;
const CRC64NVME: u64 = 0x9a6c_9329_ac4b_c9b5;

/// Compares the body with each checksum that comes with it.
pub fn check(call: &Call<'_>, body: &[u8]) -> Result<(), Refusal> {
    for (name, value) in &call.trailers {
        if let Some(algorithm) = name.strip_prefix(PREFIX) {
            check_one(algorithm, value.as_bytes(), body)?;
        }
    }
    for (name, value) in &call.head.headers {
        let Some(algorithm) = name.as_str().strip_prefix(PREFIX) else { continue };
        check_one(algorithm, value.as_bytes(), body)?;
    }
    Ok(())
}

/// As [`check`], of a content whose parts were checked: its checksum may be one of their checksums (`…-N`).
pub fn check_joined(call: &Call<'_>, body: &[u8]) -> Result<(), Refusal> {
    for (name, value) in &call.head.headers {
        let Some(algorithm) = name.as_str().strip_prefix(PREFIX) else { continue };
        if !value.as_bytes().contains(&b'-') {
            check_one(algorithm, value.as_bytes(), body)?;
        }
    }
    Ok(())
}

fn check_one(algorithm: &str, value: &[u8], body: &[u8]) -> Result<(), Refusal> {
    let computed = match algorithm {
        "sha256" => sha256(body).to_vec(),
        "crc32" => crc(CRC32, 32, body).to_be_bytes()[4..].to_vec(),
        "crc32c" => crc(CRC32C, 32, body).to_be_bytes()[4..].to_vec(),
        "crc64nvme" => crc(CRC64NVME, 64, body).to_be_bytes().to_vec(),
        // How it is meant, and what the client wants back.
        "type" | "mode" | "algorithm" => return Ok(()),
        other => return Err(Refusal::not_implemented(format_args!("the checksum {other}"))),
    };
    if STANDARD.decode(value).ok().as_deref() == Some(&computed) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, "BadDigest", format!("the body does not match its {algorithm} checksum")))
}

/// Adds the checksum that is known of each content, where the client asks for one.
pub fn told(call: &Call<'_>, answer: Answer, content: &ContentInfo) -> Answer {
    if call.header("x-amz-checksum-mode").is_none_or(|mode| !mode.eq_ignore_ascii_case("enabled")) {
        return answer;
    }
    answer.with(SHA256, STANDARD.encode(content.sha256.0)).with(TYPE, "FULL_OBJECT")
}

/// SHA-256.
pub fn sha256(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// A cyclic redundancy check of up to 64 bits, reflected, all ones before and after.
fn crc(polynomial: u64, bits: u32, body: &[u8]) -> u64 {
    let mut table = [0_u64; 256];
    for (byte, entry) in (0_u64..).zip(&mut table) {
        *entry = (0..8).fold(byte, |value, _| if value & 1 == 1 { value >> 1 ^ polynomial } else { value >> 1 });
    }
    let ones = u64::MAX >> (64 - bits);
    let fold = |value: u64, &byte: &u8| table[usize::from(value.to_le_bytes()[0] ^ byte)] ^ value >> 8;
    body.iter().fold(ones, fold) ^ ones
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogues_come_out() {
        // "123456789" is what catalogues of such checks give the value of.
        let digits = b"123456789";
        assert_eq!(crc(CRC32, 32, digits), 0xcbf4_3926);
        assert_eq!(crc(CRC32C, 32, digits), 0xe306_9283);
        assert_eq!(crc(CRC64NVME, 64, digits), 0xae8b_1486_0a79_9888);
    }

    #[test]
    fn a_wrong_checksum_is_refused_and_an_unknown_one_is_too() {
        assert_eq!(check_one("crc32", b"y/Q5Jg==", b"123456789"), Ok(()));
        assert_eq!(check_one("crc32", b"y/Q5Jg==", b"123456780").unwrap_err().code, "BadDigest");
        assert_eq!(check_one("sha256", b"!", b"").unwrap_err().code, "BadDigest");
        assert_eq!(check_one("md4", b"", b"").unwrap_err().code, "NotImplemented");
    }
}
