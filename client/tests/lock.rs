//! `statectl lock` against a scripted server: what is bound when, which signals go where, which codes come out.
#![cfg(feature = "cli")]

mod fake;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use fake::{Fake, Peer, name};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use stated_shared::{Failure, FailureKind, Hold, Lock, LockId, Notice, ProcessRef, Reply, Request, Wait};

fn statectl(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statectl"));
    command.arg("lock").args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("STATED_SOCKET", fake.socket());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The lock request, with the descriptor of the process that it is to be tied to.
fn await_lock(peer: &mut Peer) -> (u64, Lock, OwnedFd) {
    let (number, Request::Lock(lock)) = peer.request() else { panic!("not a lock request") };
    assert_eq!((lock.hold, lock.process), (Hold::ConnectionOrProcess, Some(ProcessRef::Descriptor)));
    (number, lock, peer.descriptors().pop().expect("a descriptor"))
}

fn grant(peer: &mut Peer, number: u64, lock: &Lock) -> LockId {
    let id = lock.id.clone().unwrap();
    peer.reply(number, Ok(Reply::Granted(fake::grant(id.clone()))));
    id
}

fn unlock(peer: &mut Peer, id: &LockId) {
    let (number, request) = peer.request();
    assert_eq!(request, Request::Unlock { id: id.clone() });
    peer.reply(number, Ok(Reply::Done));
}

/// Grants the lock and ties it to the process.
fn granted(peer: &mut Peer) -> LockId {
    let (number, lock, _) = await_lock(peer);
    grant(peer, number, &lock)
}

fn pid_of(pidfd: &OwnedFd) -> u32 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

fn program_of(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

fn await_end(pidfd: &OwnedFd) {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None).unwrap();
}

/// A server that grants, and awaits the unlock.
fn good_server() -> Fake {
    Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let id = granted(&mut peer);
        unlock(&mut peer, &id);
    })
}

#[test]
fn the_command_gets_the_lock_in_its_environment_and_its_code_is_passed_on() {
    let fake = good_server();
    let script =
        "echo $STATED_SOCKET; echo $STATED_LOCK_ID | wc -c; echo $STATED_FENCE; echo \"$STATED_STATE\"; exit 7";
    let output = statectl(&fake, &["b", "a", "--", "sh", "-c", script]).output().unwrap();
    let socket = fake.socket().display().to_string();
    assert_eq!(told(&output), (Some(7), format!("{socket}\n37\n1.1\nb\na\n"), String::new()));
    fake.finish();
}

#[test]
fn the_command_runs_only_once_the_lock_is_tied_to_it() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, lock, pidfd) = await_lock(&mut peer);
        assert_eq!((lock.wait, lock.reason.as_deref()), (Wait::Forever, Some("true")));
        // It is still this program, between fork and exec.
        assert_eq!(program_of(pid_of(&pidfd)), Path::new(env!("CARGO_BIN_EXE_statectl")).canonicalize().unwrap());
        let id = grant(&mut peer, number, &lock);
        await_end(&pidfd);
        unlock(&mut peer, &id);
    });
    assert_eq!(told(&statectl(&fake, &["a", "--", "true"]).output().unwrap()).0, Some(0));
    fake.finish();
}

#[test]
fn the_lock_is_asked_for_before_the_daemon_has_answered_to_the_hello() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept_unwelcomed(listener);
        let (number, lock, _) = await_lock(&mut peer);
        peer.welcome(Ok(fake::welcome()));
        let id = grant(&mut peer, number, &lock);
        unlock(&mut peer, &id);
    });
    assert_eq!(told(&statectl(&fake, &["a", "--", "true"]).output().unwrap()).0, Some(0));
    fake.finish();
}

#[test]
fn a_daemon_that_is_not_believed_in_the_end_runs_nothing() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept_unwelcomed(listener);
        let (number, lock, pidfd) = await_lock(&mut peer);
        peer.welcome(Err(Failure::new(FailureKind::Denied, "not here")));
        grant(&mut peer, number, &lock);
        await_end(&pidfd);
        assert!(peer.frame().is_none());
    });
    let (code, out, err) = told(&statectl(&fake, &["a", "--", "echo", "ran"]).output().unwrap());
    assert_eq!((code, out.as_str()), (Some(77), ""), "{err}");
    fake.finish();
}

#[test]
fn a_connection_that_is_lost_before_the_welcome_is_made_anew_with_its_request() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept_unwelcomed(listener);
        let (first, lock, _) = await_lock(&mut peer);
        let session = peer.hello.session;
        drop(peer);
        let mut peer = Peer::accept(listener);
        assert_eq!(peer.hello.session, session);
        let (second, again, _) = await_lock(&mut peer);
        assert_eq!((second, &again), (first, &lock));
        let id = grant(&mut peer, second, &again);
        unlock(&mut peer, &id);
    });
    let output = statectl(&fake, &["a", "--", "echo", "ran"]).output().unwrap();
    assert_eq!(told(&output), (Some(0), "ran\n".into(), String::new()));
    fake.finish();
}

#[test]
fn a_wrapper_killed_before_the_grant_takes_the_command_with_it() {
    let (sender, events) = mpsc::channel();
    let fake = Fake::run(move |listener| {
        let mut peer = Peer::accept(listener);
        let (_, _, pidfd) = await_lock(&mut peer);
        sender.send(pidfd).unwrap();
        assert!(peer.frame().is_none());
    });
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("ran");
    let mut wrapper = statectl(&fake, &["a", "--", "touch", mark.to_str().unwrap()]).spawn().unwrap();
    let pidfd = events.recv().unwrap();
    wrapper.kill().unwrap();
    wrapper.wait().unwrap();
    await_end(&pidfd);
    assert!(!mark.exists());
    fake.finish();
}

#[test]
fn signals_end_the_wrapper_that_waits_and_its_command() {
    for signal in [Signal::TERM, Signal::HUP, Signal::QUIT] {
        let (sender, events) = mpsc::channel();
        let fake = Fake::run(move |listener| {
            let mut peer = Peer::accept(listener);
            let (number, _, pidfd) = await_lock(&mut peer);
            peer.notice(Notice::Queued { number, holders: Vec::new(), ahead: 0 });
            sender.send(pidfd).unwrap();
            assert!(peer.frame().is_none());
        });
        let mut wrapper = statectl(&fake, &["a", "--", "echo", "ran"]).spawn().unwrap();
        let pidfd = events.recv().unwrap();
        // That it waits is said after everything that it does before.
        let mut line = String::new();
        let mut stderr = std::io::BufReader::new(wrapper.stderr.take().unwrap());
        std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
        kill_process(Pid::from_child(&wrapper), signal).unwrap();
        let output = wrapper.wait_with_output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(signal.as_raw()), "{line}");
        await_end(&pidfd);
        assert!(output.stdout.is_empty());
        fake.finish();
    }
}

#[test]
fn a_refused_lock_runs_nothing() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, _, pidfd) = await_lock(&mut peer);
        peer.reply(number, Err(Failure::new(FailureKind::Denied, "not for you")));
        await_end(&pidfd);
        assert!(peer.frame().is_none());
    });
    let (code, out, err) = told(&statectl(&fake, &["a", "--", "echo", "ran"]).output().unwrap());
    assert_eq!((code, out.as_str()), (Some(77), ""), "{err}");
    assert!(err.starts_with("statectl: not for you\n"), "{err}");
    fake.finish();
}

#[test]
fn a_server_that_takes_no_descriptors_is_told_the_process_id() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, lock, pidfd) = await_lock(&mut peer);
        peer.reply(number, Err(Failure::new(FailureKind::Usage, "no descriptor came")));
        let (number, Request::Lock(again)) = peer.request() else { panic!("not a lock request") };
        let process = Some(ProcessRef::Pid(pid_of(&pidfd)));
        assert_eq!(again, Lock { process, ..lock });
        let id = grant(&mut peer, number, &again);
        unlock(&mut peer, &id);
    });
    assert_eq!(told(&statectl(&fake, &["a", "--", "true"]).output().unwrap()).0, Some(0));
    fake.finish();
}

#[test]
fn a_grant_of_another_lock_is_no_grant() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, _, pidfd) = await_lock(&mut peer);
        peer.reply(number, Ok(Reply::Granted(fake::grant(LockId::parse("another").unwrap()))));
        await_end(&pidfd);
        assert!(peer.frame().is_none());
    });
    let (code, out, err) = told(&statectl(&fake, &["a", "--", "echo", "ran"]).output().unwrap());
    assert_eq!((code, out.as_str()), (Some(76), ""), "{err}");
    fake.finish();
}

#[test]
fn with_o_the_lock_is_of_the_connection_alone() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (_, lock) = peer.grant();
        assert_eq!((lock.hold, lock.process), (Hold::Connection, None));
        assert!(peer.descriptors().is_empty());
        unlock(&mut peer, &lock.id.unwrap());
    });
    assert_eq!(told(&statectl(&fake, &["-o", "a", "--", "true"]).output().unwrap()).0, Some(0));
    fake.finish();
}

#[test]
fn a_command_that_cannot_run_has_its_codes() {
    for (program, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let fake = good_server();
        let (found, out, err) = told(&statectl(&fake, &["a", "--", program]).output().unwrap());
        assert_eq!((found, out.as_str()), (Some(code), ""), "{err}");
        assert!(err.contains(&format!("cannot run {program}")), "{err}");
        fake.finish();
    }
}

#[test]
fn a_script_that_names_no_interpreter_is_one_of_the_shell() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    std::fs::write(&script, "echo $# $STATED_FENCE\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let fake = good_server();
    let mut arguments = vec!["a", "--", script.to_str().unwrap()];
    // The list of its arguments is made anew, on a stack that must have room for it.
    arguments.resize(arguments.len() + 20_000, "x");
    let output = statectl(&fake, &arguments).output().unwrap();
    assert_eq!(told(&output), (Some(0), "20000 1.1\n".into(), String::new()));
    fake.finish();
}

#[test]
fn the_command_gets_the_signals_of_any_command() {
    let signals = |status: &str| {
        let mask = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        ["SigBlk:", "SigIgn:"].map(mask)
    };
    let plain = Command::new("cat").arg("/proc/self/status").output().unwrap();
    let fake = good_server();
    let output = statectl(&fake, &["a", "--", "cat", "/proc/self/status"]).output().unwrap();
    let [(code, out, err), (_, expected, _)] = [told(&output), told(&plain)];
    assert_eq!((code, signals(&out)), (Some(0), signals(&expected)), "{err}");
    fake.finish();
}

#[test]
fn a_signal_that_ends_the_command_is_128_and_its_number() {
    let fake = good_server();
    assert_eq!(told(&statectl(&fake, &["a", "--", "sh", "-c", "kill -9 $$"]).output().unwrap()).0, Some(137));
    fake.finish();
}

#[test]
fn a_busy_lock_exits_75_or_as_told() {
    for (arguments, code) in [(&["-n", "a", "--", "true"][..], 75), (&["-n", "-E", "9", "a", "--", "true"], 9)] {
        let fake = Fake::run(|listener| {
            let mut peer = Peer::accept(listener);
            let (number, Request::Lock(lock)) = peer.request() else { panic!("not a lock request") };
            assert_eq!(lock.wait, Wait::No);
            peer.reply(number, Err(Failure::new(FailureKind::Busy, "a is held by alice")));
        });
        let (found, out, err) = told(&statectl(&fake, arguments).output().unwrap());
        assert_eq!(
            (found, out.as_str(), err.as_str()),
            (Some(code), "", "statectl: a is held by alice\nhint: see who holds what: statectl locks\n")
        );
        fake.finish();
    }
}

#[test]
fn a_lock_inside_a_lock_names_it() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, Request::Lock(lock)) = peer.request() else { panic!("not a lock request") };
        assert_eq!(lock.under, LockId::parse("outer").ok());
        assert_eq!(lock.names.into_iter().collect::<Vec<_>>(), [name("a")]);
        peer.reply(number, Err(Failure::new(FailureKind::Busy, "enough")));
    });
    statectl(&fake, &["a", "--", "true"]).env("STATED_LOCK_ID", "outer").output().unwrap();
    fake.finish();
}

#[test]
fn who_is_in_the_way_is_told_once_and_an_interrupt_ends_the_wait() {
    let (sender, events) = mpsc::channel();
    let fake = Fake::run(move |listener| {
        let mut peer = Peer::accept(listener);
        let (number, _) = peer.request();
        for _ in 0..2 {
            peer.notice(Notice::Queued { number, holders: Vec::new(), ahead: 1 });
        }
        sender.send(()).unwrap();
        assert!(peer.frame().is_none());
    });
    let mut wrapper = statectl(&fake, &["a", "--", "true"]).spawn().unwrap();
    events.recv().unwrap();
    let mut err = String::new();
    let mut stderr = std::io::BufReader::new(wrapper.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut err).unwrap();
    kill_process(Pid::from_child(&wrapper), Signal::INT).unwrap();
    assert_eq!(wrapper.wait().unwrap().code(), Some(130));
    std::io::Read::read_to_string(&mut stderr, &mut err).unwrap();
    assert_eq!(err, "statectl: waiting: others wait for it, 1 waiting before this one\n");
    fake.finish();
}

/// A command that says that it is ready and then waits to be ended.
const PATIENT: &str = "echo ready; exec sleep 1000";

/// Runs the patient command on a server that goes on with `then` once it is ready.
fn patient(
    arguments: &[&str],
    command: &str,
    then: impl FnOnce(&mut Peer, &LockId, Pid) + Send + 'static,
) -> (Option<i32>, String, String) {
    let (sender, ready) = mpsc::channel::<Pid>();
    let fake = Fake::run(move |listener| {
        let mut peer = Peer::accept(listener);
        let id = granted(&mut peer);
        then(&mut peer, &id, ready.recv().unwrap());
        if let Some(frame) = peer.frame() {
            let stated_shared::wire::ClientFrame::Request { number, .. } = frame else { panic!("{frame:?}") };
            peer.reply(number, Ok(Reply::Done));
        }
    });
    let mut wrapper = statectl(&fake, &[arguments, &["a", "--", "sh", "-c", command]].concat()).spawn().unwrap();
    let mut stdout = std::io::BufReader::new(wrapper.stdout.take().unwrap());
    let mut out = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut out).unwrap();
    sender.send(Pid::from_child(&wrapper)).unwrap();
    let output = wrapper.wait_with_output().unwrap();
    std::io::Read::read_to_string(&mut stdout, &mut out).unwrap();
    fake.finish();
    let (code, _, err) = told(&output);
    (code, out, err)
}

#[test]
fn a_lost_lock_ends_the_command() {
    let (code, _, err) = patient(&[], PATIENT, |peer, id, _| {
        peer.notice(Notice::LockLost { id: id.clone(), why: "broken by root".into() });
    });
    assert_eq!(code, Some(128 + 15), "{err}");
    assert!(err.contains("the lock is lost: broken by root"), "{err}");
}

#[test]
fn a_lost_lock_may_only_be_told() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let id = granted(&mut peer);
        peer.notice(Notice::LockLost { id: LockId::parse("another").unwrap(), why: "not ours".into() });
        peer.notice(Notice::LockLost { id: id.clone(), why: "broken by root".into() });
        unlock(&mut peer, &id);
    });
    let mut wrapper = statectl(&fake, &["--on-lost", "warn", "a", "--", "sleep", "1000"]).spawn().unwrap();
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(wrapper.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert_eq!(line, "statectl: the lock is lost: broken by root; the command goes on\n");
    // The command goes on until somebody else ends it.
    kill_process(Pid::from_child(&wrapper), Signal::HUP).unwrap();
    assert_eq!(wrapper.wait().unwrap().code(), Some(128 + 1));
    fake.finish();
}

#[test]
fn a_termination_is_passed_on_and_an_interrupt_is_not() {
    let command = "trap 'echo int' INT; trap 'echo term; kill -9 $!; exit 3' TERM; \
                   sleep 1000 & echo ready; while :; do wait $!; done";
    let (code, out, err) = patient(&[], command, |_, _, wrapper| {
        kill_process(wrapper, Signal::INT).unwrap();
        kill_process(wrapper, Signal::QUIT).unwrap();
        kill_process(wrapper, Signal::TERM).unwrap();
    });
    assert_eq!((code, out.as_str()), (Some(3), "ready\nterm\n"), "{err}");
}

#[test]
fn a_connection_that_is_lost_and_resumed_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let path = fifo.clone();
    let fake = Fake::run(move |listener| {
        let mut peer = Peer::accept(listener);
        let id = granted(&mut peer);
        drop(peer);
        let welcome = stated_shared::wire::Welcome { resumed: true, ..fake::welcome() };
        let mut peer = Peer::accept_as(listener, Ok(welcome));
        // Written only now, so that the connection comes back before the command ends.
        std::fs::write(path, "go").unwrap();
        unlock(&mut peer, &id);
    });
    let output = statectl(&fake, &["a", "--", "cat", fifo.to_str().unwrap()]).output().unwrap();
    assert_eq!(told(&output), (Some(0), "go".into(), String::new()));
    fake.finish();
}
