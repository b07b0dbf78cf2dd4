//! The daemon as a service of systemd.

mod activation;
mod units;
mod watchdog;
