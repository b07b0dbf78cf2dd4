//! Real Terraform through `statectl exec`, before a real daemon.
//!
//! Its resources are `terraform_data`, which is built in, so nothing is downloaded. Where a test needs an apply in the
//! middle of its work, that work is a provisioner that waits at a [`gate::Gate`].

mod concurrency;
mod forced;
mod gate;
mod gateway;
mod history;
mod kills;
mod leases;
mod life;
mod locking;
mod lost_answers;
mod migration;
mod names;
mod project;
mod proxy;
mod restarts;
mod s3;
mod versions;
