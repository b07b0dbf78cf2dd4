//! `prune`: give up contents of old versions.

use std::time::Duration;

use clap::Args;
use stated_shared::{Failure, Prune, PruneRow, Reply, Request, Version};

use super::views::PruneView;
use super::{Context, args, failure, table};

/// Runs of versions that a row of the table names.
const RUNS_SHOWN_MAX: usize = 4;

/// Give up the contents of old versions
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl prune --keep-last 20 --dry-run                    what would go, of all states
  statectl prune --keep-last 20 --keep-tagged 'prod/**'
  statectl prune --keep-within 90d --keep-tagged

A version is kept where any of the rules says so; the newest content of a state is always kept. Of what goes,
the log still tells who wrote it, when and why. It cannot be brought back.")]
pub(super) struct PruneVerb {
    /// Keep so many of the newest contents of each state
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), required_unless_present_any = ["keep_within", "keep_tagged"])]
    keep_last: Option<u64>,
    /// Keep what was written within this time, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = args::span)]
    keep_within: Option<Duration>,
    /// Keep versions that have a tag
    #[arg(long)]
    keep_tagged: bool,
    /// Only say what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Only states whose names match; '*' stays in a part of a name, '**' crosses
    glob: Option<String>,
}

impl PruneVerb {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.connect()?;
        let mut prune = Prune {
            glob: self.glob,
            after: None,
            keep_last: self.keep_last,
            keep_within_ms: self.keep_within.map(args::milliseconds),
            keep_tagged: self.keep_tagged,
            dry_run: self.dry_run,
        };
        let mut rows = Vec::new();
        let (mut versions, mut bytes) = (0, 0);
        loop {
            let Reply::Pruned(page) = client.call(&Request::Prune(prune.clone()))? else {
                return Err(failure::unexpected());
            };
            for of in &page.rows {
                versions += of.versions;
                bytes += of.payload_bytes;
                if context.output.json {
                    context.output.print_object(&PruneView::from(of))?;
                } else {
                    rows.push(row(of));
                }
            }
            prune.after = page.next;
            if prune.after.is_none() {
                break;
            }
        }
        if context.output.json {
            return Ok(0);
        }
        let headings = ["STATE", "PRUNED", "VERSIONS", "SIZE", "STORED ANEW"];
        table::print(&context.output, &headings, &[2, 3, 4], rows)?;
        let (done, size) = (if self.dry_run { "would be pruned" } else { "pruned" }, table::size(bytes));
        tell!("statectl: {versions} versions {done}, {size}");
        Ok(0)
    }
}

fn row(of: &PruneRow) -> Vec<String> {
    let run = |(first, last): &(Version, Version)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let mut runs: Vec<String> = of.dropped.iter().take(RUNS_SHOWN_MAX).map(run).collect();
    if of.dropped.len() > RUNS_SHOWN_MAX {
        runs.push("…".to_owned());
    }
    vec![
        of.state.to_string(),
        runs.join(", "),
        of.versions.to_string(),
        table::size(of.payload_bytes),
        of.reencoded.to_string(),
    ]
}
