//! Work that is killed, and what becomes of its lock and its state.

use rustix::process::{Pid, Signal, kill_process_group};
use stated_tests::{Host, Running};

use super::project::{Project, STATE, gateway_of, host, the_lock, told};

/// Waits until the state's lock is free, by waiting for one of our own.
#[track_caller]
fn after(host: &Host, end: impl FnOnce()) {
    let waiting = host.queue(&[STATE]);
    end();
    waiting.granted().release().ok();
}

fn kill_group(running: &Running, signal: Signal) {
    let group = Pid::from_raw(running.pid().cast_signed()).unwrap();
    kill_process_group(group, signal).unwrap();
}

#[test]
fn a_killed_terraform_frees_its_lock() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let mut slow = first.apply_slowly("one");
    let gateway = gateway_of(&the_lock(&host));
    after(&host, || slow.terraform.signal(Signal::KILL));
    assert_eq!(slow.running.exit(), 128 + 9);
    second.apply("two").run().ok();
    assert_eq!(second.word(), "two");
    gateway.await_end();
    first.is_settled();
}

#[test]
fn a_killed_terraform_frees_its_lock_though_its_parent_lives_on() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let script = "terraform apply -auto-approve -var=word=one; echo \"ended with $?\"; read -r _; exit 5";
    let mut slow = first.at_gate(first.exec(&["sh", "-c", script]));
    after(&host, || slow.terraform.signal(Signal::KILL));
    slow.running.prints("ended with 137");
    second.apply("two").run().ok();
    assert!(slow.running.is_running());
    assert_eq!(slow.running.finish().code, 5);
    assert_eq!(second.word(), "two");
    first.is_settled();
}

#[test]
fn a_killed_wrapper_leaves_terraform_its_lock_and_a_place_for_its_state() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let mut slow = first.apply_slowly("one");
    let before = the_lock(&host);
    let gateway = gateway_of(&before);
    slow.running.signal(Signal::KILL);
    assert_eq!(slow.running.exit(), 128 + 9);

    let refused = second.apply("two").run().code(1);
    assert!(told(&refused).contains(&format!("(pid {}) for apply", slow.terraform.pid())), "{}", refused.stderr);
    assert_eq!(the_lock(&host)["id"], before["id"]);
    after(&host, || slow.gate.open());
    slow.terraform.await_end();
    assert_eq!(first.word(), "one", "its state was saved");
    gateway.await_end();
    assert_eq!(first.log().len(), 1);
    second.apply("two").run().ok();
    first.is_settled();
}

#[test]
fn a_killed_gateway_leaves_terraform_its_lock_and_its_state_in_a_file() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    first.apply("one").run().ok();
    let mut slow = first.at_gate(first.apply("two").env("TF_HTTP_RETRY_MAX", "0"));
    let before = the_lock(&host);
    let gateway = gateway_of(&before);
    gateway.signal(Signal::KILL);
    gateway.await_end();
    second.apply("three").run().code(1);
    assert_eq!(the_lock(&host)["id"], before["id"], "its work goes on, so others must not begin");
    after(&host, || slow.gate.open());
    slow.running.finish().code(1);
    assert!(first.has_errored());
    assert_eq!(first.word(), "one");

    first.terraform(["state", "push", "errored.tfstate"]).run().ok();
    assert_eq!(first.word(), "two", "nothing is lost");
    assert!(host.locks().is_empty());
}

#[test]
fn a_killed_job_leaves_nothing() {
    let Some(host) = host() else { return };
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let script = "terraform apply -auto-approve -var=word=one; exit 5";
    let mut slow = first.at_gate(first.exec(&["sh", "-c", script]));
    let gateway = gateway_of(&the_lock(&host));
    after(&host, || kill_group(&slow.running, Signal::KILL));
    assert_eq!(slow.running.exit(), 128 + 9);
    slow.terraform.await_end();
    gateway.await_end();
    second.apply("two").run().ok();
    assert_eq!(second.log().len(), 1);
    first.is_settled();
}

#[test]
fn an_interrupt_at_the_terminal_lets_terraform_save_and_unlock() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    let slow = project.apply_slowly("one");
    let gateway = gateway_of(&the_lock(&host));
    // The terminal sends it to all of them: to the wrapper, to Terraform, and to what that runs.
    kill_group(&slow.running, Signal::INT);
    slow.running.finish().code(1);
    gateway.await_end();
    let listed = project.terraform(["state", "list"]).run().ok().text();
    assert!(listed.contains("terraform_data.work"), "what was begun is known: {listed}");
    project.is_settled();
    project.apply("one").run().ok();
    assert_eq!(project.word(), "one");
}

#[test]
fn sigterm_to_the_wrapper_ends_terraform_in_good_order() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    let mut slow = project.apply_slowly("one");
    slow.running.signal(Signal::TERM);
    // Terraform waits for what it has begun.
    slow.running.prints("Interrupt received");
    slow.gate.open();
    slow.running.finish().code(1);
    assert!(!project.log().is_empty(), "what was done is known");
    project.is_settled();
    project.apply("one").run().ok();
}
