//! A proxy that loses answers, and what asking again gives then.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::thread;

use super::*;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Pass,
    /// It never arrives.
    CutBefore,
    /// It is done, and the answer is lost.
    CutAfter,
}

/// Decides a request's fate by its method.
pub type Plot = Box<dyn FnMut(&str) -> Fate + Send>;

/// Listens for requests to lose; `serve` comes once the gateway is there.
pub struct Cutter(TcpListener);

impl Cutter {
    pub fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Serves one request a connection, for as long as the process lives.
    pub fn serve(self, upstream: SocketAddr, mut plot: Plot) {
        thread::spawn(move || {
            for stream in self.0.incoming() {
                let mut client = BufReader::new(stream.unwrap());
                let Some(request) = read_message(&mut client) else { continue };
                let method = String::from_utf8_lossy(&request).split(' ').next().unwrap().to_owned();
                let fate = plot(&method);
                if fate == Fate::CutBefore {
                    continue;
                }
                let mut server = TcpStream::connect(upstream).unwrap();
                server.write_all(&request).unwrap();
                let Some(answer) = read_message(&mut BufReader::new(server)) else { continue };
                if fate == Fate::Pass {
                    let text = String::from_utf8(answer).unwrap();
                    let closing = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
                    client.into_inner().write_all(closing.as_bytes()).unwrap();
                }
            }
        });
    }
}

/// Reads one message with its body.
fn read_message(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let (mut length, mut chunked) = (0, false);
    loop {
        let start = message.len();
        if stream.read_until(b'\n', &mut message).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&message[start..]).to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        chunked |= line.starts_with("transfer-encoding:");
        if line == "\r\n" {
            break;
        }
    }
    if chunked {
        while !message.ends_with(b"0\r\n\r\n") {
            stream.read_until(b'\n', &mut message).ok()?;
        }
        return Some(message);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    message.extend(body);
    Some(message)
}

const ID: &str = "9f2c41aa-0000-4000-8000-00000000000a";
const PROD: &str = "/v1/state/prod";

#[test]
fn a_lost_answer_is_given_again() {
    for fate in [Fate::CutBefore, Fate::CutAfter] {
        let cutter = Cutter::bind();
        let address = cutter.address();
        let rig = Rig::with(Plan { hosts: vec![address.to_string()], ..Plan::default() });
        let mut fates: VecDeque<_> = [fate, Fate::Pass].into_iter().cycle().take(8).collect();
        cutter.serve(rig.address, Box::new(move |_| fates.pop_front().unwrap_or(Fate::Pass)));

        let write = format!("{PROD}?ID={ID}");
        let steps =
            [("LOCK", PROD, lock_document(ID)), ("POST", &write, "1".into()), ("UNLOCK", PROD, lock_document(ID))];
        for (method, path, body) in steps {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n{body}",
                authorization(),
                body.len()
            );
            assert!(raw(address, request.as_bytes()).is_none(), "{method}: the first answer is lost");
            assert_eq!(raw(address, request.as_bytes()).unwrap().status, 200, "{method} after {fate:?}");
        }
        assert_eq!(rig.fake.contents("prod"), [Some(b"1".to_vec())], "one write, one version");
        assert_eq!(rig.fake.held(), [] as [&str; 0]);
    }
}
