//! What is read from the log: a header line, and the plaintext of a record.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    stated::journal::fuzz_header(bytes);
    stated::engine::fuzz_record(bytes);
});
