//! Accepts connections, lets requests in, and hands them to the protocol.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use stated_shared::StateName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::aws::{self, Aws, Claim, Keys};
use super::backend::Backend;
use super::body::Memory;
use super::guard::Guard;
use super::model::Model;
use super::owner::{ClientSocket, Owner};
use super::proxy::{PassedBody, Proxy, is_for_proxy, is_own};
use super::terraform::{self, Call, STATE_PATH, Terraform};
use super::timestamp;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take to send a request's head, or be idle.
///
/// Longer than Terraform keeps an idle connection (90 s): it would send a request into one that is being closed.
const HEAD_MAX: Duration = Duration::from_secs(120);
/// Longest head, in bytes.
const HEAD_LEN_MAX: usize = 64 << 10;
/// Most header lines.
const HEADERS_MAX: usize = 64;
/// How long to wait after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long requests in flight are awaited at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Where a gateway listens.
#[derive(Debug)]
pub enum Listener {
    /// On loopback.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
enum Peer {
    Tcp(ClientSocket),
    Unix { pid: Option<u32> },
}

impl Peer {
    /// The kernel's word on a TCP connection; `None` where it is another user's, or closed again.
    fn of_tcp(client: SocketAddr, server: SocketAddr, own: u32) -> Option<Self> {
        // A socket that nobody holds any more shows uid 0, whoever it belonged to.
        let socket = ClientSocket::find(client, server)?;
        (socket.uid == own && socket.inode != 0).then_some(Self::Tcp(socket))
    }

    /// The kernel's word on a Unix connection.
    fn of_unix(stream: &UnixStream, own: u32) -> Option<Self> {
        let credentials = stream.peer_cred().ok().filter(|credentials| credentials.uid() == own)?;
        // 0 is a process of another PID namespace.
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid > 0);
        Some(Self::Unix { pid })
    }

    fn owner(&self) -> Option<Owner> {
        match self {
            Self::Tcp(socket) => socket.owner(),
            // The ID is the one that connected, held open by its connection: it is the peer unless that has ended.
            Self::Unix { pid } => Owner::open((*pid)?),
        }
    }
}

/// Which states a gateway serves.
#[derive(Debug, Clone)]
pub enum States {
    /// None: the protocol is not in use.
    None,
    /// The one of a run.
    One(StateName),
    /// Every one.
    All,
}

/// One gateway, ready to serve.
pub struct Gateway<B> {
    /// Lets requests in.
    pub guard: Guard,
    /// Which states it serves.
    pub states: States,
    /// What its requests mean.
    pub model: Arc<Model<B>>,
    /// What it makes of those of Terraform's `http` backend.
    pub terraform: Terraform<B>,
    /// What it makes of those of AWS clients, where it serves them.
    pub aws: Option<Aws<B>>,
    /// What it passes on of plain http, where it is a proxy of that.
    pub proxy: Option<Proxy>,
    /// The memory for bodies.
    pub memory: Memory,
}

impl<B: Backend> Gateway<B> {
    /// Serves until told to end, then answers what is in flight, for a little while.
    pub async fn serve(self: Arc<Self>, listener: Listener, end: impl Future<Output = ()>) {
        let own = rustix::process::geteuid().as_raw();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (closing, _) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut end = pin!(end);
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut end => break,
                accepted = accepted => accepted,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                // A peer that left, or no descriptors for now: the listener is well, and runs depend on it.
                Err(_) => {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (gateway, closing) = (Arc::clone(&self), closing.subscribe());
            connections.spawn(async move {
                let _place = place;
                let _busy = gateway.model.work.begin();
                match accepted {
                    Accepted::Tcp(stream, client, server) => {
                        let peer = spawn_blocking(move || Peer::of_tcp(client, server, own)).await.ok().flatten();
                        gateway.converse(stream, peer, closing).await;
                    }
                    Accepted::Unix(stream) => {
                        let peer = Peer::of_unix(&stream, own);
                        gateway.converse(stream, peer, closing).await;
                    }
                }
            });
        }
        drop(listener);
        closing.send_replace(true);
        let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
        connections.shutdown().await;
    }

    /// Answers the requests of one connection; one of nobody that may connect is dropped without a word.
    async fn converse<S>(self: Arc<Self>, stream: S, peer: Option<Peer>, mut closing: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(peer) = peer else { return };
        let service = service_fn(|request| {
            let (gateway, peer) = (Arc::clone(&self), peer.clone());
            async move { Ok::<_, Infallible>(gateway.answer(peer, request).await) }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .max_headers(HEADERS_MAX)
                .max_header_size(HEAD_LEN_MAX)
                .serve_connection(TokioIo::new(stream), service)
        );
        // An error here is a peer that left or spoke no HTTP, and was told so.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Incoming>) -> Response<PassedBody> {
        if is_for_proxy(request.method(), request.uri())
            && let Some(proxy) = &self.proxy
        {
            if !self.guard.is_known(request.headers(), PROXY_AUTHORIZATION) {
                return unknown_to_proxy();
            }
            if !is_own(request.uri()) {
                return proxy.forward(request).await;
            }
            let (head, body) = request.into_parts();
            return self.answer_aws(Keys::Constant, peer, head, body).await.into_response().map(Either::Left);
        }
        let (head, body) = request.into_parts();
        let response = if self.aws.is_some() && is_for_aws(&head) {
            self.answer_aws(Keys::Run, peer, head, body).await.into_response()
        } else {
            match self.answer_terraform(peer, head, body).await {
                Ok(answer) | Err(answer) => answer.into_response(),
            }
        };
        response.map(Either::Left)
    }

    async fn answer_terraform(
        self: Arc<Self>,
        peer: Peer,
        head: Parts,
        body: Incoming,
    ) -> Result<terraform::Answer, terraform::Answer> {
        use terraform::Answer;
        self.guard.check(&head.uri, &head.headers).map_err(|refusal| Answer::text(refusal.status(), refusal))?;
        let state = terraform::state(head.uri.path(), &self.states)?;
        let verb = terraform::verb(&head.method)?;
        let body = self.memory.read(body, &head.headers, verb.body_len_max()).await;
        let body = body.map_err(|error| Answer::text(error.status(), error))?;
        let id = terraform::lock_id(&head.uri);
        let busy = self.model.work.begin();
        let answered = spawn_blocking(move || {
            // A request that was read is done, also where its sender has gone meanwhile.
            let (_busy, mut body) = (busy, body);
            let owner = if verb.needs_owner() { peer.owner() } else { None };
            let now = timestamp(SystemTime::now());
            let bytes = std::mem::take(&mut body.bytes);
            self.terraform.answer(&mut Call { verb, state, id, body: bytes, owner, now })
        });
        answered.await.map_err(|_| Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed, see its log"))
    }

    async fn answer_aws(self: Arc<Self>, keys: Keys, peer: Peer, head: Parts, body: Incoming) -> aws::Answer {
        let failed = || aws::Answer::empty(StatusCode::INTERNAL_SERVER_ERROR);
        if let Err(refusal) = Guard::check_browser(&head.headers) {
            return aws::Answer::of(refusal.status(), "text/plain", refusal.to_string());
        }
        let admitted = match &self.aws {
            Some(aws) => aws.admit(&head, keys, SystemTime::now()),
            None => return failed(),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(answer) => return *answer,
        };
        let body = match self.memory.read(body, &head.headers, admitted.body_len_max).await {
            Ok(body) => body,
            Err(error) => return admitted.unread(&error),
        };
        let busy = self.model.work.begin();
        let answered = spawn_blocking(move || {
            let (_busy, mut body) = (busy, body);
            let bytes = std::mem::take(&mut body.bytes);
            let aws = self.aws.as_ref()?;
            Some(aws.answer(admitted, &head, bytes, &|| peer.owner(), SystemTime::now()))
        });
        answered.await.ok().flatten().unwrap_or_else(failed)
    }
}

/// The answer to who may not use the proxy.
fn unknown_to_proxy() -> Response<PassedBody> {
    let text = "the proxy needs this run's username and password\n";
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
    response.headers_mut().insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"stated\""));
    response
}

/// Whether a request is meant for S3, DynamoDB or STS: it is signed as theirs are, or looks like an object's.
fn is_for_aws(head: &Parts) -> bool {
    Claim::is_made(&head.headers)
        || !(head.uri.path().starts_with(STATE_PATH) || head.headers.contains_key(AUTHORIZATION))
}

enum Accepted {
    Tcp(TcpStream, SocketAddr, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                let server = stream.local_addr()?;
                // Answers are small and awaited.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, client, server))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }

    /// The port; 0 for a listener that has none.
    pub fn port(&self) -> io::Result<u16> {
        Ok(match self {
            Self::Tcp(listener) => listener.local_addr()?.port(),
            Self::Unix(_) => 0,
        })
    }

    /// The `Host` headers that name this listener.
    pub fn hosts(&self) -> io::Result<Vec<String>> {
        Ok(match self {
            Self::Tcp(listener) => vec![listener.local_addr()?.to_string()],
            Self::Unix(_) => vec!["localhost".to_owned()],
        })
    }
}

/// An address that a gateway may listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// On loopback.
    Tcp(SocketAddr),
    /// In the file system.
    Unix(PathBuf),
}

/// A text that is no such address.
#[derive(Debug, thiserror::Error)]
#[error("a gateway listens on a loopback address such as 127.0.0.1:0, or on unix:PATH, not on {0:?}")]
pub struct AddressError(String);

impl std::str::FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(error()) } else { Ok(Self::Unix(path.into())) };
        }
        let address: SocketAddr = text.parse().map_err(|_| error())?;
        if address.ip().is_loopback() { Ok(Self::Tcp(address)) } else { Err(error()) }
    }
}

#[cfg(test)]
mod address_tests {
    use super::*;

    #[test]
    fn only_loopback_and_the_file_system() {
        assert_eq!("127.0.0.1:0".parse::<Address>().unwrap(), Address::Tcp(([127, 0, 0, 1], 0).into()));
        assert_eq!("unix:/run/x".parse::<Address>().unwrap(), Address::Unix("/run/x".into()));
        assert!("[::1]:80".parse::<Address>().is_ok());
        for text in ["0.0.0.0:80", "[::]:80", "192.168.0.1:80", "localhost:80", "unix:", "", ":80", "127.0.0.1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
