//! Who comes in.

use super::*;

#[tokio::test]
async fn a_welcome_comes_first_and_requests_are_answered() {
    let mut server = Server::start();
    let mut client = server.dial().await;
    let welcome = client.hello(1).await.unwrap();
    assert!(welcome.resumed);
    assert_eq!(client.frame().await, Some(ServerFrame::Notice(Box::new(Notice::Closing))));
    client.assert_alive(1).await;
    let submission = server.submission().await;
    assert_eq!((submission.session, submission.number), (SessionId([1; 16]), 1));
    drop(client);
    assert_eq!(server.closed().await, submission.connection);
}

#[tokio::test]
async fn what_speaks_something_else_gets_no_byte() {
    let server = Server::start();
    let mut client = server.dial().await;
    client.write(b"GET / HTTP/1.1\r\n").await;
    client.assert_ended().await;
}

#[tokio::test]
async fn another_version_is_told_ours() {
    let server = Server::start();
    let mut client = server.dial().await;
    let hello = ClientHello { session: SessionId([1; 16]), exe: None, features: Vec::new(), pin: None };
    // A client says both at once; its hello is not even looked at.
    client.write(&[&Preamble { protocol: 0x7fff }.encode()[..], &encode(&hello).unwrap()].concat()).await;
    let mut preamble = [0; Preamble::LEN];
    client.socket.read_exact(&mut preamble).await.unwrap();
    assert_eq!(Preamble::decode(&preamble), Some(Preamble::OURS));
    client.assert_ended().await;
}

#[tokio::test]
async fn a_session_that_the_engine_refuses_is_told_why() {
    let server = Server::start();
    let mut client = server.dial().await;
    assert_eq!(client.hello(0xff).await.unwrap_err().kind, FailureKind::Denied);
    client.assert_ended().await;
}

#[tokio::test]
async fn another_user_is_denied_and_audited() {
    let rules = Rules::of(Arc::new(policies::about_nobody_here()));
    let mut server = Server::start_with(rules, 1 << 20);
    let mut client = server.dial().await;
    let failure = client.hello(7).await.unwrap_err();
    assert_eq!((failure.kind, failure.kind.exit_code()), (FailureKind::Denied, 77));
    client.assert_ended().await;
    let Some(Event::Denied(denied)) = server.events.recv().await else { panic!("not audited") };
    let actor = denied.actor;
    assert_eq!((denied.verb, denied.names), ("connect", vec![]));
    assert_eq!((actor.uid, actor.session), (crate::host::own_uid(), SessionId([7; 16])));
    assert_eq!((actor.pid, actor.exe.as_deref()), (Some(std::process::id()), Some("e?")));
}

#[tokio::test]
async fn a_user_has_so_many_connections_and_the_next_is_told() {
    for rules in [Rules { connections_per_uid_max: 2, ..own() }, Rules { connections_max: 2, ..own() }] {
        let server = Server::start_with(rules, 1 << 20);
        let (mut first, second) = (server.client().await, server.client().await);
        let mut third = server.dial().await;
        assert_eq!(third.hello(3).await.unwrap_err().kind, FailureKind::Unavailable);
        third.assert_ended().await;
        first.assert_alive(1).await;
        drop(second);
        // The place is free some time after the second is gone.
        while server.dial().await.hello(3).await.is_err() {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_must_come_in_time() {
    let server = Server::start();
    let mut silent = server.dial().await;
    silent.assert_ended().await;
    let mut slow = server.dial().await;
    slow.write(&Preamble::OURS.encode()[..5]).await;
    slow.assert_ended().await;
    let mut dawdling = server.dial().await;
    dawdling.write(&Preamble::OURS.encode()).await;
    let mut preamble = [0; Preamble::LEN];
    dawdling.socket.read_exact(&mut preamble).await.unwrap();
    let start = tokio::time::Instant::now();
    dawdling.assert_ended().await;
    assert!(start.elapsed() <= limits::HELLO_TIMEOUT);
}
