//! `demo`: the main job, done for real in a directory that is thrown away.
//!
//! Every command is run as it is printed, and what it prints is its own. A step that does not do what it should ends
//! the demo with a failure, so a demo that ends well has checked the build.

mod stage;

use std::path::PathBuf;

use clap::Args;
use stated_shared::Failure;

use super::Context;
use stage::{Expected, Stage};

/// Show locks, versions, encryption and Terraform at work, in a temporary directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl demo

It starts a daemon of its own with a key and a home directory of its own, and removes all of it at
the end. Your states, your key and your daemon are not touched, and nothing is downloaded. Where
terraform is on PATH, it is run too.")]
pub(super) struct Demo {
    /// Play in this directory, which must be empty or missing, and keep it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What a commit must not leave readable anywhere.
const SECRET: &str = "correct-horse";
const NAME: &str = "example/network";

impl Demo {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut stage = Stage::build(self.keep.as_deref(), &context.output)?;
        let played = play(&mut stage);
        // An interrupt ends the command that runs, too: what that command said of it does not matter.
        if stage.interrupted() {
            return Ok(130);
        }
        if stage.unread() {
            return Ok(128 + 13);
        }
        played?;
        stage.leave()?;
        Ok(0)
    }
}

fn play(stage: &mut Stage) -> Result<(), Failure> {
    for (serial, replicas) in [(1, 2), (2, 3), (3, 4)] {
        stage.file(&format!("{replicas}-replicas.tfstate"), &state(serial, replicas))?;
    }
    stage.file("deploy.sh", DEPLOY)?;

    stage.remark("Any file can be a state. The first command starts the daemon, which makes a key.")?;
    stage.run("cat 2-replicas.tfstate", &Expected::done(SECRET))?;
    let put = |replicas: u32, more: &str| format!("statectl put {NAME} {replicas}-replicas.tfstate {more}");
    stage.run(&put(2, "-m 'first'"), &Expected::done("back it up").and("example/network@1"))?;

    stage.remark("Two have read version 1 and write: the second is refused, and overwrites nothing.")?;
    stage.run(&put(3, "--if-version 1 -m 'one more'"), &Expected::done("example/network@2"))?;
    stage.run(&put(4, "--if-version 1"), &Expected::failure(65, "is at version 2"))?;

    stage.remark("While a deployment holds the lock, others wait, or are refused; both learn who holds it.")?;
    contend(stage)?;

    stage.remark("The daemon is killed. The next command starts it again, and nothing is lost.")?;
    let pid = stage.daemon()?;
    stage.run(&format!("kill -9 {pid}"), &Expected::done(""))?;
    stage.run(&format!("statectl log {NAME}"), &Expected::done("deployed"))?;

    stage.remark("What changed, without the secrets; and back to version 1, as a new version.")?;
    stage.run(&format!("statectl diff {NAME} 1 2"), &Expected::done("output.replicas: 2 → 3").without(SECRET))?;
    stage.run(&format!("statectl rollback {NAME} 1"), &Expected::done("example/network@4"))?;

    stage.remark("On disk: standard age files. grep finds neither the name nor the secret.")?;
    let log = "~/.local/state/stated/log/0000000000000001.log";
    stage.run(&format!("head -n 2 {log}"), &Expected::done("age-encryption.org/v1"))?;
    stage.run(&format!("od -A n -t x1 -j 600 -N 16 {log}"), &Expected::done(" "))?;
    stage.run(
        &format!("grep -r -a -e {NAME} -e {SECRET} ~/.local/state/stated"),
        &Expected::failure(1, "").without(NAME),
    )?;

    if stage.finds("terraform") {
        terraform(stage)?;
    } else {
        stage.remark("Terraform is not on PATH, so its part is skipped: statectl exec -- terraform apply")?;
    }

    stage.remark("Every record and every payload is read and checked.")?;
    stage.run("statectl verify --read-data", &Expected::done("verify, up to record"))
}

/// A deployment holds the lock; one is refused, one waits and gets it afterwards.
fn contend(stage: &mut Stage) -> Result<(), Failure> {
    let mut holder = stage.start(&format!("statectl lock {NAME} -m 'nightly deployment' -- sh deploy.sh"))?;
    // Its first line says that it runs, and so that the lock is held.
    stage.show_line(&mut holder)?;
    stage.run(&format!("statectl put {NAME} 4-replicas.tfstate"), &Expected::failure(75, "is locked: held by"))?;
    let mut waiter = stage.start(&format!("statectl lock {NAME} -- echo 'now the lock is mine'"))?;
    // This one says that it waits.
    stage.show_line(&mut waiter)?;
    holder.go_on();
    stage.finish(holder, &Expected::done("example/network@3"))?;
    stage.finish(waiter, &Expected::done("now the lock is mine"))
}

fn terraform(stage: &mut Stage) -> Result<(), Failure> {
    stage.remark("Terraform keeps its state here: encrypted, locked, with history. It needs one empty block.")?;
    stage.file("main.tf", MAIN_TF)?;
    stage.run("cat main.tf", &Expected::done("backend \"http\""))?;
    let exec = "statectl exec --state example/terraform -- terraform";
    stage.run(&format!("{exec} init >init.txt"), &Expected::done(""))?;
    stage.run(&format!("{exec} apply -auto-approve >apply.txt; tail -n 1 apply.txt"), &Expected::done("1 added"))?;
    stage.run("statectl log example/terraform", &Expected::done("terraform apply"))
}

/// A small Terraform state with a secret.
fn state(serial: u32, replicas: u32) -> String {
    format!(
        r#"{{ "version": 4, "serial": {serial}, "lineage": "demo", "resources": [], "outputs": {{
    "replicas": {{ "type": "number", "value": {replicas} }},
    "password": {{ "type": "string", "value": "{SECRET}-{serial}", "sensitive": true }} }} }}
"#
    )
}

/// Runs under the lock until it is told to go on, so that the demo never has to guess how long something takes.
const DEPLOY: &str = "\
echo 'deploying'
read go_on || exit 1
statectl put example/network 4-replicas.tfstate -m 'deployed'
";

const MAIN_TF: &str = r#"terraform {
  backend "http" {}
}
resource "terraform_data" "answer" { input = 42 }
"#;
