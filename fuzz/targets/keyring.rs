//! What is read from `keys/`: the text of a keyring, and age files.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| stated::vault::fuzz_keyring(bytes));
