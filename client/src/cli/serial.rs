//! Terraform's serial in a content that statectl writes itself.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Replaces the top-level `serial`; every other byte stays as it is.
pub(super) fn with_serial(content: &[u8], serial: u64) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Serial<'a> {
        #[serde(borrow)]
        serial: &'a RawValue,
    }
    let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
    let old = serde_json::from_str::<Serial<'_>>(text).map_err(|error| error.to_string())?.serial.get();
    // The raw value borrows from the text, so its place is the difference of the addresses.
    let start = old.as_ptr() as usize - text.as_ptr() as usize;
    let rest = start + old.len();
    Ok([&content[..start], serial.to_string().as_bytes(), &content[rest..]].concat())
}

/// The top-level `serial`, where there is one.
pub(super) fn serial(content: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Serial {
        serial: u64,
    }
    serde_json::from_slice::<Serial>(content).ok().map(|found| found.serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_top_serial_changes() {
        let old = br#"{ "outputs": {"serial": 3}, "serial" : 9 , "x":"\"serial\": 9"}"#;
        let new = br#"{ "outputs": {"serial": 3}, "serial" : 10 , "x":"\"serial\": 9"}"#;
        assert_eq!(with_serial(old, 10).unwrap(), new);
    }

    #[test]
    fn without_one_clear_serial_nothing_is_guessed() {
        assert!(with_serial(b"{}", 1).is_err());
        assert!(with_serial(br#"{"serial":1,"serial":2}"#, 3).is_err());
        assert!(with_serial(b"\xff", 1).is_err());
    }
}
