//! Other stores, asked for the like of what the daemon does.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stated_tests::{Host, Random};

use crate::load::{Dialogue, Line, drive};
use crate::report::Measured;
use crate::{CONTENT_LEN, programs};

/// A Redis server over a Unix socket; killed when dropped.
pub struct Redis {
    child: Child,
    socket: std::path::PathBuf,
}

/// A command's bytes, what its answer begins with, and how long that is.
type Exchange = (Vec<u8>, &'static [u8], usize);

/// Commands taken in turns.
struct Commands {
    commands: Vec<Exchange>,
    sent: usize,
}

impl Dialogue for Commands {
    fn next(&mut self) -> &[u8] {
        self.sent += 1;
        let count = self.commands.len();
        let (bytes, ..) = &mut self.commands[self.sent % count];
        // The content's last bytes; commands without a content are too short for it.
        if let Some(at) = bytes.len().checked_sub(CONTENT_LEN) {
            let digits = format!("{:08x}", self.sent);
            bytes[at..at + 8].copy_from_slice(digits.as_bytes());
        }
        bytes
    }

    fn answer_len(&self, bytes: &[u8]) -> Option<usize> {
        let (_, begins, len) = self.commands[self.sent % self.commands.len()];
        let answer = bytes.get(..len)?;
        assert!(answer.starts_with(begins), "Redis refused: {}", String::from_utf8_lossy(answer));
        Some(len)
    }
}

impl Redis {
    /// Nothing where it is not installed.
    pub fn start(host: &Host, appendfsync: &str) -> Option<Self> {
        if !programs::is_there("redis-server") {
            return None;
        }
        let dir = host.path(&format!("redis-{appendfsync}"));
        std::fs::create_dir(&dir).expect("a directory");
        let socket = dir.join("socket");
        let appendonly = if appendfsync == "no" { "no" } else { "yes" };
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", appendonly, "--appendfsync", appendfsync, "--dir"])
            .arg(&dir)
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let redis = Self { child, socket };
        for _ in 0..500 {
            if UnixStream::connect(&redis.socket).is_ok() {
                return Some(redis);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not listen");
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn drive(&self, clients: Vec<Vec<Exchange>>, count: usize) -> Measured {
        let line = |commands| Line {
            stream: UnixStream::connect(&self.socket).expect("Redis listens"),
            dialogue: Commands { commands, sent: 1 },
        };
        let mut lines: Vec<_> = clients.into_iter().map(line).collect();
        drive(&mut lines, count)
    }

    /// `SET` of new contents, each client to a key of its own.
    pub fn sets(&self, clients: usize, count: usize) -> Measured {
        let mut random = Random::seeded(1);
        let set = |n| {
            let content = random.bytes(CONTENT_LEN);
            vec![(command(&[b"SET", format!("key{n:02}").as_bytes(), &content]), &b"+OK"[..], 5)]
        };
        self.drive((0..clients).map(set).collect(), count)
    }

    /// `GET` of a content.
    pub fn gets(&self, count: usize) -> Measured {
        self.sets(1, 1);
        self.drive(vec![vec![(command(&[b"GET", b"key00"]), b"$4096", CONTENT_LEN + 9)]], count)
    }

    /// A lock as one takes it with Redis: `SET NX` and `DEL`; the figure is of both together.
    pub fn locks(&self, count: usize) -> Measured {
        let commands =
            vec![(command(&[b"SET", b"lock", b"id", b"NX"]), &b"+OK"[..], 5), (command(&[b"DEL", b"lock"]), b":1", 4)];
        self.drive(vec![commands], 2 * count).in_pairs()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// SQLite in the process of its client, through Python's module: prints the microseconds of each commit.
const SQLITE: &str = "
import os, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('PRAGMA journal_mode=WAL')
db.execute('PRAGMA synchronous=FULL')
db.execute('CREATE TABLE IF NOT EXISTS states (name TEXT PRIMARY KEY, content BLOB)')
for _ in range(int(sys.argv[2])):
    content = os.urandom(4096)
    start = time.perf_counter_ns()
    db.execute('INSERT OR REPLACE INTO states VALUES (?, ?)', ('x', content))
    print(time.perf_counter_ns() - start)
";

/// Durable commits of SQLite, without any way between processes.
pub fn sqlite(host: &Host, count: usize) -> Measured {
    let database = host.path("sqlite");
    let output = Command::new("python3").args(["-c", SQLITE]).arg(database).arg(count.to_string()).output();
    let text = String::from_utf8(output.expect("python3 runs").stdout).expect("numbers");
    Measured::of(text.lines().map(|line| Duration::from_nanos(line.parse().expect("a number"))).collect())
}
