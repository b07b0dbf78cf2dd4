//! Real Terraform with an `s3` backend, its block unchanged.

mod life;
mod locking;
mod lost_answers;
mod provider;

use crate::project::S3_BACKEND;

/// A use of the aws provider, for a file that Terraform leaves to OpenTofu, so that nothing has to be downloaded.
pub(crate) const PROVIDER: &str = "provider \"aws\" {}\n";

/// The block with a lock file instead of, or beside, the table.
pub(crate) fn with_file(and_table: bool) -> String {
    let line = "    dynamodb_table = \"terraform-lock\"\n";
    let file = "    use_lockfile   = true\n";
    S3_BACKEND.replace(line, &if and_table { format!("{line}{file}") } else { file.to_owned() })
}
