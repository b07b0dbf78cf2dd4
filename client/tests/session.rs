//! The session against a scripted server: what goes over the wire, and what a dropped connection changes.

mod fake;

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use fake::{Fake, Peer, grant, name, options, version, welcome};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use stated_client::{Client, Direction, Progress};
use stated_shared::wire::{ClientFrame, Preamble, ServerFrame};
use stated_shared::{
    Bytes, Change, Commit, Committed, CommittedState, Content, Expect, Failure, FailureKind, Fetched, Hold, Lock,
    LockId, Notice, ProcessRef, Reply, Request, Selector, SerialRule, Version, Wait,
};

fn lock(names: &[&str], wait: Wait) -> Lock {
    Lock { wait, ..Lock::exclusive(names.iter().map(|text| name(text)), "test") }
}

fn commit(contents: &[Vec<u8>]) -> Commit {
    let change = |(index, bytes): (usize, &Vec<u8>)| Change {
        state: name(&format!("s{index}")),
        expect: Expect::Any,
        content: Content::Inline(Bytes(bytes.clone())),
    };
    Commit {
        changes: contents.iter().enumerate().map(change).collect(),
        locks: Vec::new(),
        message: None,
        labels: Default::default(),
        serials: SerialRule::Refuse,
    }
}

fn committed() -> Committed {
    Committed {
        head: None,
        seq: None,
        states: vec![CommittedState { state: name("s0"), version: Version(1), changed: true }],
    }
}

/// What the client tells of its progress from here on.
fn progress(client: &mut Client) -> mpsc::Receiver<Progress> {
    let (sender, passed) = mpsc::channel();
    client.on_progress(Box::new(move |progress| {
        let _ = sender.send(progress);
    }));
    passed
}

#[test]
fn a_retry_over_a_new_connection_keeps_session_and_number() {
    let fake = Fake::run(|listener| {
        let mut first = Peer::accept(listener);
        let (number, request) = first.request();
        let session = first.hello.session;
        drop(first);
        let mut second = Peer::accept(listener);
        assert_eq!(second.hello.session, session);
        assert_eq!(second.request(), (number, request));
        second.reply(number, Ok(Reply::Committed(committed())));
        let (next, _) = second.request();
        assert_eq!(next, number + 1);
        second.reply(next, Ok(Reply::Done));
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    assert_eq!(client.commit(commit(&[b"x".to_vec()])).unwrap(), committed());
    client.unlock(&LockId::parse("a").unwrap()).unwrap();
    fake.finish();
}

#[test]
fn large_contents_are_streamed_in_the_order_of_the_changes() {
    let contents = vec![vec![1; 700_000], b"small".to_vec(), vec![2; 300_000]];
    let expected = contents.clone();
    let fake = Fake::run(move |listener| {
        let mut peer = Peer::accept(listener);
        let (number, Request::Commit(commit)) = peer.request() else { panic!("not a commit") };
        let announced: Vec<_> = commit.changes.iter().map(|change| change.content.clone()).collect();
        assert_eq!(announced[0], Content::Streamed { size_bytes: 700_000 });
        assert_eq!(announced[1], Content::Inline(Bytes(b"small".to_vec())));
        assert_eq!(announced[2], Content::Streamed { size_bytes: 300_000 });
        let mut streamed = Vec::new();
        while streamed.len() < 1_000_000 {
            let Some(ClientFrame::Chunk { number: of, data }) = peer.frame() else { panic!("not a chunk") };
            assert_eq!(of, number);
            streamed.extend(data.0);
        }
        assert_eq!(streamed, [expected[0].clone(), expected[2].clone()].concat());
        peer.reply(number, Ok(Reply::Committed(committed())));
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    let passed = progress(&mut client);
    client.commit(commit(&contents)).unwrap();
    let passed: Vec<Progress> = passed.try_iter().collect();
    assert_eq!(passed[0], Progress { direction: Direction::ToDaemon, done_bytes: 256 << 10, total_bytes: 1_000_000 });
    assert!(passed.is_sorted_by_key(|progress| progress.done_bytes));
    assert_eq!(passed.last().unwrap().done_bytes, 1_000_000);
    fake.finish();
}

#[test]
fn a_content_is_read_in_chunks_and_from_the_start_again_after_a_loss() {
    let content: Vec<u8> = (0..600_000u32).map(|n| n as u8).collect();
    let expected = content.clone();
    let fake = Fake::run(move |listener| {
        for whole in [false, true] {
            let mut peer = Peer::accept(listener);
            let (number, _) = peer.request();
            peer.reply(number, Ok(Reply::Fetched(Fetched { version: version("a", 3, &content) })));
            for piece in content.chunks(200_000).take(if whole { 3 } else { 1 }) {
                peer.send(&ServerFrame::Chunk { number, data: Bytes(piece.to_vec()) });
            }
        }
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    let passed = progress(&mut client);
    let (info, bytes) = client.get(&name("a"), Selector::Newest).unwrap();
    assert_eq!(info.version, Version(3));
    assert!(bytes == expected);
    let passed: Vec<u64> = passed.try_iter().map(|progress| progress.done_bytes).collect();
    assert_eq!(passed, [200_000, 200_000, 400_000, 600_000]);
    fake.finish();
}

#[test]
fn a_cut_content_is_a_failure() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, _) = peer.request();
        peer.reply(number, Ok(Reply::Fetched(Fetched { version: version("a", 3, b"xyz") })));
        let failure = Box::new(Failure::new(FailureKind::Storage, "damaged"));
        peer.send(&ServerFrame::Cut { number, failure });
    });
    let failure = Client::connect(&fake.options()).unwrap().get(&name("a"), Selector::Newest).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Storage);
    fake.finish();
}

#[test]
fn a_pidfd_arrives_with_its_frame_and_again_with_a_retry() {
    let fake = Fake::run(|listener| {
        for round in 0..2 {
            let mut peer = Peer::accept(listener);
            let (number, Request::Bind { process: ProcessRef::Descriptor, .. }) = peer.request() else {
                panic!("not a bind")
            };
            let descriptors = peer.descriptors();
            assert_eq!(descriptors.len(), 1);
            let fdinfo = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptors[0]));
            let fdinfo = std::fs::read_to_string(fdinfo).unwrap();
            assert!(fdinfo.contains(&format!("Pid:\t{}\n", getpid().as_raw_nonzero())), "{fdinfo}");
            if round == 1 {
                peer.reply(number, Ok(Reply::Done));
            }
        }
    });
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let bind = Request::Bind {
        id: LockId::parse("a").unwrap(),
        hold: Hold::ConnectionOrProcess,
        process: ProcessRef::Descriptor,
    };
    let mut client = Client::connect(&fake.options()).unwrap();
    assert_eq!(client.call_with_process(&bind, pidfd.as_fd()), Ok(Reply::Done));
    fake.finish();
}

#[test]
fn another_protocol_is_named_with_ours() {
    let fake = Fake::run(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        // It closes without a look at what the client says, which must not hide what it said itself.
        std::io::Write::write_all(&mut stream, &Preamble { protocol: 9 }.encode()).unwrap();
    });
    let failure = Client::connect(&fake.options()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Protocol);
    assert!(failure.message.contains("protocol 9") && failure.message.contains("protocol 1"), "{failure}");
    fake.finish();
}

#[test]
fn a_refused_session_is_told_as_it_is() {
    let fake = Fake::run(|listener| {
        Peer::accept_as(listener, Err(Failure::new(FailureKind::Denied, "too many sessions")));
    });
    assert_eq!(Client::connect(&fake.options()).unwrap_err().kind, FailureKind::Denied);
    fake.finish();
}

#[test]
fn a_foreign_listener_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let path = socket.clone();
    // A thread has credentials of its own; the kernel notes those of whoever calls listen.
    let listener = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        UnixListener::bind(path).unwrap()
    })
    .join()
    .unwrap();
    let failure = Client::connect(&options(&socket)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied, "{failure}");
    assert!(failure.message.contains("65534"), "{failure}");
    drop(listener);
}

#[test]
fn the_connection_is_close_on_exec() {
    let fake = Fake::run(|listener| {
        Peer::accept(listener);
    });
    let client = Client::connect(&fake.options()).unwrap();
    let flags = rustix::io::fcntl_getfd(client.as_fd().unwrap()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    fake.finish();
}

#[test]
fn a_session_that_was_not_resumed_has_lost_its_locks() {
    let fake = Fake::run(|listener| {
        Peer::accept(listener).grant();
        let mut second = Peer::accept(listener);
        let (number, _) = second.request();
        second.reply(number, Ok(Reply::Done));
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    let (sender, lost) = mpsc::channel();
    client.on_notice(Box::new(move |notice| sender.send(notice.clone()).unwrap()));
    let grant = client.lock(&lock(&["a"], Wait::No), None).unwrap();
    client.unlock(&LockId::parse("other").unwrap()).unwrap();
    let Ok(Notice::LockLost { id, .. }) = lost.try_recv() else { panic!("no notice") };
    assert_eq!(id, grant.id);
    let kept = client.poll_notices().unwrap();
    assert!(matches!(&kept[..], [Notice::LockLost { id, .. }] if *id == grant.id), "{kept:?}");
    fake.finish();
}

#[test]
fn a_resumed_session_keeps_its_locks() {
    let fake = Fake::run(|listener| {
        Peer::accept(listener).grant();
        let mut second = Peer::accept_as(listener, Ok(stated_shared::wire::Welcome { resumed: true, ..welcome() }));
        let (number, _) = second.request();
        second.reply(number, Ok(Reply::Done));
        assert!(second.frame().is_none());
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    client.lock(&lock(&["a"], Wait::No), None).unwrap();
    client.unlock(&LockId::parse("other").unwrap()).unwrap();
    assert_eq!(client.poll_notices(), Ok(Vec::new()));
    drop(client);
    fake.finish();
}

#[test]
fn polling_resumes_a_lost_connection() {
    let fake = Fake::run(|listener| {
        Peer::accept(listener).grant();
        Peer::accept(listener).frame();
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    let grant = client.lock(&lock(&["a"], Wait::No), None).unwrap();
    let mut lost = Vec::new();
    while lost.is_empty() {
        lost = client.poll_notices().unwrap();
        std::thread::yield_now();
    }
    assert!(matches!(&lost[..], [Notice::LockLost { id, .. }] if *id == grant.id), "{lost:?}");
    drop(client);
    fake.finish();
}

#[test]
fn a_waiter_hears_who_is_in_the_way_and_waits_on_at_the_successor() {
    let fake = Fake::run(|listener| {
        let mut first = Peer::accept(listener);
        let (number, request) = first.request();
        first.notice(Notice::Queued { number, holders: Vec::new(), ahead: 2 });
        first.notice(Notice::Closing);
        first.reply(number, Err(Failure::new(FailureKind::Unavailable, "the daemon stops")));
        let mut second = Peer::accept(listener);
        let (again, lock) = second.grant();
        assert_eq!((again, Request::Lock(lock)), (number, request));
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    let (sender, notices) = mpsc::channel();
    client.on_notice(Box::new(move |notice| sender.send(notice.clone()).unwrap()));
    let granted = client.lock(&lock(&["a"], Wait::Forever), None).unwrap();
    assert_eq!(granted, grant(granted.id.clone()));
    assert!(matches!(notices.try_recv(), Ok(Notice::Queued { ahead: 2, .. })));
    fake.finish();
}

#[test]
fn a_refusal_that_comes_before_the_content_is_read_is_told() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, _) = peer.request();
        peer.reply(number, Err(Failure::new(FailureKind::Denied, "no")));
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    let failure = client.commit(commit(&[vec![0; 30 << 20]])).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied, "{failure}");
    fake.finish();
}

#[test]
fn a_write_whose_daemon_became_another_has_an_unknown_outcome() {
    let fake = Fake::run(|listener| {
        Peer::accept(listener).request();
        let other = stated_shared::wire::Welcome { repository: stated_shared::RepositoryId([8; 16]), ..welcome() };
        Peer::accept_as(listener, Ok(other));
    });
    let mut client = Client::connect(&fake.options()).unwrap();
    let failure = client.commit(commit(&[b"x".to_vec()])).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.starts_with("outcome unknown: another repository"), "{failure}");
    fake.finish();
}

#[test]
fn without_a_daemon_the_failure_says_how_to_start_it() {
    let directory = tempfile::tempdir().unwrap();
    let failure = Client::connect(&options(&directory.path().join("s"))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert_eq!(failure.hint.as_deref(), Some("start it: stated run &"));
}
