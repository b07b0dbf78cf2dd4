//! What clients say of a content besides: kept as labels of the version.

use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName};
use stated_shared::VersionInfo;
use stated_shared::limits::{LABEL_LEN_MAX, LABELS_MAX};

use super::super::aws::Answer;
use super::super::aws::refusal::Refusal;
use super::Call;

/// What a client's own names begin with, as header and as label.
const PREFIX: &str = "x-amz-meta-";
/// Labels that the gateway adds.
const OTHERS: usize = 4;

/// The labels of a request's metadata.
pub fn read(call: &Call<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let mut labels = BTreeMap::new();
    for (name, value) in &call.head.headers {
        if name.as_str().starts_with(PREFIX) || name == CONTENT_TYPE {
            let value = value.to_str().map_err(|_| too_large())?;
            labels.insert(name.to_string(), value.to_owned());
        }
    }
    let fits = labels.iter().all(|(name, value)| name.len().max(value.len()) <= LABEL_LEN_MAX);
    if fits && labels.len() + OTHERS <= LABELS_MAX { Ok(labels) } else { Err(too_large()) }
}

fn too_large() -> Refusal {
    let message =
        format!("metadata here are at most {} names and values of {LABEL_LEN_MAX} bytes", LABELS_MAX - OTHERS);
    Refusal::new(StatusCode::BAD_REQUEST, "MetadataTooLarge", message)
}

/// What was said of a version.
pub fn of(version: &VersionInfo) -> BTreeMap<String, String> {
    let is_said = |name: &str| name.starts_with(PREFIX) || name == CONTENT_TYPE.as_str();
    let said = version.labels.iter().filter(|(name, _)| is_said(name));
    said.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Adds what was said of the version.
pub fn told(answer: Answer, version: &VersionInfo) -> Answer {
    of(version).into_iter().fold(answer, |answer, (name, value)| match HeaderName::try_from(name) {
        Ok(name) => answer.with(name, &value),
        Err(_) => answer,
    })
}
