//! Descriptors and processes that come with requests.

use std::io::pipe;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use stated_shared::{Hold, LockId, ProcessRef};

use super::*;
use crate::host::Process;

fn bind(number: u64, process: ProcessRef) -> Vec<u8> {
    let id = LockId::parse("x").unwrap();
    let request = Request::Bind { id, hold: Hold::ConnectionOrProcess, process };
    encode(&ClientFrame::Request { number, request: Box::new(request) }).unwrap()
}

#[tokio::test]
async fn a_pidfd_becomes_the_process_that_it_holds() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let process = Process::open(child.id()).unwrap();
    client.send_with(&bind(1, ProcessRef::Descriptor), &[process.as_fd()]);
    assert_eq!(client.reply().await, (1, Ok(Reply::Done)));
    client.write(&bind(2, ProcessRef::Pid(child.id()))).await;
    assert_eq!(client.reply().await, (2, Ok(Reply::Done)));
    let by_descriptor = server.submission().await.process.unwrap();
    let by_pid = server.submission().await.process.unwrap();
    for received in [&by_descriptor, &by_pid] {
        assert_eq!((received.pid(), received.start()), (Some(child.id()), process.start()));
        assert!(!received.is_gone());
    }
    child.kill().unwrap();
    by_descriptor.gone().await.unwrap();
    by_pid.gone().await.unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_request_may_come_right_behind_the_hello_with_its_process() {
    let mut server = Server::start();
    let mut client = server.dial().await;
    let hello = ClientHello { session: SessionId([1; 16]), exe: None, features: Vec::new(), pin: None };
    let process = Process::own().unwrap();
    client.write(&[&Preamble::OURS.encode()[..], &encode(&hello).unwrap()].concat()).await;
    client.send_with(&bind(1, ProcessRef::Descriptor), &[process.as_fd()]);
    let mut preamble = [0; Preamble::LEN];
    client.socket.read_exact(&mut preamble).await.unwrap();
    assert!(client.value::<ServerHello>().await.unwrap().is_ok());
    assert_eq!(client.frame().await, Some(ServerFrame::Notice(Box::new(Notice::Closing))));
    assert_eq!(client.reply().await, (1, Ok(Reply::Done)));
    assert_eq!(server.submission().await.process.unwrap().pid(), Some(std::process::id()));
}

#[tokio::test]
async fn a_request_behind_the_hello_of_a_refused_session_is_not_looked_at() {
    let mut server = Server::start();
    let mut client = server.dial().await;
    let hello = ClientHello { session: SessionId([0xff; 16]), exe: None, features: Vec::new(), pin: None };
    let process = Process::own().unwrap();
    client.write(&[&Preamble::OURS.encode()[..], &encode(&hello).unwrap()].concat()).await;
    client.send_with(&bind(1, ProcessRef::Descriptor), &[process.as_fd()]);
    let mut preamble = [0; Preamble::LEN];
    client.socket.read_exact(&mut preamble).await.unwrap();
    assert_eq!(client.value::<ServerHello>().await.unwrap().unwrap_err().kind, FailureKind::Denied);
    client.assert_ended().await;
    // A connection that is served shows that nothing of the refused one was.
    let mut other = server.client().await;
    other.assert_alive(7).await;
    assert_eq!(server.submission().await.number, 7);
}

#[tokio::test]
async fn descriptors_keep_the_order_of_their_requests() {
    let mut server = Server::start();
    let mut client = server.client().await;
    let mut children: Vec<_> =
        (0..3).map(|_| Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()).collect();
    // More than may be pending at once, in one go: each is taken before the next is read.
    for round in 0..3 {
        for (n, child) in children.iter().enumerate() {
            let process = Process::open(child.id()).unwrap();
            client.send_with(&bind(round * 3 + n as u64, ProcessRef::Descriptor), &[process.as_fd()]);
        }
    }
    for number in 0..9 {
        assert_eq!(client.reply().await, (number, Ok(Reply::Done)));
        let process = server.submission().await.process.unwrap();
        assert_eq!(process.pid(), Some(children[number as usize % 3].id()));
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_request_without_its_process_is_refused_alone() {
    let server = Server::start();
    let mut client = server.client().await;
    client.write(&bind(1, ProcessRef::Descriptor)).await;
    assert_eq!(client.refusal().await, (1, FailureKind::Usage));
    let (reader, _writer) = pipe().unwrap();
    client.send_with(&bind(2, ProcessRef::Descriptor), &[reader.as_fd()]);
    assert_eq!(client.refusal().await, (2, FailureKind::Usage));
    client.write(&bind(3, ProcessRef::Pid(u32::MAX))).await;
    assert_eq!(client.refusal().await, (3, FailureKind::NotFound));
    client.assert_alive(4).await;
}

#[tokio::test]
async fn surplus_descriptors_are_closed() {
    let server = Server::start();
    let mut client = server.client().await;
    let status = encode(&ClientFrame::Request { number: 0, request: Box::new(Request::Status) }).unwrap();
    let (reader, writer) = pipe().unwrap();
    for _ in 0..5 {
        // The first message fills what may be pending; of the others nothing is kept.
        client.send_with(&status, &[reader.as_fd(); 6]);
        assert_eq!(client.reply().await.0, 0);
    }
    drop(client);
    drop(reader);
    // Only a reader that was left open in the server would keep this from failing.
    let mut writer = tokio::net::unix::pipe::Sender::from_owned_fd(writer.into()).unwrap();
    while writer.write_all(b"x").await.is_ok() {
        tokio::task::yield_now().await;
    }
}
