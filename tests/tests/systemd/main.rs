//! The daemon as a service of systemd.

mod activation;
mod boot;
mod machine;
mod package;
mod units;
mod watchdog;
