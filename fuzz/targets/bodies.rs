//! What Terraform, or somebody who pretends to be it, sends to the gateway.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| stated_client::gateway::fuzz_bodies(bytes));
