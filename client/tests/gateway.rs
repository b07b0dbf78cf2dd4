//! `statectl gateway`: the one that stands by itself.
#![cfg(feature = "cli")]

mod fake;
mod little;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use little::Little;
use rustix::process::{Pid, Signal, kill_process};

/// A gateway that serves, and the file that says where.
struct Standing {
    process: Child,
    file: PathBuf,
    room: tempfile::TempDir,
    little: Little,
}

impl Standing {
    fn start(arguments: &[&str]) -> Self {
        let (room, little) = (tempfile::tempdir().unwrap(), Little::run());
        let mut process = Command::new(env!("CARGO_BIN_EXE_statectl"))
            .arg("gateway")
            .args(arguments)
            .env("STATED_SOCKET", little.socket())
            .env("XDG_RUNTIME_DIR", room.path())
            .current_dir(room.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        fs::create_dir_all(room.path().join("stated")).unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, file: room.path().join(line.trim_end()), room, little }
    }

    /// Runs a script that has read the file; returns what it prints.
    fn script(&self, script: &str) -> String {
        let script = format!("set -a; . {}; set +a; {script}", self.file.display());
        let output = Command::new("sh").args(["-ec", &script]).current_dir(self.room.path()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const CURL: &str = "curl -s -u $TF_HTTP_USERNAME:$TF_HTTP_PASSWORD -w '%{http_code}'";

#[test]
fn it_serves_every_state_until_it_is_told_to_end() {
    let mut standing = Standing::start(&["--env-file", "gateway.env"]);
    assert_eq!(standing.file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(standing.script(&format!("{CURL} -d 1 $STATED_GATEWAY/a%20b/c")), "200");
    assert_eq!(standing.script(&format!("{CURL} $STATED_GATEWAY/a%20b/c")), "1200");
    assert_eq!(standing.script("curl -s -o /dev/null -w '%{http_code}' $STATED_GATEWAY/a"), "401");
    assert_eq!(standing.little.newest("a b/c").message.as_deref(), Some("terraform write"));

    kill_process(Pid::from_child(&standing.process), Signal::TERM).unwrap();
    assert_eq!(standing.process.wait().unwrap().code(), Some(0));
    assert!(!standing.file.exists(), "its secrets are worth nothing any more");
}

#[test]
fn a_lock_over_a_unix_socket_is_the_clients_own() {
    let standing = Standing::start(&["--listen", "unix:g.sock", "--env-file", "gateway.env"]);
    let socket = standing.room.path().join("g.sock");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let document = r#"{"ID":"a","Operation":"OperationTypePlan","Created":"2026-11-23T12:00:00Z"}"#;
    let lock =
        format!("{CURL} --unix-socket g.sock -X LOCK -d '{document}' $STATED_GATEWAY/prod & wait $!; echo \" $!\"");
    let told = standing.script(&lock);
    let (status, pid) = told.trim().split_once(' ').unwrap();
    assert_eq!(status, "200");
    let held = standing.little.look(|kept| kept.locks.pop_first().unwrap().1);
    held.wait_gone();
    assert_eq!(held.lock.operation, "plan");
    assert!(pid.parse::<u32>().is_ok());
}

#[test]
fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let room = tempfile::tempdir().unwrap();
    let stale = room.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let standing = Standing::start(&["--listen", &format!("unix:{}", stale.display()), "--env-file", "gateway.env"]);
    assert!(standing.file.exists());

    let file = room.path().join("precious");
    fs::write(&file, "x").unwrap();
    let little = Little::run();
    let output = Command::new(env!("CARGO_BIN_EXE_statectl"))
        .args(["gateway", "--listen", &format!("unix:{}", file.display())])
        .env("STATED_SOCKET", little.socket())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), "x");
}

#[test]
fn it_listens_on_nothing_but_loopback() {
    for address in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0", "localhost:0"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_statectl")).args(["gateway", "--listen", address]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{address}");
    }
}
