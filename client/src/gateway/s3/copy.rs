//! Copies: of other objects, and of old versions to where they were.

use hyper::StatusCode;
use hyper::header::{ETAG, HeaderMap, HeaderName};
use stated_shared::Selector;

use super::super::aws::Answer;
use super::super::aws::place::Place;
use super::super::aws::refusal::Refusal;
use super::super::aws::xml::Document;
use super::super::backend::Backend;
use super::super::{percent, timestamp};
use super::list::date;
use super::object::{missing, present};
use super::request::{of_place, version};
use super::{Call, S3, metadata};

const SOURCE: &str = "x-amz-copy-source";
const SOURCE_VERSION: HeaderName = HeaderName::from_static("x-amz-copy-source-version-id");

/// What an object is to be copied from, where it is: `/BUCKET/KEY`, perhaps with `?versionId=N`.
pub fn source(headers: &HeaderMap) -> Result<Option<(Place, Selector)>, Refusal> {
    let Some(value) = headers.get(SOURCE) else { return Ok(None) };
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", format!("{SOURCE} is no /BUCKET/KEY"));
    let value = value.to_str().map_err(|_| bad())?;
    let (path, at) = match value.split_once("?versionId=") {
        Some((path, id)) => (path, Selector::Version(version(id)?)),
        None => (value, Selector::Newest),
    };
    let path = percent::decode(path).ok_or_else(bad)?;
    let (bucket, key) = path.trim_start_matches('/').split_once('/').ok_or_else(bad)?;
    Ok(Some((Place::new(bucket, key).map_err(of_place)?, at)))
}

impl<B: Backend> S3<B> {
    pub(super) fn copy(&self, call: &Call<'_>, place: &Place, from: &Place, at: &Selector) -> Result<Answer, Refusal> {
        if call.head.headers.keys().any(|name| name.as_str().starts_with("x-amz-copy-source-if-")) {
            return Err(Refusal::not_implemented("CopyObject on a condition of its source"));
        }
        let found = self.model.backend.get(&from.state, at.clone());
        let (source, bytes) = found.map_err(|failure| missing(call, from, at, &failure))?;
        present(&source, from, at)?;
        let labels = match call.header("x-amz-metadata-directive") {
            None | Some("COPY") => metadata::of(&source),
            Some("REPLACE") => metadata::read(call)?,
            Some(_) => {
                let message = "x-amz-metadata-directive is COPY or REPLACE";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", message));
            }
        };
        let expect = self.expected(call, &place.state)?;
        let written = self.write(call, &place.state, expect, bytes, labels)?;
        let mut document = Document::new("CopyObjectResult");
        document.text("LastModified", date(timestamp(call.now)));
        if let Some(tag) = written.headers.get(ETAG).and_then(|tag| tag.to_str().ok()) {
            document.text("ETag", tag);
        }
        let mut answer = Answer::of(StatusCode::OK, "application/xml", document.finish());
        answer
            .headers
            .extend(written.headers.into_iter().filter(|(name, _)| name.as_ref().is_some_and(|name| name != ETAG)));
        Ok(answer.with(SOURCE_VERSION, source.version.to_string()))
    }
}
