//! How far the journal is durable, for every thread to see.

use std::sync::RwLock;

use stated_shared::{Digest, Seq};

/// The last durable record and the chain's MAC at it.
#[derive(Debug)]
pub struct Watermark(RwLock<(Seq, Digest)>);

impl Watermark {
    /// At this record.
    pub fn new(seq: Seq, head: Digest) -> Self {
        Self(RwLock::new((seq, head)))
    }

    /// Where it is.
    pub fn get(&self) -> (Seq, Digest) {
        *self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn rise(&self, seq: Seq, head: Digest) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = (seq, head);
    }
}
