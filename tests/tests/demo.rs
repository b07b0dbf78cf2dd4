//! `statectl demo` as a newcomer runs it: it ends well, tells the truth, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stated_tests::{Finished, programs_dir, run_to_end, tool};

fn demo(temporary: &Path) -> Command {
    let mut command = Command::new(programs_dir().join("statectl"));
    command.arg("demo").env("TMPDIR", temporary);
    // Whoever runs the tests may have settings of their own.
    command.env("STATED_SOCKET", "/nonexistent/stated.sock").env("TF_CLI_CONFIG_FILE", "/nonexistent");
    command
}

fn text(finished: &Finished) -> String {
    format!("{}{}", finished.text(), finished.stderr)
}

/// The command lines of processes that mention a directory.
fn processes_of(directory: &Path) -> Vec<String> {
    let needle = directory.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let command = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).replace('\0', " "))
    });
    processes.filter(|command| command.contains(needle)).collect()
}

/// A PATH with the few programs that the demo uses, and no Terraform.
fn path_without_terraform(directory: &Path) -> PathBuf {
    let bin = directory.join("bin");
    fs::create_dir(&bin).unwrap();
    for program in ["sh", "cat", "echo", "head", "od", "grep"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join(program))
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("{program} is not on PATH"));
        std::os::unix::fs::symlink(found, bin.join(program)).unwrap();
    }
    bin
}

#[test]
fn the_demo_does_what_it_says_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let output = run_to_end(demo(temporary.path()));
    let said = text(&output);
    assert!(output.code == 0, "{said}");
    for words in [
        "back it up",
        "[exit code 65]",
        "[exit code 75]",
        "waiting: example/network held by",
        "output.password: (sensitive)",
        "age-encryption.org/v1",
        "verify, up to record",
        "is removed.",
    ] {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    if tool("terraform") {
        assert!(said.contains("Resources: 1 added"), "{said}");
    }
    assert!(!said.contains('\x1b'), "colour without a terminal:\n{said}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "something was left behind");
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
}

#[test]
fn without_terraform_its_part_is_skipped() {
    let temporary = tempfile::tempdir().unwrap();
    let bin = path_without_terraform(temporary.path());
    let mut without = demo(temporary.path());
    without.env("PATH", &bin);
    let output = run_to_end(without);
    let said = text(&output);
    assert!(output.code == 0, "{said}");
    assert!(said.contains("skipped") && said.contains("verify, up to record"), "{said}");
}

#[test]
fn a_step_that_deviates_fails_the_demo() {
    let temporary = tempfile::tempdir().unwrap();
    let bin = path_without_terraform(temporary.path());
    fs::remove_file(bin.join("od")).unwrap();
    let mut without = demo(temporary.path());
    without.env("PATH", &bin);
    let output = run_to_end(without);
    let said = text(&output);
    assert_eq!(output.code, 1, "{said}");
    assert!(said.contains("[exit code 127]") && said.contains("expected exit code 0"), "{said}");
    fs::remove_dir_all(bin).unwrap();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "something was left behind");
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
}

#[test]
fn a_reader_that_goes_away_ends_the_demo_cleanly() {
    // Before anything runs, after the first write, and while one command holds the lock and another waits.
    for lines in [1, 8, 22, 27] {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = demo(temporary.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let read = BufReader::new(child.stdout.take().unwrap()).lines().take(lines).count();
        assert_eq!((read, child.wait().unwrap().code()), (lines, Some(141)));
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "something was left behind after {lines} lines");
        assert_eq!(processes_of(temporary.path()), Vec::<String>::new(), "after {lines} lines");
    }
}

#[test]
fn a_kept_directory_can_be_looked_at() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = temporary.path().join("kept");
    let keeping = |more: &[&str]| {
        let mut demo = demo(temporary.path());
        demo.arg("--keep").arg(&kept).args(more);
        run_to_end(demo)
    };
    let output = keeping(&["--json"]);
    assert!(output.code == 0, "{}", text(&output));
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(step["command"].is_string() && step["output"].is_string() && step["code"].is_u64(), "{line}");
    }
    let key = kept.join(".config/stated/identity.txt");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(processes_of(&kept), Vec::<String>::new());
    // A second demo would mix with the first.
    let again = keeping(&[]);
    assert_eq!(again.code, 2, "{}", text(&again));
}
