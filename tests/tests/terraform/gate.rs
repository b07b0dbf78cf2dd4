//! A place where an apply waits until the test lets it go on.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use stated_tests::{LIMIT, Process};

/// What a provisioner does there: it tells whose child it is, and waits for a line.
pub const PASS: &str = r#"[ -z \"$GATE\" ] || { echo $PPID >\"$GATE/begun\" && read -r _ <\"$GATE/go\"; }"#;

/// Two fifos; both are held open, so that neither side waits for the other to open one.
#[derive(Debug)]
pub struct Gate {
    dir: PathBuf,
    begun: File,
    go: File,
}

impl Gate {
    /// A closed gate in a new directory.
    pub fn new(dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).expect("a new directory");
        let (begun, go) = (fifo(&dir.join("begun")), fifo(&dir.join("go")));
        Self { dir, begun, go }
    }

    /// What `$GATE` must be for those who are to wait here.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Waits until a Terraform waits here.
    #[track_caller]
    pub fn arrival(&mut self) -> Process {
        let limit = Timespec::try_from(LIMIT).expect("a short time");
        let ready = poll(&mut [PollFd::new(&self.begun, PollFlags::IN)], Some(&limit)).expect("polled");
        assert!(ready > 0, "nobody came to the gate");
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.begun.read_exact(&mut byte).expect("a line");
            line.push(byte[0]);
        }
        let line = String::from_utf8(line).expect("a number");
        Process::open(line.trim().parse().expect("a process ID"))
    }

    /// Lets one go on.
    pub fn open(&mut self) {
        self.go.write_all(b"\n").expect("written");
    }
}

fn fifo(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
    OpenOptions::new().read(true).write(true).open(path).expect("a fifo")
}
