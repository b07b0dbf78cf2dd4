//! One life of a repository: requests, faults and restarts, all drawn from a seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stated_shared::{
    AuditFilter, Bytes, Change, Commit, Content, Expect, Failure, FailureKind, Lock, LockId, Prune, Rekey, Request,
    SerialRule, SessionId, StateName, Version, Wait,
};

use super::host::{Answer, Daemon, Host, NotStarted, SESSIONS, lock_id};
use super::model::{Asked, Got, Model, Recipe};
use crate::disk::sim::{Fault, Random, SimDisk};
use crate::engine::{Aged, Retention, Section};
use crate::journal::{Ended, Presence};

const NAMES: &[&str] = &["a", "b", "c/d", "e", "f"];
/// Operations within which a fault comes after it is armed.
const FAULT_WITHIN: u64 = 40;
/// Acknowledged commits that are asked for again after a restart.
const RETRIED: usize = 3;

/// A recipient that is added and removed.
const OTHER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

type Tally = BTreeMap<(String, String), u64>;

pub struct Life {
    host: Host,
    random: Random,
    model: Model,
    daemon: Option<Daemon>,
    /// Requests that nobody heard of.
    open: Vec<Asked>,
    /// The last commits that were acknowledged.
    recent: VecDeque<Asked>,
    number: u64,
    was_started: bool,
    was_closed: bool,
    cuts: u64,
    /// Bytes of given up payloads that are gone from the log.
    pub gone_bytes: u64,
    /// Bytes of old observations that are.
    pub aged_bytes: u64,
    /// Rotations that are through.
    pub resealed: u64,
    /// How often each of what ages was durably done to each name.
    tally: Tally,
}

impl Life {
    pub fn new(seed: u64) -> Self {
        Self {
            host: Host::new(seed),
            random: Random::seeded(seed ^ 0x5eed),
            model: Model::default(),
            daemon: None,
            open: Vec::new(),
            recent: VecDeque::new(),
            number: 0,
            was_started: false,
            was_closed: false,
            cuts: 0,
            gone_bytes: 0,
            aged_bytes: 0,
            resealed: 0,
            tally: Tally::new(),
        }
    }

    /// Lives through this many power cuts; gives the count of acknowledgements.
    pub fn live(&mut self, cuts: u64) -> u64 {
        while self.cuts < cuts {
            let faults =
                [Fault::Cut, Fault::Cut, Fault::Cut, Fault::Cut, Fault::Kill, Fault::Kill, Fault::Io, Fault::Full];
            let fault = *self.random.pick(&faults);
            let after = self.random.below(FAULT_WITHIN) as usize;
            self.host.disk.fail(after, fault);
            if self.start() {
                self.serve();
            }
            self.end();
        }
        self.host.disk.heal();
        assert!(self.start(), "nothing fails any more");
        self.step(Vec::new());
        self.read_all();
        self.model.acknowledged
    }

    pub fn image(&self) -> Vec<(String, Vec<u8>)> {
        self.host.disk.image()
    }

    pub fn disk(&self) -> &SimDisk {
        &self.host.disk
    }

    /// How many requests were refused because of the disk.
    pub fn refusals(&self) -> u64 {
        self.model.refusals
    }

    /// Starts a daemon again, which must go well, and asks again for what nobody heard of.
    pub fn restart(&mut self) {
        self.daemon = None;
        self.host.disk.take_over();
        assert!(self.start(), "nothing fails any more");
        let retries = self.retries();
        assert!(self.step(retries), "nothing fails any more");
        self.read_all();
    }

    /// Cuts the power under whatever runs.
    pub fn cut_power(&mut self) {
        self.daemon = None;
        self.host.reboot(&mut self.random);
    }

    /// Stops the daemon in good order; whether it could.
    pub fn close(&mut self) -> bool {
        match self.daemon.take().expect("a daemon runs").engine.close() {
            Ok(()) => {
                self.was_closed = true;
                true
            }
            Err(halt) => {
                assert!(self.host.disk.was_hit(), "it cannot close, and nothing failed: {halt:?}");
                false
            }
        }
    }

    /// Writes a snapshot; nobody is told of one that cannot be written.
    pub fn snapshot(&mut self) {
        let written = self.host.snapshot(self.daemon.as_ref().expect("a daemon runs"));
        assert!(written.is_ok() || self.host.disk.was_hit(), "nothing failed: {written:?}");
    }

    /// Writes a closed part of the log anew; nobody is told of one that cannot be.
    pub fn rewrite(&mut self, at: usize) {
        let rewritten = self.daemon.as_ref().expect("a daemon runs").engine.rewrite(at);
        assert!(rewritten.is_ok() || self.host.disk.was_hit(), "nothing failed: {rewritten:?}");
        self.gone_bytes += rewritten.unwrap_or_default();
    }

    /// As [`Life::rewrite`], of each part.
    pub fn rewrite_all(&mut self) {
        let parts = self.daemon.as_ref().expect("a daemon runs").engine.closed_parts();
        (0..parts).for_each(|at| self.rewrite(at));
    }

    /// Lets the daemon prune by itself; whether it goes on.
    fn retain(&mut self) -> bool {
        let keep_last = Some(1 + self.random.below(3));
        let section = Section { keep_last, ..Section::default() };
        let mut daemon = self.daemon.take().expect("a daemon runs");
        match daemon.engine.retain(&Retention::new(vec![section]).expect("no glob")) {
            Ok(pages) => {
                pages.into_iter().for_each(|page| self.model.pruned(page));
                self.daemon = Some(daemon);
                true
            }
            Err(halt) => {
                assert!(self.host.disk.was_hit(), "it halts, and nothing failed: {halt:?}");
                // It may have been done, as what a client asked for.
                self.number += 1;
                let request = Request::Prune(Prune { keep_last, ..Prune::default() });
                let (number, writes, got) = (self.number, Vec::new(), Got::Unknown);
                self.open.push(Asked { session: 0, number, request, writes, got });
                false
            }
        }
    }

    /// Reads something and locks something for a moment, of which nobody waits for an answer.
    pub fn look(&mut self) {
        let name = StateName::parse(&format!("seen/{}", self.random.below(5))).unwrap();
        let id = lock_id(&mut self.random);
        let daemon = self.daemon.as_ref().expect("a daemon runs");
        daemon.engine.fetched(SessionId([1; 16]), StateName::parse("a").unwrap(), Version(1));
        let lock = Lock { id: Some(id.clone()), wait: Wait::No, ..Lock::exclusive(vec![name], "lock") };
        for request in [Request::Lock(lock), Request::Unlock { id }] {
            self.number += 1;
            self.host.ask(daemon, 0, self.number, request);
        }
    }

    /// Lets observations age out: how often what was done stays. Whether the daemon goes on.
    pub fn age(&mut self) -> bool {
        // Whatever waits to be noted is.
        self.host.pass_ms(2000);
        if !self.step(Vec::new()) {
            return false;
        }
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let before = tally(&daemon);
        let aged = daemon.engine.age(1000);
        let was_hit = self.host.disk.was_hit();
        match aged {
            Ok(Aged { gone_bytes, left }) => {
                assert!(left.is_none() || was_hit, "nothing failed: {left:?}");
                self.aged_bytes += gone_bytes;
                let after = tally(&daemon);
                if let (Ok(before), Ok(after)) = (&before, &after) {
                    assert_eq!(after, before, "summed up is as often as one by one");
                }
                self.daemon = Some(daemon);
                self.note(after)
            }
            Err(halt) => {
                assert!(was_hit, "it halts, and nothing failed: {halt:?}");
                self.note(before);
                false
            }
        }
    }

    /// Seals anew what former keys had sealed, where there is anything; whether the daemon goes on.
    pub fn reseal(&mut self) -> bool {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let is_due = daemon.engine.machine().resealing().is_some();
        match daemon.engine.reseal() {
            Ok(is_through) => {
                assert!(is_through || self.host.disk.was_hit(), "nothing failed");
                self.resealed += u64::from(is_due && is_through);
                self.daemon = Some(daemon);
                true
            }
            Err(halt) => {
                assert!(self.host.disk.was_hit(), "it halts, and nothing failed: {halt:?}");
                false
            }
        }
    }

    /// Takes note of what was done as often; whether it could be read.
    fn note(&mut self, tally: Result<Tally, Failure>) -> bool {
        match tally {
            Ok(tally) => {
                self.tally = tally;
                true
            }
            Err(failure) => {
                assert!(self.host.disk.was_hit(), "nothing failed: {failure:?}");
                false
            }
        }
    }

    /// What was done as often stays so, whatever a crash left, and so does what is known of it.
    fn check_tally(&mut self, daemon: &Daemon) {
        let Ok(now) = tally(daemon) else { return assert!(self.host.disk.was_hit(), "nothing failed") };
        for (deed, count) in &self.tally {
            assert!(now.get(deed) >= Some(count), "{deed:?} {count} times, and now {:?}", now.get(deed));
        }
        let locked = now.keys().filter(|(verb, _)| verb == "lock").map(|(_, name)| name.as_str());
        assert!(daemon.engine.machine().locked_before().iter().map(StateName::as_str).eq(locked));
        self.tally = now;
    }

    /// A prune of a state to its newest content.
    pub fn prune_one(&mut self, name: &str) -> Asked {
        self.number += 1;
        let request = Request::Prune(Prune { glob: Some(name.to_owned()), keep_last: Some(1), ..Prune::default() });
        Asked { session: 0, number: self.number, request, writes: Vec::new(), got: Got::Unknown }
    }

    /// Reads every content that is kept.
    pub fn read_all(&self) {
        self.model.check_contents(&self.daemon.as_ref().expect("a daemon runs").engine);
    }

    /// Asks for all of it in one batch; what was answered, and whether the daemon halted.
    pub fn ask(&mut self, requests: Vec<Request>) -> (Vec<Answer>, bool) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        for request in requests {
            self.number += 1;
            self.host.ask(&daemon, 0, self.number, request);
        }
        let (answers, stepped) = self.host.step(&mut daemon, &mut self.random);
        (answers, stepped.is_err())
    }

    pub fn write(&mut self, name: &str, len: usize) -> Asked {
        let recipe = Recipe { seed: self.random.bits(), len };
        self.write_one(name, Some(recipe))
    }

    pub fn remove(&mut self, name: &str) -> Asked {
        self.write_one(name, None)
    }

    fn write_one(&mut self, name: &str, recipe: Option<Recipe>) -> Asked {
        self.number += 1;
        let state = StateName::parse(name).unwrap();
        let content = recipe.map_or(Content::Removed, |recipe| Content::Inline(Bytes(recipe.bytes())));
        let changes = vec![Change { state: state.clone(), expect: Expect::Any, content }];
        let request = Request::Commit(self.commit_of(changes, Vec::new()));
        Asked { session: 0, number: self.number, request, writes: vec![(state, recipe)], got: Got::Unknown }
    }

    pub fn take_lease(&mut self) -> Asked {
        self.number += 1;
        let mut request = self.lease();
        if let Request::Lock(lock) = &mut request {
            lock.names = [StateName::parse(&format!("lease {}", self.number)).unwrap()].into();
        }
        Asked { session: 0, number: self.number, request, writes: Vec::new(), got: Got::Unknown }
    }

    /// Starts a daemon and looks at what it found; whether it runs.
    pub fn start(&mut self) -> bool {
        if self.was_started && self.host.disk.has_power() {
            assert_ne!(self.host.presence(), Presence::Absent, "a repository that has served is gone");
        }
        let was_closed = std::mem::take(&mut self.was_closed);
        match self.host.start() {
            Ok(daemon) => {
                assert!(!was_closed || daemon.ended == Ended::Closed, "{:?} after a clean stop", daemon.ended);
                self.model.check(&daemon, &mut self.open);
                if self.random.one_in(3) {
                    self.check_tally(&daemon);
                }
                self.daemon = Some(daemon);
                self.was_started = true;
                true
            }
            Err(not_started) => {
                let why = match &not_started {
                    NotStarted::Refused(failure) => format!("{failure:?}"),
                    NotStarted::Start(error) => format!("{error:?}"),
                };
                if let NotStarted::Refused(failure) = &not_started {
                    assert_eq!(failure.kind, FailureKind::Storage, "{failure:?}");
                }
                assert!(self.host.disk.was_hit(), "it does not start, and nothing failed: {why}");
                false
            }
        }
    }

    fn serve(&mut self) {
        for step in 0..=self.random.below(9) {
            let asked = if step == 0 { self.retries() } else { self.some_requests() };
            if self.random.one_in(2) {
                self.look();
            }
            if !self.step(asked) {
                return;
            }
            if self.random.one_in(6) {
                self.snapshot();
            }
            if self.random.one_in(3) {
                let at = self.random.bits() as usize;
                self.rewrite(at);
            }
            if self.random.one_in(8) && !self.retain() {
                return;
            }
            if self.random.one_in(6) && !self.age() {
                return;
            }
            if self.random.one_in(2) && !self.reseal() {
                return;
            }
        }
    }

    /// Asks once more for everything that nobody heard of, and for some of what was acknowledged.
    fn retries(&mut self) -> Vec<Asked> {
        let mut asked = std::mem::take(&mut self.open);
        asked.extend(self.recent.iter().rev().take(RETRIED).cloned());
        asked
    }

    fn some_requests(&mut self) -> Vec<Asked> {
        (0..=self.random.below(3)).map(|_| self.request()).collect()
    }

    /// One batch; whether the daemon goes on.
    pub fn step(&mut self, asked: Vec<Asked>) -> bool {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let only = match &asked[..] {
            [only] if only.got == Got::Unknown => self.model.expects(&only.request),
            _ => None,
        };
        for asked in &asked {
            self.host.ask(&daemon, asked.session, asked.number, asked.request.clone());
        }
        let (answers, stepped) = self.host.step(&mut daemon, &mut self.random);
        let was_hit = self.host.disk.was_hit();
        let mut answers: BTreeMap<_, _> = answers.into_iter().collect();
        for mut asked in asked {
            let Some(answer) = answers.remove(&asked.number) else {
                assert!(stepped.is_err(), "no answer to {asked:?}");
                if self.recent.iter().all(|recent| recent.number != asked.number) {
                    self.open.push(asked);
                }
                continue;
            };
            if let Some(done) = only {
                assert!(answer.is_ok() == done || was_hit, "{done} was expected of {asked:?}: {answer:?}");
            }
            // Whatever comes after an answer, also a halt: it was heard, and counts.
            self.model.answered(&mut asked, answer, was_hit);
            if matches!(asked.got, Got::Versions(_)) {
                self.recent.retain(|recent| recent.number != asked.number);
                self.recent.push_back(asked);
                self.recent.truncate(32);
            }
        }
        match stepped {
            Ok(()) => {
                self.daemon = Some(daemon);
                true
            }
            Err(halt) => {
                assert!(was_hit, "it halts, and nothing failed: {halt:?}");
                false
            }
        }
    }

    /// The daemon ends in one of the ways in which daemons end, and the host with it or not.
    fn end(&mut self) {
        if self.daemon.is_some() && self.random.one_in(4) {
            self.close();
        }
        self.daemon = None;
        self.host.drop_answers();
        self.host.disk.take_over();
        if !self.host.disk.has_power() || self.random.one_in(2) {
            self.host.reboot(&mut self.random);
            self.cuts += 1;
        }
    }

    fn request(&mut self) -> Asked {
        self.number += 1;
        let session = self.random.below(u64::from(SESSIONS)) as u8;
        let leases = self.model.leases();
        let (request, writes) = match self.random.below(20) {
            0 => (self.lease(), Vec::new()),
            1 if !leases.is_empty() => {
                (Request::Renew { id: self.random.pick(&leases).0.clone(), ttl_ms: None }, Vec::new())
            }
            2 if !leases.is_empty() => (Request::Unlock { id: self.random.pick(&leases).0.clone() }, Vec::new()),
            3 if !leases.is_empty() => {
                let (id, name) = self.random.pick(&leases).clone();
                (Request::Break { name, id: Some(id) }, Vec::new())
            }
            4 | 5 => self.commit(1, Some(0)),
            6 | 7 => self.commit(1, Some(70_000)),
            8..=10 => self.commit(3, None),
            11 => (self.prune(), Vec::new()),
            12 | 13 => (self.rekey(), Vec::new()),
            _ => self.commit(1, None),
        };
        Asked { session, number: self.number, request, writes, got: Got::Unknown }
    }

    fn prune(&mut self) -> Request {
        let keep_last = Some(1 + self.random.below(3));
        let glob = self.random.one_in(2).then(|| self.name().to_string());
        Request::Prune(Prune { glob, keep_last, ..Prune::default() })
    }

    fn rekey(&mut self) -> Request {
        let other = || vec![OTHER.to_owned()];
        Request::Rekey(match self.random.below(4) {
            0 => Rekey::Add(other()),
            1 => Rekey::Remove(other()),
            _ => Rekey::Rotate,
        })
    }

    fn name(&mut self) -> StateName {
        let name: &str = self.random.pick::<&str>(NAMES);
        StateName::parse(name).unwrap()
    }

    fn lease(&mut self) -> Request {
        let names: Vec<StateName> = (0..=self.random.below(2)).map(|_| self.name()).collect();
        Request::Lock(Lock {
            id: Some(lock_id(&mut self.random)),
            wait: Wait::No,
            // Longer than any life.
            ttl_ms: Some(86_400_000),
            ..Lock::exclusive(names, "lock")
        })
    }

    /// A commit to up to `states` states. `len`: 0 removes, more is the least length of the contents.
    fn commit(&mut self, states: u64, len: Option<usize>) -> (Request, Vec<(StateName, Option<Recipe>)>) {
        let names: BTreeSet<StateName> = (0..=self.random.below(states)).map(|_| self.name()).collect();
        let mut locks = BTreeSet::new();
        let mut changes = Vec::new();
        let mut writes = Vec::new();
        for state in names.into_iter().take(states as usize) {
            if let Some(id) = self.model.lease_on(&state).cloned()
                && !self.random.one_in(4)
            {
                locks.insert(id);
            }
            let newest = self.model.newest(&state);
            let expect = match self.random.below(10) {
                0 => Expect::Absent,
                1 => Expect::Version(Version(newest.0 + self.random.below(2))),
                2 | 3 if newest.0 > 0 => Expect::Version(newest),
                _ => Expect::Any,
            };
            let recipe = match len {
                Some(0) => None,
                least => {
                    let len = least.unwrap_or(1) + self.random.below(3000) as usize;
                    Some(Recipe { seed: self.random.bits(), len })
                }
            };
            let content = recipe.map_or(Content::Removed, |recipe| Content::Inline(Bytes(recipe.bytes())));
            changes.push(Change { state: state.clone(), expect, content });
            writes.push((state, recipe));
        }
        (Request::Commit(self.commit_of(changes, locks.into_iter().collect())), writes)
    }

    fn commit_of(&self, changes: Vec<Change>, locks: Vec<LockId>) -> Commit {
        let message = Some(self.number.to_string());
        Commit { changes, locks, message, labels: BTreeMap::new(), serials: SerialRule::Refuse }
    }
}

/// What the audit log says of what ages, session locks and not leases.
fn tally(daemon: &Daemon) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    for row in daemon.engine.audit(&AuditFilter::default())? {
        let is_lease = row.note.as_ref().is_some_and(|note| note.starts_with("lease"));
        if ["get", "lock", "unlock"].contains(&row.verb.as_str()) && !is_lease {
            // What was done to a lock that is known no more has none.
            let name = row.name.map_or_else(String::new, |name| name.to_string());
            *tally.entry((row.verb, name)).or_default() += row.count;
        }
    }
    Ok(tally)
}
