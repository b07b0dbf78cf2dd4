//! Buckets: every name that may be one is there, and those that hold states are listed.

use hyper::StatusCode;
use stated_shared::StateName;

use super::super::aws::Answer;
use super::super::aws::place::Place;
use super::super::aws::refusal::Refusal;
use super::super::aws::xml::Document;
use super::super::backend::Backend;
use super::list::date;
use super::{Call, S3};

impl<B: Backend> S3<B> {
    pub(super) fn buckets(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let mut document = Document::new("ListAllMyBucketsResult");
        document.open("Buckets");
        let mut after = None;
        loop {
            let page = self.model.backend.list("**", after).map_err(|failure| call.failed(&failure))?;
            let Some(last) = page.versions.last().map(|version| version.state.clone()) else { break };
            let found = page.versions.iter().find_map(|version| Some((Place::of_state(&version.state)?, version)));
            after = Some(last);
            if let Some((place, version)) = found {
                document.open("Bucket");
                document.text("Name", &place.bucket);
                document.text("CreationDate", date(version.time));
                document.close();
                // The next one: `0` follows `/`.
                after = StateName::parse(&format!("{}0", place.bucket)).ok();
            } else if !page.more {
                break;
            }
        }
        document.close();
        Ok(Answer::of(StatusCode::OK, "application/xml", document.finish()))
    }
}

/// The answer to who makes a bucket: it is there.
pub fn created() -> Refusal {
    let message = "every bucket is there, and belongs to you";
    Refusal::new(StatusCode::CONFLICT, "BucketAlreadyOwnedByYou", message)
}

/// Wherever the client believes it to be; an empty location is S3's oldest.
pub fn location() -> Answer {
    Answer::of(StatusCode::OK, "application/xml", Document::new("LocationConstraint").finish())
}

/// Versions are always kept.
pub fn versioning() -> Answer {
    let mut document = Document::new("VersioningConfiguration");
    document.text("Status", "Enabled");
    Answer::of(StatusCode::OK, "application/xml", document.finish())
}
