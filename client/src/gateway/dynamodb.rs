//! DynamoDB, as far as Terraform's `s3` backend keeps its locks and digests there.
//!
//! Every table is the same one: an item `BUCKET/KEY` is the lock of that state, and `BUCKET/KEY-md5` the MD5 of what
//! the state holds, which is computed and so never differs from it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stated_shared::{Digest, Failure, FailureKind, Selector, StateName, Timestamp};

use super::aws::Answer;
use super::aws::locks::{Face, Locks};
use super::aws::place::Place;
use super::aws::refusal::{Refusal, Service, of_failure, words};
use super::aws::signature::hex;
use super::backend::Backend;
use super::lock_document::LockDocument;
use super::model::{FindOwner, Model};

/// Longest request, in bytes.
pub const BODY_LEN_MAX: usize = 64 << 10;
/// What comes before the operation in `X-Amz-Target`.
const TARGET: &str = "DynamoDB_20120810.";
/// What the name of a digest ends in.
const DIGEST_SUFFIX: &str = "-md5";
/// The key attribute of every table.
const KEY: &str = "LockID";
/// Digests that are remembered by content.
const DIGESTS_MAX: usize = 64;

/// Translates DynamoDB's requests.
pub struct DynamoDb<B> {
    model: Arc<Model<B>>,
    locks: Arc<Locks<B>>,
    /// MD5s of contents, by their SHA-256; the newest last.
    digests: Mutex<VecDeque<(Digest, String)>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Request {
    table_name: String,
    key: Map<String, Value>,
    item: Map<String, Value>,
    condition_expression: Option<String>,
    projection_expression: Option<String>,
    expression_attribute_names: Map<String, Value>,
}

impl Request {
    /// A name in an expression, `#x` resolved.
    fn resolved<'r>(&'r self, name: &'r str) -> &'r str {
        self.expression_attribute_names.get(name).and_then(Value::as_str).unwrap_or(name)
    }

    fn projects(&self, attribute: &str) -> bool {
        let Some(expression) = &self.projection_expression else { return true };
        expression.split(',').any(|name| self.resolved(name.trim()) == attribute)
    }
}

/// A string attribute, `{"S": "…"}`.
fn string<'v>(attributes: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    attributes.get(name)?.get("S")?.as_str()
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "ValidationException", message)
}

impl<B: Backend> DynamoDb<B> {
    /// The tables of these locks.
    pub fn new(model: Arc<Model<B>>, locks: Arc<Locks<B>>) -> Self {
        Self { model, locks, digests: Mutex::default() }
    }

    /// Answers one request; blocks as long as the daemon does.
    pub fn answer(&self, target: &str, body: &[u8], find: FindOwner<'_>, now: Timestamp) -> Answer {
        let result = serde_json::from_slice(body)
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "SerializationException", "the body is no JSON object"))
            .and_then(|request: Request| match target.strip_prefix(TARGET) {
                Some("GetItem") => self.get(&request, find, now),
                Some("PutItem") => self.put(&request, find, now),
                Some("DeleteItem") => self.delete(&request, find, now),
                Some("DescribeTable") => Ok(describe(&request.table_name)),
                _ => Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "UnknownOperationException",
                    format!("stated's gateway does not implement {target}"),
                )),
            });
        match result {
            Ok(body) => Answer::of(StatusCode::OK, "application/x-amz-json-1.0", body.to_string()),
            Err(refusal) => refusal.answer(Service::DynamoDb),
        }
    }

    fn get(&self, request: &Request, find: FindOwner<'_>, now: Timestamp) -> Result<Value, Refusal> {
        let path = string(&request.key, KEY).ok_or_else(|| invalid("the key is the attribute LockID"))?;
        let failed = |failure: Failure| of_failure(Service::DynamoDb, &failure, now);
        // A state may be called so that its lock looks like a digest; what is wanted of the item tells.
        let (name, value) = match path.strip_suffix(DIGEST_SUFFIX).filter(|_| request.projects("Digest")) {
            Some(path) => ("Digest", self.digest(&place(path)?.state).map_err(failed)?),
            None => ("Info", self.locks.read(&place(path)?.state, Face::Table, find).map_err(failed)?),
        };
        let Some(value) = value else { return Ok(json!({})) };
        let mut item = Map::new();
        for (name, value) in [(KEY, path), (name, &value)] {
            if request.projects(name) {
                item.insert(name.to_owned(), json!({ "S": value }));
            }
        }
        Ok(json!({ "Item": item }))
    }

    fn put(&self, request: &Request, find: FindOwner<'_>, now: Timestamp) -> Result<Value, Refusal> {
        let path = string(&request.item, KEY).ok_or_else(|| invalid("the key is the attribute LockID"))?;
        let condition = request.condition_expression.as_deref().map(str::trim);
        let must_be_new = condition
            .and_then(|text| text.strip_prefix("attribute_not_exists")?.trim().strip_prefix('(')?.strip_suffix(')'))
            .is_some_and(|name| request.resolved(name.trim()) == KEY);
        match (string(&request.item, "Info"), string(&request.item, "Digest")) {
            (Some(info), None) if must_be_new => {
                let document = LockDocument::parse(info.as_bytes()).map_err(|error| invalid(error.to_string()))?;
                let created = self.locks.create(&place(path)?.state, Face::Table, &document, find);
                created.map_err(|failure| match failure.kind {
                    FailureKind::Busy => Refusal::new(
                        StatusCode::BAD_REQUEST,
                        "ConditionalCheckFailedException",
                        format!("The conditional request failed: {}", words(&failure, now)),
                    ),
                    _ => of_failure(Service::DynamoDb, &failure, now),
                })?;
            }
            // It is what the state holds already, or soon not true any more.
            (None, Some(_)) if condition.is_none() => {
                place(path.strip_suffix(DIGEST_SUFFIX).ok_or_else(|| invalid("a digest's name ends in -md5"))?)?;
            }
            _ => {
                return Err(invalid(
                    "the tables here hold locks (Info, put if attribute_not_exists(LockID)) and digests (Digest) only",
                ));
            }
        }
        Ok(json!({}))
    }

    fn delete(&self, request: &Request, find: FindOwner<'_>, now: Timestamp) -> Result<Value, Refusal> {
        if request.condition_expression.is_some() {
            return Err(invalid("items here are deleted on no condition"));
        }
        let path = string(&request.key, KEY).ok_or_else(|| invalid("the key is the attribute LockID"))?;
        let state = place(path)?.state;
        // A digest goes with its state; only who has seen a lock of such a name means that.
        if path.ends_with(DIGEST_SUFFIX) && !self.locks.has_seen(&state, find) {
            return Ok(json!({}));
        }
        let deleted = self.locks.delete(&state, Face::Table, find);
        deleted.map_err(|failure| of_failure(Service::DynamoDb, &failure, now))?;
        Ok(json!({}))
    }

    /// The MD5 of what the state holds; `None` where it is not there.
    fn digest(&self, state: &StateName) -> Result<Option<String>, Failure> {
        let newest = match self.model.backend.show(state, Selector::Newest) {
            Err(failure) if failure.kind == FailureKind::NotFound => return Ok(None),
            result => result?,
        };
        let Some(content) = newest.content else { return Ok(None) };
        let known = |digests: &VecDeque<(Digest, String)>| {
            digests.iter().find(|(sha256, _)| *sha256 == content.sha256).map(|(_, md5)| md5.clone())
        };
        if let Some(md5) = known(&self.digests.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Some(md5));
        }
        let (_, bytes) = self.model.backend.get(state, Selector::Version(newest.version))?;
        let md5 = hex(&Md5::digest(&bytes));
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.len() == DIGESTS_MAX {
            digests.pop_front();
        }
        digests.push_back((content.sha256, md5.clone()));
        Ok(Some(md5))
    }
}

fn place(path: &str) -> Result<Place, Refusal> {
    Place::of_path(path).map_err(|error| invalid(format!("{path:?} is no bucket/key: {error}")))
}

fn describe(table: &str) -> Value {
    json!({ "Table": {
        "TableName": table,
        "TableStatus": "ACTIVE",
        "KeySchema": [{ "AttributeName": KEY, "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": KEY, "AttributeType": "S" }],
    }})
}
