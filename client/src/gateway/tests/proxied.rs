//! The gateway as the proxy of a command's plain http.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::thread;

use super::aws::Ask;
use super::*;
use crate::gateway::environment::constant_keys;

fn proxied(target: &str, host: &str, credential: &str, rest: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {credential}\r\nConnection: close\r\n{rest}\r\n"
    )
}

/// A signed request with its target made a proxy's.
fn to_proxy(ask: &Ask<'_>, host: &str, credential: &str) -> Vec<u8> {
    let bytes = ask.bytes(host);
    let text = String::from_utf8(bytes).unwrap();
    let target =
        format!("{} http://{host}{} HTTP/1.1\r\nProxy-Authorization: {credential}\r\n", ask.method, ask.target);
    text.replacen(&format!("{} {} HTTP/1.1\r\n", ask.method, ask.target), &target, 1).into_bytes()
}

#[test]
fn the_gateways_own_hosts_are_answered() {
    let rig = Rig::start();
    let ask = |method, body| Ask { keys: constant_keys(), ..Ask::s3(method, "/bucket/k", body) };
    let host = "s3.stated.invalid";
    let put = raw(rig.address, &to_proxy(&ask("PUT", b"one"), host, &authorization())).unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    let get = raw(rig.address, &to_proxy(&ask("GET", b""), host, &authorization())).unwrap();
    assert_eq!((get.status, get.text()), (200, "one"));

    let strange = raw(rig.address, &to_proxy(&ask("PUT", b"two"), host, "Basic eDp5")).unwrap();
    assert_eq!((strange.status, strange.head.contains("proxy-authenticate: basic")), (407, true));
    let wrong = Ask { keys: aws::keys(), ..ask("PUT", b"two") };
    assert_eq!(raw(rig.address, &to_proxy(&wrong, host, &authorization())).unwrap().status, 403);
    assert_eq!(ask("PUT", b"two").send(&rig).status, 403, "the recorded keys let nobody in");
    assert_eq!(rig.fake.contents("bucket/k").len(), 1);
}

#[test]
fn other_requests_go_on() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = server.local_addr().unwrap().to_string();
    let serving = thread::spawn(move || {
        let (stream, _) = server.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let answer = "HTTP/1.1 201 Created\r\nX-Mine: 1\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
        (&stream).write_all(answer.as_bytes()).unwrap();
        head.to_lowercase()
    });
    let rig = Rig::start();
    let request = proxied(&format!("http://{host}/a?b=c"), "wrong", &authorization(), "Authorization: mine\r\n");
    let reply = raw(rig.address, request.as_bytes()).unwrap();
    assert_eq!((reply.status, reply.text()), (201, "hello"));
    assert!(reply.head.contains("x-mine: 1"), "{}", reply.head);
    let head = serving.join().unwrap();
    assert!(head.starts_with("get /a?b=c http/1.1\r\n") && head.contains(&format!("host: {host}\r\n")), "{head}");
    assert!(head.contains("authorization: mine") && !head.contains("proxy-authorization"), "{head}");
}

#[test]
fn what_cannot_go_on_is_told() {
    let rig = Rig::start();
    let status = |target: &str, credential: &str| {
        raw(rig.address, proxied(target, "x", credential, "").as_bytes()).unwrap().status
    };
    assert_eq!(status("http://ec2.stated.invalid/", &authorization()), 502);
    assert_eq!(status("https://example.invalid/", &authorization()), 405);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(status(&format!("http://{closed}/"), &authorization()), 502);
    assert_eq!(status(&format!("http://{closed}/"), "Basic eDp5"), 407);
}
