//! A gateway lives through a restore: it believes the older journal when its user does, and not before.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use stated_tests::{Host, Running, read};

use super::{backup, restore};

/// A running `statectl gateway` for the state `a`.
struct Gateway {
    running: Running,
    host: String,
    credential: String,
}

impl Gateway {
    fn start(host: &Host) -> Self {
        let file = host.path("w/gateway.env");
        let mut running = host.statectl(["gateway", "--env-file", file.to_str().unwrap()]).start();
        running.line();
        let text = String::from_utf8(read(&file)).unwrap();
        let variable = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
        let (_, rest) = variable("STATED_GATEWAY").split_once("http://").unwrap();
        let credential = format!("{}:{}", variable("TF_HTTP_USERNAME"), variable("TF_HTTP_PASSWORD"));
        let host = rest.split_once('/').unwrap().0.to_owned();
        Self { running, host, credential: STANDARD.encode(credential) }
    }

    /// Asks as this process, which locks are then tied to; gives the status and the body.
    #[track_caller]
    fn ask(&self, method: &str, body: &str) -> (u16, String) {
        let Self { host, credential, .. } = self;
        let mut stream = TcpStream::connect(host).unwrap();
        let len = body.len();
        let head = format!(
            "{method} /v1/state/a HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {credential}\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[track_caller]
    fn done(&self, method: &str, body: &str) -> String {
        let (status, answer) = self.ask(method, body);
        assert_eq!(status, 200, "{method}: {answer}");
        answer
    }

    #[track_caller]
    fn refuses(&self, method: &str, body: &str) {
        let (status, answer) = self.ask(method, body);
        assert!(status >= 500 && answer.contains("went back"), "{method}: {status} {answer}");
    }
}

fn lock(id: &str) -> String {
    format!(r#"{{"ID":"{id}","Operation":"OperationTypeApply","Created":"2026-11-23T12:00:00Z"}}"#)
}

#[test]
fn a_gateway_goes_on_once_the_restore_is_accepted() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", b"1");
    let dir = host.path("backup");
    backup(&host, &dir);
    for content in 2..20_u32 {
        host.put("a", content.to_string().as_bytes());
    }
    let mut gateway = Gateway::start(&host);
    assert_eq!(gateway.done("GET", ""), "19");
    gateway.done("LOCK", &lock("before"));
    daemon.stop();
    restore(&host, &[dir.to_str().unwrap(), "--force"]).ok();

    let _daemon = host.daemon();
    for _ in 0..3 {
        gateway.refuses("GET", "");
        gateway.refuses("POST", "lost?");
        gateway.refuses("LOCK", &lock("early"));
    }
    host.run(["status", "--accept-rollback"]);
    assert_eq!(gateway.done("GET", ""), "1");
    gateway.done("POST", "on from here");
    assert_eq!(gateway.done("GET", ""), "on from here");
    gateway.done("LOCK", &lock("after"));
    gateway.running.says("lock before is lost");
    gateway.done("UNLOCK", &lock("after"));
    assert_eq!(host.locks(), [] as [serde_json::Value; 0]);

    // It hears of a loss by itself again.
    gateway.done("LOCK", &lock("taken"));
    host.run(["break", "a"]);
    gateway.running.says("lock taken is lost");
}
