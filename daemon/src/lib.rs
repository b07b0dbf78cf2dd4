//! `stated`, the state daemon, as a library: tests boot it for real.

pub mod boot;
pub mod config;
pub mod disk;
pub mod engine;
pub mod host;
pub mod journal;
pub mod machine;
pub mod policy;
pub mod session;
#[cfg(test)]
mod simulation;
pub mod vault;
