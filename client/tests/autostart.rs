//! Starting the daemon: a copy of `statectl` finds a fake `stated` beside itself.
#![cfg(feature = "cli")]

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fake::Peer;
use stated_shared::{Reply, VersionPage};

/// Names this test program, which a fake `stated` becomes where it has to serve.
const SELF: &str = "STATED_TEST_PROGRAM";

/// A directory with `statectl` and a `stated` of this shell script.
fn install(script: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    // Another process writes them: a file that this one holds open in a fork of another test cannot be run (ETXTBSY).
    let write = r#"cp "$0" "$1/statectl" && printf '#!/bin/sh\n%s\n' "$2" > "$1/stated" && chmod 755 "$1/stated""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", write, env!("CARGO_BIN_EXE_statectl")]).arg(directory.path()).arg(script);
    assert!(shell.status().unwrap().success());
    directory
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(directory.join("statectl"));
    command.args(arguments).arg("--socket").arg(directory.join("run/s")).env_clear().env("PATH", "/usr/bin:/bin");
    command.env("HOME", directory).env(SELF, std::env::current_exe().unwrap());
    command.stdin(Stdio::null());
    command
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The fake daemon: not a test, but what the script below runs this program for.
#[test]
#[ignore = "runs as the fake daemon of the other tests"]
fn serve() {
    let Ok(socket) = std::env::var("SERVE_AT") else { return };
    let listener = UnixListener::bind(socket).unwrap();
    if let Ok(ready) = std::env::var("NOTIFY_SOCKET") {
        UnixDatagram::unbound().unwrap().send_to(b"READY=1\nSTATUS=serving", ready).unwrap();
    }
    if std::env::var_os("PROBED").is_some() {
        drop(listener.accept().unwrap());
    }
    let mut peer = Peer::accept(&listener);
    let (number, _) = peer.request();
    peer.reply(number, Ok(Reply::Versions(VersionPage { versions: Vec::new(), more: false })));
    assert!(peer.frame().is_none());
}

const SERVE: &str = r#"SERVE_AT="$3" exec "$STATED_TEST_PROGRAM" --exact serve --ignored --nocapture"#;

#[test]
fn a_daemon_is_started_apart_from_its_client() {
    let facts =
        r#"{ echo "$@"; pwd; ps -o sid= -p $$ | tr -d ' '; echo $$; ls -l /proc/$$/fd; } > "$HOME/facts" 2>&1; "#;
    let directory = install(&format!("{facts}{SERVE}"));
    // A careless parent leaves a descriptor open, which only a shell does easily.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$0" "$@" 9</etc/passwd"#]).arg(directory.path().join("statectl"));
    let plain = command(directory.path(), &["ls", "--json"]);
    shell.args(plain.get_args()).env_clear();
    shell.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?)))).stdin(Stdio::null());
    let output = shell.output().unwrap();
    assert_eq!(told(&output), (Some(0), String::new(), String::new()));
    let facts = std::fs::read_to_string(directory.path().join("facts")).unwrap();
    let lines: Vec<&str> = facts.lines().collect();
    assert_eq!(lines[0], format!("run --socket {}", directory.path().join("run/s").display()));
    assert_eq!(lines[1], "/");
    assert_eq!(lines[2], lines[3], "a session of its own: {facts}");
    assert!(!facts.contains("/etc/passwd") && !facts.contains("socket:"), "{facts}");
    assert!(facts.contains("0 -> /dev/null"), "{facts}");
    let mode = |path: &str| std::fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/stated.log")), (0o700, 0o600));
    let left = std::fs::read_dir(directory.path().join("run")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with(".ready")));
}

#[test]
fn a_daemon_that_fails_is_quoted_and_its_kind_is_kept() {
    let directory = install("echo old line >&2; echo the log is damaged >&2; exit 74");
    let (code, out, err) = told(&command(directory.path(), &["ls"]).output().unwrap());
    assert_eq!((code, out.as_str()), (Some(74), ""));
    assert!(err.contains("the daemon did not start (exit code 74); it said:\nold line\nthe log is damaged\n"), "{err}");
    assert!(err.contains("run/stated.log"), "{err}");
}

#[test]
fn the_loser_of_a_start_race_waits_for_the_winner() {
    // The loser's own script starts the winner, which says nothing to the loser's client.
    let winner = r#"(unset NOTIFY_SOCKET; PROBED=1 SERVE_AT="$3" exec "$STATED_TEST_PROGRAM" --exact serve --ignored) \
        >/dev/null 2>&1 & exit 75"#;
    let directory = install(winner);
    let output = command(directory.path(), &["ls", "--json"]).output().unwrap();
    assert_eq!(told(&output), (Some(0), String::new(), String::new()));
}

#[test]
fn no_autostart_forbids_it() {
    let directory = install("echo started > \"$HOME/started\"");
    let (code, _, err) = told(&command(directory.path(), &["ls", "--no-autostart"]).output().unwrap());
    assert_eq!(code, Some(69), "{err}");
    assert!(!directory.path().join("started").exists());
}

#[test]
fn nothing_is_started_in_directories_of_somebody_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = install("echo started > \"$HOME/started\"");
    let nobody = Some(65534);
    std::fs::create_dir(directory.path().join("run")).unwrap();
    std::os::unix::fs::chown(directory.path().join("run"), nobody, nobody).unwrap();
    let (code, _, err) = told(&command(directory.path(), &["ls"]).output().unwrap());
    assert_eq!(code, Some(77), "{err}");
    assert!(err.contains("belongs to uid 65534, and this is uid 0"), "{err}");
    assert!(!directory.path().join("started").exists());
}
