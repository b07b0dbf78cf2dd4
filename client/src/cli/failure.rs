//! How failures are told.

use std::process::ExitCode;

use serde::Serialize;
use stated_shared::{Failure, FailureKind};

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
    output.say(&failure.message);
    if let Some(hint) = &failure.hint {
        output.hint(hint);
    }
    if output.json {
        line(code, failure.kind, &failure.message, failure.hint.as_deref());
    }
}

fn line(code: u8, kind: FailureKind, message: &str, hint: Option<&str>) {
    let line = Line { error: Fields { code, kind: kind.as_str(), message, hint } };
    eprintln!("{}", serde_json::to_string(&line).unwrap_or_default());
}

/// Tells what clap found: help and version on standard output with code 0, a usage error with code 2.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // The arguments were not understood, so the flag is looked for as it is; after `--` it belongs to the command.
    if std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json") {
        let rendered = error.render().to_string();
        let message = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ");
        line(2, FailureKind::Usage, message, Some("statectl --help"));
    }
    ExitCode::from(FailureKind::Usage.exit_code())
}

/// A failure of this machine's files or terminal.
pub(super) fn local(what: impl std::fmt::Display, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Other, format!("cannot {what}: {error}"))
}

/// A reply of another kind than the request has.
pub(super) fn unexpected() -> Failure {
    Failure::new(FailureKind::Protocol, "the daemon's answer does not fit the request")
}
