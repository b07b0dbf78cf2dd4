//! Large contents, and what they take of the daemon's memory.

use std::fs;

use stated_tests::{Host, Random};

/// What `content_memory_mib` is, unless somebody says otherwise.
const BUDGET_LEN: u64 = 1 << 30;
/// The program itself, frames on their way, and what the allocator keeps.
const REST_LEN: u64 = 128 << 20;

#[test]
fn a_state_of_256_mib_goes_in_and_out_within_the_budget() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    // Half of it compresses, as text does.
    let mut content = random.bytes(128 << 20);
    content.extend((0..128 << 20).map(|n: u32| (n >> 12) as u8));
    let file = host.file("large", &content);
    let file = file.to_str().expect("text");
    assert_eq!(host.run(["put", "example/large", file]), "example/large@1");
    // The next version is a patch: base, content and comparison are in memory at once.
    content[200 << 20] ^= 1;
    fs::write(file, &content).expect("written");
    assert_eq!(host.run(["put", "example/large", file]), "example/large@2");
    let out = host.path("out");
    for (at, byte) in [("example/large@2", content[200 << 20]), ("example/large@1", content[200 << 20] ^ 1)] {
        host.run(["get", at, "-o", out.to_str().expect("text")]);
        content[200 << 20] = byte;
        assert!(fs::read(&out).expect("a file") == content, "{at}");
    }
    let memory = daemon.memory_max_bytes();
    assert!(memory < BUDGET_LEN + REST_LEN, "{memory} bytes");
    daemon.stop();
}
