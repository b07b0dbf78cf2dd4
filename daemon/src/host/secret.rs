//! Secrets that people keep elsewhere: in a file that only its owner may read, or behind a command that prints them.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{ASKED_MAX, AskedProgram, Clock};

/// Where a secret is. It never comes by an argument or an environment variable, which others can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// A line for `sh -c` that prints it.
    Command(String),
}

/// Why a secret could not be had; all of these are configuration (exit 78).
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such file.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// Group or others have rights on it.
    #[error("{} has mode {mode:04o}: others may read or change it (chmod 600)", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The shell could not be started, or its output not be read.
    #[error("cannot run {command:?}")]
    Start {
        /// The line.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// The command says that it failed. What it said itself is on the daemon's standard error.
    #[error("{command:?} ended with {status}")]
    Failed {
        /// The line.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The command was killed.
    #[error("{command:?} did not end within {} s", ASKED_MAX.as_secs())]
    TooSlow {
        /// The line.
        command: String,
    },
}

impl SecretSource {
    /// Reads the secret, at most `len_max` bytes and one more.
    ///
    /// A file in `credentials`, the directory in which systemd hands over a service's, may have any mode.
    pub fn read(
        &self,
        len_max: u64,
        credentials: Option<&Path>,
        clock: &Clock,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        // Reserved in full, so that no outgrown copy of the secret is left behind.
        let mut secret = Zeroizing::new(Vec::with_capacity(len_max as usize + 1));
        match self {
            Self::File(path) => read_file(path, len_max, credentials, &mut secret)?,
            Self::Command(line) => read_command(line, ASKED_MAX, len_max, clock, &mut secret)?,
        }
        Ok(secret)
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Command(line) => write!(f, "the output of {line:?}"),
        }
    }
}

fn read_file(path: &Path, len_max: u64, credentials: Option<&Path>, secret: &mut Vec<u8>) -> Result<(), SecretError> {
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::NotFound => SecretError::Missing(path.to_path_buf()),
        _ => SecretError::Io { path: path.to_path_buf(), source },
    };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, not of the path: what was judged is what is read.
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    // Group bits there are the mask of an access list that names the service's user alone.
    let is_credential = credentials.is_some_and(|dir| path.parent() == Some(dir));
    if mode & 0o077 != 0 && !is_credential {
        return Err(SecretError::Exposed { path: path.to_path_buf(), mode });
    }
    file.take(len_max + 1).read_to_end(secret).map_err(failed)?;
    Ok(())
}

fn read_command(
    line: &str,
    limit: Duration,
    len_max: u64,
    clock: &Clock,
    secret: &mut Vec<u8>,
) -> Result<(), SecretError> {
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::TimedOut => SecretError::TooSlow { command: line.to_owned() },
        _ => SecretError::Start { command: line.to_owned(), source },
    };
    let asked = AskedProgram::shell(line, limit, clock).map_err(failed)?;
    match asked.output(len_max, secret).map_err(failed)? {
        status if status.success() => Ok(()),
        status => Err(SecretError::Failed { command: line.to_owned(), status }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::{Pid, Signal};

    use super::*;

    fn read(source: &SecretSource, credentials: Option<&Path>) -> Result<Vec<u8>, SecretError> {
        source.read(100, credentials, &Clock::of_host().unwrap()).map(|secret| secret.to_vec())
    }

    fn command(line: &str) -> Result<Vec<u8>, SecretError> {
        read(&SecretSource::Command(line.to_owned()), None)
    }

    #[test]
    fn a_file_must_be_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let source = SecretSource::File(path.clone());
        assert!(matches!(read(&source, None), Err(SecretError::Missing(_))));
        fs::write(&path, "open sesame\n").unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&source, None), Err(SecretError::Exposed { mode: m, .. }) if m == mode));
            assert_eq!(read(&source, Some(dir.path())).unwrap(), b"open sesame\n");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read(&source, None).unwrap(), b"open sesame\n");
    }

    #[test]
    fn a_commands_output_is_the_secret() {
        assert_eq!(command("printf 'one\\ntwo\\n'; pwd").unwrap(), b"one\ntwo\n/\n");
        assert_eq!(command("true").unwrap(), b"");
        // More than a pipe holds: it is not left hanging, and no more than the limit is kept.
        assert_eq!(command("head -c 200000 /dev/zero").unwrap().len(), 101);
        // It reads nothing of anybody's.
        assert_eq!(command("cat").unwrap(), b"");
    }

    #[test]
    fn an_agent_that_a_command_leaves_behind_is_not_waited_for() {
        let said = command("sleep 1000 & echo $!").unwrap();
        let pid = std::str::from_utf8(&said).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let clock = Clock::of_host().unwrap();
        let read = read_command("sleep 1000", Duration::ZERO, 100, &clock, &mut Vec::new());
        assert!(matches!(read, Err(SecretError::TooSlow { .. })));
    }

    #[test]
    fn a_command_that_fails_gives_no_secret() {
        let error = command("echo half; exit 3").unwrap_err();
        assert!(matches!(&error, SecretError::Failed { status, .. } if status.code() == Some(3)), "{error}");
        assert!(matches!(command("kill -9 $$"), Err(SecretError::Failed { .. })));
    }
}
