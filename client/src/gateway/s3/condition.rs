//! Conditional requests: `If-Match` and its kin.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use stated_shared::{Expect, FailureKind, Selector, StateName, VersionInfo};

use super::super::aws::refusal::Refusal;
use super::super::backend::Backend;
use super::{Call, S3, etag};

fn failed(name: &str) -> Refusal {
    Refusal::new(
        StatusCode::PRECONDITION_FAILED,
        "PreconditionFailed",
        format!("at least one of the preconditions did not hold: {name}"),
    )
}

/// Whether a header names the tag; `*` names any.
fn names(header: &str, tag: &str) -> bool {
    header.split(',').map(str::trim).any(|one| one == "*" || one.trim_matches('"') == tag.trim_matches('"'))
}

/// When the version was made, in whole seconds as HTTP's dates are.
pub fn modified(version: &VersionInfo) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(version.time.0 / 1000)
}

/// Checks the conditions of a read; `Ok(true)` where the client has what is there.
pub fn of_read(call: &Call<'_>, version: &VersionInfo) -> Result<bool, Refusal> {
    let Some(content) = &version.content else { return Ok(false) };
    let (tag, modified) = (etag(&content.sha256), modified(version));
    let date = |name: &str| call.header(name).and_then(|text| httpdate::parse_http_date(text).ok());
    match call.header("if-match") {
        Some(header) if !names(header, &tag) => return Err(failed("If-Match")),
        None if date("if-unmodified-since").is_some_and(|date| modified > date) => {
            return Err(failed("If-Unmodified-Since"));
        }
        _ => {}
    }
    Ok(match call.header("if-none-match") {
        Some(header) => names(header, &tag),
        None => date("if-modified-since").is_some_and(|date| modified <= date),
    })
}

/// Whether a write is conditional.
pub fn is_conditional(call: &Call<'_>) -> bool {
    call.header("if-match").is_some() || call.header("if-none-match").is_some()
}

impl<B: Backend> S3<B> {
    /// What a write expects to find.
    pub(super) fn expected(&self, call: &Call<'_>, state: &StateName) -> Result<Expect, Refusal> {
        match (call.header("if-match"), call.header("if-none-match")) {
            (None, None) => Ok(Expect::Any),
            (None, Some("*")) => Ok(Expect::Absent),
            (None, Some(_)) => Err(Refusal::not_implemented("If-None-Match of a write with anything but *")),
            (Some(header), None) => self.matching(call, state, header),
            (Some(_), Some(_)) => Err(Refusal::not_implemented("If-Match together with If-None-Match")),
        }
    }

    /// What a write expects to find that is only for what has one of these tags.
    pub(super) fn matching(&self, call: &Call<'_>, state: &StateName, tags: &str) -> Result<Expect, Refusal> {
        let newest = match self.model.backend.show(state, Selector::Newest) {
            Err(failure) if failure.kind == FailureKind::NotFound => None,
            result => Some(result.map_err(|failure| call.failed(&failure))?),
        };
        let newest = newest.filter(|newest| newest.content.is_some());
        let Some((newest, content)) = newest.as_ref().and_then(|newest| Some((newest, newest.content.as_ref()?)))
        else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "NoSuchKey", format!("{state} does not exist")));
        };
        if names(tags, &etag(&content.sha256)) {
            // Whoever writes in between is noticed by the daemon.
            Ok(Expect::Version(newest.version))
        } else {
            Err(failed("If-Match"))
        }
    }
}
