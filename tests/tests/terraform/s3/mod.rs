//! Real Terraform with an `s3` backend, its block unchanged.

mod life;
mod locking;
mod lost_answers;
mod provider;
