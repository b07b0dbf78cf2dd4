//! The socket, who listens there, what the daemon says of itself, and its locks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stated_shared::paths::{self, ProcessEnvironment};
use stated_shared::{Failure, FailureKind, LockInfo, PolicyInfo, Reply, Request, StatusInfo, Timestamp, VersionInfo};

use super::finding::{Findings, Verdict};
use super::places::Places;
use super::surroundings;
use crate::cli::failure::{quoted, shell_path};
use crate::cli::{locks, table};
use crate::{Client, ConnectOptions};

/// How long a daemon may take to welcome this: who is asked what is broken does not wait for long.
const WELCOME_MAX: Duration = Duration::from_secs(5);
/// How much of the daemon's log is looked at, in bytes.
const LOG_TAIL_LEN: u64 = 8 << 10;

/// The socket that a client would take.
pub(super) struct Found {
    pub(super) socket: PathBuf,
    state: State,
}

enum State {
    /// Somebody listens; their process ID, where it can be told.
    Listens(Option<i32>),
    /// A socket, and nobody listens any more.
    Stale,
    Missing,
    Failed(io::Error),
}

/// What the daemon answered.
pub(super) enum Answer {
    /// Nobody was asked.
    None,
    Refused(Failure),
    Given(Box<Given>),
}

pub(super) struct Given {
    pub(super) status: StatusInfo,
    pub(super) locks: Vec<LockInfo>,
    /// The newest versions of some states.
    pub(super) versions: Vec<VersionInfo>,
}

/// Looks for the daemon as a client does, and no further.
pub(super) fn find(options: &ConnectOptions) -> Found {
    let candidates = options.socket.clone().map_or_else(|| paths::sockets(&ProcessEnvironment), |socket| vec![socket]);
    let mut found = candidates.into_iter().map(|socket| Found { state: State::of(&socket), socket });
    let Some(first) = found.next() else { unreachable!("the system's socket is always a candidate") };
    if !first.is_silent() {
        return first;
    }
    let next = found.find(|other| !other.is_silent());
    next.unwrap_or(first)
}

impl Found {
    fn is_silent(&self) -> bool {
        matches!(self.state, State::Stale | State::Missing)
    }

    pub(super) fn is_denied(&self) -> bool {
        matches!(&self.state, State::Failed(error) if error.kind() == ErrorKind::PermissionDenied)
    }

    pub(super) fn listens(&self) -> bool {
        matches!(self.state, State::Listens(_))
    }
}

impl State {
    fn of(socket: &Path) -> Self {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                let peer = rustix::net::sockopt::socket_peercred(&stream).ok();
                Self::Listens(peer.map(|peer| peer.pid.as_raw_nonzero().get()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Missing,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Self::Stale,
            Err(error) => Self::Failed(error),
        }
    }
}

pub(super) fn ask(found: &Found, options: &ConnectOptions) -> Answer {
    if !found.listens() {
        return Answer::None;
    }
    let options = ConnectOptions { autostart: false, socket: Some(found.socket.clone()), ..options.clone() };
    match Client::connect_within(&options, WELCOME_MAX).and_then(|mut client| given(&mut client)) {
        Ok(given) => Answer::Given(Box::new(given)),
        Err(failure) => Answer::Refused(failure),
    }
}

fn given(client: &mut Client) -> Result<Given, Failure> {
    let unexpected = crate::cli::failure::unexpected;
    let Reply::Status(status) = client.call(&Request::Status)? else { return Err(unexpected()) };
    let locks = locks::list(client, None)?;
    let Reply::Versions(page) = client.call(&Request::List { glob: None, after: None })? else {
        return Err(unexpected());
    };
    Ok(Given { status: *status, locks, versions: page.versions })
}

pub(super) fn check(
    findings: &mut Findings,
    found: &Found,
    answer: &Answer,
    places: &Places,
    options: &ConnectOptions,
) {
    let socket = found.socket.display();
    match &found.state {
        State::Listens(_) => socket_file(findings, &found.socket, answer),
        State::Missing => missing(findings, found, places, options),
        State::Stale if !is_socket(&found.socket) => {
            let what = format!("{socket} is no socket, so no daemon can listen there");
            findings.fail("socket", what, format!("mv {0} {0}.aside", shell_path(&found.socket)));
        }
        State::Stale => {
            let what = format!("{socket} was left by a daemon that was killed; the next start replaces it");
            findings.warn("socket", what, start(found));
        }
        State::Failed(error) if error.kind() == ErrorKind::PermissionDenied => {
            let mend = format!("ls -ld {}, and ask its owner", shell_path(&found.socket));
            findings.fail("socket", format!("may not connect to {socket}"), mend);
        }
        State::Failed(error) => {
            findings.fail("socket", format!("cannot connect to {socket}: {error}"), "unset STATED_SOCKET");
        }
    }
    match answer {
        Answer::None => last_start(findings, &found.socket),
        Answer::Refused(failure) => refused(findings, found, failure),
        Answer::Given(given) => status(findings, found, &given.status),
    }
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The command that starts the daemon of this socket.
fn start(found: &Found) -> String {
    if paths::is_system_socket(&found.socket) { "systemctl start stated".to_owned() } else { "statectl ls".to_owned() }
}

/// The command that ends the daemon, so that the next one takes its place.
fn restart(found: &Found) -> String {
    match &found.state {
        _ if paths::is_system_socket(&found.socket) => "systemctl restart stated".to_owned(),
        State::Listens(Some(pid)) if *pid > 1 => format!("kill {pid}"),
        _ => "systemctl --user restart stated".to_owned(),
    }
}

fn socket_file(findings: &mut Findings, socket: &Path, answer: &Answer) {
    let own = rustix::process::geteuid().as_raw();
    // The system's daemon lets everybody knock, and its policy decides.
    let is_for_all = matches!(answer, Answer::Given(given) if given.status.policy.mode == "system");
    match fs::metadata(socket) {
        Ok(metadata) if metadata.uid() == own && metadata.mode() & 0o077 != 0 && !is_for_all => {
            let what = format!("others may connect to {} (mode {:03o})", socket.display(), metadata.mode() & 0o777);
            findings.warn("socket", what, format!("chmod 600 {}", shell_path(socket)));
        }
        _ => findings.ok("socket", format!("a daemon listens at {}", socket.display())),
    }
}

/// Nobody listens, and there is nothing to connect to.
fn missing(findings: &mut Findings, found: &Found, places: &Places, options: &ConnectOptions) {
    let socket = found.socket.display();
    if let Some(elsewhere) = options.socket.as_ref().and_then(elsewhere) {
        let what =
            format!("STATED_SOCKET or --socket names {socket}, and the daemon listens at {}", elsewhere.display());
        return findings.fail("socket", what, "unset STATED_SOCKET");
    }
    let holder = places.state_dir.as_deref().and_then(holder);
    if let Some(listens) = holder.and_then(listening) {
        let what = format!("the daemon listens at {}, and is looked for at {socket}", listens.display());
        return findings.fail("socket", what, format!("export STATED_SOCKET={}", shell_path(&listens)));
    }
    match holder {
        Some(pid) if pid > 0 => {
            let what = format!("process {pid} has the state directory, and {socket} is gone, so nobody reaches it");
            findings.fail("socket", what, format!("kill {pid}"));
        }
        Some(_) => {
            let what = format!("somebody has the state directory, and {socket} is gone, so nobody reaches it");
            findings.fail("socket", what, "fuser -k -TERM the file LOCK in the state directory");
        }
        None if options.autostart => {
            findings.ok("socket", format!("no daemon runs; the next command starts one at {socket}"));
        }
        None => findings.warn("socket", format!("no daemon runs at {socket}, and none is started"), "stated run &"),
    }
}

/// What the last start by a client failed with, where nothing found before explains it: damage, say.
fn last_start(findings: &mut Findings, socket: &Path) {
    let log = socket.with_file_name("stated.log");
    let Some((why, hint)) = tail(&log).ok().as_deref().and_then(failed_start) else { return };
    if findings.count(Verdict::Fail) > 0 {
        return;
    }
    let mend = if hint.contains("stated verify") { hint } else { "statectl ls".to_owned() };
    findings.warn("last start", format!("it failed: {why}"), mend);
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(LOG_TAIL_LEN);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_LEN).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The failure that a log ends with, and its hint; a daemon that served logs other lines after it.
fn failed_start(log: &str) -> Option<(String, String)> {
    let mut lines = log.lines().rev().skip_while(|line| line.trim().is_empty());
    let last = lines.next()?;
    let (hint, told) = match last.strip_prefix("hint: ") {
        Some(hint) => (hint, lines.next()?),
        None => ("", last),
    };
    Some((told.strip_prefix("stated: ")?.to_owned(), hint.to_owned()))
}

/// Where a daemon listens all the same, at one of the usual places.
fn elsewhere(named: &PathBuf) -> Option<PathBuf> {
    let mut usual = paths::sockets(&ProcessEnvironment).into_iter().filter(|socket| socket != named);
    usual.find(|socket| matches!(State::of(socket), State::Listens(_)))
}

/// Where a process listens by the daemon's usual name: started with another `XDG_RUNTIME_DIR`, as in a login session.
fn listening(pid: i32) -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    // The path is the eighth field, and goes to the line's end.
    let paths = table.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let mut usual = paths.filter(|path| path.file_name() == Path::new(paths::SYSTEM_SOCKET).file_name());
    usual.find(|path| matches!(State::of(path), State::Listens(Some(peer)) if peer == pid))
}

/// The process that has the state directory's lock, by the kernel's table; 0 where it is of another PID namespace.
///
/// Trying the lock would tell too, but a daemon that starts in that moment would find it held.
fn holder(state_dir: &Path) -> Option<i32> {
    let inode = fs::metadata(state_dir.join("LOCK")).ok()?.ino().to_string();
    let table = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&table, &inode)
}

fn holder_in(table: &str, inode: &str) -> Option<i32> {
    table.lines().find_map(|line| {
        // `1: FLOCK  ADVISORY  WRITE 4211 fd:01:1049 0 EOF`; of who waits there is a `->` before the kind.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields[..] else { return None };
        (file.rsplit(':').next() == Some(inode)).then(|| pid.parse().ok())?
    })
}

fn refused(findings: &mut Findings, found: &Found, failure: &Failure) {
    let mend = match failure.kind {
        FailureKind::Denied => failure.hint.clone().unwrap_or_else(|| "unset STATED_SOCKET".to_owned()),
        // A journal that went back is no daemon's fault, and stays back in the next one.
        FailureKind::Storage => failure.hint.clone().unwrap_or_else(|| restart(found)),
        _ => restart(found),
    };
    findings.fail("daemon", format!("the daemon does not serve this client: {failure}"), mend);
}

fn status(findings: &mut Findings, found: &Found, status: &StatusInfo) {
    let own = env!("CARGO_PKG_VERSION");
    if status.version == own {
        let repository = &status.repository;
        let size = table::size(status.log_bytes);
        findings.ok("daemon", format!("stated {own} (pid {}), repository {repository}, log {size}", status.pid));
    } else {
        let what = format!("the daemon is stated {}, and this is {own}", status.version);
        findings.warn("daemon", what, restart(found));
    }
    for note in &status.notes {
        findings.warn("daemon", note.as_str(), "statectl status, in half a minute");
    }
    policy(findings, &status.policy);
    let state_dir = std::env::var_os("STATED_STATE_DIR").filter(|path| !path.is_empty());
    if state_dir.is_some_and(|named| Path::new(&named) != Path::new(&status.state_dir)) {
        let what = format!("STATED_STATE_DIR names another directory than the daemon's, {}", status.state_dir);
        findings.warn("environment", what, "unset STATED_STATE_DIR");
    }
}

/// The rules of who may do what: a broken edit keeps the old ones in force until somebody looks.
fn policy(findings: &mut Findings, policy: &PolicyInfo) {
    if let Some(error) = &policy.error {
        let what = format!("an edit of it is not in force: {error}");
        let mend = format!("edit {}; the daemon reads it by itself", shell_path(Path::new(&policy.file)));
        findings.warn("policy", what, mend);
    }
    for unknown in &policy.unknown {
        let mend = format!("touch {}, once the host knows them", shell_path(Path::new(&policy.file)));
        findings.warn("policy", format!("the host does not know the {unknown}"), mend);
    }
    if policy.error.is_none() && policy.unknown.is_empty() {
        let rules = match policy.loaded {
            Some(_) => format!("{} rules of {}", policy.rules, policy.file),
            None => "no rules".to_owned(),
        };
        findings.ok("policy", format!("{rules}, mode {}", policy.mode));
    }
}

/// Locks that look forgotten.
pub(super) fn check_locks(findings: &mut Findings, answer: &Answer, age_max: Duration) {
    let Answer::Given(given) = answer else { return };
    let now = surroundings::now();
    let is_old = |lock: &&LockInfo| Duration::from_millis(now.0.saturating_sub(lock.since.0)) >= age_max;
    let old: BTreeMap<_, _> = given.locks.iter().filter(is_old).map(|lock| (&lock.id, lock)).collect();
    for lock in old.values() {
        let mend = format!("statectl break {} {}", quoted(lock.name.as_str()), quoted(lock.id.as_str()));
        findings.warn("locks", table::holder(lock), mend);
    }
    if old.is_empty() {
        let (grants, waiters) = (given.status.grants, given.status.waiters);
        findings.ok("locks", format!("{grants} held, {waiters} waiting, none older than {}", table::short(age_max)));
    }
}

impl Given {
    /// The latest time that the daemon tells of.
    pub(super) fn latest(&self) -> Timestamp {
        let versions = self.versions.iter().map(|version| version.time);
        versions.chain([self.status.started]).max().unwrap_or(self.status.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_at_the_end_of_the_log_counts() {
        let failed = |log: &str| failed_start(log);
        assert_eq!(failed("INFO serving\nstated: torn\nhint: do\n"), Some(("torn".into(), "do".into())));
        assert_eq!(failed("stated: torn\n\n"), Some(("torn".into(), String::new())));
        assert_eq!(failed("stated: torn\nhint: do\nINFO serving\n"), None);
        assert_eq!(failed(""), None);
    }

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_inode() {
        let table = "1: POSIX  ADVISORY  WRITE 7 fd:01:1049 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4211 fd:01:1049 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 99 fd:01:1050 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 8 00:2f:10490 0 EOF\n";
        assert_eq!(holder_in(table, "1049"), Some(4211));
        assert_eq!(holder_in(table, "1050"), None);
    }
}
