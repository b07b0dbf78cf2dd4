//! Lets AWS clients in: tells the services apart and checks signatures, before a body is read where that is possible.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use hyper::http::request::Parts;

use super::super::backend::Backend;
use super::super::body::BodyError;
use super::super::dynamodb::{self, DynamoDb};
use super::super::environment::constant_keys;
use super::super::guard::Credential;
use super::super::model::{FindOwner, Model};
use super::super::s3::{self, Operation, S3};
use super::super::{sts, timestamp};
use super::answer::Answer;
use super::chunked::{self, Decoded, Form};
use super::locks::Locks;
use super::refusal::{Refusal, Service};
use super::signature::{self, Claim, SignatureError, UNSIGNED, one};

/// The services of one gateway.
pub struct Aws<B> {
    keys: Credential,
    constant: Credential,
    s3: S3<B>,
    dynamodb: DynamoDb<B>,
}

/// Which keys a request is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// The run's own.
    Run,
    /// Those that directories are initialised with. They let nobody in: the proxy's credential did.
    Constant,
}

/// A request that may be read to its end.
#[derive(Debug)]
pub struct Admitted {
    service: Service,
    claim: Claim,
    keys: Keys,
    ask: Ask,
    /// Longest body, in bytes.
    pub body_len_max: usize,
}

#[derive(Debug)]
enum Ask {
    S3 { operation: Operation, payload: String },
    DynamoDb { target: String },
    Sts,
}

impl Admitted {
    /// What is answered where the body could not be read.
    pub fn unread(&self, error: &BodyError) -> Answer {
        let (status, code) = match error {
            BodyError::TooLong { .. } => (StatusCode::BAD_REQUEST, "EntityTooLarge"),
            BodyError::Memory => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            BodyError::Slow => (StatusCode::BAD_REQUEST, "RequestTimeout"),
            BodyError::Cut(_) => (StatusCode::BAD_REQUEST, "IncompleteBody"),
            BodyError::Md5 => (StatusCode::BAD_REQUEST, "BadDigest"),
        };
        Refusal::new(status, code, error.to_string()).answer(self.service)
    }
}

impl<B: Backend> Aws<B> {
    /// Lets in who has these keys.
    pub fn new(model: Arc<Model<B>>, keys: Credential) -> Self {
        let locks = Arc::new(Locks::new(Arc::clone(&model)));
        let s3 = S3::new(Arc::clone(&model), Arc::clone(&locks));
        Self { keys, constant: constant_keys(), s3, dynamodb: DynamoDb::new(model, locks) }
    }

    /// Checks a request's head.
    pub fn admit(&self, head: &Parts, keys: Keys, now: SystemTime) -> Result<Admitted, Box<Answer>> {
        let claim = Claim::read(&head.headers);
        let service = match &claim {
            Ok(claim) if claim.service == "dynamodb" => Service::DynamoDb,
            Ok(claim) if claim.service == "sts" => Service::Sts,
            // DynamoDB's clients, and those of its kin, say so.
            _ if head.headers.contains_key("x-amz-target") => Service::DynamoDb,
            _ => Service::S3,
        };
        let refused = |refusal: Refusal| Box::new(refusal.answer(service));
        let claim = claim.map_err(|error| refused(unsigned(service, error)))?;
        let (ask, body_len_max) = match (service, claim.service.as_str()) {
            (Service::DynamoDb, "dynamodb") => {
                let target = one(&head.headers, "x-amz-target").unwrap_or_default().to_owned();
                (Ask::DynamoDb { target }, dynamodb::BODY_LEN_MAX)
            }
            (Service::Sts, _) => (Ask::Sts, sts::BODY_LEN_MAX),
            (Service::S3, "s3") => {
                let payload = payload(head).map_err(refused)?;
                self.check(&claim, keys, head, &payload, now).map_err(|error| refused(unsigned(service, error)))?;
                let operation = Operation::read(head).map_err(refused)?;
                let mut body_len_max = operation.body_len_max();
                if body_len_max > 0 && Form::read(&payload).is_some() {
                    body_len_max = Form::encoded_len_max(body_len_max);
                }
                (Ask::S3 { operation, payload }, body_len_max)
            }
            (_, other) => {
                return Err(refused(Refusal::not_implemented(format_args!(
                    "the service {other:?}: it speaks S3, DynamoDB and STS only"
                ))));
            }
        };
        Ok(Admitted { service, claim, keys, ask, body_len_max })
    }

    /// Answers an admitted request; blocks as long as the daemon does.
    pub fn answer(
        &self,
        admitted: Admitted,
        head: &Parts,
        body: Vec<u8>,
        find: FindOwner<'_>,
        now: SystemTime,
    ) -> Answer {
        let Admitted { service, claim, keys, ask, .. } = admitted;
        match ask {
            Ask::S3 { operation, payload } => {
                let (body, trailers) = match self.body(&claim, keys, head, &payload, body) {
                    Ok(decoded) => decoded,
                    Err(refusal) => return refusal.answer(service),
                };
                if body.len() > operation.body_len_max() {
                    let error = BodyError::TooLong { max: operation.body_len_max() };
                    return Refusal::new(StatusCode::BAD_REQUEST, "EntityTooLarge", error.to_string()).answer(service);
                }
                self.s3.answer(operation, &mut s3::Call { head, body, trailers, find, now })
            }
            Ask::DynamoDb { .. } | Ask::Sts => {
                if let Err(error) = self.check(&claim, keys, head, &signature::sha256(&body), now) {
                    return unsigned(service, error).answer(service);
                }
                match ask {
                    Ask::DynamoDb { target } => self.dynamodb.answer(&target, &body, find, timestamp(now)),
                    _ => sts::answer(&body, rustix::process::geteuid().as_raw()),
                }
            }
        }
    }

    /// The body as it is meant, checked against what the head says of it.
    fn body(&self, claim: &Claim, keys: Keys, head: &Parts, payload: &str, body: Vec<u8>) -> Result<Decoded, Refusal> {
        if let Some(form) = Form::read(payload) {
            let len = one(&head.headers, "x-amz-decoded-content-length").and_then(|len| len.parse().ok());
            return chunked::decode(body, form, claim.chunk_signer(self.keys(keys)), len);
        }
        if payload != UNSIGNED && payload != signature::sha256(&body) {
            let message = "the body does not match x-amz-content-sha256";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch", message));
        }
        Ok((body, Vec::new()))
    }

    fn keys(&self, keys: Keys) -> &Credential {
        match keys {
            Keys::Run => &self.keys,
            Keys::Constant => &self.constant,
        }
    }

    fn check(
        &self,
        claim: &Claim,
        keys: Keys,
        head: &Parts,
        payload: &str,
        now: SystemTime,
    ) -> Result<(), SignatureError> {
        claim.check(self.keys(keys), (&head.method, &head.uri, &head.headers), payload, now)
    }
}

/// What the client says of its body's hash.
fn payload(head: &Parts) -> Result<String, Refusal> {
    let missing = || {
        let message = "the header x-amz-content-sha256 is missing";
        Refusal::new(StatusCode::BAD_REQUEST, "InvalidRequest", message)
    };
    let payload = one(&head.headers, "x-amz-content-sha256").ok_or_else(missing)?;
    let is_hash =
        payload.len() == 64 && payload.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
    if is_hash || payload == UNSIGNED || Form::read(payload).is_some() {
        return Ok(payload.to_owned());
    }
    Err(Refusal::not_implemented(format_args!("bodies of the form {payload:?}")))
}

/// A refusal for want of a right signature, by each service's own code.
fn unsigned(service: Service, error: SignatureError) -> Refusal {
    let (s3, dynamodb, sts) = match error {
        SignatureError::Absent => ("AccessDenied", "MissingAuthenticationTokenException", "MissingAuthenticationToken"),
        SignatureError::Form => ("AuthorizationHeaderMalformed", "IncompleteSignatureException", "IncompleteSignature"),
        SignatureError::Key => ("InvalidAccessKeyId", "UnrecognizedClientException", "InvalidClientTokenId"),
        SignatureError::Date => ("RequestTimeTooSkewed", "InvalidSignatureException", "SignatureDoesNotMatch"),
        SignatureError::Mismatch => ("SignatureDoesNotMatch", "InvalidSignatureException", "SignatureDoesNotMatch"),
    };
    let code = match service {
        Service::S3 => s3,
        Service::DynamoDb => dynamodb,
        Service::Sts => sts,
    };
    let status = if error == SignatureError::Form { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
    Refusal::new(status, code, error.to_string())
}
