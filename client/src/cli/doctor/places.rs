//! The state directory and the directory of the socket: owner, mode, space.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use stated_shared::paths;

use super::daemon::{Answer, Found};
use super::finding::Findings;
use super::program::Program;
use crate::cli::failure::shell_path;
use crate::cli::table;

/// Below this the disk is called full, in bytes: a log file is filled ahead by 256 KiB at a time.
const SPACE_BYTES_MIN: u64 = 16 << 20;
/// Below this it is called nearly full, in bytes.
const SPACE_BYTES_LOW: u64 = 256 << 20;
/// Files that can still be made, below which the disk is called full.
const FILES_MIN: u64 = 64;
/// Files that can still be made, below which it is called nearly full.
const FILES_LOW: u64 = 1024;

/// Where things are, as the daemon says, else as its program says, else by the rules.
pub(super) struct Places {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) socket: PathBuf,
    /// Whose they are to be: this user's, but for a daemon of another one that answers.
    owner: u32,
}

impl Places {
    pub(super) fn of(program: &Program, answer: &Answer, found: &Found) -> Self {
        let status = match answer {
            Answer::Given(given) => Some(&given.status),
            _ => None,
        };
        let settings = program.settings.as_ref();
        Self {
            state_dir: status
                .map(|status| PathBuf::from(&status.state_dir))
                .or_else(|| settings.map(|settings| settings.state_dir.clone())),
            // Where a daemon answers: a configured socket that clients do not find is no use to them.
            socket: match answer {
                Answer::Given(_) => found.socket.clone(),
                _ => settings.map_or_else(|| found.socket.clone(), |settings| settings.socket.clone()),
            },
            owner: match answer {
                Answer::Given(_) => uid_of(&found.socket),
                // Whose door is closed is not to be asked to give the house away.
                Answer::None if found.is_denied() => found.socket.parent().map_or_else(own_uid, uid_of),
                _ => own_uid(),
            },
        }
    }
}

pub(super) fn check(findings: &mut Findings, places: &Places) {
    if let Some(state_dir) = &places.state_dir {
        directory(findings, "state directory", state_dir, places.owner);
        space(findings, state_dir);
    }
    if let Some(parent) = places.socket.parent() {
        directory(findings, "socket directory", parent, places.owner);
    }
}

/// Whose file it is; one's own, where that cannot be told.
fn uid_of(path: &Path) -> u32 {
    fs::metadata(path).map_or_else(|_| own_uid(), |metadata| metadata.uid())
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A directory that must be its daemon's alone. What another user's daemon lets others see is not for this one to judge.
fn directory(findings: &mut Findings, check: &'static str, path: &Path, owner: u32) {
    let place = path.display();
    let is_own = owner == own_uid();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return findings.ok(check, format!("{place} is made at the first start"));
        }
        Err(_) if !is_own => return findings.ok(check, format!("{place} is out of sight: it is of uid {owner}")),
        Err(error) => {
            return findings.warn(
                check,
                format!("cannot look at {place}: {error}"),
                format!("ls -ld {}", shell_path(path)),
            );
        }
    };
    // A state directory may be a link to where there is room.
    let metadata = if metadata.is_symlink() && check == "state directory" {
        fs::metadata(path).unwrap_or(metadata)
    } else {
        metadata
    };
    // All users come to the host's socket, and the files beside it are its daemon's alone.
    let is_open = !is_own || paths::is_system_socket(&path.join("stated.sock"));
    match problem(&metadata, owner).filter(|problem| !is_open || *problem != Problem::Read) {
        None => findings.ok(check, format!("{place} (mode {:03o})", metadata.mode() & 0o777)),
        Some(Problem::Kind) => {
            findings.fail(check, format!("{place} is no directory"), format!("mv {0} {0}.aside", shell_path(path)));
        }
        Some(Problem::Owner(other)) => {
            // Root comes here by sudo, with the environment of somebody whose things shall stay so.
            let mend = match own_uid() {
                0 => format!("sudo -u '#{other}' statectl doctor"),
                _ => format!("sudo chown -R {owner} {}", shell_path(path)),
            };
            findings.fail(check, format!("{place} belongs to uid {other}, and not to uid {owner}"), mend);
        }
        Some(Problem::Written) => {
            let what = format!("others may write {place} (mode {:03o}), so no daemon starts", metadata.mode() & 0o777);
            findings.fail(check, what, format!("chmod 700 {}", shell_path(path)));
        }
        Some(Problem::Read) => {
            let what = format!("others may look into {place} (mode {:03o})", metadata.mode() & 0o777);
            findings.warn(check, what, format!("chmod 700 {}", shell_path(path)));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Kind,
    Owner(u32),
    Written,
    Read,
}

fn problem(metadata: &Metadata, owner: u32) -> Option<Problem> {
    match metadata.mode() {
        _ if !metadata.is_dir() => Some(Problem::Kind),
        _ if metadata.uid() != owner => Some(Problem::Owner(metadata.uid())),
        mode if mode & 0o022 != 0 => Some(Problem::Written),
        mode if mode & 0o055 != 0 => Some(Problem::Read),
        _ => None,
    }
}

fn space(findings: &mut Findings, state_dir: &Path) {
    let there = state_dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let Ok(found) = statvfs(there) else { return };
    let place = there.display();
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let what = format!("{place} is mounted read-only");
        return findings.fail(
            "space",
            what,
            format!("sudo mount -o remount,rw \"$(df --output=target {} | tail -n 1)\"", shell_path(there)),
        );
    }
    let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    // Some filesystems have no such count.
    let free_files = if found.f_files == 0 { u64::MAX } else { found.f_favail };
    let free = table::size(free_bytes);
    let look = format!("df -h {0}; df -i {0}", shell_path(there));
    match Room::of(free_bytes, free_files) {
        Room::Enough => findings.ok("space", format!("{free} free at {place}")),
        Room::Low => findings.warn("space", format!("{place} is nearly full: {free}, {free_files} files"), look),
        Room::None => {
            let what = format!("{place} is full ({free}, {free_files} files left): writes are refused, reads work");
            findings.fail("space", what, look);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Room {
    Enough,
    Low,
    None,
}

impl Room {
    fn of(free_bytes: u64, free_files: u64) -> Self {
        if free_bytes < SPACE_BYTES_MIN || free_files < FILES_MIN {
            Self::None
        } else if free_bytes < SPACE_BYTES_LOW || free_files < FILES_LOW {
            Self::Low
        } else {
            Self::Enough
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_disk_is_full_by_bytes_or_by_files() {
        assert_eq!(Room::of(1 << 30, 1 << 20), Room::Enough);
        assert_eq!(Room::of(1 << 30, u64::MAX), Room::Enough);
        assert_eq!(Room::of(100 << 20, 1 << 20), Room::Low);
        assert_eq!(Room::of(1 << 30, 100), Room::Low);
        assert_eq!(Room::of(1 << 20, 1 << 20), Room::None);
        assert_eq!(Room::of(1 << 30, 0), Room::None);
    }

    #[test]
    fn what_others_may_do_with_a_directory_is_told() {
        let room = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let problem_of = |mode| {
            fs::set_permissions(room.path(), fs::Permissions::from_mode(mode)).unwrap();
            problem(&fs::metadata(room.path()).unwrap(), own)
        };
        assert_eq!(problem_of(0o700), None);
        assert_eq!(problem_of(0o750), Some(Problem::Read));
        assert_eq!(problem_of(0o770), Some(Problem::Written));
        assert_eq!(problem(&fs::metadata(room.path()).unwrap(), own + 1), Some(Problem::Owner(own)));
        assert_eq!(problem(&fs::metadata("/dev/null").unwrap(), own), Some(Problem::Kind));
    }
}
