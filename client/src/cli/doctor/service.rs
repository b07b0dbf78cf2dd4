//! The units of systemd, where there are some: whether the user's runs this program, and when; whether the host's failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::finding::Findings;
use super::program::Program;
use crate::cli::failure::shell_path;
use crate::cli::users;

const UNIT: &str = "stated.service";

pub(super) fn check(findings: &mut Findings, program: &Program) {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let own = config.or_else(|| Some(home.as_ref()?.join(".config"))).map(|config| config.join("systemd/user"));
    let shared = ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"].map(PathBuf::from);
    let directories = || own.iter().chain(&shared);
    let Some((unit, text)) = directories().find_map(|directory| {
        let path = directory.join(UNIT);
        fs::read_to_string(&path).ok().map(|text| (path, text))
    }) else {
        return findings.ok("service", "no unit of the user: commands start the daemon where none runs");
    };
    let Some(run) = exec_start(&text, home.as_deref()) else {
        let what = format!("{} has no ExecStart", unit.display());
        return findings.fail("service", what, format!("${{EDITOR:-vi}} {}", shell_path(&unit)));
    };
    let install = match (&program.path, run.parent()) {
        (Some(path), Some(directory)) => format!("install -D -t {} {}", shell_path(directory), shell_path(path)),
        _ => format!("${{EDITOR:-vi}} {}", shell_path(&unit)),
    };
    if !run.is_file() {
        let what = format!("{} runs {}, which does not exist", unit.display(), run.display());
        return findings.fail("service", what, install);
    }
    if program.path.as_ref().is_some_and(|path| !is_same(path, &run)) {
        let what =
            format!("{} runs {}, which is another program than the one beside statectl", unit.display(), run.display());
        return findings.warn("service", what, install);
    }
    let wanted = [Path::new("sockets.target.wants/stated.socket"), Path::new("default.target.wants/stated.service")];
    let is_enabled = directories().any(|directory| wanted.iter().any(|wanted| directory.join(wanted).exists()));
    // A package brings it for everybody, and whoever did not ask for it misses nothing.
    let is_asked_for = shared.iter().all(|directory| !unit.starts_with(directory));
    if !is_enabled && !is_asked_for {
        let what = format!("{} is not enabled: commands start the daemon where none runs", unit.display());
        return findings.ok("service", what);
    }
    if !is_enabled {
        let what = format!("{} is there and not enabled: it does not start at login", unit.display());
        return findings.warn("service", what, "systemctl --user enable --now stated");
    }
    let user = users::name_of(rustix::process::getuid().as_raw()).unwrap_or_default();
    let until = match Path::new("/var/lib/systemd/linger").join(user).exists() {
        true => "starts at boot",
        false => "runs from login to the last logout (loginctl enable-linger: always)",
    };
    findings.ok("service", format!("{} {until}", unit.display()));
}

/// The service of the host.
pub(super) fn check_hosts(findings: &mut Findings) {
    let directories = ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
    let units = directories.map(|directory| Path::new(directory).join(UNIT));
    let Some(unit) = units.into_iter().find(|unit| unit.exists()) else { return };
    let unit = unit.display();
    if has_failed() {
        let what = format!("{unit} failed too often, and is not started any more: journalctl -u stated says why");
        let mend = "systemctl reset-failed stated.socket stated.service && systemctl start stated.socket";
        return findings.fail("host's service", what, mend);
    }
    match Path::new("/etc/systemd/system/sockets.target.wants/stated.socket").exists() {
        true => findings.ok("host's service", format!("{unit} is started by its first client")),
        false => findings.ok("host's service", format!("{unit} is not enabled")),
    }
}

/// Whether systemd has given up on the host's service or its socket.
fn has_failed() -> bool {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["--quiet", "is-failed", "stated.socket", "stated.service"]);
    systemctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Path::new("/run/systemd/system").exists() && systemctl.status().is_ok_and(|status| status.success())
}

/// The program of the unit's `ExecStart=`.
fn exec_start(unit: &str, home: Option<&Path>) -> Option<PathBuf> {
    let line = unit.lines().find_map(|line| line.trim().strip_prefix("ExecStart="))?;
    // Prefixes say how it is run (systemd.service(5)).
    let word = line.trim_start_matches(['-', '@', ':', '+', '!']).split_whitespace().next()?;
    let home = home.map(|home| home.display().to_string()).unwrap_or_default();
    Some(PathBuf::from(word.replace("%h", &home)))
}

/// Whether the two are one file, or alike in every byte.
fn is_same(a: &Path, b: &Path) -> bool {
    let resolved = |path: &Path| fs::canonicalize(path).ok();
    let len = |path: &Path| fs::metadata(path).map(|metadata| metadata.len()).ok();
    resolved(a) == resolved(b) || (len(a) == len(b) && fs::read(a).ok() == fs::read(b).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_unit_is_found() {
        let home = Path::new("/home/a");
        let run = |line: &str| exec_start(&format!("[Service]\nType=notify\n{line}\n"), Some(home));
        assert_eq!(run("ExecStart=%h/.local/bin/stated run"), Some("/home/a/.local/bin/stated".into()));
        assert_eq!(run("ExecStart=-/usr/bin/stated"), Some("/usr/bin/stated".into()));
        assert_eq!(run("Restart=no"), None);
    }
}
