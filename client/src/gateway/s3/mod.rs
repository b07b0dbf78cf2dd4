//! S3, as far as state clients need it: objects are states, their versions ours, `.tflock` objects are locks.
//!
//! The room knows no socket; a request's head and body come in, an answer goes out. docs/gateway.md has the operations.

mod bucket;
mod checksum;
mod condition;
mod copy;
mod list;
mod lock_file;
mod metadata;
mod multipart;
mod object;
mod range;
mod request;
mod versions;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::request::Parts;
use stated_shared::{Digest, Failure, Timestamp};

use super::STATE_LEN_MAX;
use super::aws::Answer;
use super::aws::locks::Locks;
use super::aws::refusal::{Refusal, Service, of_failure};
use super::backend::Backend;
use super::model::{FindOwner, Model};
use multipart::Uploads;
pub use request::Operation;

/// Longest list of parts or of keys, in bytes.
const LIST_LEN_MAX: usize = 2 << 20;
/// Longest lock document, and a little more: what is longer is refused by who reads it.
const LOCK_LEN_MAX: usize = 32 << 10;

/// Translates S3's requests.
pub struct S3<B> {
    model: Arc<Model<B>>,
    locks: Arc<Locks<B>>,
    uploads: Uploads,
    /// The content of which a range was read last, by its SHA-256: a version's number comes again where a journal went back.
    last_read: Mutex<Option<(Digest, Bytes)>>,
    /// The answers to conditional writes, oldest first, by the ID that their client gave all of its attempts.
    conditional: Mutex<VecDeque<(String, Answer)>>,
}

/// One request, let in and read to its end.
pub struct Call<'a> {
    /// Its head.
    pub head: &'a Parts,
    /// Its body.
    pub body: Vec<u8>,
    /// What came after the body of the checksums that headers may hold.
    pub trailers: Vec<(String, String)>,
    /// Whose process asks.
    pub find: FindOwner<'a>,
    /// The time now.
    pub now: SystemTime,
}

impl Call<'_> {
    fn timestamp(&self) -> Timestamp {
        super::timestamp(self.now)
    }

    fn failed(&self, failure: &Failure) -> Refusal {
        of_failure(Service::S3, failure, self.timestamp())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Operation {
    /// Longest body, in bytes.
    pub fn body_len_max(&self) -> usize {
        match self {
            Self::PutObject(_) | Self::UploadPart { .. } => STATE_LEN_MAX,
            Self::CompleteMultipartUpload { .. } | Self::DeleteObjects { .. } => LIST_LEN_MAX,
            Self::CreateBucket => LOCK_LEN_MAX,
            Self::CreateLock(_) => LOCK_LEN_MAX,
            _ => 0,
        }
    }
}

impl<B: Backend> S3<B> {
    /// The buckets of this model.
    pub fn new(model: Arc<Model<B>>, locks: Arc<Locks<B>>) -> Self {
        Self { model, locks, uploads: Uploads::default(), last_read: Mutex::default(), conditional: Mutex::default() }
    }

    /// Answers one request; blocks as long as the daemon does.
    pub fn answer(&self, operation: Operation, call: &mut Call<'_>) -> Answer {
        let result = unsupported(call).and_then(|()| match operation {
            Operation::ListBuckets => self.buckets(call),
            Operation::HeadBucket => Ok(Answer::empty(StatusCode::OK)),
            Operation::CreateBucket => Err(bucket::created()),
            Operation::GetBucketLocation => Ok(bucket::location()),
            Operation::GetBucketVersioning => Ok(bucket::versioning()),
            Operation::ListObjects { bucket, list, is_v2 } => self.list(call, &bucket, &list, is_v2),
            Operation::ListObjectVersions { bucket, list, before } => self.versions(call, &bucket, &list, before),
            Operation::DeleteObjects { bucket } => self.delete_many(call, &bucket),
            Operation::GetObject(place, at) => self.get(call, &place, at),
            Operation::HeadObject(place, at) => self.head(call, &place, at),
            Operation::PutObject(place) => self.put(call, &place),
            Operation::CopyObject { place, from, at } => self.copy(call, &place, &from, &at),
            Operation::DeleteObject(place) => self.delete(call, &place),
            Operation::CreateMultipartUpload(place) => self.create_upload(call, place),
            Operation::UploadPart { place, upload, number } => self.upload_part(call, &place, &upload, number),
            Operation::CompleteMultipartUpload { place, upload } => self.complete_upload(call, &place, &upload),
            Operation::AbortMultipartUpload { upload } => self.abort_upload(&upload),
            Operation::ReadLock(place) => self.read_lock(call, &place),
            Operation::CreateLock(place) => self.create_lock(call, &place),
            Operation::DeleteLock(place) => self.delete_lock(call, &place),
        });
        result.unwrap_or_else(|refusal| refusal.answer(Service::S3))
    }
}

/// Headers that ask for what is not done here. Encryption of the store's own kind is: everything is encrypted.
fn unsupported(call: &Call<'_>) -> Result<(), Refusal> {
    const NEVER: [(&str, &str); 7] = [
        ("x-amz-server-side-encryption-customer-", "encryption with a customer's key"),
        ("x-amz-object-lock-", "object lock"),
        ("x-amz-tagging", "tags of objects"),
        ("x-amz-website-redirect-location", "redirects"),
        ("x-amz-grant-", "access control lists"),
        ("x-amz-if-match-", "conditions on an object's date or size"),
        ("x-amz-write-offset-bytes", "appending to objects"),
    ];
    for name in call.head.headers.keys().map(|name| name.as_str()) {
        if let Some((_, what)) = NEVER.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            return Err(Refusal::not_implemented(what));
        }
    }
    match call.header("x-amz-acl") {
        None | Some("private" | "bucket-owner-full-control") => {}
        Some(_) => {
            let message = "objects here belong to whoever the daemon's policy says; access control lists mean nothing";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "AccessControlListNotSupported", message));
        }
    }
    match call.header("x-amz-storage-class") {
        None | Some("STANDARD") => Ok(()),
        Some(_) => Err(Refusal::new(StatusCode::BAD_REQUEST, "InvalidStorageClass", "the storage class is STANDARD")),
    }
}

/// An entity tag: the content's SHA-256, which is no MD5 and cannot be taken for one.
fn etag(sha256: &Digest) -> String {
    format!("\"{sha256}\"")
}
