//! `statectl exec` with its gateway process, before a little daemon.
#![cfg(feature = "cli")]

mod fake;
mod little;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use little::Little;
use rustix::process::{Pid, Signal, kill_process};

/// Whether Terraform is there; in CI it must be.
fn has_terraform() -> bool {
    let found = Command::new("terraform").arg("version").env_remove("TF_CLI_CONFIG_FILE").output().is_ok();
    if !found {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "terraform is not on PATH");
        // Past the capture of a passing test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED: terraform is not on PATH");
    }
    found
}

/// A directory to work in, and a daemon.
struct Desk {
    room: tempfile::TempDir,
    little: Little,
}

impl Desk {
    fn new() -> Self {
        Self { room: tempfile::tempdir().unwrap(), little: Little::run() }
    }

    fn path(&self) -> &Path {
        self.room.path()
    }

    /// `statectl exec` with these arguments.
    fn exec(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_statectl"));
        command.arg("exec").args(arguments).current_dir(self.path());
        command.env("STATED_SOCKET", self.little.socket()).env_remove("STATED_LOCK_ID");
        command.env_remove("TF_CLI_CONFIG_FILE").env("CHECKPOINT_DISABLE", "1").env("TF_IN_AUTOMATION", "1");
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.exec(arguments).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A configuration whose apply tells its process ID through `ready`, then waits for a byte through `go`.
    fn configure(&self) {
        let configuration = r#"
terraform {
  backend "http" {}
}
resource "terraform_data" "x" {
  provisioner "local-exec" {
    command = "if test -p ready; then echo $PPID > ready; timeout 60 cat go >/dev/null; fi"
  }
}
"#;
        fs::write(self.path().join("main.tf"), configuration).unwrap();
        self.succeeds(&["--state", "prod", "--", "terraform", "init", "-input=false"]);
        self.little.until("the gateway of the init ends", |kept| kept.peers.is_empty().then_some(()));
    }

    fn pipe(&self, name: &str) {
        let path = self.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    }

    /// Starts an apply and returns once it is in the middle, with terraform's process ID. The shell around it outlives
    /// it until `end`.
    fn apply(&self) -> (Child, Pid) {
        ["ready", "go", "after"].into_iter().for_each(|name| self.pipe(name));
        let script = "terraform apply -auto-approve; code=$?; timeout 60 cat after >/dev/null; exit $code";
        let exec = self
            .exec(&["--state", "prod", "--", "sh", "-c", script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let told = fs::read_to_string(self.path().join("ready")).unwrap();
        (exec, Pid::from_raw(told.trim().parse().unwrap()).unwrap())
    }

    fn go(&self) {
        fs::write(self.path().join("go"), "x\n").unwrap();
    }

    fn end(&self) {
        fs::write(self.path().join("after"), "x\n").unwrap();
    }

    fn gateway_is_gone(&self) {
        self.little.until("the gateway ends", |kept| kept.peers.is_empty().then_some(()));
    }
}

#[test]
fn the_exit_code_is_passed_through() {
    let desk = Desk::new();
    let code = |arguments: &[&str]| desk.output(&[&["--state", "prod", "--"], arguments].concat()).status.code();
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["sh", "-c", "kill -TERM $$"]), Some(143));
    assert_eq!(code(&["/nonexistent"]), Some(127));
    assert_eq!(code(&["/etc/passwd"]), Some(126));
    desk.gateway_is_gone();

    let mut lonely = desk.exec(&["--state", "prod", "--no-autostart", "--", "true"]);
    let output = lonely.env("STATED_SOCKET", desk.path().join("none")).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_command_finds_its_state_and_standard_output_is_its_own() {
    let desk = Desk::new();
    let script = "test $TF_HTTP_ADDRESS = $TF_HTTP_LOCK_ADDRESS && echo $TF_HTTP_ADDRESS $STATED_STATE $STATED_SOCKET";
    let stdout = desk.succeeds(&["--state", "a/b", "--", "sh", "-c", script]);
    let words: Vec<&str> = stdout.split_whitespace().collect();
    assert!(words[0].starts_with("http://127.0.0.1:") && words[0].ends_with("/v1/state/a/b"), "{stdout}");
    assert_eq!(words[1..], ["a/b", desk.little.socket().to_str().unwrap()]);

    let mut named =
        desk.exec(&["--state", "prod", "--lock", "mine", "--", "sh", "-c", "echo $STATED_LOCK_ID $TF_HTTP_RETRY_MAX"]);
    let output = named.env("TF_HTTP_RETRY_MAX", "9").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "mine 9\n", "the user's own number of retries counts");
}

#[test]
fn a_default_name_is_told_and_kept_to_its_directory() {
    let desk = Desk::new();
    let clone = |name: &str| {
        let root = desk.path().join(name);
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::create_dir_all(root.join("net")).unwrap();
        fs::write(root.join(".git/config"), "[remote \"origin\"]\n\turl = git@example.com:org/infra.git\n").unwrap();
        root.join("net")
    };
    let (first, second) = (clone("first"), clone("second"));
    let write = "curl -sfu $TF_HTTP_USERNAME:$TF_HTTP_PASSWORD -d 1 $TF_HTTP_ADDRESS";
    let told = desk.exec(&["--", "sh", "-c", write]).current_dir(&first).output().unwrap();
    assert!(told.status.success());
    assert_eq!(String::from_utf8(told.stderr).unwrap(), "statectl: state example.com/org/infra/net\n");
    let label = &desk.little.newest("example.com/org/infra/net").labels["directory"];
    assert!(label.ends_with(&format!(":{}", first.canonicalize().unwrap().display())), "{label}");

    let refused = desk.exec(&["--", "sh", "-c", write]).current_dir(&second).output().unwrap();
    assert_eq!(refused.status.code(), Some(65));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("statectl exec --state example.com/org/infra/net -- sh -c "), "{stderr}");
    let named = ["--state", "example.com/org/infra/net", "--", "sh", "-c", write];
    assert!(desk.exec(&named).current_dir(&second).output().unwrap().status.success());
}

#[test]
fn a_configuration_without_a_backend_gets_advice() {
    let desk = Desk::new();
    fs::write(desk.path().join("main.tf"), "output \"x\" { value = 1 }\n").unwrap();
    let output = desk.output(&["--state", "prod", "--", "terraform", "providers"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("  terraform {\n    backend \"http\" {}\n  }\n"), "{stderr}");
    let output = desk.output(&["--state", "prod", "--", "true"]);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_gateway_process_stands_apart_and_shows_no_secret() {
    let desk = Desk::new();
    desk.pipe("ready");
    desk.pipe("go");
    let script = format!(
        "exec 9</etc/passwd; exec {} exec --state prod -- sh -c 'echo $TF_HTTP_PASSWORD > ready; timeout 60 cat go >/dev/null'",
        env!("CARGO_BIN_EXE_statectl")
    );
    let mut exec = Command::new("sh")
        .args(["-c", &script])
        .current_dir(desk.path())
        .env("STATED_SOCKET", desk.little.socket())
        .spawn()
        .unwrap();
    let secret = fs::read_to_string(desk.path().join("ready")).unwrap();
    assert_eq!(secret.trim().len(), 64);
    let gateway = desk.little.until("the gateway connects", |kept| kept.peers.first().copied());
    assert_ne!(gateway, exec.id());
    let proc = Path::new("/proc").join(gateway.to_string());
    for file in ["cmdline", "environ"] {
        let text = fs::read(proc.join(file)).unwrap();
        assert!(!text.windows(64).any(|window| window == secret.trim().as_bytes()), "{file}");
    }
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
    assert_eq!(session, gateway.to_string(), "a session of its own");
    for entry in fs::read_dir(proc.join("fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
        assert!(!target.ends_with("passwd"), "nothing is inherited");
    }
    desk.go();
    assert!(exec.wait().unwrap().success());
    desk.gateway_is_gone();
}

#[test]
fn signals_to_the_wrapper_reach_the_command() {
    let desk = Desk::new();
    desk.pipe("ready");
    let script = "trap 'exit 9' TERM; echo x > ready; while :; do read x < ready; done";
    let mut exec = desk.exec(&["--state", "prod", "--", "sh", "-c", script]).spawn().unwrap();
    let mut ready = fs::File::open(desk.path().join("ready")).unwrap();
    ready.read_exact(&mut [0; 2]).unwrap();
    kill_process(Pid::from_child(&exec), Signal::TERM).unwrap();
    // Lets the shell's read end, where it got the signal before.
    drop(fs::OpenOptions::new().write(true).read(true).open(desk.path().join("ready")).unwrap().write(b"x\n"));
    assert_eq!(exec.wait().unwrap().code(), Some(9));
}

#[test]
fn a_signal_to_each_process_of_a_job_reaches_the_command_once() {
    let desk = Desk::new();
    desk.pipe("told");
    let script = "exec 3>told; trap 'echo hup >&3' HUP; trap 'echo term >&3; kill -9 $!; exit 9' TERM
        echo $$ >&3; while :; do sleep 60 & wait $!; done";
    let mut exec = desk.exec(&["--state", "prod", "--", "sh", "-c", script]).spawn().unwrap();
    let told = fs::File::open(desk.path().join("told")).unwrap();
    let mut told = BufReader::new(told).lines().map(Result::unwrap);
    let command: u32 = told.next().unwrap().parse().unwrap();
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", exec.id())).unwrap();
    let pids = children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([exec.id()]);
    let pid = |pid: u32| Pid::from_raw(pid.cast_signed()).unwrap();
    // First of all to the command, so that it would get a second one for itself.
    kill_process(pid(command), Signal::HUP).unwrap();
    assert_eq!(told.next().unwrap(), "hup");
    pids.filter(|other| *other != command).for_each(|other| kill_process(pid(other), Signal::HUP).unwrap());
    // This one is for the wrapper alone, and so the next that the command gets: of two the shell tells HUP first.
    kill_process(pid(exec.id()), Signal::TERM).unwrap();
    assert_eq!(told.next().unwrap(), "term");
    assert_eq!(exec.wait().unwrap().code(), Some(9));
}

#[test]
fn the_end_is_told_though_the_parent_ignored_that_of_its_children() {
    let desk = Desk::new();
    let exec = desk.exec(&["--state", "prod", "--", "sh", "-c", "exit 7"]);
    let mut parent = Command::new("env");
    parent.arg("--ignore-signal=CHLD").arg(exec.get_program()).args(exec.get_args());
    parent.current_dir(desk.path()).env("STATED_SOCKET", desk.little.socket());
    assert_eq!(parent.status().unwrap().code(), Some(7));
}

#[test]
fn that_nobody_reads_what_is_said_stops_nothing() {
    let desk = Desk::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = desk.exec(&["--state", "prod", "--", "/nonexistent"]).stderr(writer).status().unwrap();
    assert_eq!(ended.code(), Some(127));
}

#[test]
fn the_gateway_outlives_whoever_signals_each_process() {
    if !has_terraform() {
        return;
    }
    let desk = Desk::new();
    desk.configure();
    let (mut exec, _) = desk.apply();
    let gateway = desk.little.until("the gateway connects", |kept| kept.peers.first().copied());
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(Pid::from_raw(gateway.cast_signed()).unwrap(), signal).unwrap();
    }
    desk.go();
    desk.end();
    assert!(exec.wait().unwrap().success());
    assert_eq!(desk.little.newest("prod").message.as_deref(), Some("terraform apply"));
    desk.gateway_is_gone();
}

#[test]
fn a_lock_is_terraforms_own_and_ends_with_it() {
    if !has_terraform() {
        return;
    }
    let desk = Desk::new();
    desk.configure();
    let (mut exec, terraform) = desk.apply();
    let pid = desk.little.until("terraform locks", |kept| kept.locks.values().next().map(little::Held::pid));
    assert_eq!(pid, terraform.as_raw_nonzero().get().unsigned_abs());
    let asked = desk.little.look(|kept| kept.asked.pop().unwrap());
    assert_eq!(asked.operation, "apply");
    kill_process(terraform, Signal::KILL).unwrap();
    let held = desk.little.look(|kept| kept.locks.pop_first().unwrap().1);
    held.wait_gone();
    assert!(exec.try_wait().unwrap().is_none(), "the command around it goes on");
    desk.end();
    assert_eq!(exec.wait().unwrap().code(), Some(137));
    desk.gateway_is_gone();
    // Terraform's own child still waits.
    desk.go();
}

#[test]
fn terraform_saves_its_state_and_unlocks_though_the_wrapper_is_killed() {
    if !has_terraform() {
        return;
    }
    let desk = Desk::new();
    desk.configure();
    let (mut exec, terraform) = desk.apply();
    let terraform = rustix::process::pidfd_open(terraform, rustix::process::PidfdFlags::empty()).unwrap();
    exec.kill().unwrap();
    exec.wait().unwrap();
    desk.go();
    desk.little.until("terraform unlocks", |kept| kept.locks.is_empty().then_some(()));
    assert_eq!(desk.little.newest("prod").message.as_deref(), Some("terraform apply"));
    rustix::event::poll(&mut [rustix::event::PollFd::new(&terraform, rustix::event::PollFlags::IN)], None).unwrap();
    assert!(!desk.little.look(|kept| kept.peers.is_empty()), "it serves as long as the command runs");
    desk.end();
    desk.gateway_is_gone();
    assert!(!desk.path().join("errored.tfstate").exists());
}
