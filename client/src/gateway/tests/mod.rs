//! The gateway over real connections, before a daemon in memory.

mod aws;
mod cutter;
mod protocol;
mod proxied;
mod real_terraform;
mod s3;
mod wire;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use stated_shared::{LockId, StateName};
use tokio::sync::oneshot;

use super::Credential;
use super::aws::Aws;
use super::body::Memory;
use super::fake::Fake;
use super::guard::Guard;
use super::model::{Model, Report};
use super::proxy::Proxy;
use super::scope::{Scope, Scoped, Verb};
use super::server::{Gateway, Listener, States};
use super::terraform::Terraform;
use super::work::Work;

/// What a test chooses of a gateway.
struct Plan {
    states: States,
    under: Option<LockId>,
    /// What its clients may do.
    scope: Scope,
    /// Further `Host` headers that are let in.
    hosts: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        let scope = Scope { states: Vec::new(), verbs: Verb::ALL.to_vec() };
        Self { states: States::All, under: None, scope, hosts: Vec::new() }
    }
}

/// A gateway that serves on a thread of its own.
struct Rig {
    address: SocketAddr,
    fake: Arc<Fake>,
    work: Arc<Work>,
    reports: Arc<Mutex<Vec<String>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

const PASSWORD: &str = "0123456789abcdef";

impl Rig {
    fn start() -> Self {
        Self::with(Plan::default())
    }

    fn with(plan: Plan) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let fake = Arc::new(Fake::default());
        let work = Arc::new(Work::default());
        let reports = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = oneshot::channel::<()>();

        let mut hosts = plan.hosts;
        hosts.push(address.to_string());
        let credential = Credential { username: "stated".into(), password: PASSWORD.into() };
        let report: Report = {
            let reports = Arc::clone(&reports);
            Arc::new(move |text| reports.lock().unwrap().push(text.to_owned()))
        };
        let model = Arc::new(Model {
            backend: Arc::new(Scoped::new(Arc::clone(&fake), plan.scope, Arc::clone(&report))),
            work: Arc::clone(&work),
            under: plan.under,
            labels: [("directory".to_owned(), "build-7:/srv/infra".to_owned())].into(),
            program: "terraform".into(),
            report,
        });
        let gateway = Arc::new(Gateway {
            guard: Guard::new(hosts, credential),
            states: plan.states,
            terraform: Terraform { model: Arc::clone(&model) },
            aws: Some(Aws::new(Arc::clone(&model), aws::keys())),
            proxy: Some(Proxy::new(None)),
            model,
            memory: Memory::new(),
        });
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = Listener::Tcp(tokio::net::TcpListener::from_std(socket).unwrap());
                gateway.serve(listener, async { drop(ended.await) }).await;
            });
        });
        Self { address, fake, work, reports, end: Some(end), thread: Some(thread) }
    }

    /// Sends one request with the right credential.
    fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        self.ask_with(method, path, "", body.as_bytes())
    }

    fn ask_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        ask_at(self.address, method, path, headers, body)
    }

    fn reports(&self) -> Vec<String> {
        self.reports.lock().unwrap().clone()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

/// `Authorization` of the rig's credential.
fn authorization() -> String {
    format!("Basic {}", STANDARD.encode(format!("stated:{PASSWORD}")))
}

fn ask_at(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        authorization(),
        body.len()
    );
    raw(address, &[head.as_bytes(), body].concat()).expect("an answer")
}

/// Sends bytes and reads to the end; `None` where the connection is dropped without an answer.
fn raw(address: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).unwrap();
    // A refusal may come, and the connection go, before the whole body is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Reply { status, head: head.to_lowercase(), body: answer[end + 4..].to_vec() })
}

#[derive(Debug)]
struct Reply {
    status: u16,
    /// In lower case.
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn lock_document(id: &str) -> String {
    format!(
        r#"{{"ID":"{id}","Operation":"OperationTypeApply","Info":"","Who":"alice@laptop","Version":"1.11.4","Created":"2026-11-23T12:00:00.5Z","Path":""}}"#
    )
}

fn state_name(name: &str) -> StateName {
    StateName::parse(name).unwrap()
}
