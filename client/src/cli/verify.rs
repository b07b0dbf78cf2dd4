//! `verify`: check what is stored.

use clap::Args;
use serde::Serialize;
use stated_shared::{Failure, FailureKind, Reply, Request};

use super::Context;
use super::failure;

/// Read everything that is stored, up to the last durable record, and name what is damaged
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl verify

Where something is damaged each place is printed, and the exit code is 74. Without a daemon: stated verify.")]
pub(super) struct Verify {
    /// Read every payload too: what it does today in any case
    #[arg(long, hide = true)]
    read_data: bool,
}

#[derive(Serialize)]
struct VerifiedView {
    records: u64,
    payloads: u64,
    seq: u64,
    head: String,
    damage: Vec<DamageView>,
}

#[derive(Serialize)]
struct DamageView {
    file: String,
    offset: u64,
    what: String,
}

impl Verify {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let verified = match context.connect()?.call(&Request::Verify { read_data: true })? {
            Reply::Verified(verified) => verified,
            _ => return Err(failure::unexpected()),
        };
        let places = verified.damage.len();
        if context.output.json {
            let damage = verified.damage.into_iter();
            context.output.print_object(&VerifiedView {
                records: verified.records,
                payloads: verified.payloads,
                seq: verified.seq.0,
                head: verified.head.to_string(),
                damage: damage
                    .map(|damage| DamageView { file: damage.file, offset: damage.offset_bytes, what: damage.what })
                    .collect(),
            })?;
        } else {
            for damage in &verified.damage {
                context.output.print(&format!("{} at byte {}: {}", damage.file, damage.offset_bytes, damage.what))?;
            }
            let (records, payloads) = (verified.records, verified.payloads);
            context.output.print(&format!(
                "{records} records and {payloads} payloads verify, up to record {} (head {})",
                verified.seq, verified.head
            ))?;
        }
        if places == 0 {
            return Ok(0);
        }
        let what =
            if places == 1 { "1 place does not verify".to_owned() } else { format!("{places} places do not verify") };
        Err(Failure::new(FailureKind::Storage, what)
            .hint("restore the damaged files from a backup, then run verify again"))
    }
}
