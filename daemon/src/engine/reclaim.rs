//! Gives back the room of what was pruned, beside the commits.

use std::io;
use std::sync::mpsc::{Sender, channel};

use super::store::Store;

/// The way to the thread, which ends with it; what it had left to do the next start does.
pub(super) enum Reclaim {
    Beside(Sender<Vec<String>>),
    /// At once: nothing happens but what a test asks for.
    AtOnce(Store),
}

impl Reclaim {
    /// Starts the thread.
    pub fn start(store: Store) -> io::Result<Self> {
        let (sender, receiver) = channel::<Vec<String>>();
        let run = move || receiver.iter().flatten().for_each(|blob| store.remove_blob(&blob));
        #[expect(clippy::disallowed_methods, reason = "it waits for the disk, which neither a task nor the owner may")]
        std::thread::Builder::new().name("reclaim".to_owned()).spawn(run)?;
        Ok(Self::Beside(sender))
    }

    /// Removes blobs that nothing durable needs.
    pub fn remove(&self, blobs: Vec<String>) {
        match self {
            // A thread that died said so; the next start sweeps.
            Self::Beside(sender) => drop(sender.send(blobs)),
            Self::AtOnce(store) => blobs.iter().for_each(|blob| store.remove_blob(blob)),
        }
    }
}
