//! Requests and answers that get lost, and daemons that die over them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use stated_tests::{Call, LIMIT, Process};

use super::project::{Project, host, serials};
use super::proxy::{Fate, Moment, THROUGH_PROXY, start};

/// What an apply of a change asks.
const METHODS: [&str; 4] = ["LOCK", "GET", "POST", "UNLOCK"];

/// An apply through the proxy that asks again at once.
fn apply(project: &Project<'_>, proxy: SocketAddr, word: &str) -> Call {
    let word = format!("-var=word={word}");
    let call = project.exec(&["sh", "-c", THROUGH_PROXY, "sh", "apply", "-auto-approve", &word]);
    call.env("PROXY", proxy.to_string()).env("TF_HTTP_RETRY_WAIT_MIN", "0")
}

/// Loses each kind of request twice in each apply, at this moment.
fn losing(moment: Moment) {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    let lost = Arc::new(Mutex::new(BTreeMap::new()));
    let proxy = start(Box::new({
        let lost = Arc::clone(&lost);
        move |method, at| {
            let mut lost = lost.lock().unwrap();
            let times = lost.entry(method.to_owned()).or_insert(0);
            if at != moment || *times == 2 {
                return Fate::Pass;
            }
            *times += 1;
            Fate::Cut
        }
    }));
    for (round, word) in ["one", "two", "three"].into_iter().enumerate() {
        apply(&project, proxy, word).run().ok();
        let lost = std::mem::take(&mut *lost.lock().unwrap());
        assert!(METHODS.iter().all(|method| lost[*method] == 2), "{lost:?}");
        assert_eq!(project.word(), word);
        assert_eq!(project.log().len(), round + 1, "one apply, one version");
        project.is_settled();
    }
    assert_eq!(serials(&project.log()), [1, 2, 3]);
    let breaks = host.statectl(["audit", "--verb", "break", "--json"]).run().ok();
    assert_eq!(breaks.text(), "", "nothing had to be broken");
}

#[test]
fn a_request_that_is_lost_before_the_server_does_no_harm() {
    losing(Moment::Arrived);
}

#[test]
fn a_connection_that_breaks_under_the_server_does_no_harm() {
    losing(Moment::Sent);
}

#[test]
fn an_answer_that_is_lost_after_the_server_acted_does_no_harm() {
    losing(Moment::Answered);
}

/// Kills the daemon at this moment of each kind of request in turn, and starts another.
///
/// Where the answer comes through, Terraform must not even have to ask again.
fn dying(moment: Moment, fate: Fate) {
    let Some(host) = host() else { return };
    let mut daemon = host.daemon();
    let project = Project::new(&host, "d");
    let victim: Arc<Mutex<Option<(&str, Process)>>> = Arc::default();
    let (killed, kills) = channel();
    let proxy = start(Box::new({
        let victim = Arc::clone(&victim);
        move |method, at| {
            let mut victim = victim.lock().unwrap();
            let due = victim.take_if(|(due, _)| *due == method && at == moment);
            let Some((_, process)) = due else { return Fate::Pass };
            process.signal(Signal::KILL);
            process.await_end();
            killed.send(()).expect("the test waits");
            fate
        }
    }));
    for (round, method) in METHODS.into_iter().enumerate() {
        *victim.lock().unwrap() = Some((method, Process::open(daemon.pid())));
        let word = round.to_string();
        let tries = if fate == Fate::Pass { "0" } else { "5" };
        let running = apply(&project, proxy, &word).env("TF_HTTP_RETRY_MAX", tries).start();
        kills.recv_timeout(LIMIT).expect("the request comes");
        assert_eq!(daemon.exit(), 128 + 9);
        daemon = host.daemon();
        running.finish().ok();
        assert_eq!(project.word(), word, "{method}");
        assert_eq!(project.log().len(), round + 1, "{method}");
        project.is_settled();
    }
    assert_eq!(serials(&project.log()), [1, 2, 3, 4]);
    host.statectl(["verify", "--read-data"]).run().ok();
}

#[test]
fn a_daemon_that_dies_before_a_request_comes_does_no_harm() {
    dying(Moment::Arrived, Fate::Pass);
}

#[test]
fn a_daemon_that_dies_over_a_request_does_no_harm() {
    dying(Moment::Sent, Fate::Pass);
}

#[test]
fn a_daemon_that_dies_after_a_request_whose_answer_is_lost_does_no_harm() {
    dying(Moment::Answered, Fate::Cut);
}
