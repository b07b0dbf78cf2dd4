//! Plain http requests of a command whose `HTTP_PROXY` is the gateway: those for its own hosts are answered here,
//! others go on, unread, to the user's own proxy or to where they are meant to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION, TE, TRAILER, UPGRADE};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::environment::DOMAIN;
use super::percent;

/// How long another server may take to accept.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// How long it may take to begin its answer: some wait for a long time, and their clients know best.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// What concerns one connection only, besides what its `Connection` header names.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    UPGRADE,
];

/// A body of our own, or one that passes through.
pub type PassedBody = Either<Full<Bytes>, Passing>;

/// The user's own proxy.
#[derive(Debug, PartialEq, Eq)]
struct Upstream {
    /// Host and port.
    address: String,
    authorization: Option<HeaderValue>,
}

/// Passes requests on.
#[derive(Debug)]
pub struct Proxy {
    upstream: Result<Option<Upstream>, NotHttp>,
}

/// A proxy that is not spoken to by http.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("HTTP_PROXY was set to what is no http proxy, so requests cannot go on to it")]
struct NotHttp;

/// Why a request did not go on.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("{0} is no host of this gateway")]
    Unknown(String),
    #[error("a gateway passes on requests of plain http only")]
    Target,
    #[error(transparent)]
    Upstream(#[from] NotHttp),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("{0} does not answer")]
    Late(String),
    #[error("{address} does not answer: {source}")]
    Answer { address: String, source: hyper::Error },
}

/// Whether a request's target is a proxy's.
pub fn is_for_proxy(method: &Method, uri: &Uri) -> bool {
    method == Method::CONNECT || uri.authority().is_some()
}

/// The service that a target on one of the gateway's own hosts is for.
pub fn is_own(uri: &Uri) -> bool {
    let name = uri.host().and_then(|host| host.strip_suffix(DOMAIN)?.strip_suffix('.'));
    name.is_some_and(|name| ["s3", "dynamodb", "sts"].contains(&name))
}

impl Proxy {
    /// One that passes requests on to this proxy, or itself where there is none.
    pub fn new(upstream: Option<&str>) -> Self {
        Self { upstream: upstream.map(Upstream::parse).transpose() }
    }

    /// Passes a request on; a failure is an answer too.
    pub async fn forward(&self, request: Request<Incoming>) -> Response<PassedBody> {
        match self.try_forward(request).await {
            Ok(response) => response,
            Err(error) => {
                let mut response = Response::new(Either::Left(Full::new(format!("{error}\n").into())));
                *response.status_mut() = match error {
                    ForwardError::Target => StatusCode::METHOD_NOT_ALLOWED,
                    ForwardError::Late(_) => StatusCode::GATEWAY_TIMEOUT,
                    _ => StatusCode::BAD_GATEWAY,
                };
                response
            }
        }
    }

    async fn try_forward(&self, mut request: Request<Incoming>) -> Result<Response<PassedBody>, ForwardError> {
        let uri = request.uri().clone();
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or(ForwardError::Target)?;
        if authority.host().ends_with(&format!(".{DOMAIN}")) {
            return Err(ForwardError::Unknown(authority.host().to_owned()));
        }
        remove_hop_by_hop(request.headers_mut());
        let address = match self.upstream.as_ref().map_err(|error| *error)? {
            Some(upstream) => {
                if let Some(authorization) = &upstream.authorization {
                    request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
                }
                upstream.address.clone()
            }
            None => {
                let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
                *request.uri_mut() = Uri::from(path);
                let host = authority.host().trim_start_matches('[').trim_end_matches(']');
                let port = authority.port_u16().unwrap_or(80);
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
            }
        };
        // The target counts, whatever the client wrote beside it.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }

        let connected = timeout(CONNECT_MAX, TcpStream::connect(&address)).await;
        let stream = connected
            .map_err(|_| ForwardError::Late(address.clone()))?
            .map_err(|source| ForwardError::Connect { address: address.clone(), source })?;
        let broken = |source| ForwardError::Answer { address: address.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = Driven(tokio::spawn(async move { drop(connection.await) }));
        let answered = timeout(ANSWER_MAX, sender.send_request(request)).await;
        let mut response = answered.map_err(|_| ForwardError::Late(address.clone()))?.map_err(broken)?;
        remove_hop_by_hop(response.headers_mut());
        Ok(response.map(|body| Either::Right(Passing { body, _connection: connection })))
    }
}

impl Upstream {
    /// Reads `http://user:password@host:port/`, of which all but the host may be absent.
    fn parse(url: &str) -> Result<Self, NotHttp> {
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(NotHttp),
            None => url,
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let address = if has_port { host.to_owned() } else { format!("{host}:80") };
        let authorization = user.and_then(|user| {
            let user = percent::decode(user)?;
            HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(user))).ok()
        });
        if host.is_empty() { Err(NotHttp) } else { Ok(Self { address, authorization }) }
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The task that drives a connection, for as long as this is kept.
#[derive(Debug)]
struct Driven(JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body on its way, and the connection that it comes by.
#[derive(Debug)]
pub struct Passing {
    body: Incoming,
    _connection: Driven,
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_own_hosts_are_told_from_others() {
        let own = |uri: &str| is_own(&uri.parse().unwrap());
        assert!(own("http://s3.stated.invalid/b/k") && own("http://dynamodb.stated.invalid/"));
        assert!(!own("http://example.com/") && !own("http://ec2.stated.invalid/") && !own("/b/k"));
        assert!(is_for_proxy(&Method::GET, &"http://example.com/".parse().unwrap()));
        assert!(is_for_proxy(&Method::CONNECT, &"example.com:443".parse().unwrap()));
        assert!(!is_for_proxy(&Method::GET, &"/b/k".parse().unwrap()));
    }

    #[test]
    fn the_users_proxy_is_read_as_it_is_written() {
        let parse = |url| Upstream::parse(url).map(|upstream| (upstream.address, upstream.authorization));
        assert_eq!(parse("http://proxy:3128/"), Ok(("proxy:3128".into(), None)));
        assert_eq!(parse("proxy"), Ok(("proxy:80".into(), None)));
        let basic = HeaderValue::from_static("Basic YTpiQA==");
        assert_eq!(parse("http://a:b%40@[::1]:1"), Ok(("[::1]:1".into(), Some(basic))));
        for url in ["https://proxy", "socks5://proxy:1", "", "http://"] {
            assert_eq!(parse(url), Err(NotHttp), "{url}");
        }
    }

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, x-mine"), ("x-mine", "1"), ("te", "x"), ("x-other", "2")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.insert(PROXY_AUTHORIZATION, HeaderValue::from_static("secret"));
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }
}
