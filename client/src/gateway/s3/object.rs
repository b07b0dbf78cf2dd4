//! Objects: read, written and removed.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use hyper::StatusCode;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED,
};
use stated_shared::{
    Bytes, Content, ContentInfo, Digest, Expect, Failure, FailureKind, Selector, StateName, VersionInfo,
};

use super::super::aws::Answer;
use super::super::aws::place::Place;
use super::super::aws::refusal::Refusal;
use super::super::backend::Backend;
use super::super::model::Write;
use super::range::Range;
use super::{Call, S3, checksum, condition, etag, metadata};

const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");
/// What SDKs give all attempts of one request.
const INVOCATION: &str = "amz-sdk-invocation-id";
/// Answers to conditional writes that are given again.
const GIVEN_MAX: usize = 256;
const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");

impl<B: Backend> S3<B> {
    pub(super) fn get(&self, call: &Call<'_>, place: &Place, at: Selector) -> Result<Answer, Refusal> {
        let (version, bytes) = self.content(call, place, &at)?;
        let content = present(&version, place, &at)?;
        let answer = facts(&version, content);
        if condition::of_read(call, &version)? {
            return Ok(Answer { status: StatusCode::NOT_MODIFIED, ..answer });
        }
        let len = bytes.len();
        Ok(match Range::read(call.header("range"), len) {
            Range::Whole => Answer { body: bytes, ..checksum::told(call, answer, content) },
            Range::Part(from, to) => {
                let body = bytes.slice(from..to);
                let range = format!("bytes {from}-{}/{len}", to - 1);
                Answer { status: StatusCode::PARTIAL_CONTENT, body, ..answer }.with(CONTENT_RANGE, range)
            }
            Range::Unsatisfiable => return Err(out_of_range(len)),
        })
    }

    /// A version and its content.
    ///
    /// Clients read a long content range by range, so the last one that was read so is kept.
    fn content(
        &self,
        call: &Call<'_>,
        place: &Place,
        at: &Selector,
    ) -> Result<(VersionInfo, hyper::body::Bytes), Refusal> {
        let failed = |failure: Failure| missing(call, place, at, &failure);
        if call.header("range").is_none() {
            let (version, bytes) = self.model.backend.get(&place.state, at.clone()).map_err(failed)?;
            return Ok((version, bytes.into()));
        }
        let shown = self.model.backend.show(&place.state, at.clone()).map_err(failed)?;
        let mut last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sha256, bytes)) = &*last
            && sha256_of(&shown) == Some(*sha256)
        {
            return Ok((shown, bytes.clone()));
        }
        let (version, bytes) =
            self.model.backend.get(&place.state, Selector::Version(shown.version)).map_err(failed)?;
        let bytes = hyper::body::Bytes::from(bytes);
        *last = sha256_of(&version).map(|sha256| (sha256, bytes.clone()));
        Ok((version, bytes))
    }

    pub(super) fn head(&self, call: &Call<'_>, place: &Place, at: Selector) -> Result<Answer, Refusal> {
        let shown = self.model.backend.show(&place.state, at.clone());
        let version = shown.map_err(|failure| missing(call, place, &at, &failure))?;
        let content = present(&version, place, &at)?;
        let answer = facts(&version, content);
        if condition::of_read(call, &version)? {
            return Ok(Answer { status: StatusCode::NOT_MODIFIED, ..answer });
        }
        let len = usize::try_from(content.size_bytes).unwrap_or(usize::MAX);
        Ok(match Range::read(call.header("range"), len) {
            Range::Whole => checksum::told(call, answer, content).with(CONTENT_LENGTH, len.to_string()),
            Range::Part(from, to) => Answer { status: StatusCode::PARTIAL_CONTENT, ..answer }
                .with(CONTENT_RANGE, format!("bytes {from}-{}/{len}", to - 1))
                .with(CONTENT_LENGTH, (to - from).to_string()),
            Range::Unsatisfiable => return Err(out_of_range(len)),
        })
    }

    pub(super) fn put(&self, call: &mut Call<'_>, place: &Place) -> Result<Answer, Refusal> {
        let body = std::mem::take(&mut call.body);
        checksum::check(call, &body)?;
        let labels = metadata::read(call)?;
        let attempt = call.header(INVOCATION).filter(|_| condition::is_conditional(call)).map(str::to_owned);
        if let Some(answer) = attempt.as_deref().and_then(|attempt| self.given(attempt)) {
            return Ok(answer);
        }
        let expect = self.expected(call, &place.state)?;
        let answer = self.write(call, &place.state, expect, body, labels)?;
        if let Some(attempt) = attempt {
            let mut given = self.conditional.lock().unwrap_or_else(PoisonError::into_inner);
            if given.len() == GIVEN_MAX {
                given.pop_front();
            }
            given.push_back((attempt, answer.clone()));
        }
        Ok(answer)
    }

    /// What an earlier attempt of the same request was answered: it must not find in its way what it wrote itself.
    fn given(&self, attempt: &str) -> Option<Answer> {
        let given = self.conditional.lock().unwrap_or_else(PoisonError::into_inner);
        given.iter().find(|(known, _)| known == attempt).map(|(_, answer)| answer.clone())
    }

    /// Writes a whole content.
    pub(super) fn write(
        &self,
        call: &Call<'_>,
        state: &StateName,
        expect: Expect,
        body: Vec<u8>,
        labels: BTreeMap<String, String>,
    ) -> Result<Answer, Refusal> {
        let sha256 = Digest(checksum::sha256(&body));
        let content = Content::Inline(Bytes(body));
        let lock = self.model.work.relied_on(state, call.find);
        let write = Write { state: state.clone(), expect, content, lock, gateway: "s3", labels };
        let committed = self.model.write(write).map_err(|failure| call.failed(&failure))?;
        let version = committed.states.first().map(|state| state.version.to_string()).unwrap_or_default();
        Ok(Answer::empty(StatusCode::OK).with(ETAG, etag(&sha256)).with(VERSION_ID, version))
    }

    pub(super) fn delete(&self, call: &Call<'_>, place: &Place) -> Result<Answer, Refusal> {
        self.remove(call, &place.state, self.expected(call, &place.state)?)
    }

    /// Removes what is there, where it is as expected.
    pub(super) fn remove(&self, call: &Call<'_>, state: &StateName, expect: Expect) -> Result<Answer, Refusal> {
        let lock = self.model.work.relied_on(state, call.find);
        let write = Write {
            state: state.clone(),
            expect,
            content: Content::Removed,
            lock,
            gateway: "s3",
            labels: BTreeMap::new(),
        };
        match self.model.write(write) {
            Ok(committed) => {
                let version = committed.states.first().map(|state| state.version.to_string()).unwrap_or_default();
                Ok(Answer::empty(StatusCode::NO_CONTENT).with(DELETE_MARKER, "true").with(VERSION_ID, version))
            }
            // Gone is what was asked for.
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(Answer::empty(StatusCode::NO_CONTENT)),
            Err(failure) => Err(call.failed(&failure)),
        }
    }
}

fn sha256_of(version: &VersionInfo) -> Option<Digest> {
    version.content.as_ref().map(|content| content.sha256)
}

/// What the headers say of a version.
fn facts(version: &VersionInfo, content: &ContentInfo) -> Answer {
    let mut answer = Answer::empty(StatusCode::OK)
        .with(ETAG, etag(&content.sha256))
        .with(LAST_MODIFIED, httpdate::fmt_http_date(condition::modified(version)))
        .with(VERSION_ID, version.version.to_string());
    answer.headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("binary/octet-stream"));
    metadata::told(answer, version)
}

/// The content of a version that has one.
pub(super) fn present<'v>(version: &'v VersionInfo, place: &Place, at: &Selector) -> Result<&'v ContentInfo, Refusal> {
    version.content.as_ref().ok_or_else(|| match at {
        Selector::Newest => Refusal::new(StatusCode::NOT_FOUND, "NoSuchKey", format!("{} was removed", place.state)),
        _ => Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("version {} of {} is a removal", version.version, place.state),
        ),
    })
}

pub(super) fn missing(call: &Call<'_>, place: &Place, at: &Selector, failure: &Failure) -> Refusal {
    let mut refusal = call.failed(failure);
    if failure.kind == FailureKind::NotFound && *at != Selector::Newest {
        refusal.code = "NoSuchVersion";
    }
    if failure.kind == FailureKind::NotFound {
        refusal.message = format!("{} does not exist here: {failure}", place.state);
    }
    refusal
}

fn out_of_range(len: usize) -> Refusal {
    let message = format!("the content has {len} bytes");
    Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", message)
}
