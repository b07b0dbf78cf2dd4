//! The daemon's orderly end.

use stated_shared::Lock;
use tokio::time::Instant;

use super::*;

fn lock() -> Request {
    Request::Lock(Lock::exclusive([StateName::parse("a").unwrap()], "lock"))
}

fn closing() -> Option<ServerFrame> {
    Some(ServerFrame::Notice(Box::new(Notice::Closing)))
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_answered_and_who_waits_for_a_lock_is_not_waited_for() {
    let mut server = Server::start();
    let (mut working, mut waiting) = (server.client().await, server.client().await);
    working.request(1, VERIFY).await;
    server.submission().await;
    waiting.request(1, lock()).await;
    assert!(matches!(waiting.frame().await, Some(ServerFrame::Notice(_))));
    let start = Instant::now();
    server.stop.cancel();
    assert_eq!(waiting.frame().await, closing());
    waiting.assert_ended().await;
    assert_eq!(working.frame().await, closing());
    assert!(!server.path.exists());
    let outbox = Arc::clone(&server.engine.outboxes.lock().unwrap()[0]);
    outbox.reply(1, Ok(Reply::Done));
    assert_eq!(working.reply().await, (1, Ok(Reply::Done)));
    working.assert_ended().await;
    server.served.await.unwrap();
    assert_eq!(start.elapsed().as_millis(), 0);
    // Sessions are left open: their locks are for the successor to keep.
    assert!(matches!(server.events.try_recv(), Ok(Event::Submitted(_))));
    assert!(server.events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_holds_nothing_up() {
    let mut server = Server::start();
    let mut client = server.client().await;
    client.request(1, VERIFY).await;
    server.submission().await;
    // And one that does not even say hello.
    let _silent = server.dial().await;
    let start = Instant::now();
    server.stop.cancel();
    server.served.await.unwrap();
    assert!(start.elapsed() <= limits::STOP_TIMEOUT + Duration::from_millis(10));
    assert_eq!(client.frame().await, closing());
    client.assert_ended().await;
}

#[tokio::test]
async fn a_closed_connection_keeps_no_socket_open() {
    let mut server = Server::start();
    let client = server.client().await;
    drop(client);
    server.closed().await;
    // The engine may use its outbox a little longer.
    let outbox = Arc::clone(&server.engine.outboxes.lock().unwrap()[0]);
    outbox.reply(1, Ok(Reply::Done));
    outbox.notice(Notice::Closing);
}
