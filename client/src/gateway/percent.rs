//! Percent-encoding: of names in URLs, and of what a name may not hold.

use stated_shared::StateName;

/// Encodes a name for the path of a URL; what needs no encoding stays readable, `/` too.
pub fn encode_path(name: &str) -> String {
    encode_strictly(name.as_bytes(), b"/")
}

/// Encodes every byte that RFC 3986 does not leave alone, but for these.
pub fn encode_strictly(bytes: &[u8], but: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || but.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            push_byte(&mut encoded, byte);
        }
    }
    encoded
}

/// Decodes a path; `None` where an escape is not of its form or the bytes are not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    String::from_utf8(decode_bytes(text)?).ok()
}

/// Decodes to bytes; `None` where an escape is not of its form.
pub fn decode_bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            let digit = |c: u8| char::from(c).to_digit(16);
            bytes.push(u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    Some(bytes)
}

/// Appends `%XX`.
pub fn push_byte(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// One part of a name; two different parts never become one, since `%` is encoded too.
pub fn name_part(bytes: &[u8]) -> String {
    let mut part = String::with_capacity(bytes.len());
    if matches!(bytes, b"." | b"..") {
        bytes.iter().for_each(|&byte| push_byte(&mut part, byte));
        return part;
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut buffer = [0; 4];
            let text = c.encode_utf8(&mut buffer);
            if c != '%' && StateName::parse(&format!("x{text}")).is_ok() {
                part.push(c);
            } else {
                text.bytes().for_each(|byte| push_byte(&mut part, byte));
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_byte(&mut part, byte));
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_path_of_a_url() {
        for name in ["prod", "a b/ü", "100%", "a%40b", "a?b#c", "x+y&z=1;"] {
            let encoded = encode_path(name);
            assert!(encoded.bytes().all(|b| b.is_ascii_graphic() && !b"?#+&;".contains(&b)), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(name));
        }
        assert_eq!(encode_path("github.com/org/infra"), "github.com/org/infra");
    }

    #[test]
    fn a_slash_may_come_encoded() {
        assert_eq!(decode("a%2Fb%2fc").as_deref(), Some("a/b/c"));
    }

    #[test]
    fn broken_escapes_are_refused() {
        for text in ["%", "%4", "%zz", "%ff", "a%+1"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
