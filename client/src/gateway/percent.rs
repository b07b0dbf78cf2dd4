//! Percent-encoding: of names in URLs, and of what a name may not hold.

/// Encodes a name for the path of a URL; what needs no encoding stays readable, `/` too.
pub fn encode_path(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            push_byte(&mut encoded, byte);
        }
    }
    encoded
}

/// Decodes a path; `None` where an escape is not of its form or the bytes are not UTF-8.
pub fn decode(text: &str) -> Option<String> {
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
    String::from_utf8(bytes).ok()
}

/// Appends `%XX`.
pub fn push_byte(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
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
