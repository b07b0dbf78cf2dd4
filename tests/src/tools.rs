//! What a test needs of its surroundings, and how it says that it is missing.

use std::io::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Whether a program is on `PATH`; without it the test is skipped aloud, and fails where `CI=true`.
#[must_use]
pub fn tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    present(std::env::split_paths(&path).any(|dir| dir.join(name).is_file()), &format!("{name} is not installed"))
}

/// Whether this is root; else the test is skipped aloud.
#[must_use]
pub fn root(what_for: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(&format!("needs root to {what_for}"));
    }
    is_root
}

/// Says that a test is skipped, past the capture of a passing test's output: `eprintln!` would be heard by nobody.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether there is what a test needs; without it the test is skipped aloud, and fails where `CI=true`.
#[must_use]
pub fn present(is_present: bool, missing: &str) -> bool {
    if !is_present {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}, and CI must not skip this test");
        skip(missing);
    }
    is_present
}

/// Whether a directory stands on its own as short enough for the sockets below it.
pub(crate) fn is_short(dir: &Path) -> bool {
    // A socket's path has at most 107 bytes, and the longest below a host's directory takes some 50.
    dir.as_os_str().len() <= 40
}

/// The SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
