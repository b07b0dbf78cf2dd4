//! Random bytes of the kernel.

use std::io;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Draws random bytes: for IDs, and for what must not be guessed.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut drawn = 0;
    while drawn < N {
        match getrandom(&mut bytes[drawn..], GetRandomFlags::empty()) {
            Ok(count) => drawn += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}
