//! Locks, as processes meet them: who gets one when, how long it lasts, and what it guards.

mod commits;
mod holders;
mod leases;
mod queue;
mod restarts;
mod rights;
