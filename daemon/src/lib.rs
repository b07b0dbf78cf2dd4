//! `stated`, the state daemon, as a library: tests boot it for real.

pub mod engine;
pub mod journal;
pub mod vault;
