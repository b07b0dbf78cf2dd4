//! Versions of objects, and many removals at once.

use std::collections::BTreeMap;

use hyper::StatusCode;
use stated_shared::{FailureKind, Version, VersionInfo};

use super::super::aws::Answer;
use super::super::aws::place::Place;
use super::super::aws::refusal::Refusal;
use super::super::aws::xml::{self, Document};
use super::super::backend::Backend;
use super::list::describe;
use super::request::{List, Operation, of_place};
use super::{Call, S3};

/// Keys of one request to remove many.
const KEYS_MAX: usize = 1000;

/// An object of a request to remove many.
#[derive(Default)]
struct Named {
    key: String,
    /// The tag that it must have.
    tag: Option<String>,
    /// What else is said of it, and not understood.
    other: Option<String>,
}

impl<B: Backend> S3<B> {
    /// Versions of the objects that are listed; of a removed one where its whole key is asked for.
    pub(super) fn versions(
        &self,
        call: &Call<'_>,
        bucket: &str,
        list: &List,
        before: Option<Version>,
    ) -> Result<Answer, Refusal> {
        if list.delimiter.is_some() {
            return Err(Refusal::not_implemented("ListObjectVersions with a delimiter"));
        }
        let mut rows: Vec<(String, VersionInfo, bool)> = Vec::new();
        let (keys, more_keys) = self.keys(call, bucket, list, before)?;
        // One row more than fits, to know whether there are more.
        let wanted = list.max + 1;
        for (key, before) in keys {
            let place = Place::new(bucket, &key).map_err(of_place)?;
            let mut before = before;
            while rows.len() < wanted {
                let page = match self.model.backend.log(&place.state, before) {
                    // The key was not listed, but came as a prefix or a marker: that reaches nothing, and is no failure.
                    Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::Denied) => break,
                    result => result.map_err(|failure| call.failed(&failure))?,
                };
                let is_first = before.is_none();
                before = page.versions.last().map(|version| version.version);
                let found = page.versions.into_iter().enumerate();
                rows.extend(found.map(|(index, version)| (key.clone(), version, is_first && index == 0)));
                if !page.more || before.is_none() {
                    break;
                }
            }
        }
        // A page of no rows has none after which to go on.
        let is_truncated = list.max > 0 && (more_keys || rows.len() > list.max);
        rows.truncate(list.max);
        Ok(table(bucket, list, &rows, is_truncated))
    }

    /// The keys whose versions are asked for, with the version before which those of the first are wanted, and whether
    /// there are more.
    ///
    /// Each that is listed has a version at least, so those of as many keys as a page has rows fill it.
    fn keys(
        &self,
        call: &Call<'_>,
        bucket: &str,
        list: &List,
        before: Option<Version>,
    ) -> Result<(BTreeMap<String, Option<Version>>, bool), Refusal> {
        let (listed, more) = self.rows(call, bucket, list)?;
        let mut keys: BTreeMap<String, Option<Version>> = listed.into_keys().map(|key| (key, None)).collect();
        if before.is_some() && !list.after.is_empty() {
            keys.insert(list.after.clone(), before);
        } else if list.after < list.prefix && !list.prefix.is_empty() {
            keys.entry(list.prefix.clone()).or_default();
        }
        Ok((keys, more))
    }

    pub(super) fn delete_many(&self, call: &mut Call<'_>, bucket: &str) -> Result<Answer, Refusal> {
        let body = std::mem::take(&mut call.body);
        super::checksum::check(call, &body)?;
        let malformed = || Refusal::new(StatusCode::BAD_REQUEST, "MalformedXML", "the body is no list of keys");
        let mut is_quiet = false;
        let mut named: Vec<Named> = Vec::new();
        for (path, text) in xml::leaves(&body).ok_or_else(malformed)? {
            match path.as_str() {
                "Delete/Quiet" => is_quiet = text.trim() == "true",
                "Delete/Object" => named.push(Named::default()),
                "Delete/Object/Key" => named.last_mut().ok_or_else(malformed)?.key = text,
                "Delete/Object/ETag" => named.last_mut().ok_or_else(malformed)?.tag = Some(text),
                path => {
                    if let Some(other) = path.strip_prefix("Delete/Object/") {
                        named.last_mut().ok_or_else(malformed)?.other.get_or_insert_with(|| other.to_owned());
                    }
                }
            }
        }
        if !(1..=KEYS_MAX).contains(&named.len()) {
            return Err(malformed());
        }
        let mut document = Document::new("DeleteResult");
        for Named { key, tag, other } in named {
            let removed = match other.as_deref() {
                None => self.delete_named(call, bucket, &key, tag.as_deref()),
                Some("VersionId") => Err(Refusal::not_implemented("the removal of one version")),
                Some(other) => Err(Refusal::not_implemented(format_args!("the removal of an object by its {other}"))),
            };
            match removed {
                Ok(()) if is_quiet => {}
                Ok(()) => {
                    document.open("Deleted");
                    document.text("Key", &key);
                    document.close();
                }
                Err(refusal) => {
                    document.open("Error");
                    document.text("Key", &key);
                    document.text("Code", refusal.code);
                    document.text("Message", &refusal.message);
                    document.close();
                }
            }
        }
        Ok(Answer::of(StatusCode::OK, "application/xml", document.finish()))
    }

    fn delete_named(&self, call: &Call<'_>, bucket: &str, key: &str, tag: Option<&str>) -> Result<(), Refusal> {
        let place = Place::new(bucket, key).map_err(of_place)?;
        match (Operation::locked_by(&place), tag) {
            (Some(_), Some(_)) => Err(Refusal::not_implemented("the removal of a lock by its ETag")),
            (Some(locked), None) => self.delete_lock(call, &locked).map(drop),
            (None, Some(tag)) => {
                let expect = self.matching(call, &place.state, tag)?;
                self.remove(call, &place.state, expect).map(drop)
            }
            (None, None) => self.delete(call, &place).map(drop),
        }
    }
}

fn table(bucket: &str, list: &List, rows: &[(String, VersionInfo, bool)], is_truncated: bool) -> Answer {
    let mut document = Document::new("ListVersionsResult");
    document.text("Name", bucket);
    document.text("Prefix", list.encoded(&list.prefix));
    document.text("MaxKeys", list.max);
    document.text("IsTruncated", is_truncated);
    if list.encoded {
        document.text("EncodingType", "url");
    }
    if let Some((key, version, _)) = rows.last().filter(|_| is_truncated) {
        document.text("NextKeyMarker", list.encoded(key));
        document.text("NextVersionIdMarker", version.version);
    }
    for (key, version, is_latest) in rows {
        document.open(if version.content.is_some() { "Version" } else { "DeleteMarker" });
        document.text("Key", list.encoded(key));
        document.text("VersionId", version.version);
        document.text("IsLatest", is_latest);
        describe(&mut document, version);
        document.close();
    }
    Answer::of(StatusCode::OK, "application/xml", document.finish())
}
