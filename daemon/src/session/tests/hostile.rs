//! Peers that do not keep to the protocol.

use proptest::prelude::*;
use stated_shared::limits::FRAME_LEN_MAX;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn hostile_frames_end_their_own_connection_only() {
    let mut server = Server::start();
    let mut bystander = server.client().await;
    let request =
        |number, request: Request| encode(&ClientFrame::Request { number, request: Box::new(request) }).unwrap();
    let framed = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
    let chunk = |len| encode(&ClientFrame::Chunk { number: 1, data: Bytes(vec![0; len]) }).unwrap();
    let streamed = |size_bytes| request(1, commit(vec![Content::Streamed { size_bytes }]));
    let mut trailing = request(1, Request::Status);
    trailing.push(0);
    trailing[3] += 1;
    let cases = [
        ("a length over the limit", ((FRAME_LEN_MAX + 1) as u32).to_be_bytes().to_vec()),
        ("the longest length", vec![0xff; 4]),
        ("an empty frame", framed(&[])),
        ("an unknown request", framed(&[0, 1, 200])),
        ("trailing bytes", trailing),
        ("a content longer than its frame", framed(&[1, 1, 253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ("a chunk out of nowhere", chunk(1)),
        ("a number in use", [request(1, VERIFY), request(1, VERIFY)].concat()),
        ("an empty chunk", [streamed(1), chunk(0)].concat()),
        ("a chunk beyond the content", [streamed(1), chunk(2)].concat()),
        ("a chunk over the limit", [streamed(1 << 20), chunk((256 << 10) + 1)].concat()),
        ("a request within a content", [streamed(2), chunk(1), request(2, Request::Status)].concat()),
    ];
    let start = Instant::now();
    for (what, bytes) in cases {
        let mut client = server.client().await;
        client.write(&bytes).await;
        client.assert_ended().await;
        server.closed().await;
        bystander.request(1, Request::Status).await;
        assert_eq!(bystander.reply().await.0, 1, "{what}");
        assert_eq!(start.elapsed(), Duration::ZERO, "{what}: only time ended it");
    }
}

#[tokio::test]
async fn a_frame_that_breaks_off_ends_the_connection() {
    let mut server = Server::start();
    let frame = encode(&ClientFrame::Request { number: 1, request: Box::new(Request::Status) }).unwrap();
    for len in 1..frame.len() {
        let mut client = server.client().await;
        client.write(&frame[..len]).await;
        client.socket.shutdown().await.unwrap();
        client.assert_ended().await;
        server.closed().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever arrives, the daemon serves the next one.
    #[test]
    fn random_bytes_harm_nobody(bytes in proptest::collection::vec(any::<u8>(), 1..200), honest in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut server = Server::start();
            let mut client = server.client().await;
            let prefix = (bytes.len() as u32).to_be_bytes();
            let sent = if honest { [&prefix, &bytes[..]].concat() } else { bytes };
            // The server may hang up while this is still being written.
            let _ = client.socket.write_all(&sent).await;
            let _ = client.socket.shutdown().await;
            server.closed().await;
            server.client().await.assert_alive(1).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn idleness_is_free_and_a_frame_must_be_complete_in_time() {
    let mut server = Server::start();
    let mut client = server.client().await;
    pass(Duration::from_secs(7 * 24 * 3600)).await;
    client.assert_alive(1).await;
    let frame = encode(&ClientFrame::Request { number: 2, request: Box::new(Request::Status) }).unwrap();
    client.write(&frame[..3]).await;
    let start = Instant::now();
    client.assert_ended().await;
    assert_eq!(start.elapsed().as_secs(), limits::FRAME_TIMEOUT.as_secs());
    server.closed().await;

    // One byte now and then does not win more time.
    let mut client = server.client().await;
    let start = Instant::now();
    for byte in [0, 15, 255] {
        client.write(&[byte]).await;
        pass(Duration::from_secs(9)).await;
    }
    client.assert_ended().await;
    assert!(start.elapsed() <= limits::FRAME_TIMEOUT + Duration::from_millis(10));
}

#[tokio::test]
async fn a_large_frame_arrives_whole() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let inline = || Content::Inline(Bytes(content(200 << 10)));
    for number in 1..4 {
        client.request(number, commit(vec![inline(), inline(), inline(), inline()])).await;
        assert_eq!(client.reply().await, (number, Ok(Reply::Done)));
        assert_eq!(server.submission().await.request, commit(vec![inline(), inline(), inline(), inline()]));
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_reads_is_cut_while_another_works() {
    let mut server = Server::start();
    let (mut deaf, mut other) = (server.client().await, server.client().await);
    let start = Instant::now();
    // Some 500 KiB of answer each; the socket takes the first and the queue a few more.
    for number in 0..16 {
        deaf.request(number, show()).await;
    }
    assert_eq!(server.closed().await, ConnectionId(0));
    assert_eq!(start.elapsed(), Duration::ZERO);
    other.assert_alive(1).await;
    // What the socket had taken is still read, then the end.
    let mut rest = Vec::new();
    let _ = deaf.socket.read_to_end(&mut rest).await;
    assert!(rest.len() < limits::PENDING_LEN_MAX);
}

#[tokio::test(start_paused = true)]
async fn who_stops_reading_in_a_content_is_cut_in_time() {
    let budget_bytes = 16 << 20;
    let mut server = Server::start_with(own(), budget_bytes);
    let mut client = server.client().await;
    let start = Instant::now();
    // More than may wait for one peer: it is sent as it is taken.
    client.request(1, get(&(12 << 20).to_string())).await;
    assert_eq!(server.closed().await, ConnectionId(0));
    assert!((30..32).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!(server.engine.budget.room(budget_bytes).await.is_ok(), "the content's room is given back");
}

#[tokio::test(start_paused = true)]
async fn too_many_open_requests_are_not_read_and_hanging_up_is_noticed() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let max = limits::OUTSTANDING_MAX as u64;
    for number in 0..max + 10 {
        client.request(number, VERIFY).await;
    }
    for number in 0..max {
        assert_eq!(server.submission().await.number, number);
    }
    let outbox = Arc::clone(&server.engine.outboxes.lock().unwrap()[0]);
    outbox.reply(3, Ok(Reply::Done));
    assert_eq!(server.submission().await.number, max);
    assert!(server.events.try_recv().is_err());
    drop(client);
    assert_eq!(server.closed().await, ConnectionId(0));
}

#[tokio::test]
async fn an_answer_that_fits_no_frame_becomes_a_failure() {
    let server = Server::start();
    let mut client = server.client().await;
    client.request(1, Request::Audit { filter: Default::default(), after: None }).await;
    assert_eq!(client.refusal().await, (1, FailureKind::Internal));
    client.request(2, show()).await;
    assert!(matches!(client.reply().await, (2, Ok(Reply::Version(_)))));
}
