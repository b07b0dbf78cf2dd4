//! The terraform on `PATH` before a gateway; skipped where there is none.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use super::cutter::{Cutter, Fate};
use super::*;

const CONFIGURATION: &str = r#"
terraform {
  backend "http" {}
}
variable "word" { default = "one" }
resource "terraform_data" "x" { input = var.word }
output "word" { value = terraform_data.x.output }
"#;

/// A directory with a configuration, and the address of its state.
struct Desk {
    room: tempfile::TempDir,
    address: SocketAddr,
}

impl Desk {
    fn new(address: SocketAddr) -> Self {
        let room = tempfile::tempdir().unwrap();
        fs::write(room.path().join("main.tf"), CONFIGURATION).unwrap();
        Self { room, address }
    }

    fn path(&self) -> &Path {
        self.room.path()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let url = format!("http://{}/v1/state/example/net%20work", self.address);
        Command::new("terraform")
            .args(arguments)
            .current_dir(self.path())
            .env_remove("TF_CLI_CONFIG_FILE")
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1")
            .env("TF_HTTP_ADDRESS", &url)
            .env("TF_HTTP_LOCK_ADDRESS", &url)
            .env("TF_HTTP_UNLOCK_ADDRESS", &url)
            .env("TF_HTTP_USERNAME", "stated")
            .env("TF_HTTP_PASSWORD", PASSWORD)
            .env("TF_HTTP_RETRY_WAIT_MIN", "0")
            .output()
            .unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

const STATE: &str = "example/net work";

fn there_is_none() -> bool {
    let found = Command::new("terraform").arg("version").env_remove("TF_CLI_CONFIG_FILE").output().is_ok();
    if !found {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "terraform is not on PATH");
        // Past the capture of a passing test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED: terraform is not on PATH");
    }
    !found
}

#[test]
fn terraform_keeps_its_state_here() {
    if there_is_none() {
        return;
    }
    let rig = Rig::start();
    let desk = Desk::new(rig.address);
    desk.succeeds(&["init", "-input=false"]);
    desk.succeeds(&["apply", "-auto-approve"]);
    assert_eq!(desk.succeeds(&["output", "-raw", "word"]), "one");
    desk.succeeds(&["apply", "-auto-approve", "-var=word=two"]);
    assert_eq!(rig.fake.newest(STATE).message.as_deref(), Some("terraform apply"));
    desk.succeeds(&["state", "mv", "terraform_data.x", "terraform_data.y"]);
    assert_eq!(rig.fake.newest(STATE).message.as_deref(), Some("terraform state-mv"));
    let pulled = desk.succeeds(&["state", "pull"]);
    fs::write(desk.path().join("old.tfstate"), &pulled).unwrap();
    desk.succeeds(&["apply", "-auto-approve"]);
    let refused = desk.run(&["state", "push", "old.tfstate"]);
    assert!(!refused.status.success(), "Terraform itself refuses an older serial");
    desk.succeeds(&["state", "push", "-force", "old.tfstate"]);
    desk.succeeds(&["destroy", "-auto-approve"]);
    assert_eq!(rig.fake.held(), [] as [&str; 0]);
    assert_eq!(rig.reports(), [] as [String; 0]);
    assert!(!desk.path().join("terraform.tfstate").exists(), "nothing is left in the directory");
}

#[test]
fn terraform_prints_the_holder_and_its_id_unlocks() {
    if there_is_none() {
        return;
    }
    let rig = Rig::start();
    let desk = Desk::new(rig.address);
    desk.succeeds(&["init", "-input=false"]);
    rig.fake.hold("9f2c41aa-0000-4000-8000-00000000000a", STATE);
    let refused = desk.run(&["plan", "-no-color"]);
    let stderr = String::from_utf8(refused.stderr).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!refused.status.success());
    let truth = "9f2c41aa-0000-4000-8000-00000000000a held by alice@build-7 (pid 4200001) for apply since";
    assert!(stderr.contains(truth), "{stderr}");

    desk.succeeds(&["force-unlock", "-force", "9f2c41aa-0000-4000-8000-00000000000a"]);
    assert_eq!(rig.fake.broken(), ["9f2c41aa-0000-4000-8000-00000000000a"]);
    desk.succeeds(&["plan"]);
}

#[test]
fn terraform_survives_lost_answers() {
    if there_is_none() {
        return;
    }
    let cutter = Cutter::bind();
    let address = cutter.address();
    let rig = Rig::with(Plan { hosts: vec![address.to_string()], ..Plan::default() });
    // The first answer to each kind of request is lost, once before and once after it was done.
    let mut seen = std::collections::BTreeMap::new();
    cutter.serve(
        rig.address,
        Box::new(move |method| {
            let count = seen.entry(method.to_owned()).or_insert(0);
            *count += 1;
            match count {
                1 => Fate::CutAfter,
                2 => Fate::CutBefore,
                _ => Fate::Pass,
            }
        }),
    );
    let desk = Desk::new(address);
    desk.succeeds(&["init", "-input=false"]);
    desk.succeeds(&["apply", "-auto-approve"]);
    assert_eq!(rig.fake.contents(STATE).len(), 1);
    assert_eq!(rig.fake.held(), [] as [&str; 0]);
    assert!(!desk.path().join("errored.tfstate").exists());
}
