//! Contents that come in parts.
//!
//! Parts are kept in this process's memory, since nothing of a state may be written anywhere in clear, and are gone
//! with it. Their count and size are bounded, and what nobody adds to any more is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::ETAG;
use stated_shared::Digest;

use super::super::STATE_LEN_MAX;
use super::super::aws::Answer;
use super::super::aws::place::Place;
use super::super::aws::refusal::Refusal;
use super::super::aws::xml::{self, Document};
use super::super::backend::Backend;
use super::super::random_hex;
use super::request::PARTS_MAX;
use super::{Call, S3, checksum, etag, metadata};

/// Uploads at once.
const UPLOADS_MAX: usize = 64;
/// Bytes of all parts.
const PARTS_LEN_MAX: usize = 512 << 20;
/// How long an upload is kept to which nothing is added.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Answers that are given again after they were lost.
const COMPLETED_MAX: usize = 64;

struct Part {
    bytes: Arc<Vec<u8>>,
    etag: String,
}

struct Upload {
    place: Place,
    parts: BTreeMap<u32, Part>,
    labels: BTreeMap<String, String>,
    touched: SystemTime,
}

impl Upload {
    fn len(&self) -> usize {
        self.parts.values().map(|part| part.bytes.len()).sum()
    }
}

#[derive(Default)]
struct Memory {
    open: BTreeMap<String, Upload>,
    /// What became of uploads, oldest first.
    completed: VecDeque<(String, Answer)>,
}

/// The uploads of one gateway.
#[derive(Default)]
pub struct Uploads {
    memory: Mutex<Memory>,
    /// Held while parts become one content, so that only one is copied at a time.
    joining: Mutex<()>,
}

impl Uploads {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn forget_idle(&mut self, now: SystemTime) {
        let is_fresh = |upload: &Upload| now.duration_since(upload.touched).is_ok_and(|idle| idle < IDLE_MAX);
        self.open.retain(|_, upload| is_fresh(upload) || upload.touched > now);
    }

    fn of<'m>(&'m mut self, id: &str, place: &Place) -> Result<&'m mut Upload, Refusal> {
        self.open.get_mut(id).filter(|upload| upload.place == *place).ok_or_else(no_upload)
    }
}

fn no_upload() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "NoSuchUpload", "there is no such upload: completed, aborted or left for long")
}

fn busy(what: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", format!("{what}, try again"))
}

impl<B: Backend> S3<B> {
    pub(super) fn create_upload(&self, call: &Call<'_>, place: Place) -> Result<Answer, Refusal> {
        let id = random_hex::<16>().map_err(|error| {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", format!("no random numbers: {error}"))
        })?;
        let labels = metadata::read(call)?;
        let mut memory = self.uploads.memory();
        memory.forget_idle(call.now);
        if memory.open.len() == UPLOADS_MAX {
            return Err(busy("too many uploads are open"));
        }
        let mut document = Document::new("InitiateMultipartUploadResult");
        document.text("Bucket", &place.bucket);
        document.text("Key", &place.key);
        document.text("UploadId", &id);
        memory.open.insert(id, Upload { place, parts: BTreeMap::new(), labels, touched: call.now });
        Ok(Answer::of(StatusCode::OK, "application/xml", document.finish()))
    }

    pub(super) fn upload_part(
        &self,
        call: &mut Call<'_>,
        place: &Place,
        id: &str,
        number: u32,
    ) -> Result<Answer, Refusal> {
        let body = std::mem::take(&mut call.body);
        checksum::check(call, &body)?;
        let etag = etag(&Digest(checksum::sha256(&body)));
        let mut memory = self.uploads.memory();
        memory.forget_idle(call.now);
        let all: usize = memory.open.values().map(Upload::len).sum();
        let upload = memory.of(id, place)?;
        let replaced = upload.parts.get(&number).map_or(0, |part| part.bytes.len());
        if upload.len() - replaced + body.len() > STATE_LEN_MAX {
            return Err(too_large());
        }
        if all - replaced + body.len() > PARTS_LEN_MAX {
            return Err(busy("parts of other uploads fill the memory"));
        }
        upload.touched = call.now;
        upload.parts.insert(number, Part { bytes: Arc::new(body), etag: etag.clone() });
        Ok(Answer::empty(StatusCode::OK).with(ETAG, etag))
    }

    pub(super) fn complete_upload(&self, call: &Call<'_>, place: &Place, id: &str) -> Result<Answer, Refusal> {
        let _joining = self.uploads.joining.lock().unwrap_or_else(PoisonError::into_inner);
        let (parts, labels) = {
            let mut memory = self.uploads.memory();
            // Asked again after a lost answer.
            if let Some((_, answer)) = memory.completed.iter().find(|(known, _)| known == id) {
                return Ok(answer.clone());
            }
            let upload = memory.of(id, place)?;
            (chosen(upload, &call.body)?, upload.labels.clone())
        };
        let mut body = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| body.extend_from_slice(part));
        checksum::check_joined(call, &body)?;
        let expect = self.expected(call, &place.state)?;
        let written = self.write(call, &place.state, expect, body, labels)?;

        let mut document = Document::new("CompleteMultipartUploadResult");
        document.text("Bucket", &place.bucket);
        document.text("Key", &place.key);
        if let Some(tag) = written.headers.get(ETAG).and_then(|tag| tag.to_str().ok()) {
            document.text("ETag", tag);
        }
        let mut answer = Answer::of(StatusCode::OK, "application/xml", document.finish());
        let version = |(name, _): &(&hyper::header::HeaderName, _)| name.as_str() == "x-amz-version-id";
        answer
            .headers
            .extend(written.headers.iter().filter(version).map(|(name, value)| (name.clone(), value.clone())));
        let mut memory = self.uploads.memory();
        memory.open.remove(id);
        if memory.completed.len() == COMPLETED_MAX {
            memory.completed.pop_front();
        }
        memory.completed.push_back((id.to_owned(), answer.clone()));
        Ok(answer)
    }

    pub(super) fn abort_upload(&self, id: &str) -> Result<Answer, Refusal> {
        self.uploads.memory().open.remove(id).ok_or_else(no_upload)?;
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    }
}

fn too_large() -> Refusal {
    let message = format!("a state has at most {STATE_LEN_MAX} bytes");
    Refusal::new(StatusCode::BAD_REQUEST, "EntityTooLarge", message)
}

/// The parts that the client's list names, in its order.
fn chosen(upload: &Upload, list: &[u8]) -> Result<Vec<Arc<Vec<u8>>>, Refusal> {
    let bad = |code, what: &str| Refusal::new(StatusCode::BAD_REQUEST, code, what);
    let malformed = || bad("MalformedXML", "the body is no list of parts");
    let leaves = xml::leaves(list).ok_or_else(malformed)?;
    let mut named: Vec<(Option<u32>, Option<String>)> = Vec::new();
    for (path, text) in leaves {
        match path.as_str() {
            "CompleteMultipartUpload/Part" => named.push((None, None)),
            "CompleteMultipartUpload/Part/PartNumber" => {
                named.last_mut().ok_or_else(malformed)?.0 = Some(text.trim().parse().map_err(|_| malformed())?);
            }
            "CompleteMultipartUpload/Part/ETag" => named.last_mut().ok_or_else(malformed)?.1 = Some(text),
            _ => {}
        }
    }
    if named.is_empty() || named.len() > PARTS_MAX as usize {
        return Err(malformed());
    }
    let mut last = 0;
    let mut parts = Vec::with_capacity(named.len());
    for (number, etag) in named {
        let (number, etag) = (number.ok_or_else(malformed)?, etag.ok_or_else(malformed)?);
        if number <= last {
            return Err(bad("InvalidPartOrder", "the parts are not in the order of their numbers"));
        }
        last = number;
        let part =
            upload.parts.get(&number).filter(|part| part.etag.trim_matches('"') == etag.trim().trim_matches('"'));
        let part = part.ok_or_else(|| bad("InvalidPart", "a part was not uploaded, or is another one by now"))?;
        parts.push(Arc::clone(&part.bytes));
    }
    Ok(parts)
}
