//! Contents on their way in and out.

use tokio::time::Instant;

use super::*;

const CHUNK: usize = 256 << 10;

#[tokio::test]
async fn streamed_contents_arrive_in_their_places() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let streamed = |size_bytes| Content::Streamed { size_bytes };
    let (first, second) = (content(CHUNK + 5), content(3));
    let inline = Content::Inline(Bytes(b"inline".to_vec()));
    let sizes = vec![streamed(first.len() as u64), Content::Removed, inline.clone(), streamed(0), streamed(3)];
    client.request(1, commit(sizes)).await;
    client.chunk(1, &first[..CHUNK]).await;
    client.chunk(1, &first[CHUNK..]).await;
    client.chunk(1, &second[..1]).await;
    client.chunk(1, &second[1..]).await;
    assert_eq!(client.reply().await, (1, Ok(Reply::Done)));
    let submission = server.submission().await;
    let whole = |bytes: Vec<u8>| Content::Inline(Bytes(bytes));
    let expected = vec![whole(first), Content::Removed, inline, whole(vec![]), whole(second)];
    assert_eq!(submission.request, commit(expected));
    assert!(submission.room.is_some());
    client.assert_alive(2).await;
}

#[tokio::test]
async fn the_chunks_of_a_refused_commit_are_passed_over() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let huge = (9 << 20) as u64;
    // Over the daemon's budget, and then a request that is not of its form.
    client.request(1, commit(vec![Content::Streamed { size_bytes: huge }])).await;
    for _ in 0..huge as usize / CHUNK {
        client.chunk(1, &[0; CHUNK]).await;
    }
    assert_eq!(client.refusal().await, (1, FailureKind::Conflict));
    let mut malformed = commit(vec![Content::Streamed { size_bytes: 2 }]);
    if let Request::Commit(commit) = &mut malformed {
        commit.message = Some("x".repeat(5000));
    }
    client.request(2, malformed).await;
    client.chunk(2, b"ab").await;
    assert_eq!(client.refusal().await, (2, FailureKind::Usage));
    client.assert_alive(3).await;
    assert_eq!(server.submission().await.number, 3);
}

#[tokio::test]
async fn a_content_waits_for_room_before_it_is_read() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let taken = server.engine.budget.room(8 << 20).await.unwrap();
    client.request(1, commit(vec![Content::Streamed { size_bytes: 1 }])).await;
    client.chunk(1, b"a").await;
    client.request(2, Request::Status).await;
    let mut other = server.client().await;
    other.assert_alive(1).await;
    assert_eq!(server.submission().await.connection, ConnectionId(1), "the first waits, and what is behind it");
    drop(taken);
    assert_eq!((client.reply().await.0, client.reply().await.0), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn room_that_never_comes_is_a_refusal() {
    let server = Server::start();
    let mut client = server.client().await;
    let _taken = server.engine.budget.room(8 << 20).await.unwrap();
    client.request(1, commit(vec![Content::Streamed { size_bytes: 1 }])).await;
    client.chunk(1, b"a").await;
    assert_eq!(client.refusal().await, (1, FailureKind::Unavailable));
    client.assert_alive(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_content_that_trickles_is_cut_and_gives_its_room_back() {
    let mut server = Server::start();
    let mut client = server.client().await;
    client.request(1, commit(vec![Content::Streamed { size_bytes: 1 << 20 }])).await;
    let start = Instant::now();
    let trickle = async {
        loop {
            let frame = encode(&ClientFrame::Chunk { number: 1, data: Bytes(vec![0]) }).unwrap();
            if client.socket.write_all(&frame).await.is_err() {
                return;
            }
            pass(Duration::from_secs(1)).await;
        }
    };
    trickle.await;
    assert!((31..34).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    server.closed().await;
    server.engine.budget.room(8 << 20).await.unwrap();
}

#[tokio::test]
async fn a_content_goes_out_in_chunks_beside_other_answers() {
    let server = Server::start();
    let mut client = server.client().await;
    let len = 3 * CHUNK + 7;
    client.request(1, get(&len.to_string())).await;
    client.request(2, Request::Status).await;
    client.request(3, get("missing")).await;
    let (mut fetched, mut done, mut missing, mut received) = (false, false, false, Vec::new());
    while !(done && missing && received.len() == len) {
        match client.frame().await.unwrap() {
            ServerFrame::Reply { number: 1, result } => {
                assert!(matches!(*result, Ok(Reply::Fetched(_))));
                fetched = true;
            }
            ServerFrame::Chunk { number: 1, data } => {
                assert!(fetched && !data.0.is_empty() && data.0.len() <= CHUNK);
                received.extend_from_slice(&data.0);
            }
            ServerFrame::Reply { number: 2, result } => done = result.is_ok(),
            ServerFrame::Reply { number: 3, result } => missing = result.unwrap_err().kind == FailureKind::NotFound,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, content(len));
    client.assert_alive(4).await;
}
