//! The unit files, as systemd reads them without running.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stated_tests::{Finished, programs_dir, run_to_end, tool};

/// The exposure that the system's service may have, times ten. Two of it are the peers' uids, which it must see.
const EXPOSURE_MAX: &str = "5";

/// The directory `systemd/` of the sources.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("systemd")
}

/// The units of one directory, as files that run the programs of this build.
fn units(room: &Path, directory: &str) -> Vec<PathBuf> {
    let copies = room.join(directory);
    fs::create_dir_all(&copies).unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(sources().join(directory)).unwrap() {
        let path = entry.unwrap().path();
        // The programs are looked for, and are not installed here.
        let text = fs::read_to_string(&path).unwrap().replace("/usr/bin/", &format!("{}/", programs_dir().display()));
        let copy = copies.join(path.file_name().unwrap());
        fs::write(&copy, text).unwrap();
        units.push(copy);
    }
    assert!(!units.is_empty(), "no unit was found in {directory}");
    units
}

fn analyze(room: &Path, args: &[&str], unit: &Path) -> Finished {
    let mut command = Command::new("systemd-analyze");
    command.args(["--man=no", "--no-pager"]).args(args).arg(unit).env("XDG_RUNTIME_DIR", room);
    run_to_end(command)
}

#[test]
fn units_are_understood_by_systemd() {
    if !tool("systemd-analyze") {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    for (directory, args) in
        [("system", ["verify"].as_slice()), ("examples", &["verify"]), ("user", &["--user", "verify"])]
    {
        for unit in units(room.path(), directory) {
            // A key that it does not know is a warning only, so whatever it says is too much.
            let verify = || analyze(room.path(), args, &unit).stderr;
            assert_eq!(verify(), "", "{}", unit.display());
            let text = fs::read_to_string(&unit).unwrap();
            fs::write(&unit, text.replacen("]\n", "]\nMisspelled=yes\n", 1)).unwrap();
            assert_ne!(verify(), "", "a misspelled key is not noticed");
            fs::write(&unit, text).unwrap();
        }
    }
}

#[test]
fn the_systems_service_is_shut_in() {
    if !tool("systemd-analyze") {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let unit = units(room.path(), "system").into_iter().find(|unit| unit.ends_with("stated.service")).unwrap();
    let security = || analyze(room.path(), &["security", "--offline=true", "--threshold", EXPOSURE_MAX], &unit);
    security().ok();
    let text = fs::read_to_string(&unit).unwrap();
    // Peers would all be nobody.
    assert!(!text.lines().any(|line| line.starts_with("PrivateUsers=")), "{text}");
    fs::write(&unit, text.replace("PrivateMounts=yes\n", "")).unwrap();
    security().code(1);
}
