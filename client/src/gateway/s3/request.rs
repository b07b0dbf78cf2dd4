//! What a request asks of S3: by its method, its path and its query.

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use stated_shared::{Selector, Version};

use super::super::aws::place::{Place, PlaceError, check_bucket};
use super::super::aws::refusal::Refusal;
use super::super::percent;
use super::copy;

/// What a key ends in that is a lock.
const LOCK_SUFFIX: &str = ".tflock";

/// An operation, by S3's own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Which buckets have objects.
    ListBuckets,
    /// Whether there is a bucket.
    HeadBucket,
    /// A new bucket.
    CreateBucket,
    /// Where a bucket is.
    GetBucketLocation,
    /// Whether it keeps versions.
    GetBucketVersioning,
    /// Which objects there are.
    ListObjects {
        /// In this bucket.
        bucket: String,
        /// Which of them.
        list: List,
        /// Whether it is `ListObjectsV2`.
        is_v2: bool,
    },
    /// Which versions of objects there are.
    ListObjectVersions {
        /// In this bucket.
        bucket: String,
        /// Of which objects.
        list: List,
        /// Versions of the first of them older than this.
        before: Option<Version>,
    },
    /// Many removals.
    DeleteObjects {
        /// In this bucket.
        bucket: String,
    },
    /// One object's content.
    GetObject(Place, Selector),
    /// One object's facts.
    HeadObject(Place, Selector),
    /// A new content.
    PutObject(Place),
    /// A content from elsewhere, or from before.
    CopyObject {
        /// Of this object.
        place: Place,
        /// From this one.
        from: Place,
        /// Which version of that.
        at: Selector,
    },
    /// A removal.
    DeleteObject(Place),
    /// The first step of a content in parts.
    CreateMultipartUpload(Place),
    /// One part.
    UploadPart {
        /// Of this object.
        place: Place,
        /// The upload.
        upload: String,
        /// The part's number.
        number: u32,
    },
    /// The parts become the content.
    CompleteMultipartUpload {
        /// Of this object.
        place: Place,
        /// The upload.
        upload: String,
    },
    /// The parts are dropped.
    AbortMultipartUpload {
        /// The upload.
        upload: String,
    },
    /// A lock's document.
    ReadLock(Place),
    /// A lock that is taken.
    CreateLock(Place),
    /// A lock that is given back or broken.
    DeleteLock(Place),
}

/// Which objects are listed, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// Keys that begin so.
    pub prefix: String,
    /// Keys that go on after the prefix and up to this are listed as one.
    pub delimiter: Option<String>,
    /// After this key, or after all that are listed as this.
    pub after: String,
    /// How many at most.
    pub max: usize,
    /// Keys and prefixes are percent-encoded in the answer.
    pub encoded: bool,
    /// The parameters as they came, to be told back.
    pub start_after: Option<String>,
    /// The token of the page before.
    pub token: Option<String>,
    /// Whether `after` is the last row of the page before, as it is in the older list.
    pub is_marked: bool,
}

/// Most rows of one page.
const ROWS_MAX: usize = 1000;
/// Parts of one upload, as S3 has it.
pub const PARTS_MAX: u32 = 10_000;

/// A query, decoded; each parameter may be asked for once, and what nobody asked for is not understood.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(query: &str) -> Result<Self, Refusal> {
        let decode = |text: &str| percent::decode(&text.replace('+', " "));
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        let pairs: Option<Vec<_>> = pairs.collect();
        let bad = || Refusal::new(StatusCode::BAD_REQUEST, "InvalidURI", "the query is not percent-encoded UTF-8");
        // What an SDK's own client adds to tell operations apart.
        let pairs = pairs.ok_or_else(bad)?.into_iter().filter(|(name, _)| name != "x-id");
        Ok(Self(pairs.collect()))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// Refuses what is left over: it would change what is meant.
    fn finish(self, method: &Method) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::not_implemented(format_args!("{method} with the parameter {name:?}"))),
        }
    }
}

impl Operation {
    /// Reads a request's head.
    pub fn read(head: &Parts) -> Result<Self, Refusal> {
        let path = percent::decode(head.uri.path().strip_prefix('/').unwrap_or_default());
        let path = path.ok_or_else(|| {
            Refusal::new(StatusCode::BAD_REQUEST, "InvalidURI", "the path is not percent-encoded UTF-8")
        })?;
        let mut query = Query::read(head.uri.query().unwrap_or_default())?;
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let operation = if bucket.is_empty() {
            if head.method != Method::GET {
                return Err(Refusal::not_implemented(format_args!("{} of all buckets", head.method)));
            }
            Self::ListBuckets
        } else if key.is_empty() {
            check_bucket(bucket).map_err(of_place)?;
            Self::of_bucket(head, bucket, &mut query)?
        } else {
            Self::of_object(head, Place::new(bucket, key).map_err(of_place)?, &mut query)?
        };
        query.finish(&head.method)?;
        Ok(operation)
    }

    fn of_bucket(head: &Parts, bucket: &str, query: &mut Query) -> Result<Self, Refusal> {
        let bucket = bucket.to_owned();
        match head.method.as_str() {
            "HEAD" => Ok(Self::HeadBucket),
            "PUT" => Ok(Self::CreateBucket),
            "POST" if query.take("delete").is_some() => Ok(Self::DeleteObjects { bucket }),
            "GET" if query.take("location").is_some() => Ok(Self::GetBucketLocation),
            "GET" if query.take("versioning").is_some() => Ok(Self::GetBucketVersioning),
            "GET" if query.take("versions").is_some() => {
                let before = query.take("version-id-marker").filter(|marker| !marker.is_empty());
                let before = before.map(|marker| version(&marker)).transpose()?;
                Ok(Self::ListObjectVersions { bucket, list: List::read(query, "key-marker")?, before })
            }
            "GET" => match query.take("list-type").as_deref() {
                Some("2") => Ok(Self::ListObjects { bucket, list: List::read(query, "start-after")?, is_v2: true }),
                None => Ok(Self::ListObjects { bucket, list: List::read(query, "marker")?, is_v2: false }),
                Some(_) => Err(Refusal::not_implemented("lists of this type")),
            },
            method => Err(Refusal::not_implemented(format_args!("{method} of a bucket"))),
        }
    }

    /// What an object locks whose key is a lock's.
    pub fn locked_by(place: &Place) -> Option<Place> {
        place.key.strip_suffix(LOCK_SUFFIX).and_then(|key| Place::new(&place.bucket, key).ok())
    }

    fn of_object(head: &Parts, place: Place, query: &mut Query) -> Result<Self, Refusal> {
        if let Some(locked) = Self::locked_by(&place) {
            return match head.method {
                Method::GET | Method::HEAD => Ok(Self::ReadLock(locked)),
                Method::PUT => Ok(Self::CreateLock(locked)),
                Method::DELETE => Ok(Self::DeleteLock(locked)),
                _ => Err(Refusal::not_implemented(format_args!("{} of a key that ends in {LOCK_SUFFIX}", head.method))),
            };
        }
        let source = copy::source(&head.headers)?;
        let upload = query.take("uploadId");
        let at = |query: &mut Query| match query.take("versionId") {
            None => Ok(Selector::Newest),
            Some(id) => version(&id).map(Selector::Version),
        };
        match (head.method.as_str(), upload) {
            ("GET", None) => Ok(Self::GetObject(place, at(query)?)),
            ("HEAD", None) => Ok(Self::HeadObject(place, at(query)?)),
            ("PUT", None) if !query.has("partNumber") => Ok(match source {
                Some((from, at)) => Self::CopyObject { place, from, at },
                None => Self::PutObject(place),
            }),
            ("PUT", Some(_)) if source.is_some() => Err(Refusal::not_implemented("UploadPartCopy")),
            ("PUT", Some(upload)) => {
                let number = query.take("partNumber").and_then(|number| number.parse().ok());
                let number = number.filter(|number| (1..=PARTS_MAX).contains(number)).ok_or_else(|| {
                    Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", "a part has a number from 1 to 10000")
                })?;
                Ok(Self::UploadPart { place, upload, number })
            }
            ("DELETE", None) => Ok(Self::DeleteObject(place)),
            ("DELETE", Some(upload)) => Ok(Self::AbortMultipartUpload { upload }),
            ("POST", None) if query.take("uploads").is_some() => Ok(Self::CreateMultipartUpload(place)),
            ("POST", Some(upload)) => Ok(Self::CompleteMultipartUpload { place, upload }),
            (method, _) => Err(Refusal::not_implemented(format_args!("{method} of an object with these parameters"))),
        }
    }
}

/// A version's ID is its number.
pub(super) fn version(id: &str) -> Result<Version, Refusal> {
    let bad = |_| Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", "a version ID here is a version's number");
    id.parse().map(Version).map_err(bad)
}

impl List {
    /// Reads the parameters; the one of this name says after which key.
    fn read(query: &mut Query, after_name: &str) -> Result<Self, Refusal> {
        let bad = |what: &str| Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", what);
        let max = match query.take("max-keys") {
            None => ROWS_MAX,
            Some(text) => text.parse::<usize>().map_err(|_| bad("max-keys is a number"))?.min(ROWS_MAX),
        };
        let encoded = match query.take("encoding-type").as_deref() {
            None | Some("") => false,
            Some("url") => true,
            Some(_) => return Err(bad("encoding-type is url")),
        };
        let start_after = query.take(after_name);
        let token = query.take("continuation-token");
        let after = match &token {
            None => start_after.clone().unwrap_or_default(),
            // A token is the last row of the page before, percent-encoded.
            Some(token) => {
                percent::decode(token).ok_or_else(|| bad("the continuation token is not of this gateway"))?
            }
        };
        // Owners are never told.
        query.take("fetch-owner");
        Ok(Self {
            prefix: query.take("prefix").unwrap_or_default(),
            delimiter: query.take("delimiter").filter(|delimiter| !delimiter.is_empty()),
            after,
            max,
            encoded,
            start_after,
            token,
            is_marked: after_name == "marker",
        })
    }
}

/// Why a place is none.
pub(super) fn of_place(error: PlaceError) -> Refusal {
    let code = match error {
        PlaceError::Bucket => "InvalidBucketName",
        PlaceError::Key => "KeyTooLongError",
    };
    Refusal::new(StatusCode::BAD_REQUEST, code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, uri: &str) -> Result<Operation, &'static str> {
        let request = hyper::Request::builder().method(method).uri(uri).body(()).unwrap();
        Operation::read(&request.into_parts().0).map_err(|refusal| refusal.code)
    }

    fn place(key: &str) -> Place {
        Place::new("bucket", key).unwrap()
    }

    #[test]
    fn requests_are_told_apart() {
        let newest = Selector::Newest;
        assert_eq!(read("GET", "/bucket/a/b?x-id=GetObject"), Ok(Operation::GetObject(place("a/b"), newest)));
        assert_eq!(
            read("GET", "/bucket/a%2Bb+c?versionId=7"),
            Ok(Operation::GetObject(place("a+b+c"), Selector::Version(Version(7))))
        );
        assert_eq!(read("PUT", "/bucket/env%3A/dev/k"), Ok(Operation::PutObject(place("env:/dev/k"))));
        assert_eq!(read("POST", "/bucket/k?uploads="), Ok(Operation::CreateMultipartUpload(place("k"))));
        let part = Operation::UploadPart { place: place("k"), upload: "u".into(), number: 7 };
        assert_eq!(read("PUT", "/bucket/k?partNumber=7&uploadId=u"), Ok(part));
        assert_eq!(read("DELETE", "/bucket/k?uploadId=u"), Ok(Operation::AbortMultipartUpload { upload: "u".into() }));
        assert_eq!(read("PUT", "/bucket/k.tflock"), Ok(Operation::CreateLock(place("k"))));
        assert_eq!(read("PUT", "/bucket/.tflock"), Ok(Operation::PutObject(place(".tflock"))), "it locks nothing");
    }

    #[test]
    fn a_list_says_which() {
        let Ok(Operation::ListObjects { bucket, list, is_v2: true }) =
            read("GET", "/bucket/?list-type=2&max-keys=5000&prefix=env%3A%2F&delimiter=%2F&encoding-type=url")
        else {
            panic!("it is a list");
        };
        assert_eq!((bucket.as_str(), list.prefix.as_str(), list.max), ("bucket", "env:/", 1000));
        assert_eq!((list.delimiter.as_deref(), list.encoded), (Some("/"), true));
        assert_eq!(read("GET", "/bucket?list-type=2&max-keys=x"), Err("InvalidArgument"));
    }

    #[test]
    fn what_is_not_understood_is_not_done() {
        for (method, uri) in [
            ("GET", "/bucket/k?acl"),
            ("GET", "/bucket?policy"),
            ("DELETE", "/bucket/k?versionId=7"),
            ("PUT", "/bucket/k?tagging"),
            ("GET", "/bucket/k?response-content-type=x"),
            ("PATCH", "/bucket/k"),
            ("PUT", "/"),
            ("DELETE", "/bucket"),
        ] {
            assert_eq!(read(method, uri), Err("NotImplemented"), "{method} {uri}");
        }
        assert_eq!(read("GET", "/Bucket/k"), Err("InvalidBucketName"));
        assert_eq!(read("GET", &format!("/bucket/{}", "k".repeat(1025))), Err("KeyTooLongError"));
        assert_eq!(read("GET", "/bucket/%ff"), Err("InvalidURI"));
        assert_eq!(read("PUT", "/bucket/k?partNumber=0&uploadId=u"), Err("InvalidArgument"));
    }
}
