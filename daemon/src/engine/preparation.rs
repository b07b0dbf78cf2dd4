//! A thread that does ahead what a sealing needs and nobody should wait for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use crate::host;
use crate::vault::Vault;

/// The thread; it ends when this is dropped.
pub(super) struct Preparation {
    thread: Thread,
    ended: Arc<AtomicBool>,
}

impl Preparation {
    /// Starts the thread, which runs where a core has nothing else to do.
    pub(super) fn start(vault: Arc<Vault>) -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let run = {
            let ended = Arc::clone(&ended);
            move || {
                if let Err(error) = host::run_when_idle() {
                    tracing::debug!(%error, "the thread that prepares sealings competes with the others");
                }
                let has_ended = || ended.load(Ordering::Relaxed);
                while !has_ended() {
                    // Whoever finds nothing prepared does it himself, and meets the error there.
                    if let Err(error) = vault.prepare(has_ended) {
                        tracing::error!(%error, "a sealing cannot be prepared");
                    }
                    std::thread::park();
                }
            }
        };
        #[expect(clippy::disallowed_methods, reason = "it must have a priority of its own, below all that waits")]
        let handle = std::thread::Builder::new().name("preparation".to_owned()).spawn(run)?;
        Ok(Self { thread: handle.thread().clone(), ended })
    }

    /// Prepares more.
    pub(super) fn begin(&self) {
        self.thread.unpark();
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}
