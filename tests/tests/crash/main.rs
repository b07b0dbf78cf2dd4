//! Crashes: what was acknowledged is there, and everything else is there whole or not at all.

mod disk;
mod faults;
mod ledger;
mod torture;
mod writer;
