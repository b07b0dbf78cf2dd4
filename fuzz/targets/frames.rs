//! What arrives on the socket: a frame decodes to what encodes to the same bytes, or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stated_shared::wire::{ClientFrame, ClientHello, PREFIX_LEN, Preamble, ServerFrame, ServerHello, decode, encode};

fn one_spelling<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        // What came in as a frame fits into one again.
        let again = encode(&value).expect("it was a frame");
        let decoded = decode::<T>(&again[PREFIX_LEN..]);
        assert!(decoded.is_ok_and(|value| encode(&value).is_ok_and(|third| third == again)));
    }
}

fuzz_target!(|bytes: &[u8]| {
    one_spelling::<ClientFrame>(bytes);
    one_spelling::<ServerFrame>(bytes);
    one_spelling::<ClientHello>(bytes);
    one_spelling::<ServerHello>(bytes);
    if let Some(preamble) = bytes.first_chunk().and_then(Preamble::decode) {
        assert_eq!(preamble.encode(), bytes[..Preamble::LEN]);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok((name, at)) = stated_shared::Selector::split(text) {
            assert!(!name.as_str().is_empty(), "{at}");
        }
    }
});
