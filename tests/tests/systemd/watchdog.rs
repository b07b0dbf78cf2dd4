//! What the service manager hears while the daemon lives, and what it does not hear when it does not.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use stated_tests::{Host, LIMIT, Running, root, tool};

/// Within what time the service manager wants to hear something.
const WATCHDOG: Duration = Duration::from_millis(600);

/// A daemon whose service manager is this test.
struct Watched {
    host: Host,
    daemon: Running,
    manager: UnixDatagram,
}

impl Watched {
    fn start() -> Self {
        let host = Host::new();
        let manager = UnixDatagram::bind(host.path("n")).unwrap();
        manager.set_read_timeout(Some(LIMIT)).unwrap();
        let limit = WATCHDOG.as_micros().to_string();
        let daemon = host.stated(["run"]).env("NOTIFY_SOCKET", host.path("n")).env("WATCHDOG_USEC", limit).start();
        Self { host, daemon, manager }
    }

    /// The next message.
    fn hear(&self) -> String {
        let mut message = [0; 4096];
        let len = self.manager.recv(&mut message).expect("the daemon says something");
        String::from_utf8_lossy(&message[..len]).trim_end().to_owned()
    }

    /// Whether the daemon falls silent for longer than a watchdog waits.
    fn falls_silent(&self) -> bool {
        self.manager.set_read_timeout(Some(WATCHDOG * 3)).unwrap();
        let is_silent = (0..60).any(|_| self.manager.recv(&mut [0; 4096]).is_err());
        self.manager.set_read_timeout(Some(LIMIT)).unwrap();
        is_silent
    }
}

#[test]
fn the_service_manager_hears_what_the_daemon_does() {
    let mut watched = Watched::start();
    assert_eq!(watched.hear(), "STATUS=reading the journal");
    assert!(watched.hear().starts_with("READY=1\nSTATUS=made the key"));
    for _ in 0..5 {
        assert_eq!(watched.hear(), "WATCHDOG=1");
    }
    watched.daemon.signal(rustix::process::Signal::TERM);
    while watched.hear() != "STOPPING=1\nSTATUS=stopping" {}
    assert_eq!(watched.daemon.exit(), 0);
    drop(watched.host);
}

/// A daemon whose owner waits for ever still has its timers. What it owes its service manager is silence.
#[test]
fn an_owner_that_stands_still_is_not_called_alive() {
    if !tool("strace") || !root("hold one thread of the daemon") {
        return;
    }
    let watched = Watched::start();
    while watched.hear() != "WATCHDOG=1" {}
    watched.host.put("a", b"1");
    // The engine's own thread: it writes down within a second that somebody read. Nobody else is held.
    let engine = thread(watched.daemon.pid(), "engine");
    let trace = watched.host.path("trace");
    let args = ["-e", "inject=fdatasync:delay_enter=900s", "-o", trace.to_str().unwrap(), "-p", &engine];
    let mut strace = watched.host.call("strace", args).start();
    strace.says("attached");
    watched.host.get("a");
    assert!(watched.falls_silent(), "it is called alive");
    // The owner goes on as soon as its thread does.
    strace.signal(rustix::process::Signal::TERM);
    strace.exit();
    assert!(std::fs::read_to_string(&trace).unwrap().contains("fdatasync"), "it was held elsewhere");
    assert_eq!(watched.hear(), "WATCHDOG=1");
}

/// A thread's number.
fn thread(pid: u32, name: &str) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &std::path::PathBuf| std::fs::read_to_string(path.join("comm")).unwrap().trim_end() == name;
    let path = threads.into_iter().find(is_it).expect("a thread of this name");
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
