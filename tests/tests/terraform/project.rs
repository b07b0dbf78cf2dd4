//! A working directory of Terraform.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stated_tests::{Call, Finished, Host, Process, Running, tool};

use super::gate::{Gate, PASS};

/// The state that projects share where nothing else is said; its name has to be percent-encoded.
pub const STATE: &str = "example/net work";

/// A host where there is a Terraform; else the test is skipped aloud.
pub fn host() -> Option<Host> {
    tool("terraform").then(Host::new)
}

/// The state of projects whose backend is [`S3_BACKEND`].
pub const S3_STATE: &str = "my-terraform-state-bucket/terraform/state.tfstate";

/// A block as it stands in many configurations, unchanged.
pub const S3_BACKEND: &str = r#"terraform {
  backend "s3" {
    bucket         = "my-terraform-state-bucket"
    key            = "terraform/state.tfstate"
    region         = "us-west-2"
    encrypt        = true
    dynamodb_table = "terraform-lock"
  }
}
"#;

/// The backend block that is all a configuration needs.
pub const BACKEND: &str = "terraform {\n  backend \"http\" {}\n}\n";

/// One resource that holds a word, and one that works each time the word changes.
pub fn resources() -> String {
    format!(
        r#"
variable "word" {{ default = "none" }}
resource "terraform_data" "x" {{ input = var.word }}
resource "terraform_data" "work" {{
  triggers_replace = var.word
  provisioner "local-exec" {{ command = "{PASS}" }}
}}
output "word" {{ value = terraform_data.x.output }}
"#
    )
}

/// A directory with a configuration whose state is here.
#[derive(Debug)]
pub struct Project<'h> {
    host: &'h Host,
    dir: PathBuf,
    state: String,
    /// Whether the state is named on the command line.
    is_named: bool,
    uid: Option<u32>,
    /// Where its Terraform is; the first on `PATH` where not said.
    programs: Option<PathBuf>,
}

impl<'h> Project<'h> {
    /// An initialised directory of this name, for [`STATE`].
    #[track_caller]
    pub fn new(host: &'h Host, name: &str) -> Self {
        Self::of(host, name, STATE)
    }

    /// An initialised directory of this name, for a state.
    #[track_caller]
    pub fn of(host: &'h Host, name: &str, state: &str) -> Self {
        let project = Self::bare(host, name, state);
        project.write("main.tf", &format!("{BACKEND}{}", resources()));
        project.terraform(["init"]).run().ok();
        project
    }

    /// An empty directory.
    pub fn bare(host: &'h Host, name: &str, state: &str) -> Self {
        let dir = host.path("w").join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Self { host, dir, state: state.to_owned(), is_named: true, uid: None, programs: None }
    }

    /// An initialised directory of this name with this `s3` backend, for [`S3_STATE`].
    #[track_caller]
    pub fn s3(host: &'h Host, name: &str, backend: &str) -> Self {
        let project = Self::bare_s3(host, name);
        project.write("main.tf", &format!("{backend}{}", resources()));
        project.terraform(["init"]).run().ok();
        project
    }

    /// An empty directory of this name, for [`S3_STATE`].
    pub fn bare_s3(host: &'h Host, name: &str) -> Self {
        Self { is_named: false, ..Self::bare(host, name, S3_STATE) }
    }

    /// Does everything as this user from here on, whom the host's directories must belong to.
    pub fn by(self, uid: u32) -> Self {
        Self { uid: Some(uid), ..self }
    }

    /// Does everything with the Terraform in this directory from here on.
    pub fn with_terraform_in(self, programs: &Path) -> Self {
        Self { programs: Some(programs.to_owned()), ..self }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file of the configuration.
    pub fn write(&self, file: &str, content: &str) {
        fs::write(self.dir.join(file), content).expect("written");
    }

    /// `statectl` in this directory, by this project's user.
    pub fn statectl(&self, args: &[&str]) -> Call {
        let call = match self.uid {
            None => self.host.statectl(args),
            Some(uid) => {
                let id = uid.to_string();
                let program = self.host.statectl_path();
                let user = ["--reuid", &id, "--regid", &id, "--clear-groups", "--", program.to_str().expect("UTF-8")];
                self.host.call("setpriv", user.iter().chain(args))
            }
        };
        self.surroundings(call)
    }

    /// Any program under `statectl exec`.
    pub fn exec(&self, args: &[&str]) -> Call {
        self.exec_with(&[], args)
    }

    /// As [`Project::exec`], with more options.
    pub fn exec_with(&self, options: &[&str], args: &[&str]) -> Call {
        let head: &[&str] = if self.is_named { &["exec", "--state", &self.state] } else { &["exec"] };
        self.statectl(&[head, options, &["--"], args].concat())
    }

    /// `terraform` under `statectl exec`.
    pub fn terraform<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Call {
        self.exec(&["terraform"].into_iter().chain(args).collect::<Vec<_>>())
    }

    /// `terraform` by itself.
    pub fn terraform_alone<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Call {
        self.surroundings(self.host.call("terraform", args))
    }

    /// An apply that gives the resource this word.
    pub fn apply(&self, word: &str) -> Call {
        self.terraform(["apply", "-auto-approve", &format!("-var=word={word}")])
    }

    /// As [`Project::apply`], waiting for the lock.
    pub fn apply_waiting(&self, word: &str) -> Call {
        self.terraform(["apply", "-auto-approve", "-lock-timeout=140s", &format!("-var=word={word}")])
    }

    /// Starts an apply, and waits until it is in the middle of its work.
    #[track_caller]
    pub fn apply_slowly(&self, word: &str) -> Slow {
        self.at_gate(self.apply(word))
    }

    /// Starts anything that applies, and waits until that is in the middle of its work.
    #[track_caller]
    pub fn at_gate(&self, call: Call) -> Slow {
        let unused = (0..).map(|n| self.dir.join(format!("gate-{n}"))).find(|dir| !dir.exists());
        let mut gate = Gate::new(unused.expect("a name"));
        let running = call.env("GATE", gate.path()).start();
        let terraform = gate.arrival();
        Slow { running, terraform, gate }
    }

    /// The word in the state, as Terraform reads it.
    #[track_caller]
    pub fn word(&self) -> String {
        self.terraform(["output", "-raw", "word"]).run().ok().text()
    }

    /// Every version, oldest first.
    #[track_caller]
    pub fn log(&self) -> Vec<Value> {
        let mut versions = self.statectl(&["log", &self.state, "--json"]).run().ok().objects();
        versions.reverse();
        versions
    }

    /// A version's content; the newest where none is said.
    #[track_caller]
    pub fn content(&self, version: Option<usize>) -> Value {
        let at = version.map(|version| format!("@{version}")).unwrap_or_default();
        let content = self.statectl(&["get", &format!("{}{at}", self.state)]).run().ok().stdout;
        serde_json::from_slice(&content).expect("a Terraform state")
    }

    /// Whether Terraform had to leave its state in a file.
    pub fn has_errored(&self) -> bool {
        self.dir.join("errored.tfstate").exists()
    }

    /// Checks that nothing is held and nothing was left behind.
    #[track_caller]
    pub fn is_settled(&self) {
        self.is_settled_beside(&[]);
    }

    /// As [`Project::is_settled`], where these files are meant to be there.
    #[track_caller]
    pub fn is_settled_beside(&self, files: &[&str]) {
        assert_eq!(self.statectl(&["locks"]).run().ok().text(), "");
        assert!(!self.has_errored(), "an errored.tfstate was left");
        let is_left = |file: &str| self.dir.join(file).exists() && !files.contains(&file);
        assert!(!is_left("terraform.tfstate"), "a state was left in the directory");
    }

    fn surroundings(&self, call: Call) -> Call {
        let call = call.env("CHECKPOINT_DISABLE", "1").env("TF_IN_AUTOMATION", "1").env("TF_INPUT", "0");
        let call = match &self.programs {
            None => call,
            Some(programs) => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let path = std::iter::once(programs.clone()).chain(std::env::split_paths(&path));
                call.env("PATH", std::env::join_paths(path).expect("a path without a colon"))
            }
        };
        call.current_dir(&self.dir)
    }
}

/// An apply in the middle of its work.
#[derive(Debug)]
pub struct Slow {
    /// What was started.
    pub running: Running,
    /// The Terraform that works.
    pub terraform: Process,
    /// Where it waits.
    pub gate: Gate,
}

impl Slow {
    /// Lets it go on, and waits for its end.
    pub fn finish(mut self) -> Finished {
        self.gate.open();
        self.running.finish()
    }
}

/// The one row of the lock list.
#[track_caller]
pub fn the_lock(host: &Host) -> Value {
    let mut rows = host.locks();
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

/// The process of the gateway that took a lock.
#[track_caller]
pub fn gateway_of(lock: &Value) -> Process {
    let pid = lock["holder"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    Process::open(pid.expect("a process ID"))
}

/// What Terraform said on standard error, without its frame, colours and line breaks.
pub fn told(finished: &Finished) -> String {
    let mut text = String::new();
    for (index, piece) in finished.stderr.split('\x1b').enumerate() {
        text.push_str(if index == 0 { piece } else { piece.split_once('m').map_or("", |(_, rest)| rest) });
    }
    text.replace(['╷', '│', '╵'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The serials of these versions.
pub fn serials(versions: &[Value]) -> Vec<u64> {
    versions.iter().map(|version| version["serial"].as_u64().expect("a serial")).collect()
}
