//! One fault at a time, at every operation of one scenario: what fails is refused or halts the daemon as it should, reads
//! go on, and what comes after finds everything that was acknowledged.

use std::collections::BTreeMap;

use stated_shared::{Change, Content, Expect, Request, Selector, StateName};

use super::life::Life;
use crate::disk::sim::{Fault, Operation};

/// What a fault did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The daemon did not start.
    NotStarted,
    /// One request was refused, and everything else went on.
    Refused,
    /// The daemon stopped, for its successor to find out what is durable.
    Halted,
    /// Nobody noticed.
    Unnoticed,
}

/// Founds a repository and does everything once: small commits up to a second log file and more, a blob, a removal, a
/// lease, reads and locks, a prune and log files written anew, snapshots, a clean stop, and some of it after a restart.
fn scenario(life: &mut Life) -> Outcome {
    let mut refused = false;
    for round in 0..2 {
        if !life.start() {
            return Outcome::NotStarted;
        }
        let mut requests = vec![life.write("a", 300), life.write("b", 70_000)];
        if round == 0 {
            // The third finds less room than it needs, the fourth a file that is long enough.
            requests.extend((0..4).map(|_| life.write("large", 60_000)));
            requests.extend([life.take_lease(), life.remove("b")]);
        }
        life.look();
        for request in requests {
            let before = life.refusals();
            if !life.step(vec![request]) || !life.disk().has_power() {
                return Outcome::Halted;
            }
            refused |= life.refusals() > before;
            life.read_all();
        }
        // What is gone from the first log files goes with the room that it took.
        let prune = life.prune_one("large");
        if !life.step(vec![prune]) || !life.disk().has_power() {
            return Outcome::Halted;
        }
        life.rewrite_all();
        // What was read and locked leaves the closed ones.
        if round == 1 && (!life.age() || !life.disk().has_power()) {
            return Outcome::Halted;
        }
        // The second one takes the place of a third, and the start after it reads it.
        for _ in 0..2 {
            life.snapshot();
            let request = life.write("a", 200);
            if !life.step(vec![request]) || !life.disk().has_power() {
                return Outcome::Halted;
            }
            life.read_all();
        }
        if round == 0 && !life.close() {
            return Outcome::Halted;
        }
    }
    if !life.close() {
        return Outcome::Halted;
    }
    if refused { Outcome::Refused } else { Outcome::Unnoticed }
}

/// What such a fault must do while the daemon serves; several where the operation alone does not tell.
fn allowed(fault: Fault, operation: Operation, path: &str) -> &'static [Outcome] {
    let is_blob = path.starts_with("/state/blob");
    match (fault, operation) {
        // A blob stands alone: nothing refers to it yet.
        _ if is_blob => &[Outcome::Refused],
        // A log file is as it was until it is another.
        _ if path == "/state/log/renewed.tmp" => &[Outcome::Unnoticed],
        // Of a log file that is written anew nobody minds; of the next one the daemon halts.
        (_, Operation::Rename) if path.starts_with("/state/log") => &[Outcome::Halted, Outcome::Unnoticed],
        (_, Operation::SyncDir) if path == "/state/log" => &[Outcome::Halted, Outcome::Unnoticed],
        // A snapshot is a cache. While the daemon serves, the state directory itself is synced for its place alone.
        _ if path.starts_with("/state/snap") || path == "/state" => &[Outcome::Unnoticed],
        // Nobody minds that a log file is not closed in time for what ages out of it.
        (Fault::Full, _) if path == "/state/log/next.tmp" => &[Outcome::Refused, Outcome::Halted, Outcome::Unnoticed],
        (Fault::Full, Operation::Create) => &[Outcome::Refused],
        // Zeros ahead of records are refused; a record that has its zeros and cannot be written is not understood.
        (Fault::Full, Operation::Write) => &[Outcome::Refused, Outcome::Halted],
        _ => &[Outcome::Halted],
    }
}

fn each_fault(fault: Fault) -> BTreeMap<(Operation, Outcome), usize> {
    let mut whole = Life::new(1);
    assert_eq!(scenario(&mut whole), Outcome::Unnoticed);
    assert!(whole.gone_bytes > 100_000, "{} bytes less", whole.gone_bytes);
    assert!(whole.aged_bytes > 0, "nothing aged out");
    let operations = whole.disk().done().len();
    let mut seen = BTreeMap::new();
    for at in 0..operations {
        let mut life = Life::new(1);
        let founded = life.disk().count();
        if at < founded {
            continue;
        }
        life.disk().fail(at - founded, fault);
        let outcome = scenario(&mut life);
        assert!(life.disk().was_hit() || outcome == Outcome::Unnoticed);
        let Some((operation, path)) = life.disk().done().get(at).cloned() else { continue };
        let what = format!("{fault:?} at operation {at}, {operation:?} of {path}: {outcome:?}");
        // What does not start is refused as a failure of the storage, which `start` has looked at; what is killed says
        // nothing.
        if outcome != Outcome::NotStarted && fault != Fault::Kill {
            assert!(allowed(fault, operation, &path).contains(&outcome), "{what}");
        }
        *seen.entry((operation, outcome)).or_default() += 1;
        // In the same boot, where the kernel may hold for clean what the disk never had; then after a cut.
        life.disk().heal();
        life.restart();
        life.cut_power();
        life.restart();
    }
    seen
}

#[test]
fn an_input_output_error_anywhere_loses_nothing() {
    let seen = each_fault(Fault::Io);
    let kinds = |outcome| seen.keys().filter(move |(_, seen)| *seen == outcome).map(|(operation, _)| *operation);
    assert!(kinds(Outcome::Halted).eq([
        Operation::Create,
        Operation::Write,
        Operation::SetLen,
        Operation::Sync,
        Operation::Rename,
        Operation::SyncDir
    ]));
    assert!(kinds(Outcome::Refused).eq([
        Operation::Create,
        Operation::CreateDir,
        Operation::Write,
        Operation::Sync,
        Operation::SyncDir
    ]));
    // Each step of writing a snapshot, and of removing the one before the last.
    assert!(kinds(Outcome::Unnoticed).eq([
        Operation::Create,
        Operation::CreateDir,
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDir
    ]));
    assert!(kinds(Outcome::NotStarted).count() >= 5);
}

#[test]
fn a_full_disk_anywhere_loses_nothing() {
    let seen = each_fault(Fault::Full);
    for refused in [Operation::Create, Operation::CreateDir, Operation::Write] {
        assert!(seen.contains_key(&(refused, Outcome::Refused)), "{refused:?}: {seen:?}");
    }
    assert!(seen.contains_key(&(Operation::Sync, Outcome::Halted)));
}

#[test]
fn promise_2_unacknowledged_is_all_or_nothing_after_a_kill_anywhere() {
    let seen = each_fault(Fault::Kill);
    assert!(seen.keys().any(|(_, outcome)| *outcome == Outcome::NotStarted));
}

/// Whatever fails while a record becomes durable: neither a commit of it, nor a read or a refusal that saw it, is answered.
#[test]
fn promise_1_nobody_hears_of_what_is_not_durable() {
    for fault in [Fault::Io, Fault::Cut] {
        let mut halts = 0;
        for after in 0.. {
            let mut life = Life::new(3);
            assert!(life.start());
            let asked = life.write("a", 300);
            assert!(life.step(vec![asked]));
            let state = StateName::parse("a").unwrap();
            let selected = || Request::Show { state: state.clone(), at: Selector::Newest };
            let absent = |content| Change { state: state.clone(), expect: Expect::Absent, content };
            let (write, mut refused) = (life.write("a", 500), life.write("a", 700).request);
            if let Request::Commit(commit) = &mut refused {
                commit.changes = vec![absent(Content::Removed)];
            }
            life.disk().fail(after, fault);
            let (answers, halted) = life.ask(vec![write.request, selected(), refused]);
            if !halted {
                assert_eq!(answers.len(), 3, "everybody is answered: {answers:?}");
                break;
            }
            halts += 1;
            assert!(answers.is_empty(), "{fault:?} at operation {after}, and this was told: {answers:?}");
        }
        assert!(halts > 0, "nothing failed");
    }
}
