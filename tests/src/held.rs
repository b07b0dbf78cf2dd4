//! Locks that are held, and requests that wait for them.

use rustix::process::{Pid, Signal};

use crate::host::Host;
use crate::running::{Finished, Running, await_readable, pidfd};

/// What runs under the lock: it tells who it is, and ends with its standard input.
const HOLDER: &str = r#"echo "$$ $STATED_LOCK_ID $STATED_FENCE"; read -r _; exit 0"#;

/// A `statectl lock … -- CMD` whose command runs.
#[derive(Debug)]
pub struct Held {
    /// The wrapper.
    pub wrapper: Running,
    /// The command's process ID.
    pub child: u32,
    /// The lock's ID, as the command sees it.
    pub id: String,
    /// The lock's fence, as the command sees it.
    pub fence: String,
    child_pidfd: std::os::fd::OwnedFd,
}

/// A `statectl lock … -- CMD` that waits in the queue.
#[derive(Debug)]
pub struct Waiting(Running);

impl Host {
    /// Takes a lock with these arguments before the `--`, waiting for it where it must, until its command runs.
    #[track_caller]
    pub fn hold(&self, args: &[&str]) -> Held {
        Held::begun(self.lock(args))
    }

    /// Asks for a lock that is held, and waits until the request is queued.
    #[track_caller]
    pub fn queue(&self, args: &[&str]) -> Waiting {
        let mut running = self.lock(args);
        running.says("waiting:");
        Waiting(running)
    }

    /// Queues for a lock whose command ends at once.
    pub fn lock_briefly(&self, name: &str) -> Running {
        let mut running = self.statectl(["lock", name, "--", "true"]).start();
        running.says("waiting:");
        running
    }

    fn lock(&self, args: &[&str]) -> Running {
        self.statectl(["lock"].iter().chain(args).chain(&["--", "sh", "-c", HOLDER])).start()
    }
}

impl Held {
    fn begun(mut wrapper: Running) -> Self {
        let line = wrapper.line();
        let fields: Vec<&str> = line.split(' ').collect();
        let [child, id, fence] = fields[..] else { panic!("{line:?} is not what the command says") };
        let child: u32 = child.parse().expect("a process ID");
        let child_pidfd = pidfd(Pid::from_raw(child.cast_signed()).expect("a process ID"));
        Self { child, id: id.to_owned(), fence: fence.to_owned(), wrapper, child_pidfd }
    }

    /// Ends the command in good order, and with it the lock.
    pub fn release(self) -> Finished {
        self.wrapper.finish()
    }

    /// `kill -9` of the wrapper; the command lives on.
    pub fn kill_wrapper(&mut self) {
        self.wrapper.signal(Signal::KILL);
        assert_eq!(self.wrapper.exit(), 128 + 9);
    }

    /// `kill -9` of the command.
    pub fn kill_child(&self) {
        rustix::process::pidfd_send_signal(&self.child_pidfd, Signal::KILL).expect("the command runs");
    }

    /// Waits until the command has ended.
    pub fn await_child(&self) {
        assert!(await_readable(&self.child_pidfd), "the command does not end");
    }

    /// Whether the command runs.
    pub fn child_runs(&self) -> bool {
        rustix::process::pidfd_send_signal(&self.child_pidfd, Signal::CONT).is_ok()
    }
}

impl Waiting {
    /// Waits until it has the lock and its command runs.
    #[track_caller]
    pub fn granted(self) -> Held {
        Held::begun(self.0)
    }

    /// Waits for its end without the lock.
    pub fn finish(self) -> Finished {
        self.0.finish()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.0
    }
}
