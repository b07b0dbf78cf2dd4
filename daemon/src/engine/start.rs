//! From a journal to a running engine: replay, check, open, take up the locks.

use std::io;
use std::sync::Arc;

use stated_shared::{Digest, Epoch, Generation, Seq, SessionId};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::budget::ContentBudget;
use super::grants::GrantBook;
use super::handle::{self, Engine, Facts, Shared};
use super::owner::{Halt, Owner, Parts};
use super::preparation::Preparation;
use super::record;
use super::seat;
use super::store::Store;
use super::watermark::Watermark;
use crate::host::{Clock, GrantTable, GrantTableError, Loaded, Origin};
use crate::journal::{Journal, Record, RecordKind, Unverified};
use crate::machine::Machine;
use crate::machine::event::{Actor, BootId, Event, Founded, Opened, What};
use crate::vault::Vault;

/// Folds a journal into a machine, record by record.
pub struct Replay {
    vault: Arc<Vault>,
    machine: Machine,
    head: Digest,
    closed: bool,
}

impl Replay {
    /// Of nothing yet.
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault, machine: Machine::default(), head: Digest::ZERO, closed: false }
    }

    /// Believes a record if the chain does, and folds its events in.
    pub fn visit(&mut self, record: &Record) -> Result<RecordKind, Unverified> {
        let opened = record::open(&self.vault, self.head, record)?;
        for event in &opened.events {
            self.machine.apply(record.seq, event).map_err(|divergence| Unverified(divergence.to_string()))?;
        }
        self.head = record.mac;
        self.closed = opened.kind == RecordKind::Closed;
        Ok(opened.kind)
    }

    pub(super) fn vault(&self) -> Arc<Vault> {
        Arc::clone(&self.vault)
    }

    pub(super) fn head(&self) -> Digest {
        self.head
    }

    /// What the journal says of itself: the keyring that counts.
    pub fn keyring(&self) -> Option<(Generation, Digest)> {
        self.machine.keyring()
    }
}

/// Why the engine did not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keyring on disk is another than the journal's.
    #[error("keyring {0} is not the one that the journal names")]
    Keyring(Generation),
    /// The log lost what was durable.
    #[error("the log ends at record {last}, but the grant table has seen record {seen}")]
    Lost {
        /// Where it ends.
        last: Seq,
        /// What was there once.
        seen: Seq,
    },
    /// The blobs could not be listed.
    #[error("cannot list the blobs")]
    Blobs(#[source] io::Error),
    /// The grant table could not be written.
    #[error(transparent)]
    GrantTable(#[from] GrantTableError),
    /// The thread did not start.
    #[error("cannot start a thread of the engine")]
    Thread(#[source] io::Error),
    /// The first record did not become durable.
    #[error(transparent)]
    Halt(#[from] Halt),
}

/// Everything that an engine is made of.
pub struct Beginning {
    /// The replayed journal.
    pub replay: Replay,
    /// The journal.
    pub journal: Box<dyn Journal>,
    /// The clocks.
    pub clock: Clock,
    /// The grant table and what it held.
    pub grants: (GrantTable, Loaded),
    /// Facts for `status`.
    pub facts: Facts,
    /// Where contents take their room.
    pub budget: ContentBudget,
    /// The daemon itself, as an actor.
    pub daemon: stated_shared::Actor,
}

/// How the engine ended; the process must exit with it.
pub type Ended = oneshot::Receiver<Result<(), Halt>>;

/// Makes the start durable, takes up the locks of before it, and runs the owner on a thread of its own.
pub fn start(beginning: Beginning, tracker: &TaskTracker) -> Result<(Engine, Ended), StartError> {
    let Beginning { replay, journal, clock, grants: (mut table, loaded), facts, budget, daemon } = beginning;
    let Replay { vault, machine, head, closed } = replay;
    let daemon = Actor::from(daemon);
    let last = journal.last();
    if let Some((generation, digest)) = machine.keyring()
        && (generation, digest) != (vault.generation(), vault.keyring_digest())
    {
        return Err(StartError::Keyring(generation));
    }
    if loaded.seq_max > last {
        return Err(StartError::Lost { last, seen: loaded.seq_max });
    }
    sweep(&machine, journal.as_ref()).map_err(StartError::Blobs)?;

    let time = handle::time(&clock);
    let boot = BootId(SessionId(clock.boot_id().0).to_string());
    let told = match loaded.origin {
        Origin::SameBoot | Origin::OtherBoot => true,
        Origin::Missing => false,
        Origin::Damaged { what } => {
            tracing::error!(what, "the table of locks beside the socket is damaged, and kept as it is");
            false
        }
    };
    let frozen = last > Seq(0) && !closed && !told && *machine.boot() == boot;
    table.begin()?;
    let epoch = machine.epoch().next().max(Epoch(time.wall.0 / 1000));
    let event = |what| Event { at: time.wall, actor: daemon.clone(), what };
    let mut events = Vec::new();
    if machine.repository().is_none() {
        events.push(event(What::Founded(Founded {
            repository: vault.repository(),
            generation: vault.generation(),
            keyring: vault.keyring_digest(),
        })));
    }
    let opened = Opened { epoch, boot, boottime_ms: time.boottime_ms, version: facts.version.clone() };
    events.push(event(What::Opened(opened)));

    let (queue, commands) = seat::queue();
    let watermark = Arc::new(Watermark::new(last, head));
    let shared = Arc::new(Shared {
        facts,
        store: Store { vault: Arc::clone(&vault), reader: journal.reader(), blobs: journal.blobs() },
        watermark: Arc::clone(&watermark),
        budget,
        epoch,
    });
    let runtime = tokio::runtime::Handle::current();
    let book = GrantBook::new(table, runtime, tracker.clone(), queue.downgrade());
    let preparation = Preparation::start(Arc::clone(&vault)).map_err(StartError::Thread)?;
    let mut owner = Owner::new(Parts { machine, journal, vault, head, clock, book, watermark, daemon, preparation });
    owner.start(events, loaded.entries, frozen)?;

    let (done, ended) = oneshot::channel();
    let engine = Engine { queue: queue.clone(), shared };
    let run = move || queue.keep(owner, commands, done);
    #[expect(
        clippy::disallowed_methods,
        reason = "drives the owner where it would keep a connection for long, and sees to what time brings"
    )]
    std::thread::Builder::new().name("engine".to_owned()).spawn(run).map_err(StartError::Thread)?;
    Ok((engine, ended))
}

/// Removes blobs that no version refers to: what was written for a commit that never became durable.
fn sweep(machine: &Machine, journal: &dyn Journal) -> io::Result<()> {
    let blobs = journal.blobs();
    let needed = machine.states().blobs();
    for id in blobs.list()? {
        if !needed.contains(id.to_string().as_str()) {
            tracing::info!(blob = %id, "swept a blob that no version refers to");
            blobs.remove(id)?;
        }
    }
    Ok(())
}
