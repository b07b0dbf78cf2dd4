//! What was read and locked is summed up after a while, and leaves the log.

use std::collections::BTreeMap;

use stated_shared::{
    AuditEntry, AuditFilter, FailureKind, Lock, Request, Seq, SessionId, StateName, Timestamp, Version, Wait,
};

use super::host::{Daemon, Host, NotStarted, lock_id};
use super::retained::put;
use crate::disk::sim::{Fault, Operation, Random};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// Reads, locks and refusals among commits, over several parts of the log, all of them closed but the last.
fn looked_at(host: &mut Host) -> Daemon {
    let mut daemon = host.start().unwrap();
    let mut random = Random::seeded(5);
    for n in 1..=20_u64 {
        let content: String = random.bytes(2000).iter().map(|byte| format!("{byte:02x}")).collect();
        put(host, &mut daemon, 10 * n, "a", &content);
        daemon.engine.fetched(SessionId([1; 16]), StateName::parse("a").unwrap(), Version(n));
        let (id, other) = (lock_id(&mut random), lock_id(&mut random));
        let name = vec![StateName::parse(&format!("seen/{}", n % 3)).unwrap()];
        let lock = |id| Request::Lock(Lock { id: Some(id), wait: Wait::No, ..Lock::exclusive(name.clone(), "lock") });
        for (at, request) in [lock(id.clone()), lock(other), Request::Unlock { id }].into_iter().enumerate() {
            host.ask(&daemon, 0, 10 * n + 1 + at as u64, request);
        }
        host.step(&mut daemon, &mut random).1.unwrap();
        host.pass_ms(1500);
        host.step(&mut daemon, &mut random).1.unwrap();
    }
    daemon.engine.begin_part().unwrap();
    host.drop_answers();
    daemon
}

fn audit(daemon: &Daemon) -> Vec<AuditEntry> {
    daemon.engine.audit(&AuditFilter::default()).unwrap()
}

/// How often, and when last.
fn sums(rows: &[AuditEntry]) -> BTreeMap<(String, String, String), (u64, Timestamp)> {
    let mut sums = BTreeMap::new();
    for row in rows.iter().filter(|row| ["get", "lock", "unlock"].contains(&row.verb.as_str())) {
        let of =
            (row.verb.clone(), row.name.as_ref().map(ToString::to_string).unwrap_or_default(), row.outcome.clone());
        let (count, last) = sums.entry(of).or_insert((0, Timestamp(0)));
        *count += row.count;
        *last = (*last).max(row.time);
    }
    sums
}

#[test]
fn what_was_read_and_locked_has_records_of_its_own() {
    let mut host = Host::new(1);
    let daemon = looked_at(&mut host);
    let ageing = daemon.engine.ageing().iter().filter(|(ages, _)| *ages).count();
    assert!((10..=20).contains(&ageing), "one in a second: {ageing}");
    let rows = audit(&daemon);
    let first = |verb: &str| rows.iter().find(|row| row.verb == verb).unwrap().seq;
    assert!(first("commit") < first("get"), "nobody waits for what is noted");
}

#[test]
fn what_was_read_and_locked_is_summed_up_and_leaves_the_log() {
    let mut host = Host::new(2);
    let mut daemon = looked_at(&mut host);
    host.snapshot(&daemon).unwrap();
    let before = audit(&daemon);
    let seq = daemon.engine.machine().seq();
    assert_eq!(daemon.engine.age(HOUR_MS).unwrap().gone_bytes, 0, "it is young");
    assert_eq!(daemon.engine.machine().seq(), seq, "where nothing goes nothing is written");
    host.pass_ms(HOUR_MS);
    let len = daemon.engine.store().reader.len_bytes();
    let gone = daemon.engine.age(HOUR_MS).unwrap();
    assert!(gone.gone_bytes > 5000 && gone.left.is_none(), "{gone:?}");
    // Less what the summaries take, and the random lengths of the headers of age files.
    assert!(daemon.engine.store().reader.len_bytes() < len - 3000);
    assert!(daemon.engine.ageing().iter().all(|(ages, _)| !ages));
    let seq = daemon.engine.machine().seq();
    assert_eq!((daemon.engine.age(HOUR_MS).unwrap().gone_bytes, daemon.engine.machine().seq()), (0, seq), "once only");
    // The same sums, in fewer rows; and what is no read and no lock is as it was.
    let rows = audit(&daemon);
    assert_eq!(sums(&rows), sums(&before));
    let of = |verb: &str, rows: &[AuditEntry]| rows.iter().filter(|row| row.verb == verb).cloned().collect::<Vec<_>>();
    let parts = daemon.engine.closed_parts();
    let gets = of("get", &rows);
    assert!(gets.len() == parts && gets.iter().all(|row| row.note.as_deref() == Some("summed up")), "{gets:?}");
    assert_eq!((gets.iter().map(|row| row.count).sum::<u64>(), gets[0].actor.uid, &*gets[0].actor.host), (20, 0, "h"));
    let refused = |rows: &[AuditEntry]| rows.iter().filter(|row| row.outcome != "ok").cloned().collect::<Vec<_>>();
    assert_eq!(refused(&before).iter().map(|row| row.count).sum::<u64>(), 20);
    assert_eq!((refused(&rows), of("commit", &rows)), (refused(&before), of("commit", &before)));
    let told = of("summarize", &rows);
    assert!(told.len() == parts && told.iter().all(|row| row.actor.comm.as_deref() == Some("the daemon")), "{told:?}");
    let filter = AuditFilter { glob: Some("seen/1".to_owned()), verb: Some("lock".to_owned()), ..Default::default() };
    let locked = daemon.engine.audit(&filter).unwrap();
    assert_eq!(locked.iter().filter(|row| row.outcome == "ok").map(|row| row.count).sum::<u64>(), 7);
    assert_eq!((daemon.engine.verify().damage, daemon.engine.verify_records().damage), (vec![], vec![]));
    // Whoever replays knows as much, from the snapshot of before or from the beginning.
    let locked_before = daemon.engine.machine().locked_before().clone();
    daemon.engine.close().unwrap();
    assert_eq!(locked_before.len(), 3);
    let since = host.replayed();
    host.forget_snapshots();
    let whole = host.replayed();
    assert!((since.states(), since.summed()) == (whole.states(), whole.summed()) && since.seq() == whole.seq());
    assert_eq!((since.locked_before(), whole.locked_before()), (&locked_before, &locked_before));
    let daemon = host.start().unwrap();
    assert_eq!(sums(&audit(&daemon)), sums(&before));
}

/// While the part is not written anew, the summary counts alone.
#[test]
fn what_is_summed_up_and_still_there_is_not_told_twice() {
    let aged = |fault: Option<usize>| {
        let mut host = Host::new(3);
        let daemon = looked_at(&mut host);
        host.pass_ms(HOUR_MS);
        let done = host.disk.count();
        fault.into_iter().for_each(|after| host.disk.fail(after, Fault::Full));
        (host, daemon, done)
    };
    let (host, mut daemon, done) = aged(None);
    daemon.engine.age(HOUR_MS).unwrap();
    let is_renewal =
        |(operation, path): &(_, String)| *operation == Operation::Create && path.ends_with("/renewed.tmp");
    let after = host.disk.done()[done..].iter().position(is_renewal).unwrap();
    let (mut host, mut daemon, _) = aged(Some(after));
    let before = audit(&daemon);
    let aged = daemon.engine.age(HOUR_MS).unwrap();
    assert!(aged.gone_bytes == 0 && aged.left.is_some_and(|left| left.is_full()));
    assert!(daemon.engine.ageing().iter().any(|(ages, _)| *ages) && daemon.engine.machine().summed().is_some());
    assert_eq!(sums(&audit(&daemon)), sums(&before));
    // The next daemon goes on where this one stopped.
    host.disk.heal();
    daemon.engine.close().unwrap();
    let mut daemon = host.start().unwrap();
    assert_eq!(sums(&audit(&daemon)), sums(&before));
    assert!(daemon.engine.age(HOUR_MS).unwrap().gone_bytes > 5000);
    assert_eq!(sums(&audit(&daemon)), sums(&before));
    assert_eq!(daemon.engine.verify().damage, []);
}

/// Whoever has the public key, and knows what a record told, can take that out of the log. It is told, and nobody starts
/// as if it had never been.
#[test]
fn a_record_that_was_emptied_without_a_summary_is_damage() {
    let mut host = Host::new(4);
    let daemon = looked_at(&mut host);
    assert!(daemon.engine.empty(0).unwrap() > 0);
    let emptied = daemon.engine.ageing().iter().filter(|(_, emptied)| *emptied).count();
    for found in [daemon.engine.verify_records().damage, daemon.engine.verify().damage] {
        assert_eq!(found.len(), emptied, "{found:?}");
        assert!(found.iter().all(|damage| damage.file == "log/0000000000000001.log"), "{found:?}");
        assert!(found.iter().all(|damage| damage.what.ends_with("although no summary tells of it")), "{found:?}");
    }
    let next = daemon.engine.machine().seq().next().next();
    daemon.engine.close().unwrap();
    let Err(NotStarted::Refused(failure)) = host.start() else { panic!("it starts") };
    assert_eq!(failure.kind, FailureKind::Storage);
    assert!(failure.message.starts_with("log/0000000000000001.log is damaged at byte "), "{failure:?}");
    assert!(failure.hint.unwrap().contains(&format!("--accept-loss={next}")));
    accepted(&mut host, next);
}

/// A start with that loss accepted; then the log says so, and verifies.
fn accepted(host: &mut Host, seq: Seq) {
    host.settings.accept_loss = Some(seq);
    let daemon = host.start().unwrap();
    host.settings.accept_loss = None;
    let is_lost = |row: &AuditEntry| row.note.as_ref().is_some_and(|note| note.ends_with("what they told was lost"));
    let lost: Vec<_> = audit(&daemon).into_iter().filter(is_lost).collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!((lost[0].seq, daemon.engine.verify().damage), (seq, vec![]));
    daemon.engine.close().unwrap();
    host.forget_snapshots();
    let daemon = host.start().unwrap();
    assert_eq!(daemon.engine.verify().damage, []);
}

#[test]
fn a_summary_that_is_lost_with_the_end_of_the_log_is_told_with_that_loss() {
    for reads_all in [false, true] {
        let mut host = Host::new(5);
        let mut daemon = looked_at(&mut host);
        host.snapshot(&daemon).unwrap();
        host.pass_ms(HOUR_MS);
        assert!(daemon.engine.age(HOUR_MS).unwrap().gone_bytes > 5000);
        let first = audit(&daemon).iter().find(|row| row.verb == "summarize").unwrap().seq;
        let (file, at) = daemon.engine.store().reader.place(first);
        daemon.engine.close().unwrap();
        if reads_all {
            host.forget_snapshots();
        }
        host.flip(&file, at + 200);
        let Err(NotStarted::Refused(failure)) = host.start() else { panic!("it starts") };
        assert!(failure.message.contains(&format!("(record {first})")), "{failure:?}");
        accepted(&mut host, first);
    }
}
