//! A host in one process: a disk, a clock, and daemons that start, stop and die on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use stated_shared::{Actor, Failure, LockId, Notice, Reply, Request, Seq, SessionId, Timestamp};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

use crate::boot::{self, OpenedJournal};
use crate::config::Settings;
use crate::disk::sim::{Random, SimDisk};
use crate::disk::{Access, Disk, RealDisk};
use crate::engine::{
    AuditKeep, Beginning, ConnectionId, ContentBudget, Facts, Halt, Keyrings, Outbox, Retention, SnapshotError,
    Snapshots, StartError, Stepped, Submission,
};
use crate::host::{BootId, Clock, GrantTable, Held, SecretSource, seeded};
use crate::journal::{Ended, LocalSnapshots, OpenMode, Presence, presence};
use crate::machine::Machine;
use crate::policy::Mode;
use crate::vault::{Identities, KeyringPlace, create_identity};

/// Begins a new log file far more often than a daemon does.
const SEGMENT_LEN: u64 = 24 << 10;
/// Sessions that ask.
pub const SESSIONS: u8 = 3;

/// What happened to a start.
#[derive(Debug)]
pub enum NotStarted {
    /// It was refused.
    Refused(Failure),
    /// It stopped at its first record.
    Start(StartError),
}

pub struct Host {
    /// What every daemon of it runs on.
    under: Arc<dyn Disk>,
    /// The same, where it is simulated; else one that nobody uses.
    pub disk: SimDisk,
    pub settings: Settings,
    identities: Identities,
    /// The grant table lies beside the socket, on another disk.
    beside: tempfile::TempDir,
    held: &'static Held,
    boot: BootId,
    runtime: Runtime,
    answers: Arc<Answers>,
}

/// A daemon that runs.
pub struct Daemon {
    pub engine: Stepped,
    /// How the log ended that it found.
    pub ended: Ended,
    connections: Vec<(SessionId, ConnectionId)>,
}

/// An answer and the number of its request.
pub type Answer = (u64, Result<Reply, Failure>);

/// Where all answers go, by the number of their request.
#[derive(Default)]
struct Answers(Mutex<Vec<Answer>>);

impl Outbox for Answers {
    fn reply(&self, number: u64, result: Result<Reply, Failure>) {
        self.0.lock().unwrap().push((number, result));
    }

    fn notice(&self, _: Notice) {}
}

impl Host {
    /// On a simulated disk.
    pub fn new(seed: u64) -> Self {
        seeded::seed(seed);
        let disk = SimDisk::new(seed, &["/state"]);
        Self::on(Arc::new(disk.clone()), disk, PathBuf::from("/state"))
    }

    /// On the real one, with its state in this directory.
    pub fn real(state_dir: PathBuf) -> Self {
        seeded::seed(0);
        Self::on(Arc::new(RealDisk), SimDisk::new(0, &[]), state_dir)
    }

    fn on(under: Arc<dyn Disk>, disk: SimDisk, state_dir: PathBuf) -> Self {
        let beside = tempfile::tempdir().unwrap();
        let identity = beside.path().join("identity");
        create_identity(&identity, Timestamp(0)).unwrap();
        let identities =
            Identities::parse(&std::fs::read(&identity).unwrap(), Arc::default(), || Err(std::fmt::Error)).unwrap();
        let settings = Settings {
            state_dir,
            socket: beside.path().join("socket"),
            config: beside.path().join("config.toml"),
            identity: SecretSource::File(identity),
            identity_is_configured: true,
            passphrase: None,
            plugins: BTreeMap::new(),
            credentials_dir: None,
            recipients: Vec::new(),
            content_memory_bytes: 1 << 30,
            retention: Retention::default(),
            audit_keep: AuditKeep::FOR_EVER,
            mode: Mode::User { owner: crate::host::own_uid() },
            policy: beside.path().join("policy.toml"),
            policy_is_named: false,
            accept_loss: None,
        };
        // One for the life of the process: a clock is copied to wherever it is read.
        let held: &'static Held = Box::leak(Box::default());
        held.wall_ms.store(1_764_000_000_000, Ordering::Relaxed);
        held.boottime_ms.store(100_000, Ordering::Relaxed);
        Self {
            under,
            disk,
            settings,
            identities,
            beside,
            held,
            boot: BootId([1; 16]),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            answers: Arc::default(),
        }
    }

    /// Whether there is a repository.
    pub fn presence(&self) -> Presence {
        presence(&*self.under, &self.settings.state_dir).unwrap()
    }

    /// Starts a daemon as the real one starts, on this thread.
    pub fn start(&mut self) -> Result<Daemon, NotStarted> {
        let _in_runtime = self.runtime.enter();
        let clock = Clock::held(self.boot, self.held);
        let disk = Arc::clone(&self.under);
        let recipients = self.identities.recipients();
        let opened = presence(&*disk, &self.settings.state_dir)
            .map_err(boot::failure::open_failure)
            .and_then(|there| match there {
                Presence::Present(_) => Ok(()),
                Presence::Absent => {
                    boot::found_repository(&*disk, &self.settings, &self.identities, recipients, &clock).map(drop)
                }
            })
            .and_then(|()| boot::open(&disk, &self.settings, &self.identities, OpenMode::Repair))
            .map_err(NotStarted::Refused)?;
        let OpenedJournal { replay, mut journal, snapshots: _, loss } = opened.journal;
        let ended = journal.ended().clone();
        journal.shorten_segments(SEGMENT_LEN);
        let keys = opened.vault.derive_keys("grant table");
        let grants = GrantTable::open(&self.beside.path().join("grants"), &keys, self.boot).unwrap();
        let facts = Facts {
            version: "0".to_owned(),
            host: "h".to_owned(),
            started: clock.now(),
            state_dir: self.settings.state_dir.clone(),
            socket: self.settings.socket.clone(),
            retention: Vec::new(),
            audit: String::new(),
        };
        let beginning = Beginning {
            replay,
            journal: Box::new(journal),
            clock,
            grants,
            facts,
            budget: ContentBudget::new(1 << 30),
            daemon: Actor { comm: Some("the daemon".to_owned()), ..actor(SessionId([0; 16])) },
            // Written by a thread of their own, which no seed holds.
            snapshots: Snapshots { place: None, is_due: false },
            loss,
            audit_keep: AuditKeep::FOR_EVER,
            keyrings: Keyrings { place: KeyringPlace::new(disk, &self.settings.state_dir), own: self.identities.own() },
        };
        let engine = Stepped::begin(beginning, &TaskTracker::new()).map_err(NotStarted::Start)?;
        let mut daemon = Daemon { engine, ended, connections: Vec::new() };
        let outbox: Arc<Answers> = Arc::clone(&self.answers);
        let sessions = (1..=SESSIONS).map(|n| SessionId([n; 16]));
        let opened: Vec<_> = sessions.map(|id| (id, daemon.engine.open(id, actor(id), outbox.clone()))).collect();
        // Opening a session changes nothing durable.
        daemon.engine.step().expect("no record is written");
        daemon.connections = opened
            .into_iter()
            .map(|(id, mut opened)| (id, opened.try_recv().expect("it is answered").expect("it is let in").connection))
            .collect();
        Ok(daemon)
    }

    /// What a start replays now; without snapshots everything.
    pub fn replayed(&self) -> Machine {
        let opened = boot::open(&self.under, &self.settings, &self.identities, OpenMode::ReadOnly).unwrap();
        opened.journal.replay.machine().clone()
    }

    /// Removes the snapshots.
    pub fn forget_snapshots(&self) {
        let place = LocalSnapshots::new(Arc::clone(&self.under), &self.settings.state_dir);
        for seq in place.list().unwrap().0 {
            self.under.remove(&self.settings.state_dir.join(place.place(seq))).unwrap();
        }
    }

    /// Flips a bit of a file.
    pub fn flip(&self, file: &str, at: u64) {
        let file = self.under.open(&self.settings.state_dir.join(file), Access::Write).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ 1], at).unwrap();
    }

    /// Queues a request of a session.
    pub fn ask(&self, daemon: &Daemon, session: u8, number: u64, request: Request) {
        let (session, connection) = daemon.connections[usize::from(session)];
        let access = Arc::new(crate::machine::Itself);
        let submission = Submission { session, connection, number, request, process: None, room: None, access };
        daemon.engine.submit(self.runtime.handle(), submission);
    }

    /// Lets the daemon take everything that is queued. The answers that came, also where it halted on the way.
    pub fn step(&mut self, daemon: &mut Daemon, random: &mut Random) -> (Vec<Answer>, Result<(), Halt>) {
        self.held.wall_ms.fetch_add(random.below(700), Ordering::Relaxed);
        self.held.boottime_ms.fetch_add(random.below(700), Ordering::Relaxed);
        let stepped = daemon.engine.step();
        let answers = std::mem::take(&mut *self.answers.0.lock().unwrap());
        (answers, stepped)
    }

    /// Lets both clocks go on.
    pub fn pass_ms(&self, ms: u64) {
        self.held.wall_ms.fetch_add(ms, Ordering::Relaxed);
        self.held.boottime_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Forgets what was answered after the last step, which nobody heard.
    pub fn drop_answers(&mut self) {
        self.answers.0.lock().unwrap().clear();
    }

    /// Writes a snapshot of what is durable now.
    pub fn snapshot(&self, daemon: &Daemon) -> Result<Seq, SnapshotError> {
        daemon.engine.snapshot(&LocalSnapshots::new(Arc::clone(&self.under), &self.settings.state_dir))
    }

    /// The table of session locks.
    pub fn grant_table(&self) -> PathBuf {
        self.beside.path().join("grants")
    }

    /// The power is cut and comes back.
    pub fn reboot(&mut self, random: &mut Random) {
        self.disk.reboot();
        self.boot = BootId(random.bytes(16).try_into().unwrap());
        self.held.boottime_ms.store(10_000, Ordering::Relaxed);
        if random.one_in(2) {
            let _ = std::fs::remove_file(self.beside.path().join("grants"));
        }
    }
}

/// A lock's ID as a client draws it.
pub fn lock_id(random: &mut Random) -> LockId {
    LockId::from_random(random.bytes(16).try_into().unwrap())
}

fn actor(session: SessionId) -> Actor {
    Actor { uid: 0, gid: 0, pid: None, user: None, comm: None, exe: None, host: "h".to_owned(), session }
}
