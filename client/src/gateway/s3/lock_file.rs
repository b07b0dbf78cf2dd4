//! Locks as objects: what Terraform's `use_lockfile` creates beside a state.

use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, ETAG};
use stated_shared::{Digest, FailureKind};

use super::super::aws::Answer;
use super::super::aws::locks::Face;
use super::super::aws::place::Place;
use super::super::aws::refusal::{Refusal, words};
use super::super::backend::Backend;
use super::super::lock_document::LockDocument;
use super::{Call, S3, checksum, condition, etag};

impl<B: Backend> S3<B> {
    pub(super) fn read_lock(&self, call: &Call<'_>, place: &Place) -> Result<Answer, Refusal> {
        let document = self.locks.read(&place.state, Face::File, call.find).map_err(|failure| call.failed(&failure))?;
        let Some(document) = document else {
            let message = format!("{} is not locked", place.state);
            return Err(Refusal::new(StatusCode::NOT_FOUND, "NoSuchKey", message));
        };
        let tag = etag(&Digest(checksum::sha256(document.as_bytes())));
        let len = document.len().to_string();
        let answer = Answer::of(StatusCode::OK, "application/json", document).with(ETAG, tag);
        Ok(if call.head.method == hyper::Method::HEAD {
            Answer { body: Default::default(), ..answer }.with(CONTENT_LENGTH, len)
        } else {
            answer
        })
    }

    pub(super) fn create_lock(&self, call: &mut Call<'_>, place: &Place) -> Result<Answer, Refusal> {
        let body = std::mem::take(&mut call.body);
        checksum::check(call, &body)?;
        let invalid = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "InvalidRequest", message);
        if call.header("if-none-match") != Some("*") {
            let message = "a key that ends in .tflock is a lock, and is created with If-None-Match: *";
            return Err(invalid(message.to_owned()));
        }
        let document = LockDocument::parse(&body).map_err(|error| invalid(error.to_string()))?;
        match self.locks.create(&place.state, Face::File, &document, call.find) {
            Ok(()) => Ok(Answer::empty(StatusCode::OK).with(ETAG, etag(&Digest(checksum::sha256(&body))))),
            Err(failure) if failure.kind == FailureKind::Busy => Err(Refusal::new(
                StatusCode::PRECONDITION_FAILED,
                "PreconditionFailed",
                words(&failure, call.timestamp()),
            )),
            Err(failure) => Err(call.failed(&failure)),
        }
    }

    pub(super) fn delete_lock(&self, call: &Call<'_>, place: &Place) -> Result<Answer, Refusal> {
        if condition::is_conditional(call) {
            return Err(Refusal::not_implemented("the removal of a lock on a condition"));
        }
        self.locks.delete(&place.state, Face::File, call.find).map_err(|failure| call.failed(&failure))?;
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    }
}
