//! What the state directory tells to whom: nothing without the key, everything with it, and every change of it.

mod damage;
mod forgery;
mod recovery;
mod silence;
