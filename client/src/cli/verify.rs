//! `verify`: check what is stored.

use clap::Args;
use serde::Serialize;
use stated_shared::limits::PARTS_MAX;
use stated_shared::{Failure, FailureKind, Part, Reply, Request};

use super::Context;
use super::failure;

/// Check the records up to the last durable one, and with --read-data the contents too; name what is damaged
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl verify

Where something is damaged each place is printed, and the exit code is 74. Without a daemon: stated verify.")]
pub(super) struct Verify {
    /// Read and compare every content too, or the n-th of t parts of them: whoever reads one a night has read all in t
    #[arg(long, value_name = "N/T", num_args = 0..=1, require_equals = true, default_missing_value = "1/1", value_parser = part)]
    read_data: Option<Part>,
}

fn part(text: &str) -> Result<Part, String> {
    let part = text.split_once('/').and_then(|(n, of)| Some(Part { n: n.parse().ok()?, of: of.parse().ok()? }));
    part.filter(|part| (1..=PARTS_MAX).contains(&part.of) && (1..=part.of).contains(&part.n))
        .ok_or_else(|| format!("a part is 1/7 to 7/7, with up to {PARTS_MAX} for 7"))
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
        let verified = match context.connect()?.call(&Request::Verify { read_data: self.read_data })? {
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
            let records = verified.records;
            let payloads = match self.read_data {
                None => String::new(),
                Some(Part::ALL) => format!(" and {} payloads", verified.payloads),
                Some(Part { n, of }) => format!(" and {} payloads (part {n} of {of})", verified.payloads),
            };
            context.output.print(&format!(
                "{records} records{payloads} verify, up to record {} (head {})",
                verified.seq, verified.head
            ))?;
            if self.read_data.is_none() {
                context.output.say("no content was compared: statectl verify --read-data does so");
            }
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
