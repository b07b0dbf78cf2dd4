//! Memory that is not written to a swap device, where the system allows it.

use std::ops::Deref;

use super::system_call::{lock_memory, unlock_memory};

/// A value that stays out of the swap. A user may lock some MiB, so it is for keys alone.
pub struct Locked<T> {
    value: Box<Page<T>>,
    is_locked: bool,
}

/// It has its pages alone: locks of the system do not add up, and one that ends would end another's on the same page.
#[repr(align(4096))]
struct Page<T>(T);

impl<T> Locked<T> {
    /// Moves a value there.
    pub fn new(value: T) -> Self {
        let value = Box::new(Page(value));
        let locked = lock_memory(&*value);
        if let Err(error) = &locked {
            tracing::warn!(%error, "the keys in memory may be swapped out: raise the limit memlock (ulimit -l)");
        }
        Self { value, is_locked: locked.is_ok() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        if self.is_locked {
            unlock_memory(&*self.value);
        }
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value.0
    }
}
