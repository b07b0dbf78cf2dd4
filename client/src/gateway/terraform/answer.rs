//! What a request is answered with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use md5::{Digest as _, Md5};
use stated_shared::{Detail, Failure, FailureKind, Timestamp};

use super::super::body::CONTENT_MD5;
use super::super::lock_document;

/// A status and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Vec<u8>,
    /// The body's MD5 in base64 where it is a document; a sentence for people has none.
    md5: Option<String>,
}

impl Answer {
    /// Done; nothing to add.
    pub fn done() -> Self {
        Self { status: StatusCode::OK, body: Vec::new(), md5: None }
    }

    /// A document.
    pub fn json(status: StatusCode, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let md5 = Some(STANDARD.encode(Md5::digest(&body)));
        Self { status, body, md5 }
    }

    /// A sentence.
    pub fn text(status: StatusCode, text: impl std::fmt::Display) -> Self {
        Self { status, body: format!("{text}\n").into_bytes(), md5: None }
    }

    /// A failure of the daemon; where a lock is in the way, its holder's document.
    pub fn failure(failure: &Failure, now: Timestamp) -> Self {
        let status = status_of(failure.kind);
        if let Detail::Held { holders, waiters } = &failure.detail
            && let Some(document) = lock_document::refusal(holders, *waiters, now)
        {
            return Self::json(status, document);
        }
        match &failure.hint {
            Some(hint) => Self::text(status, format_args!("{failure}\n{hint}")),
            None => Self::text(status, failure),
        }
    }

    /// The answer as hyper sends it.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body.into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let kind = if self.md5.is_some() { "application/json" } else { "text/plain; charset=utf-8" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(md5) = self.md5.and_then(|md5| HeaderValue::from_str(&md5).ok()) {
            headers.insert(CONTENT_MD5, md5);
        }
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"stated\""))
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, POST, PUT, DELETE, LOCK, UNLOCK"))
            }
            _ => None,
        };
        response
    }
}

/// Terraform retries 5xx, except 501, and takes 409 and 423 of LOCK for a held lock.
fn status_of(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::Busy => StatusCode::LOCKED,
        FailureKind::Conflict => StatusCode::CONFLICT,
        FailureKind::NotFound => StatusCode::NOT_FOUND,
        FailureKind::Denied => StatusCode::FORBIDDEN,
        FailureKind::Usage => StatusCode::BAD_REQUEST,
        FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // A retry could not help: the versions do not match, or the configuration is wrong.
        FailureKind::Protocol | FailureKind::Config => StatusCode::NOT_IMPLEMENTED,
        FailureKind::Storage | FailureKind::Internal | FailureKind::Other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_asked_for_only_where_it_can_help() {
        let response = |kind| Answer::failure(&Failure::new(kind, "x").hint("y"), Timestamp(0)).into_response();
        let unavailable = response(FailureKind::Unavailable);
        assert_eq!(unavailable.status(), 503);
        assert_eq!(unavailable.headers()[RETRY_AFTER], "1");
        assert_eq!(response(FailureKind::Config).status(), 501);
        assert_eq!(response(FailureKind::Denied).status(), 403);
    }

    #[test]
    fn documents_carry_their_md5() {
        let response = Answer::json(StatusCode::OK, "{}").into_response();
        assert_eq!(response.headers()[CONTENT_MD5], "mZFLkyvTelC5g8XnyQrpOw==");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert!(Answer::text(StatusCode::OK, "x").into_response().headers().get(CONTENT_MD5).is_none());
    }
}
