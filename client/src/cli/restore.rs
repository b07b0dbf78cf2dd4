//! `restore`: a state directory of a backup, by the program `stated`, which alone knows the format.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use serde::{Deserialize, Serialize};
use stated_shared::{Failure, FailureKind};

use super::failure::shell_path;
use super::{Context, doctor};

/// Make the state directory of a backup; its daemon must not run
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl restore /backup/stated
  statectl restore --force /backup/stated.tar           moves aside what is there
  aws s3 cp s3://bucket/stated.tar - | statectl restore -

Everything is read and compared before it counts, so the key is needed: the configuration's, or the one that
STATED_IDENTITY_FILE names. Leases end, no old fence comes back, and clients that saw a later record say so until:
statectl status --accept-rollback")]
pub(super) struct Restore {
    /// What statectl backup made; - is standard input, in the form of tar
    #[arg(value_name = "DIR|FILE")]
    from: PathBuf,
    /// Where to [default: the daemon's state directory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Move aside what is there, into before-restore-1/ and so on; nothing is deleted
    #[arg(long)]
    force: bool,
}

/// The line of `stated restore`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Restored(Restored),
    Failed { kind: FailureKind, message: String, hint: Option<String> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Restored {
    state_dir: PathBuf,
    repository: String,
    seq: u64,
    epoch: u64,
    leases: u64,
    aside: Option<String>,
    before: Option<u64>,
}

impl Restore {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let program = doctor::daemon_program().ok_or_else(|| {
            Failure::new(FailureKind::Config, "stated is neither beside statectl nor on PATH")
                .hint("install the two of one version")
        })?;
        let mut command = Command::new(&program);
        command.arg("restore").stderr(Stdio::inherit());
        if let Some(state_dir) = self.state_dir.as_ref().or(context.options.state_dir.as_ref()) {
            command.arg("--state-dir").arg(state_dir);
        }
        if self.force {
            command.arg("--force");
        }
        command.stdin(if self.from.as_os_str() == "-" { Stdio::inherit() } else { Stdio::null() });
        // What goes well is told here.
        if std::env::var_os("STATED_LOG").is_none() {
            command.env("STATED_LOG", "warn");
        }
        let output = command.arg("--").arg(&self.from).stdout(Stdio::piped()).output().map_err(|error| {
            Failure::new(FailureKind::Config, format!("cannot run {}: {error}", program.display()))
                .hint(format!("chmod +x {}", shell_path(&program)))
        })?;
        let line = String::from_utf8_lossy(&output.stdout);
        let restored = match serde_json::from_str(line.trim()) {
            Ok(Told::Restored(restored)) => restored,
            Ok(Told::Failed { kind, message, hint }) => return Err(Failure { hint, ..Failure::new(kind, message) }),
            Err(_) => {
                let message = format!("{} cannot restore: it ended with {}", program.display(), output.status);
                return Err(Failure::new(FailureKind::Config, message)
                    .hint("install the two of one version: stated and statectl"));
            }
        };
        if context.output.json {
            context.output.print_object(&restored)?;
            return Ok(0);
        }
        let Restored { state_dir, repository, seq, epoch, leases, aside, before } = restored;
        let dir = state_dir.display();
        context.output.print(&format!("repository {repository} up to record {seq} is in {dir}"))?;
        context.output.print(&format!("{leases} leases ended; the next fence is of an epoch above {epoch}"))?;
        if let Some(aside) = aside {
            let upto = before.map(|seq| format!(", up to record {seq}")).unwrap_or_default();
            context.output.print(&format!("what was there before is in {dir}/{aside}{upto}"))?;
        }
        context.output.say("clients that saw a later record refuse this one until: statectl status --accept-rollback");
        Ok(0)
    }
}
