//! The Debian package: what it holds, and what installing, upgrading and removing it does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use stated_tests::{BUILD_LIMIT, programs_dir, run_to_end, run_within, tool};

use crate::machine::{Machine, debian, run_unbooted};

/// The directory with two revisions of the package, made once a process by `packaging/deb`: `1.deb` and `2.deb`.
pub fn packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let target = programs_dir().parent().unwrap();
        let profile = match programs_dir().file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        let directory = target.join("packages");
        std::fs::create_dir_all(&directory).unwrap();
        for revision in ["1", "2"] {
            let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/deb"));
            command.args(["--profile", profile, "--fast", "--deb-revision", revision]);
            command.arg("--output").arg(directory.join(format!("{revision}.deb"))).env("CARGO_TARGET_DIR", target);
            run_within(command, BUILD_LIMIT).ok();
        }
        directory
    })
}

/// Whether cargo-deb is there, which makes the package.
fn cargo_deb() -> bool {
    tool("cargo-deb")
}

#[test]
fn lintian_has_nothing_to_say() {
    if !tool("lintian") || !cargo_deb() {
        return;
    }
    let mut command = Command::new("lintian");
    command.args(["--allow-root", "--fail-on", "error,warning"]).arg(packages().join("1.deb"));
    let said = run_to_end(command).ok();
    assert_eq!(said.text(), "");
}

#[test]
fn the_manual_page_of_the_daemon_names_its_options() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/stated.8")).unwrap();
    let page = page.replace("\\-", "-");
    let options = |args: &[&str]| {
        let mut command = Command::new(programs_dir().join("stated"));
        command.args(args).arg("--help");
        let help = run_to_end(command).ok().text();
        let words = help.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).map(str::to_owned);
        words.filter(|word| word.starts_with("--") || word.starts_with("STATED_")).collect::<Vec<_>>()
    };
    let said: Vec<String> = [options(&["run"]), options(&["verify"])].concat();
    assert!(said.iter().any(|word| word == "--accept-loss"), "{said:?}");
    for word in said.iter().filter(|word| !["--help", "--version"].contains(&word.as_str())) {
        assert!(page.contains(word.as_str()), "packaging/stated.8 does not name {word}");
    }
}

#[test]
fn it_installs_on_a_bare_debian_and_leaves_it_again() {
    let Some(root_dir) = debian() else { return };
    let said = run_unbooted(
        &root_dir,
        "dpkg -i /packages/1.deb
         id stated
         stat -c '%U:%G %a %n' /var/lib/stated /var/lib/stated-key
         stated --version && statectl --version
         test -e /usr/share/man/man8/stated.8.gz && test -e /usr/share/man/man1/statectl.1.gz
         ! systemctl is-enabled stated.socket
         dpkg --purge stated
         ! test -e /var/lib/stated && ! test -e /usr/bin/stated",
    );
    assert_eq!(said.code, 0, "{}\n{}", said.text(), said.stderr);
    for line in ["stated:stated 700 /var/lib/stated", "stated:stated 700 /var/lib/stated-key"] {
        assert!(said.text().contains(line), "{}", said.text());
    }
}

#[test]
fn an_upgrade_keeps_locks_and_a_removal_keeps_states() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::boot(&root_dir);
    machine.install();
    let held = machine.hold("x");
    let before = machine.lock("x");
    let old = machine.property("MainPID");

    let writer = machine.write("log");
    machine.run("dpkg -i /packages/2.deb");
    assert!(machine.run("dpkg-query -W stated").ends_with("-2"));
    assert_ne!(machine.property("MainPID"), old, "the new daemon took the place of the old one");
    let after = machine.lock("x");
    for field in ["id", "fence", "since"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    machine.all_is_written("log", writer);
    held.release(&machine);

    machine.run("dpkg --remove stated");
    assert_eq!(machine.run("systemctl is-active stated.service stated.socket || true"), "inactive\ninactive");
    machine.run("dpkg -i /packages/1.deb && systemctl start stated.socket && statectl get log >/dev/null");
    let said = machine.try_run("dpkg --purge stated").ok();
    let told = format!("{}{}", said.text(), said.stderr);
    for left in ["/var/lib/stated", "/var/lib/stated-key"] {
        assert!(told.contains(&format!("{left} is left as it is")), "{told}");
    }
    machine.run("test -e /var/lib/stated/FORMAT && test -e /var/lib/stated-key/identity.txt");
}
