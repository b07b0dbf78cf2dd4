//! How far the journal is durable, for every thread to see.

use stated_shared::{Digest, Seq};
use tokio::sync::watch;

/// The last durable record and the chain's MAC at it.
#[derive(Debug)]
pub struct Watermark(watch::Sender<(Seq, Digest)>);

impl Watermark {
    /// At this record.
    pub fn new(seq: Seq, head: Digest) -> Self {
        Self(watch::Sender::new((seq, head)))
    }

    /// Where it is.
    pub fn get(&self) -> (Seq, Digest) {
        *self.0.borrow()
    }

    /// Waits until a record after this one is durable.
    pub async fn passes(&self, seq: Seq) {
        // Cannot fail: the sender is borrowed.
        let _ = self.0.subscribe().wait_for(|(last, _)| *last > seq).await;
    }

    pub(super) fn rise(&self, seq: Seq, head: Digest) {
        self.0.send_replace((seq, head));
    }
}
