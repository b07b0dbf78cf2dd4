//! Who may work when, whichever way the lock is taken.

use std::collections::BTreeSet;

use rustix::process::Signal;
use stated_tests::{Host, Running};

use super::with_file;
use crate::project::{Project, S3_BACKEND, S3_STATE, gateway_of, host, serials, the_lock, told};

/// Waits until the state's lock is free, by waiting for one of our own.
#[track_caller]
fn after(host: &Host, end: impl FnOnce()) {
    let waiting = host.queue(&[S3_STATE]);
    end();
    waiting.granted().release().ok();
}

/// A second apply is refused and told who holds the lock, which can be taken from its holder.
fn is_exclusive(first: &str, second: &str) {
    let Some(host) = host() else { return };
    let (first, second) = (Project::s3(&host, "first", first), Project::s3(&host, "second", second));
    let slow = first.apply_slowly("one");
    let lock = the_lock(&host);
    assert_eq!((&lock["operation"], &lock["name"]), (&"apply".into(), &S3_STATE.into()));
    assert_eq!(lock["process"], slow.terraform.pid(), "the lock is Terraform's");
    let refused = told(&second.apply("two").run().code(1));
    let id = lock["id"].as_str().unwrap();
    assert!(refused.contains("Error acquiring the state lock") && refused.contains(id), "{refused}");
    assert!(refused.contains(&format!("(pid {}) for apply since ", slow.terraform.pid())), "{refused}");

    // By force, and only by the right ID.
    second.terraform(["force-unlock", "-force", "00000000-0000-4000-8000-000000000000"]).run().code(1);
    assert_eq!(the_lock(&host)["id"], id);
    slow.terraform.signal(Signal::STOP);
    second.terraform(["force-unlock", "-force", id]).run().ok();
    assert!(host.locks().is_empty());
    second.apply("two").run().ok();
    slow.terraform.signal(Signal::CONT);
    let late = slow.finish().code(1);
    assert!(told(&late).contains("is not held any more"), "its write was refused: {}", late.stderr);
    assert!(first.has_errored(), "Terraform kept what it could not save");
    assert_eq!((second.word(), second.log().len()), ("two".to_owned(), 1));
    second.is_settled();
}

#[test]
fn a_lock_by_the_table_is_exclusive() {
    is_exclusive(S3_BACKEND, S3_BACKEND);
}

#[test]
fn a_lock_by_a_file_is_exclusive() {
    is_exclusive(&with_file(false), &with_file(false));
}

#[test]
fn a_lock_by_both_is_exclusive() {
    is_exclusive(&with_file(true), &with_file(true));
}

#[test]
fn whoever_locks_by_file_and_whoever_locks_by_table_exclude_each_other() {
    is_exclusive(&with_file(false), S3_BACKEND);
    is_exclusive(S3_BACKEND, &with_file(false));
}

#[test]
fn a_killed_terraform_frees_its_lock_at_once() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::s3(&host, "first", S3_BACKEND), Project::s3(&host, "second", S3_BACKEND));
    let script = "terraform apply -auto-approve -var=word=one; echo \"ended with $?\"; read -r _; exit 5";
    let mut slow = first.at_gate(first.exec(&["sh", "-c", script]));
    after(&host, || slow.terraform.signal(Signal::KILL));
    slow.running.prints("ended with 137");
    second.apply("two").run().ok();
    assert!(slow.running.is_running(), "its parent lives on");
    assert_eq!(slow.running.finish().code, 5);
    assert_eq!(second.word(), "two");
    second.is_settled();
}

#[test]
fn a_killed_wrapper_leaves_terraform_its_lock_and_a_place_for_its_state() {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    let mut slow = project.apply_slowly("one");
    let gateway = gateway_of(&the_lock(&host));
    slow.running.signal(Signal::KILL);
    assert_eq!(slow.running.exit(), 128 + 9);
    after(&host, || slow.gate.open());
    slow.terraform.await_end();
    gateway.await_end();
    assert_eq!(project.word(), "one", "its state was saved");
    project.is_settled();
}

#[test]
fn nobody_else_writes_while_terraform_holds_the_lock() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::s3(&host, "first", S3_BACKEND), Project::s3(&host, "second", S3_BACKEND));
    first.apply("one").run().ok();
    let slow = first.apply_slowly("two");
    let pid = format!("(pid {})", slow.terraform.pid());
    host.statectl(["put", S3_STATE, "--force"]).stdin("{}").run().code(75).says(&pid);
    // Terraform itself, told not to take the lock, does not get past it either, and is told why.
    let refused = second.terraform(["apply", "-auto-approve", "-lock=false", "-var=word=three"]).run().code(1);
    assert!(told(&refused).contains("OperationAborted") && told(&refused).contains(&pid), "{}", refused.stderr);
    assert_eq!(second.word(), "one", "reading needs no lock");
    slow.finish().ok();
    assert_eq!((first.word(), serials(&first.log())), ("two".to_owned(), vec![1, 2]));
    first.is_settled();
}

#[test]
fn a_lock_around_the_run_does_not_block_it() {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    let exec =
        ["lock", S3_STATE, "--", host.statectl_path().to_str().unwrap(), "exec", "--", "terraform"].map(str::to_owned);
    let apply = ["apply", "-auto-approve", "-var=word=one"].map(str::to_owned);
    let call: Vec<String> = exec.into_iter().chain(apply).collect();
    project.statectl(&call.iter().map(String::as_str).collect::<Vec<_>>()).run().ok();
    assert_eq!(project.word(), "one");
    project.is_settled();
}

#[test]
fn eight_applies_at_once_end_one_after_the_other() {
    const COUNT: usize = 8;
    let Some(host) = host() else { return };
    let projects: Vec<Project<'_>> = (0..COUNT).map(|n| Project::s3(&host, &format!("d{n}"), S3_BACKEND)).collect();
    let applies: Vec<Running> =
        projects.iter().enumerate().map(|(n, project)| project.apply_waiting(&n.to_string()).start()).collect();
    for apply in applies {
        apply.finish().ok();
    }
    assert_eq!(serials(&projects[0].log()), (1..=COUNT as u64).collect::<Vec<_>>());
    let words = (1..=COUNT).map(|version| projects[0].content(Some(version))["outputs"]["word"]["value"].clone());
    let words: BTreeSet<String> = words.map(|word| word.as_str().unwrap().to_owned()).collect();
    assert_eq!(words.len(), COUNT, "each one's work is a version");
    projects[0].is_settled();
}
