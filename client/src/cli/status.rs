//! `status`: the daemon's own facts.

use clap::Args;
use serde::Serialize;
use stated_shared::{Failure, PolicyInfo, Reply, Request, StatusInfo};

use super::{Context, failure, metrics, table, views};
use crate::printable::printable;
use crate::{Client, ConnectOptions};

/// Show the daemon's own facts; never starts one
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl status
  statectl status --json | jq .grants
  statectl status --prometheus          for a collector of metrics
  statectl status --accept-rollback     after a restore of the state directory

Without a daemon it fails with 69. What is wrong then: statectl doctor.")]
pub(super) struct Status {
    /// Believe the journal that answers, although an older one, a changed one or another was put in its place
    #[arg(long)]
    accept_rollback: bool,
    /// Print figures in the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
}

#[derive(Serialize)]
struct StatusView<'a> {
    version: &'a str,
    pid: u32,
    host: &'a str,
    started: String,
    repository: String,
    state_dir: &'a str,
    socket: &'a str,
    epoch: u64,
    seq: u64,
    head: String,
    keyring: u64,
    recipients: &'a [String],
    states: u64,
    versions: u64,
    log_bytes: u64,
    grants: u64,
    waiters: u64,
    sessions: u64,
    retention: &'a [String],
    audit: &'a str,
    policy: PolicyView<'a>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct PolicyView<'a> {
    mode: &'a str,
    file: &'a str,
    rules: u64,
    loaded: Option<String>,
    error: Option<&'a str>,
    unknown: &'a [String],
}

impl<'a> From<&'a PolicyInfo> for PolicyView<'a> {
    fn from(info: &'a PolicyInfo) -> Self {
        Self {
            mode: &info.mode,
            file: &info.file,
            rules: info.rules,
            loaded: info.loaded.map(views::time),
            error: info.error.as_deref(),
            unknown: &info.unknown,
        }
    }
}

impl<'a> From<&'a StatusInfo> for StatusView<'a> {
    fn from(info: &'a StatusInfo) -> Self {
        Self {
            version: &info.version,
            pid: info.pid,
            host: &info.host,
            started: views::time(info.started),
            repository: info.repository.to_string(),
            state_dir: &info.state_dir,
            socket: &info.socket,
            epoch: info.epoch.0,
            seq: info.seq.0,
            head: info.head.to_string(),
            keyring: info.keyring.0,
            recipients: &info.recipients,
            states: info.states,
            versions: info.versions,
            log_bytes: info.log_bytes,
            grants: info.grants,
            waiters: info.waiters,
            sessions: info.sessions,
            retention: &info.retention,
            audit: &info.audit,
            policy: PolicyView::from(&info.policy),
            notes: &info.notes,
        }
    }
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        // Whoever asks whether a daemon runs does not want one started.
        let accept_rollback = self.accept_rollback;
        let options = ConnectOptions { autostart: false, accept_rollback, ..context.options.clone() };
        let info = match Client::connect(&options)?.call(&Request::Status)? {
            Reply::Status(info) => info,
            _ => return Err(failure::unexpected()),
        };
        if self.prometheus {
            context.output.print(metrics::exposition(&info).trim_end())?;
            return Ok(0);
        }
        if context.output.json {
            context.output.print_object(&StatusView::from(&*info))?;
            return Ok(0);
        }
        let lines = [
            ("daemon", format!("stated {} on {} (pid {})", info.version, info.host, info.pid)),
            ("started", format!("{} ({})", views::time(info.started), table::ago(info.started))),
            ("socket", info.socket.clone()),
            ("directory", info.state_dir.clone()),
            ("repository", info.repository.to_string()),
            ("record", format!("{} (epoch {}, head {})", info.seq, info.epoch, info.head)),
            ("keyring", format!("{}, sealed to {}", info.keyring, info.recipients.join(", "))),
            ("states", format!("{} in {} versions, log {}", info.states, info.versions, table::size(info.log_bytes))),
            ("locks", format!("{} held, {} waiting", info.grants, info.waiters)),
            ("sessions", info.sessions.to_string()),
        ];
        let retention = info.retention.iter().map(|section| ("retention", section.clone()));
        let audit = [("audit", info.audit.clone())];
        let policy = policy(&info.policy).into_iter().map(|line| ("policy", line));
        let notes = info.notes.iter().map(|note| ("note", note.clone()));
        for (key, value) in lines.into_iter().chain(retention).chain(audit).chain(policy).chain(notes) {
            let key = context.output.paint("1", &format!("{key:<10}"));
            context.output.print(&format!("{key} {}", printable(&value)))?;
        }
        Ok(0)
    }
}

/// The policy in words; a broken edit of it first of all.
fn policy(info: &PolicyInfo) -> Vec<String> {
    let rest = match info.mode.as_str() {
        "system" => "what no rule gives is denied",
        _ => "its user and root may do everything",
    };
    let told = match info.loaded {
        Some(at) => format!("{} rules of {}, read {}; {rest}", info.rules, info.file, table::ago(at)),
        None => format!("no rules ({} is not there); {rest}", info.file),
    };
    let broken = info.error.iter().map(|error| format!("broken edit, the rules of before are in force: {error}"));
    let unknown = info.unknown.iter().map(|who| format!("the host does not know the {who}"));
    broken.chain([told]).chain(unknown).collect()
}
