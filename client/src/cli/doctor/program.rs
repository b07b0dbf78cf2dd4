//! The program `stated`: whether it is there, of this version, and what it says of its configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use stated_shared::paths::{self, ProcessEnvironment};

use super::daemon::{Answer, Found};
use super::finding::Findings;
use crate::ConnectOptions;
use crate::autostart;
use crate::cli::failure::shell_path;

/// Where systemd puts what the host's service loads, while that runs.
const SYSTEM_CREDENTIALS: &str = "/run/credentials/stated.service";

/// What is known of the daemon's program.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// Where it is.
    pub(super) path: Option<PathBuf>,
    /// What it would run with.
    pub(super) settings: Option<Settings>,
}

/// The first line of `stated inspect`.
#[derive(Debug, Deserialize)]
pub(super) struct Settings {
    version: String,
    pub(super) state_dir: PathBuf,
    pub(super) socket: PathBuf,
    identity: PathBuf,
}

/// A further line.
#[derive(Debug, Deserialize)]
struct Inspected {
    check: String,
    ok: bool,
    what: String,
    hint: Option<String>,
}

pub(super) fn check(findings: &mut Findings, found: &Found, answer: &Answer, options: &ConnectOptions) -> Program {
    let Some(path) = find() else {
        let what = "stated is neither beside statectl nor on PATH";
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(shell_path));
        let mend = format!("install -t {} PATH/TO/stated", beside.unwrap_or_else(|| "DIR".to_owned()));
        match answer {
            Answer::Given(_) => {
                findings.warn("program", format!("{what}; a daemon runs, but no other can be started"), mend)
            }
            _ => findings.fail("program", what, mend),
        }
        return Program::default();
    };
    let is_hosts = found.listens() && paths::is_system_socket(&found.socket);
    let inspected = match inspect(&path, options, is_hosts) {
        Ok(inspected) => inspected,
        Err(error) => {
            let mend = format!("chmod +x {}", shell_path(&path));
            findings.fail("program", format!("cannot run {}: {error}", path.display()), mend);
            return Program { path: Some(path), settings: None };
        }
    };
    let text = String::from_utf8_lossy(&inspected.stdout);
    let mut lines = text.lines();
    let settings = lines.next().and_then(|line| serde_json::from_str::<Settings>(line).ok());
    version(findings, &path, &inspected, settings.as_ref());
    if is_hosts && fs::read_dir(paths::SYSTEM_STATE_DIR).is_err() {
        // What the host's daemon has is not for this user to see, and what a daemon of this user would have, nobody asks.
        return Program { path: Some(path), settings: None };
    }
    if let Some(settings) = &settings {
        findings.ok(
            "configuration",
            format!("state directory {}, key {}", settings.state_dir.display(), settings.identity.display()),
        );
        for found in lines.filter_map(|line| serde_json::from_str::<Inspected>(line).ok()) {
            report(findings, found);
        }
    }
    Program { path: Some(path), settings }
}

/// Whether the program is of this one's version; without settings, why there are none.
fn version(findings: &mut Findings, path: &Path, inspected: &Output, settings: Option<&Settings>) {
    let own = env!("CARGO_PKG_VERSION");
    let said = String::from_utf8_lossy(&inspected.stderr);
    let install = format!("install the two of one version: stated and statectl {own}");
    match settings {
        Some(settings) if settings.version == own => findings.ok("program", format!("{} {own}", path.display())),
        Some(settings) => {
            findings.warn("program", format!("{} is {}, and this is {own}", path.display(), settings.version), install);
        }
        // Its configuration is what it fails with.
        None if inspected.status.code() == Some(78) => {
            findings.ok("program", path.display().to_string());
            let what = said.lines().next().unwrap_or_default().trim_start_matches("stated: ");
            findings.fail("configuration", what, format!("${{EDITOR:-vi}} {}", shell_path(&configuration())));
        }
        None => findings.fail("program", format!("{} cannot be asked: {}", path.display(), said.trim()), install),
    }
}

fn report(findings: &mut Findings, found: Inspected) {
    let check = match found.check.as_str() {
        "filesystem" => "filesystem",
        "format" => "format",
        "key" => "key",
        "keyring" => "keyring",
        "policy" => "policy",
        _ => "other",
    };
    if found.ok {
        return findings.ok(check, found.what);
    }
    let mend = found.hint.unwrap_or_else(|| match check {
        "format" => "stated verify, and put the files back from a backup".to_owned(),
        _ => "stated run".to_owned(),
    });
    findings.fail(check, found.what, mend);
}

/// Where the configuration is that is in use.
fn configuration() -> PathBuf {
    let named = std::env::var_os("STATED_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let directory = || paths::user_config_dir(&ProcessEnvironment).unwrap_or_else(|| paths::SYSTEM_CONFIG_DIR.into());
    named.unwrap_or_else(|| directory().join("config.toml"))
}

/// The program that a client would start.
pub(in crate::cli) fn find() -> Option<PathBuf> {
    let program = autostart::daemon_program();
    if program.is_absolute() {
        return Some(program);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(&program)).find(|path| path.is_file())
}

/// Asks the program what a start would find: one by this user, or that of the host's daemon.
fn inspect(path: &Path, options: &ConnectOptions, is_hosts: bool) -> std::io::Result<Output> {
    let mut command = Command::new(path);
    command.arg("inspect").stdin(Stdio::null());
    if is_hosts {
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        command.env("CREDENTIALS_DIRECTORY", SYSTEM_CREDENTIALS);
    }
    if let Some(socket) = &options.socket {
        command.arg("--socket").arg(socket);
    }
    if let Some(state_dir) = &options.state_dir {
        command.arg("--state-dir").arg(state_dir);
    }
    command.output()
}
