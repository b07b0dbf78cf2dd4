//! Programs as processes: run and timed, pinned to a core.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use stated_tests::Call;

use crate::report::Measured;

/// Whether a program is installed; says so where it is not.
pub fn is_there(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| Path::new(&directory).join(name).exists()));
    if !found {
        eprintln!("SKIPPED: {name} is not installed, so nothing is compared with it");
    }
    found
}

/// The wall time of a program from before its start to after its end.
pub fn runs(count: usize, call: impl Fn() -> Call) -> Measured {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let mut command: Command = call().into_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let start = Instant::now();
        let status = command.status().expect("the program runs");
        took.push(start.elapsed());
        assert!(status.success(), "{command:?}: {status}");
    }
    Measured::of(took)
}

/// Keeps this thread and all threads of another process on one core, until it is dropped.
pub struct Pinned {
    before: Vec<(Option<Pid>, CpuSet)>,
}

impl Pinned {
    /// Pins.
    pub fn new(pid: u32, core: usize) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
        let tasks = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
        let mut set = CpuSet::new();
        set.set(core);
        let before = tasks.map(Some).chain([None]).map(|task| (task, sched_getaffinity(task).expect("a thread")));
        let before: Vec<_> = before.collect();
        for (task, _) in &before {
            sched_setaffinity(*task, &set).expect("a thread of ours");
        }
        Self { before }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for (task, set) in &self.before {
            // A thread that has ended needs no core.
            let _ = sched_setaffinity(*task, set);
        }
    }
}
