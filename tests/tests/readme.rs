//! The README's commands do what it says: each block is run as it stands, in a home of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use stated_tests::{Finished, programs_dir, run_to_end, tool};

/// The blocks of shell below a heading.
fn blocks(heading: &str) -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = readme.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let blocks: Vec<&str> = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty(), "no block below {heading}");
    blocks.concat()
}

/// A home with a daemon that the script starts, and that ends with the home.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("r").tempdir_in("/tmp").unwrap())
    }

    fn shell(&self, script: &str) -> Finished {
        let work = self.0.path().join("work");
        fs::create_dir_all(&work).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(programs_dir().to_owned()).chain(std::env::split_paths(&path)))
            .unwrap();
        let mut command = Command::new("sh");
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["STATED_", "XDG_", "TF_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&*name);
            }
        }
        command.args(["-euc", script]).current_dir(work).env("HOME", self.0.path()).env("PATH", path);
        // What a person would answer.
        command.env("TF_CLI_ARGS_apply", "-auto-approve").env("CHECKPOINT_DISABLE", "1");
        run_to_end(command)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let status = self.shell("statectl status --json").stdout;
        if let Ok(status) = serde_json::from_slice::<serde_json::Value>(&status) {
            let pid = status["pid"].as_u64().unwrap().to_string();
            Command::new("kill").arg(pid).status().unwrap();
        }
    }
}

#[test]
fn the_tour_with_scripts_is_true() {
    let home = Home::new();
    let output = home.shell(&blocks("Sixty seconds with scripts"));
    let (out, err) = (output.text() + "\n", output.stderr);
    assert!(output.code == 0, "{out}{err}");
    for said in ["example/list@1\n", "one\n", "example/list@2\n", "refused: exit code 65\n", "example/list@3\n"] {
        assert!(out.contains(said), "{said:?} is missing:\n{out}");
    }
    assert!(out.contains("change window") && out.contains("commit"), "{out}");
    // Where the README says that they are.
    for path in [".config/stated/identity.txt", ".local/state/stated/FORMAT", ".local/state/stated/run/stated.sock"] {
        assert!(home.0.path().join(path).exists(), "{path}");
    }
}

#[test]
fn the_tour_with_terraform_is_true() {
    if !tool("terraform") {
        return;
    }
    let home = Home::new();
    let output = home.shell(&blocks("Sixty seconds with Terraform"));
    let (out, err) = (output.text() + "\n", output.stderr);
    assert!(output.code == 0, "{out}{err}");
    assert!(out.contains("1 added") && out.contains("STATE"), "{out}{err}");
}

#[test]
fn a_second_key_is_added_as_it_says() {
    if !tool("age-keygen") {
        return;
    }
    let home = Home::new();
    let output = home.shell(&blocks("Where things are, and what to back up")).ok().text();
    assert!(output.contains("keyring 2") && output.matches("\nage1").count() == 2, "{output}");
}
