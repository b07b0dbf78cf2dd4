//! Lists of objects.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use stated_shared::{Timestamp, VersionInfo};

use super::super::aws::Answer;
use super::super::aws::place::Place;
use super::super::aws::refusal::Refusal;
use super::super::aws::xml::Document;
use super::super::backend::{Backend, literal_glob};
use super::super::percent;
use super::request::List;
use super::{Call, S3, etag};

/// A row of a list.
pub(super) enum Row {
    Object(Box<VersionInfo>),
    /// All keys that begin so.
    Prefix,
}

impl List {
    /// As what a key is listed, where it is.
    fn row<'k>(&self, key: &'k str) -> Option<(&'k str, bool)> {
        let rest = key.strip_prefix(self.prefix.as_str())?;
        // A page that ended with a prefix is followed by what comes after all its keys.
        let is_past = key > self.after.as_str() && !self.ended_with_prefix(key);
        let delimiter = self.delimiter.as_deref().and_then(|delimiter| Some((rest.find(delimiter)?, delimiter)));
        match delimiter {
            _ if !is_past => None,
            Some((at, delimiter)) => Some((&key[..self.prefix.len() + at + delimiter.len()], true)),
            None => Some((key, false)),
        }
    }

    fn ended_with_prefix(&self, key: &str) -> bool {
        let is_prefix = |delimiter: &String| self.after.len() > self.prefix.len() && self.after.ends_with(delimiter);
        (self.token.is_some() || self.is_marked)
            && self.delimiter.as_ref().is_some_and(is_prefix)
            && key.starts_with(&self.after)
    }

    pub(super) fn encoded(&self, text: &str) -> String {
        if self.encoded { percent::encode_path(text) } else { text.to_owned() }
    }
}

impl<B: Backend> S3<B> {
    pub(super) fn list(&self, call: &Call<'_>, bucket: &str, list: &List, is_v2: bool) -> Result<Answer, Refusal> {
        let (rows, is_truncated) = self.rows(call, bucket, list)?;
        let mut document = Document::new("ListBucketResult");
        document.text("Name", bucket);
        document.text("Prefix", list.encoded(&list.prefix));
        if let Some(delimiter) = &list.delimiter {
            document.text("Delimiter", list.encoded(delimiter));
        }
        document.text("MaxKeys", list.max);
        if is_v2 {
            document.text("KeyCount", rows.len());
        } else {
            document.text("Marker", list.encoded(&list.after));
        }
        document.text("IsTruncated", is_truncated);
        if list.encoded {
            document.text("EncodingType", "url");
        }
        if let Some(token) = &list.token {
            document.text("ContinuationToken", token);
        }
        if let Some(after) = list.start_after.as_ref().filter(|_| is_v2) {
            document.text("StartAfter", list.encoded(after));
        }
        match rows.last_key_value().filter(|_| is_truncated) {
            Some((last, _)) if is_v2 => {
                document.text("NextContinuationToken", percent::encode_strictly(last.as_bytes(), b""));
            }
            Some((last, _)) => document.text("NextMarker", list.encoded(last)),
            None => {}
        }
        for (key, row) in &rows {
            match row {
                Row::Object(version) => {
                    document.open("Contents");
                    document.text("Key", list.encoded(key));
                    describe(&mut document, version);
                    document.close();
                }
                Row::Prefix => {
                    document.open("CommonPrefixes");
                    document.text("Prefix", list.encoded(key));
                    document.close();
                }
            }
        }
        Ok(Answer::of(StatusCode::OK, "application/xml", document.finish()))
    }

    /// The rows of one page, by key, and whether there are more.
    ///
    /// The daemon's order is that of names, which differs from that of keys where a name is encoded; so all names are
    /// looked at, and never more rows kept than the page has.
    pub(super) fn rows(
        &self,
        call: &Call<'_>,
        bucket: &str,
        list: &List,
    ) -> Result<(BTreeMap<String, Row>, bool), Refusal> {
        let mut rows = BTreeMap::new();
        let mut is_truncated = false;
        let glob = glob(bucket, &list.prefix);
        let mut after = None;
        if list.max == 0 {
            return Ok((rows, false));
        }
        loop {
            let page = self.model.backend.list(&glob, after).map_err(|failure| call.failed(&failure))?;
            after = page.versions.last().map(|version| version.state.clone());
            for version in page.versions {
                let Some(place) = Place::of_state(&version.state).filter(|place| place.bucket == bucket) else {
                    continue;
                };
                let Some((key, is_prefix)) = list.row(&place.key) else { continue };
                let row = if is_prefix { Row::Prefix } else { Row::Object(Box::new(version)) };
                rows.insert(key.to_owned(), row);
                if rows.len() > list.max {
                    rows.pop_last();
                    is_truncated = true;
                }
            }
            if !page.more || after.is_none() {
                break;
            }
        }
        Ok((rows, is_truncated))
    }
}

/// Matches every state whose key begins with the prefix, and some more.
fn glob(bucket: &str, prefix: &str) -> String {
    let whole = prefix.rfind('/').map_or("", |end| &prefix[..end]);
    let below = match whole.is_empty() {
        true => bucket.to_owned(),
        false => Place::new(bucket, whole).map_or_else(|_| bucket.to_owned(), |place| place.state.to_string()),
    };
    format!("{}/**", literal_glob(&below))
}

pub(super) fn describe(document: &mut Document, version: &VersionInfo) {
    document.text("LastModified", date(version.time));
    if let Some(content) = &version.content {
        document.text("ETag", etag(&content.sha256));
        document.text("Size", content.size_bytes);
    }
    document.text("StorageClass", "STANDARD");
}

/// `2026-11-30T10:41:57.000Z`.
pub(super) fn date(time: Timestamp) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(time.0);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_listed_by_itself_or_as_a_prefix() {
        let list = List { prefix: "env:/".into(), delimiter: Some("/".into()), ..List::default() };
        assert_eq!(list.row("env:/dev/k"), Some(("env:/dev/", true)));
        assert_eq!(list.row("env:/k"), Some(("env:/k", false)));
        assert_eq!(list.row("k"), None);

        let next = List { after: "env:/dev/".into(), token: Some(String::new()), ..list.clone() };
        assert_eq!(next.row("env:/dev/k"), None, "its prefix was on the page before");
        assert_eq!(next.row("env:/e/k"), Some(("env:/e/", true)));
        let started = List { after: "env:/dev/".into(), ..list };
        assert_eq!(started.row("env:/dev/k"), Some(("env:/dev/", true)), "a key after this one");
    }

    #[test]
    fn the_daemon_is_asked_for_what_can_match() {
        assert_eq!(glob("bucket", ""), "bucket/**");
        assert_eq!(glob("bucket", "a"), "bucket/**");
        assert_eq!(glob("bucket", "env:/"), "bucket/env:/**");
        assert_eq!(glob("bucket", "a*/b@/c"), "bucket/a?/b%40/**");
    }
}
