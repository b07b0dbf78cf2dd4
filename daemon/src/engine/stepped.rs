//! An engine that a test runs batch by batch, on its own thread: nothing happens but what the test asks for.

use std::path::Path;
use std::sync::Arc;

use stated_shared::{
    Actor, AuditEntry, AuditFilter, Epoch, Failure, Generation, Part, PrunePage, Request, Seq, SessionId, StateName,
    Timestamp, Verified, Version,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::ageing;
use super::beside::Beside;
use super::commit::Restage;
use super::owner::{Command, Halt, OwnPrune, Reading, Round, Submission as Submitted};
use super::record::{self, InlinePayload};
use super::reseal;
use super::retention::Retention;
use super::rewrite::{Anew, NotRewritten, Rewriting};
use super::service::{Opened, Service, Submission};
use super::snapshot::{self, SnapshotError};
use super::start::{Beginning, Begun, StartError, begin};
use super::store::{Damage, Store};
use super::summary::Runs;
use super::{Outbox, audit, delta, verify};
use crate::journal::{LocalSnapshots, Mark, Part as PartOfLog, Parts};
use crate::machine::event::{self, Event, Summarized, What};
use crate::machine::{Ask, Itself, Machine, Summed};

/// The engine and its owner.
pub(crate) struct Stepped(Begun);

impl Stepped {
    pub fn begin(beginning: Beginning, tracker: &TaskTracker) -> Result<Self, StartError> {
        begin(beginning, tracker).map(Self)
    }

    /// Queues the opening of a session; the next batch answers it.
    pub fn open(
        &self,
        session: SessionId,
        actor: Actor,
        outbox: Arc<dyn Outbox>,
    ) -> oneshot::Receiver<Result<Opened, Failure>> {
        let (done, opened) = oneshot::channel();
        self.send(Command::Open { session, actor: Box::new(actor.into()), outbox, done });
        opened
    }

    /// Queues a request. Contents are staged here and now, and large ones written.
    pub fn submit(&self, runtime: &Handle, submission: Submission) {
        let Submission { session, connection, number, request, .. } = submission;
        let access = Arc::clone(&submission.access);
        if let Request::Prune(prune) = &request {
            let now = super::handle::time(&self.0.owner.parts.clock).wall;
            let matches = super::shown::matcher(prune.glob.clone()).expect("a glob");
            let (ask, bytes) = self.0.engine.shared.prune_beside(self.machine().states(), prune, &matches, now);
            let ask = Ask::Prune(ask);
            let submitted = Submitted { session, connection, number, access, ask, bytes, process: None, room: None };
            return self.send(Command::Submit(Box::new(submitted)));
        }
        let Request::Commit(commit) = request else {
            return runtime.block_on(self.0.engine.submit(Submission { request, ..submission }));
        };
        match self.0.engine.shared.stage_beside(self.machine().states(), commit) {
            Ok(mut staged) => {
                staged.bytes.restage = self.restage();
                self.send(Command::Submit(Box::new(Submitted {
                    session,
                    connection,
                    number,
                    access,
                    ask: Ask::Commit(staged.ask),
                    bytes: staged.bytes,
                    process: None,
                    room: None,
                })));
            }
            Err(failure) => {
                let read = Box::new(move |_: &Machine, _: &_| Err(failure));
                self.send(Command::Read(Box::new(Reading { session, connection, number, read })));
            }
        }
    }

    /// As the daemon prunes by itself: a page of states for each section of the policy.
    pub fn retain(&mut self, retention: &Retention) -> Result<Vec<PrunePage>, Halt> {
        let mut pages = Vec::new();
        for (prune, matches) in retention.prunes() {
            let now = super::handle::time(&self.0.owner.parts.clock).wall;
            let states = self.machine().states();
            let (ask, bytes) = self.0.engine.shared.prune_beside(states, &prune, &matches, now);
            let (done, mut pruned) = oneshot::channel();
            self.send(Command::PruneItself(Box::new(OwnPrune { ask, bytes, done })));
            self.step()?;
            // One that found no room was refused.
            pages.extend(pruned.try_recv().expect("it is told"));
        }
        Ok(pages)
    }

    /// Writes one of the closed parts of the log anew, as a thread does otherwise where it is worth it. The bytes that are
    /// gone.
    pub fn rewrite(&self, at: usize) -> Result<u64, NotRewritten> {
        self.rewrite_by(at, |machine, payloads| {
            machine.states().needed(payloads.iter().map(|(seq, of)| (&of.state, of.version, *seq)))
        })
    }

    /// As [`Stepped::rewrite`], with another opinion on what is needed.
    pub fn rewrite_by(
        &self,
        at: usize,
        needed: impl Fn(&Machine, &[(Seq, InlinePayload)]) -> Vec<bool>,
    ) -> Result<u64, NotRewritten> {
        let parts = self.0.owner.parts.journal.parts();
        let closed: Vec<PartOfLog> = parts.list().into_iter().filter(|part| part.is_closed).collect();
        if closed.is_empty() {
            return Ok(0);
        }
        let mut rewriting = Rewriting::begin(self.store(), &*parts, closed[at % closed.len()], Anew::default())?;
        while let Some(piece) = rewriting.read()? {
            rewriting.write(&piece, &needed(self.machine(), &piece.payloads))?;
        }
        rewriting.finish()
    }

    /// As the daemon lets observations age out by itself. What failed while a part was written anew, where anything did.
    pub fn age(&mut self, keep_ms: u64) -> Result<Aged, Halt> {
        let parts = self.0.owner.parts.journal.parts();
        let (store, aged) = (self.store().clone(), Aged::default());
        let mut steps = Steps { stepped: self, store, parts, aged };
        ageing::age(&mut steps, keep_ms)?;
        Ok(steps.aged)
    }

    /// Seals anew what former keys had sealed, as the daemon does by itself; whether it is through.
    pub fn reseal(&mut self) -> Result<bool, Halt> {
        let parts = self.0.owner.parts.journal.parts();
        let (store, aged) = (self.store().clone(), Aged::default());
        let progress = Arc::clone(&self.0.engine.shared.resealing);
        reseal::reseal(&mut Steps { stepped: self, store, parts, aged }, &progress)
    }

    /// Writes a closed part anew with all emptied that ages, although no summary tells of it.
    pub fn empty(&self, at: usize) -> Result<u64, NotRewritten> {
        let parts = self.0.owner.parts.journal.parts();
        let closed: Vec<PartOfLog> = parts.list().into_iter().filter(|part| part.is_closed).collect();
        let mut all = Runs::default();
        all.add(&Summarized { part: Seq(0), last: Seq(0), records: vec![(Seq(1), Seq(u64::MAX))], by: Vec::new() });
        self.write_anew(closed[at], Anew { summed_up: all, reseals: false })
    }

    /// Of each record whether it ages, and whether it was emptied.
    pub fn ageing(&self) -> Vec<(bool, bool)> {
        let store = self.store();
        let of = |seq| {
            let record = store.reader.record(Seq(seq)).expect("it reads");
            let opened = record::open_unchained(&store.vault, &record).expect("it opens");
            let has_some = |event: &Event| match &event.what {
                What::Observed(observed) => event::ages(&observed.verb, &observed.outcome),
                _ => false,
            };
            assert_eq!(opened.ages(), opened.events.iter().any(has_some), "record {seq} holds this and that");
            (opened.ages(), opened.is_emptied())
        };
        (1..=self.0.engine.shared.watermark.get().0.0).map(of).collect()
    }

    fn write_anew(&self, part: PartOfLog, anew: Anew) -> Result<u64, NotRewritten> {
        let mut rewriting = Rewriting::begin(self.store(), &*self.0.owner.parts.journal.parts(), part, anew)?;
        while let Some(piece) = rewriting.read()? {
            let payloads = piece.payloads.iter().map(|(seq, of)| (&of.state, of.version, *seq));
            let needed = self.machine().states().needed(payloads);
            rewriting.write(&piece, &needed)?;
        }
        rewriting.finish()
    }

    /// Notes that a session read a version, as a fetch does.
    pub fn fetched(&self, session: SessionId, state: StateName, version: Version) {
        self.send(Command::Fetched { session, state, version });
    }

    /// All rows of the audit log.
    pub fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, Failure> {
        let matches = super::shown::audited(filter.glob.clone(), Arc::new(Itself)).expect("a glob");
        let upto = (self.0.engine.shared.watermark.get().0, self.machine().summed());
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page = audit::page(self.store(), upto, filter, &matches, after)?;
            rows.extend(page.entries);
            after = page.next;
            if after.is_none() {
                return Ok(rows);
            }
        }
    }

    /// How many parts of the log are closed.
    pub fn closed_parts(&self) -> usize {
        self.0.owner.parts.journal.parts().list().iter().filter(|part| part.is_closed).count()
    }

    /// Closes the part of the log that records are added to.
    pub fn begin_part(&mut self) -> Result<(), Halt> {
        self.send(Command::BeginPart(Box::new(|| {})));
        self.step()
    }

    /// As an engine stages anew, but at once.
    fn restage(&self) -> Option<Restage> {
        let engine = self.0.engine.clone();
        Some(Box::new(move |submission| {
            let Submitted { session, connection, number, .. } = *submission;
            let command = match engine.shared.stage_whole(submission) {
                Ok(submission) => Command::Submit(submission),
                Err(failure) => {
                    let read = Box::new(move |_: &Machine, _: &_| Err(failure));
                    Command::Read(Box::new(Reading { session, connection, number, read }))
                }
            };
            assert!(engine.queue.try_send(command), "the queue is full");
        }))
    }

    /// Takes everything that is queued.
    pub fn step(&mut self) -> Result<(), Halt> {
        loop {
            match self.0.owner.round(&mut self.0.commands)? {
                Round::Done { taken: 0 } => return Ok(()),
                Round::Done { .. } => {}
                Round::Stop => panic!("nobody told it to stop"),
            }
        }
    }

    /// A clean stop.
    pub fn close(self) -> Result<(), Halt> {
        self.0.owner.close()
    }

    pub fn machine(&self) -> &Machine {
        &self.0.owner.parts.machine
    }

    pub fn epoch(&self) -> Epoch {
        self.0.engine.shared.epoch
    }

    pub fn store(&self) -> &Store {
        &self.0.engine.shared.store
    }

    /// A version's content.
    pub fn load(&self, state: &StateName, version: Version) -> Result<Vec<u8>, (Version, Damage)> {
        let chain = delta::chain(self.machine().states(), state, version).expect("it reads");
        self.store().load(&chain)
    }

    /// Where the payloads lie that a version needs: its own, and those that it is patched from.
    pub fn needs(&self, state: &StateName, version: Version) -> Vec<(String, u64)> {
        let place = |link: &delta::Link| {
            let Damage { file, offset_bytes, .. } = self.store().damage(link.seq, &link.content, String::new());
            (file, offset_bytes)
        };
        let chain = delta::chain(self.machine().states(), state, version).expect("its history is readable");
        chain.iter().map(place).collect()
    }

    /// Reads everything up to the watermark.
    pub fn verify(&self) -> Verified {
        self.verify_by(Some((Part::ALL, verify::KEPT_LEN_MAX)))
    }

    /// As [`Stepped::verify`], without the contents.
    pub fn verify_records(&self) -> Verified {
        self.verify_by(None)
    }

    fn verify_by(&self, read_data: Option<(Part, u64)>) -> Verified {
        verify::verify(self.store(), self.0.engine.shared.watermark.get(), Path::new("/"), None, read_data)
    }

    /// Writes a snapshot as the follower does, which has a thread of its own; the last one is kept beside it.
    pub fn snapshot(&self, place: &LocalSnapshots) -> Result<Seq, SnapshotError> {
        let (seq, mac) = self.0.engine.shared.watermark.get();
        let (file, offset_bytes) = self.store().reader.place(seq);
        let sealed = snapshot::seal(&self.store().vault, self.machine(), &Mark { seq, mac, file, offset_bytes })?;
        let last = place.list().map_err(SnapshotError::Io)?.0.first().copied();
        place.write(seq, &sealed, last).map_err(SnapshotError::Io)?;
        Ok(seq)
    }

    fn send(&self, command: Command) {
        assert!(self.0.engine.queue.try_send(command), "the queue is full");
    }
}

/// What became of a look at the log.
#[derive(Debug, Default)]
pub(crate) struct Aged {
    /// Bytes that are gone.
    pub gone_bytes: u64,
    /// Why a part was left as it is.
    pub left: Option<NotRewritten>,
}

/// The stepped engine, as what goes on beside it.
struct Steps<'a> {
    stepped: &'a mut Stepped,
    store: Store,
    parts: Arc<dyn Parts>,
    aged: Aged,
}

impl Beside for Steps<'_> {
    type Stop = Halt;

    fn store(&self) -> &Store {
        &self.store
    }

    fn parts(&self) -> &dyn Parts {
        &*self.parts
    }

    fn summed(&mut self) -> Result<(Option<Summed>, Timestamp), Halt> {
        let now = super::handle::time(&self.stepped.0.owner.parts.clock).wall;
        Ok((self.stepped.machine().summed().cloned(), now))
    }

    fn close(&mut self, part: PartOfLog) -> Result<bool, Halt> {
        self.stepped.begin_part()?;
        Ok(self.parts.is_closed(part.first))
    }

    fn resealing(&mut self) -> Result<Option<Generation>, Halt> {
        Ok(self.stepped.machine().resealing())
    }

    fn append(&mut self, what: What) -> Result<bool, Halt> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = Box::new(move |is_done| {
            let _ = sender.send(is_done);
        });
        self.stepped.send(Command::TellItself(Box::new(what), done));
        self.stepped.step()?;
        Ok(receiver.try_recv().expect("it is told"))
    }

    fn rewrite(&mut self, part: PartOfLog, anew: Anew) -> Result<bool, Halt> {
        match self.stepped.write_anew(part, anew) {
            Ok(gone_bytes) => self.aged.gone_bytes += gone_bytes,
            Err(why) => self.aged.left = Some(why),
        }
        Ok(self.aged.left.is_none())
    }

    fn change<T>(&mut self, change: impl FnOnce(&Store) -> T) -> Result<T, Halt> {
        Ok(change(self.store()))
    }

    fn is_left(&self, _: &PartOfLog) -> bool {
        self.aged.left.is_some()
    }

    fn leave(&mut self, _: &PartOfLog, why: NotRewritten) {
        self.aged.left = Some(why);
    }

    fn pause(&mut self) -> Result<(), Halt> {
        Ok(())
    }
}
