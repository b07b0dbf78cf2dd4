//! The kernel's random bytes.

use std::io;

/// Fills the buffer with random bytes fit for keys. `Err` means the kernel has none to give: do not go on without.
#[expect(clippy::disallowed_methods, reason = "the one place that draws them")]
pub fn fill_random(buffer: &mut [u8]) -> io::Result<()> {
    #[cfg(test)]
    if seeded::fill(buffer) {
        return Ok(());
    }
    getrandom::fill(buffer).map_err(|error| match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::ErrorKind::Unsupported.into(),
    })
}

/// A thread's own random bytes, where a test must be able to repeat them.
#[cfg(test)]
pub mod seeded {
    use std::cell::RefCell;

    use crate::disk::sim::Random;

    thread_local! {
        static SEEDED: RefCell<Option<Random>> = const { RefCell::new(None) };
    }

    /// From here on this thread draws what the seed gives.
    pub fn seed(seed: u64) {
        SEEDED.set(Some(Random::seeded(seed)));
    }

    pub(super) fn fill(buffer: &mut [u8]) -> bool {
        SEEDED.with_borrow_mut(|seeded| {
            seeded.as_mut().is_some_and(|random| {
                let bytes = random.bytes(buffer.len());
                buffer.copy_from_slice(&bytes);
                true
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        fill_random(&mut a).unwrap();
        fill_random(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
