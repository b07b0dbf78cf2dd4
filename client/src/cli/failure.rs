//! How failures are told.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use serde::Serialize;
use stated_shared::{Failure, FailureKind};

use super::Cli;
use super::output::Output;

#[derive(Serialize)]
struct Line<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    code: u8,
    kind: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
}

/// Tells a failure on standard error: what, why, one step that helps, and under `--json` a last line for programs.
pub(super) fn report(failure: &Failure, code: u8, output: &Output) {
    let hint = failure.hint.as_deref().or_else(|| usual_step(failure.kind));
    output.say(&failure.message);
    if let Some(hint) = hint {
        output.hint(hint);
    }
    if output.json {
        line(code, failure.kind.as_str(), &failure.message, hint);
    }
}

/// What helps with failures of this kind, where the one who failed knew nothing better.
fn usual_step(kind: FailureKind) -> Option<&'static str> {
    match kind {
        FailureKind::Usage => Some("see how it is used: statectl --help"),
        FailureKind::Conflict => Some("see what is there: statectl log STATE"),
        FailureKind::NotFound => Some("see what is there: statectl ls, statectl locks"),
        FailureKind::Storage => Some("see what is damaged: statectl verify"),
        FailureKind::Busy => Some("see who holds what: statectl locks"),
        FailureKind::Unavailable
        | FailureKind::Internal
        | FailureKind::Protocol
        | FailureKind::Denied
        | FailureKind::Config => Some("see what is wrong here: statectl doctor"),
        FailureKind::Other => None,
    }
}

/// The last line of standard error under `--json`.
pub(super) fn line(code: u8, kind: &str, message: &str, hint: Option<&str>) {
    let line = Line { error: Fields { code, kind, message, hint } };
    tell!("{}", serde_json::to_string(&line).unwrap_or_default());
}

/// The arguments of this process, without those of the command that it shall run.
pub(super) fn own_arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1).take_while(|argument| argument != "--")
}

/// Tells what clap found: help and version on standard output with code 0, a usage error with code 2.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // The arguments were not understood, so the flag is looked for as it is.
    if own_arguments().any(|argument| argument == "--json") {
        let rendered = error.render().to_string();
        // Without a verb clap prints the help, which is no message.
        let message = rendered.lines().next().and_then(|line| line.strip_prefix("error: "));
        let verb = own_arguments().find(|argument| Cli::command().find_subcommand(argument).is_some());
        let verb = verb.map_or(String::new(), |verb| format!("{} ", verb.to_string_lossy()));
        let hint = format!("see how it is used: statectl {verb}--help");
        line(2, FailureKind::Usage.as_str(), message.unwrap_or("no command was given"), Some(&hint));
    }
    ExitCode::from(FailureKind::Usage.exit_code())
}

/// A failure of this machine's files or terminal.
pub(super) fn local(what: impl std::fmt::Display, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Other, format!("cannot {what}: {error}"))
}

/// A failure of one file, which one can look at.
pub(super) fn file(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    local(format!("{what} {}", path.display()), error).hint(format!("look at it: ls -ld {}", shell_path(path)))
}

/// A path as a shell reads it back.
pub(super) fn shell_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A word as a shell reads it back.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+%@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A reply of another kind than the request has.
pub(super) fn unexpected() -> Failure {
    Failure::new(FailureKind::Protocol, "the daemon's answer does not fit the request")
}
