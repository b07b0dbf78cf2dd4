//! A proxy between Terraform and its gateway, at which requests and answers get lost.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

/// How far a request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Terraform has sent it.
    Arrived,
    /// The gateway has it.
    Sent,
    /// The gateway has answered it.
    Answered,
}

/// What becomes of a request then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// Its connections are closed.
    Cut,
}

/// Decides on a request by its method, or by its operation where it is one of DynamoDB, at each moment.
pub type Plot = Box<dyn FnMut(&str, Moment) -> Fate + Send>;

/// Puts this proxy (`$PROXY`) into Terraform's addresses; the gateway's port becomes the first part of the path.
pub const THROUGH_PROXY: &str = r#"
for name in TF_HTTP_ADDRESS TF_HTTP_LOCK_ADDRESS TF_HTTP_UNLOCK_ADDRESS; do
    eval "address=\$$name"
    export "$name=http://$PROXY/${address#http://127.0.0.1:}"
done
exec terraform "$@"
"#;

/// Starts a proxy that serves one request a connection, one after the other, for as long as the process lives.
pub fn start(mut plot: Plot) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A connection that breaks is what this is for.
            let _ = pass(stream.expect("a connection"), &mut plot);
        }
    });
    address
}

/// As [`start`], before the gateway whose address is in a file, changing no byte of requests: they are signed.
pub fn start_before(gateway: &Path, mut plot: Plot) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let gateway = gateway.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut client = BufReader::new(stream.expect("a connection"));
            let Some(request) = read_message(&mut client) else { continue };
            let gateway = std::fs::read_to_string(&gateway).expect("the gateway's address");
            let _ = pass_to(client, &operation(&request), &gateway, &request, &mut plot);
        }
    });
    address
}

/// The operation of DynamoDB, else the method.
fn operation(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let target = text.lines().find_map(|line| line.strip_prefix("X-Amz-Target: DynamoDB_20120810."));
    target.or_else(|| text.split(' ').next()).unwrap_or_default().to_owned()
}

/// Passes one request and its answer on; `None` where either got lost.
fn pass(client: TcpStream, plot: &mut Plot) -> Option<()> {
    let mut client = BufReader::new(client);
    let request = read_message(&mut client)?;
    let (method, gateway, request) = redirected(&request)?;
    pass_to(client, &method, &gateway, &request, plot)
}

fn pass_to(client: BufReader<TcpStream>, what: &str, gateway: &str, request: &[u8], plot: &mut Plot) -> Option<()> {
    let mut go_on = |moment| (plot(what, moment) == Fate::Pass).then_some(());
    go_on(Moment::Arrived)?;
    let mut server = TcpStream::connect(gateway).ok()?;
    server.write_all(request).ok()?;
    go_on(Moment::Sent)?;
    let answer = read_answer(&mut BufReader::new(server), request.starts_with(b"HEAD "))?;
    go_on(Moment::Answered)?;
    let (head, rest) = answer.split_at(answer.iter().position(|byte| *byte == b'\n')? + 1);
    let answer = [head, b"Connection: close\r\n", rest].concat();
    client.into_inner().write_all(&answer).ok()
}

/// The method, the gateway's address, and the request as if it had been sent there.
fn redirected(request: &[u8]) -> Option<(String, String, Vec<u8>)> {
    let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let (head, rest) = request.split_at(end);
    let head = std::str::from_utf8(head).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (port, path) = target.strip_prefix('/')?.split_once('/')?;
    let gateway = format!("127.0.0.1:{port}");
    let mut lines = vec![format!("{method} /{path} HTTP/1.1"), format!("Host: {gateway}")];
    let is_host = |line: &&str| line.to_lowercase().starts_with("host:");
    lines.extend(head.lines().skip(1).filter(|line| !is_host(line)).map(str::to_owned));
    let request = [lines.join("\r\n").as_bytes(), rest].concat();
    Some((method.to_owned(), gateway, request))
}

/// Reads one message with its body.
fn read_message(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    read_answer(stream, false)
}

/// As [`read_message`]; the answer to a HEAD has no body, whatever it says of its length.
fn read_answer(stream: &mut BufReader<TcpStream>, to_head: bool) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let (mut length, mut chunked) = (0, false);
    loop {
        let start = message.len();
        if stream.read_until(b'\n', &mut message).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&message[start..]).to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= line.starts_with("transfer-encoding:");
        if line == "\r\n" {
            break;
        }
    }
    if to_head {
        return Some(message);
    }
    if chunked {
        while !message.ends_with(b"0\r\n\r\n") {
            if stream.read_until(b'\n', &mut message).ok()? == 0 {
                return None;
            }
        }
        return Some(message);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    message.extend(body);
    Some(message)
}
