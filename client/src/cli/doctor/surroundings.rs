//! The process's surroundings: environment, runtime directory, kernel, limits, clock.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};
use stated_shared::Timestamp;

use super::daemon::Answer;
use super::finding::Findings;
use crate::cli::failure::shell_path;
use crate::cli::table;

/// The first kernel with pidfds that can be polled (`Linux 5.3`) and waited for (5.4).
const KERNEL_MIN: (u32, u32) = (5, 4);
/// Open files below which a daemon that is started here serves few clients.
const OPEN_FILES_MIN: u64 = 256;
/// 2025-01-01 in milliseconds since 1970: before it nothing of this was written.
const EARLIEST: Timestamp = Timestamp(1_735_689_600_000);
/// How far the clock may be behind what was recorded, in milliseconds.
const BEHIND_MS_MAX: u64 = 5 * 60 * 1000;
/// How long a gateway of an address in the environment may take to answer.
const GATEWAY_MAX: Duration = Duration::from_millis(500);

pub(super) fn check(findings: &mut Findings, answer: &Answer) {
    lock_id(findings, answer);
    terraform(findings);
    runtime_directory(findings);
    kernel(findings);
    open_files(findings);
    clock(findings, now(), answer);
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
}

fn lock_id(findings: &mut Findings, answer: &Answer) {
    let (Some(id), Answer::Given(given)) = (variable("STATED_LOCK_ID"), answer) else { return };
    match given.locks.iter().find(|lock| lock.id.as_str() == id) {
        Some(lock) => findings.ok("environment", format!("STATED_LOCK_ID is held: {}", table::holder(lock))),
        None => {
            let what = "STATED_LOCK_ID names a lock that is not held, so every commit is refused";
            findings.fail("environment", what, "unset STATED_LOCK_ID");
        }
    }
}

/// What makes Terraform go elsewhere, or without a lock.
fn terraform(findings: &mut Findings) {
    let mut is_clean = true;
    let mut warn = |what: String, name: &str| {
        is_clean = false;
        findings.warn("environment", what, format!("unset {name}"));
    };
    for name in ["TF_HTTP_ADDRESS", "TF_HTTP_LOCK_ADDRESS", "TF_HTTP_UNLOCK_ADDRESS"] {
        if variable(name).as_deref().and_then(loopback_port).is_some_and(|port| !answers(port)) {
            warn(format!("{name} is left over from a gateway that has ended"), name);
        }
    }
    if variable("TF_CLI_CONFIG_FILE").is_some_and(|path| !Path::new(&path).exists()) {
        warn("TF_CLI_CONFIG_FILE names a file that does not exist".to_owned(), "TF_CLI_CONFIG_FILE");
    }
    let mut names: Vec<String> = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    names.sort();
    for name in names.iter().filter(|name| name.starts_with("TF_CLI_ARGS")) {
        let value = variable(name).unwrap_or_default();
        if let Some(flag) = ["-lock=false", "-state", "-backend-config"].into_iter().find(|flag| value.contains(flag)) {
            warn(format!("{name} holds {flag}, which leads Terraform past the lock or the state here"), name);
        }
    }
    if is_clean {
        findings.ok("environment", "nothing in it leads Terraform elsewhere");
    }
}

/// The port of an address on this host.
fn loopback_port(address: &str) -> Option<u16> {
    let authority = address.strip_prefix("http://")?.split('/').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    matches!(host, "127.0.0.1" | "localhost").then(|| port.parse().ok())?
}

fn answers(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), GATEWAY_MAX).is_ok()
}

fn runtime_directory(findings: &mut Findings) {
    const CHECK: &str = "runtime directory";
    let Some(path) = variable("XDG_RUNTIME_DIR").map(PathBuf::from) else {
        return findings.ok(CHECK, "XDG_RUNTIME_DIR is not set: the socket is below the state home");
    };
    let place = path.display();
    if !path.is_absolute() {
        return findings.warn(CHECK, format!("XDG_RUNTIME_DIR is {place}, which is ignored"), "unset XDG_RUNTIME_DIR");
    }
    let own = rustix::process::geteuid().as_raw();
    match fs::metadata(&path) {
        Err(_) => {
            let mend = format!("mkdir -m 700 {}", shell_path(&path));
            findings.fail(CHECK, format!("XDG_RUNTIME_DIR names {place}, which does not exist"), mend);
        }
        Ok(metadata) if metadata.uid() != own => {
            let what = format!("XDG_RUNTIME_DIR names {place} of uid {}, and this is uid {own}", metadata.uid());
            findings.fail(CHECK, what, "unset XDG_RUNTIME_DIR");
        }
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let what = format!("others may use {place} (mode {:03o})", metadata.mode() & 0o777);
            findings.warn(CHECK, what, format!("chmod 700 {}", shell_path(&path)));
        }
        Ok(_) => findings.ok(CHECK, place.to_string()),
    }
}

fn kernel(findings: &mut Findings) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let (major, minor) = KERNEL_MIN;
    let update = "update the kernel, or hold locks by the connection alone: statectl lock -o";
    if version(&release).is_some_and(|found| found < KERNEL_MIN) {
        return findings.fail("kernel", format!("Linux {release} is older than {major}.{minor}"), update);
    }
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => findings.ok("kernel", format!("Linux {release}")),
        Err(error) => findings.fail("kernel", format!("Linux {release} gives out no pidfd: {error}"), update),
    }
}

/// `6.1` of `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn open_files(findings: &mut Findings) {
    let limit = getrlimit(Resource::Nofile).current;
    match limit {
        Some(limit) if limit < OPEN_FILES_MIN => {
            findings.warn("open files", format!("a process may open {limit} files only"), "ulimit -n 1024");
        }
        limit => findings.ok("open files", limit.map_or("no limit".to_owned(), |limit| format!("up to {limit}"))),
    }
}

fn clock(findings: &mut Findings, now: Timestamp, answer: &Answer) {
    let latest = match answer {
        Answer::Given(given) => given.latest(),
        _ => EARLIEST,
    };
    let told = crate::cli::views::time(now);
    if now < EARLIEST {
        findings.fail("clock", format!("it is {told}, says the clock"), "sudo timedatectl set-ntp true");
    } else if latest.0 > now.0.saturating_add(BEHIND_MS_MAX) {
        let what = format!("it is {told}, says the clock, and {} was recorded", crate::cli::views::time(latest));
        findings.fail("clock", what, "sudo timedatectl set-ntp true");
    } else {
        findings.ok("clock", told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_kernels_are_compared_by_number() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert!(version("5.10").unwrap() > KERNEL_MIN && version("4.19.0").unwrap() < KERNEL_MIN);
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn only_addresses_of_this_host_are_tried() {
        assert_eq!(loopback_port("http://127.0.0.1:8080/v1/state/a"), Some(8080));
        assert_eq!(loopback_port("http://localhost:1"), Some(1));
        assert_eq!(loopback_port("https://example.com:443/state"), None);
        assert_eq!(loopback_port("http://10.0.0.1:80/x"), None);
    }
}
