//! AWS clients before a gateway: who is let in, and what a lock is to them.

use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};

use super::*;
use crate::gateway::aws::signature::{authorization as sign, sha256};

/// The keys of the rig.
pub fn keys() -> Credential {
    Credential { username: "STATEDTEST".into(), password: "a-secret-key".into() }
}

/// A request of an AWS client, before it is signed.
pub struct Ask<'a> {
    pub service: &'a str,
    pub method: &'a str,
    pub target: &'a str,
    pub headers: Vec<(&'a str, String)>,
    pub body: &'a [u8],
    /// What the body's hash is said to be.
    pub hash: Option<&'a str>,
    pub keys: Credential,
    pub at: SystemTime,
    /// What is said of the body's length.
    pub len: Option<u64>,
}

impl<'a> Ask<'a> {
    pub fn s3(method: &'a str, target: &'a str, body: &'a [u8]) -> Self {
        Self {
            service: "s3",
            method,
            target,
            headers: Vec::new(),
            body,
            hash: None,
            keys: keys(),
            at: SystemTime::now(),
            len: None,
        }
    }

    /// An operation of DynamoDB.
    pub fn item(operation: &'a str, body: &'a str) -> Self {
        let target = format!("DynamoDB_20120810.{operation}");
        let headers = vec![("x-amz-target", target), ("content-type", "application/x-amz-json-1.0".to_owned())];
        Self { service: "dynamodb", method: "POST", target: "/", headers, ..Self::s3("", "", body.as_bytes()) }
    }

    pub fn with(mut self, name: &'a str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The bytes of the request, to this host.
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let hash = self.hash.map_or_else(|| sha256(self.body), str::to_owned);
        let date = humantime::format_rfc3339_seconds(self.at).to_string().replace(['-', ':'], "");
        let mut headers = HeaderMap::new();
        let mut add = |name: &str, value: &str| {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        };
        add("host", host);
        add("x-amz-date", &date);
        add("x-amz-content-sha256", &hash);
        self.headers.iter().for_each(|(name, value)| add(name, value));
        let uri: Uri = self.target.parse().unwrap();
        let signed = sign(
            &self.keys,
            self.service,
            (&Method::from_bytes(self.method.as_bytes()).unwrap(), &uri, &headers),
            &hash,
        );
        let mut head =
            format!("{} {} HTTP/1.1\r\nAuthorization: {signed}\r\nConnection: close\r\n", self.method, self.target);
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.len.unwrap_or(self.body.len() as u64)));
        [head.as_bytes(), self.body].concat()
    }

    pub fn send(&self, rig: &Rig) -> Reply {
        raw(rig.address, &self.bytes(&rig.address.to_string())).expect("an answer")
    }
}

impl Reply {
    /// The text of the first element of this name.
    pub fn element(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.text().split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    }

    /// A header's value, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub const A: &str = "9f2c41aa-0000-4000-8000-00000000000a";
pub const B: &str = "9f2c41aa-0000-4000-8000-00000000000b";
/// An object, its state, and its lock's file.
pub const OBJECT: &str = "/bucket/a/state";
pub const STATE: &str = "bucket/a/state";
const FILE: &str = "/bucket/a/state.tflock";

fn put_item(id: &str) -> String {
    let info = serde_json::to_string(&lock_document(id)).unwrap();
    format!(
        r#"{{"TableName":"t","Item":{{"LockID":{{"S":"{STATE}"}},"Info":{{"S":{info}}}}},"ConditionExpression":"attribute_not_exists(LockID)"}}"#
    )
}

fn key(name: &str) -> String {
    format!(r#"{{"TableName":"t","Key":{{"LockID":{{"S":"{name}"}}}},"ConsistentRead":true}}"#)
}

fn item(rig: &Rig, operation: &str, body: &str) -> Reply {
    Ask::item(operation, body).send(rig)
}

/// The ID in the lock's item.
fn item_id(rig: &Rig) -> Option<String> {
    let reply = item(rig, "GetItem", &key(STATE));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let document = reply.json()["Item"]["Info"]["S"].as_str().map(str::to_owned)?;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    document["ID"].as_str().map(str::to_owned)
}

fn create_file(rig: &Rig, id: &str) -> Reply {
    Ask::s3("PUT", FILE, lock_document(id).as_bytes()).with("if-none-match", "*").send(rig)
}

#[test]
fn only_who_signs_with_the_runs_keys_is_let_in() {
    let rig = Rig::start();
    let code = |ask: Ask<'_>| {
        let reply = ask.send(&rig);
        (reply.status, reply.element("Code").unwrap_or_default().to_owned())
    };
    let put = || Ask::s3("PUT", OBJECT, b"{}");
    let strange = |name: &str| Credential { username: name.into(), password: "other".into() };
    assert_eq!(code(Ask { keys: strange("STATEDTEST"), ..put() }), (403, "SignatureDoesNotMatch".into()));
    assert_eq!(code(Ask { keys: strange("AKIAOTHER"), ..put() }), (403, "InvalidAccessKeyId".into()));
    let old = SystemTime::now() - Duration::from_secs(3600);
    assert_eq!(code(Ask { at: old, ..put() }), (403, "RequestTimeTooSkewed".into()));
    assert_eq!(code(Ask { hash: Some(&sha256(b"[]")), ..put() }), (400, "XAmzContentSHA256Mismatch".into()));
    assert_eq!(code(Ask { len: Some(10 << 30), ..put() }), (400, "EntityTooLarge".into()));
    assert_eq!(
        code(Ask { hash: Some("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), ..put() }),
        (501, "NotImplemented".into())
    );
    assert_eq!(code(Ask { service: "ec2", ..put() }), (501, "NotImplemented".into()));
    let unsigned = raw(
        rig.address,
        format!("GET {OBJECT} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", rig.address).as_bytes(),
    );
    let unsigned = unsigned.unwrap();
    assert_eq!((unsigned.status, unsigned.element("Code")), (403, Some("AccessDenied")));
    assert_eq!(put().with("origin", "http://evil.example").send(&rig).status, 403);
    assert_eq!(rig.fake.contents(STATE), [], "nothing was kept");
    assert_eq!(put().send(&rig).status, 200);
}

#[test]
fn each_service_refuses_in_its_own_form() {
    let rig = Rig::start();
    let wrong = Credential { password: "other".into(), ..keys() };
    let dynamodb = Ask { keys: wrong.clone(), ..Ask::item("GetItem", &key(STATE)) }.send(&rig);
    assert_eq!(dynamodb.status, 400);
    assert!(dynamodb.json()["__type"].as_str().unwrap().ends_with("#InvalidSignatureException"));
    let unknown = item(&rig, "Query", "{}");
    assert!(unknown.json()["__type"].as_str().unwrap().ends_with("#UnknownOperationException"));

    let form = b"Action=GetCallerIdentity&Version=2011-06-15";
    let sts = |keys, body| Ask { service: "sts", keys, ..Ask::s3("POST", "/", body) }.send(&rig);
    assert_eq!(sts(keys(), form).element("Account"), Some("000000000000"));
    assert_eq!(sts(wrong, form).element("Code"), Some("SignatureDoesNotMatch"));
    assert_eq!(sts(keys(), b"Action=AssumeRole").element("Code"), Some("InvalidAction"));
}

#[test]
fn an_item_is_a_lock_of_the_state() {
    let rig = Rig::start();
    assert_eq!(item_id(&rig), None);
    assert_eq!(item(&rig, "PutItem", &put_item(A)).status, 200);
    assert_eq!(rig.fake.held(), [A]);
    assert_eq!(rig.fake.asked()[0].names.first().unwrap().as_str(), STATE);
    assert_eq!(item(&rig, "PutItem", &put_item(A)).status, 200, "asked again after a lost answer");
    assert_eq!(item_id(&rig).as_deref(), Some(A), "its ID is bare");

    let refused = item(&rig, "PutItem", &put_item(B));
    assert_eq!(refused.status, 400);
    let refused = refused.json();
    assert!(refused["__type"].as_str().unwrap().ends_with("#ConditionalCheckFailedException"));
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("held by alice@build-7 (pid 4200001) for apply"), "{message}");
    assert_eq!(rig.ask("LOCK", &format!("/v1/state/{STATE}"), &lock_document(B)).status, 423, "by http it is the same");

    assert_eq!(item(&rig, "DeleteItem", &key(STATE)).status, 200);
    assert_eq!(item(&rig, "DeleteItem", &key(STATE)).status, 200, "asked again after a lost answer");
    assert_eq!((rig.fake.held(), rig.fake.broken()), (vec![], vec![]));
}

#[test]
fn a_lock_of_somebody_else_is_broken_if_it_is_the_one_that_was_seen() {
    let rig = Rig::start();
    rig.fake.hold(A, STATE);
    assert_eq!(item_id(&rig).as_deref(), Some(A));
    rig.fake.release(A);
    rig.fake.hold(B, STATE);
    assert_eq!(item(&rig, "DeleteItem", &key(STATE)).status, 200);
    assert_eq!(rig.fake.held(), [B], "another one, that the sender has not seen");
    assert_eq!(item_id(&rig).as_deref(), Some(B));
    assert_eq!(item(&rig, "DeleteItem", &key(STATE)).status, 200);
    assert_eq!(rig.fake.broken(), [B]);
}

#[test]
fn a_lock_of_somebody_else_stays_where_its_deleter_has_not_read_it() {
    let rig = Rig::start();
    rig.fake.hold(A, STATE);
    rig.fake.hold(B, "bucket/other");
    assert_eq!(Ask::s3("GET", "/bucket/other.tflock", b"").send(&rig).status, 200, "of another state");
    let refused = item(&rig, "DeleteItem", &key(STATE));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.json()["__type"].as_str().unwrap().ends_with("#ConditionalCheckFailedException"));
    let refused = Ask::s3("DELETE", FILE, b"").send(&rig);
    assert_eq!((refused.status, refused.element("Code")), (409, Some("OperationAborted")));
    assert!(
        refused.element("Message").unwrap().contains(&format!("statectl break '{STATE}' {A}")),
        "{}",
        refused.text()
    );
    assert_eq!(rig.fake.broken(), [] as [&str; 0]);

    assert_eq!(item_id(&rig).as_deref(), Some(A));
    assert_eq!(Ask::s3("DELETE", FILE, b"").send(&rig).status, 204);
    assert_eq!(rig.fake.broken(), [A]);
}

#[test]
fn who_was_refused_reads_who_was_in_the_way_once() {
    let rig = Rig::start();
    rig.fake.hold(A, STATE);
    assert_eq!(item(&rig, "PutItem", &put_item(B)).status, 400);
    rig.fake.release(A);
    assert_eq!(item_id(&rig).as_deref(), Some(A), "it has left, but the answer is to the refusal");
    assert_eq!(item_id(&rig), None);
    assert_eq!(item(&rig, "PutItem", &put_item(B)).status, 200);
    assert_eq!(item_id(&rig).as_deref(), Some(B));
}

#[test]
fn a_lock_by_file_and_item_is_one_lock() {
    let rig = Rig::start();
    assert_eq!(create_file(&rig, A).status, 200);
    assert_eq!(create_file(&rig, A).status, 200, "asked again after a lost answer");
    assert_eq!(item(&rig, "PutItem", &put_item(B)).status, 400, "who locks by item only is kept out");
    assert_eq!(item(&rig, "PutItem", &put_item(A)).status, 200);
    let refused = create_file(&rig, B);
    assert_eq!((refused.status, refused.element("Code")), (412, Some("PreconditionFailed")));
    assert!(refused.element("Message").unwrap().contains("held by alice@build-7"), "{}", refused.text());

    assert_eq!(Ask::s3("GET", FILE, b"").send(&rig).json()["ID"], A);
    assert_eq!(Ask::s3("DELETE", FILE, b"").send(&rig).status, 204);
    assert_eq!(Ask::s3("GET", FILE, b"").send(&rig).status, 404);
    assert_eq!(item_id(&rig).as_deref(), Some(A), "its item is there still, and so is the lock");
    assert_eq!(item(&rig, "DeleteItem", &key(STATE)).status, 200);
    assert_eq!((rig.fake.held(), rig.fake.broken()), (vec![], vec![]));
}

#[test]
fn a_lock_of_both_faces_is_broken_by_both() {
    let rig = Rig::start();
    rig.fake.hold(A, STATE);
    assert_eq!(Ask::s3("GET", FILE, b"").send(&rig).json()["ID"], A);
    assert_eq!(Ask::s3("DELETE", FILE, b"").send(&rig).status, 204);
    assert_eq!(rig.fake.broken(), [A]);
    assert_eq!(item_id(&rig).as_deref(), Some(A), "who broke it finds the other face, and deletes that too");
    assert_eq!(item(&rig, "DeleteItem", &key(STATE)).status, 200);
    assert_eq!(item_id(&rig), None);
    assert_eq!(Ask::s3("GET", FILE, b"").send(&rig).status, 404);
    assert_eq!(rig.fake.broken(), [A]);
}

#[test]
fn a_digest_is_what_the_state_holds() {
    let rig = Rig::start();
    let digest = || item(&rig, "GetItem", &key(&format!("{STATE}-md5"))).json()["Item"]["Digest"]["S"].clone();
    assert_eq!(digest(), serde_json::Value::Null);
    assert_eq!(Ask::s3("PUT", OBJECT, b"{}").send(&rig).status, 200);
    // MD5 of "{}".
    assert_eq!(digest(), "99914b932bd37a50b983c5e7c90ae93b");
    let wrong = format!(r#"{{"TableName":"t","Item":{{"LockID":{{"S":"{STATE}-md5"}},"Digest":{{"S":"00"}}}}}}"#);
    assert_eq!(item(&rig, "PutItem", &wrong).status, 200);
    assert_eq!(digest(), "99914b932bd37a50b983c5e7c90ae93b", "nobody can make it differ");
    assert_eq!(item(&rig, "DeleteItem", &key(&format!("{STATE}-md5"))).status, 200);
    assert_eq!(Ask::s3("DELETE", OBJECT, b"").send(&rig).status, 204);
    assert_eq!(digest(), serde_json::Value::Null);
}

#[test]
fn a_table_holds_locks_and_digests_only() {
    let rig = Rig::start();
    for body in [
        put_item(A).replace(r#","ConditionExpression":"attribute_not_exists(LockID)""#, ""),
        put_item(A).replace("attribute_not_exists(LockID)", "attribute_exists(LockID)"),
        put_item("ü"),
        put_item(A).replace("LockID", "Other"),
        put_item(A).replace(STATE, "nobucket"),
        r#"{"Item":{"LockID":{"S":"bucket/k"}}}"#.to_owned(),
    ] {
        let refused = item(&rig, "PutItem", &body);
        let kind = refused.json()["__type"].as_str().unwrap().to_owned();
        assert!(refused.status == 400 && kind.ends_with("#ValidationException"), "{body}: {kind}");
    }
    assert_eq!(item(&rig, "PutItem", "x").status, 400);
    let table = item(&rig, "DescribeTable", r#"{"TableName":"t"}"#).json();
    assert_eq!((&table["Table"]["TableStatus"], &table["Table"]["TableName"]), (&"ACTIVE".into(), &"t".into()));
    assert!(rig.fake.asked().is_empty());
}

#[test]
fn a_write_relies_on_its_process_lock_also_when_that_is_lost() {
    let rig = Rig::start();
    rig.fake.hold(B, STATE);
    let refused = Ask::s3("PUT", OBJECT, b"1").send(&rig);
    assert_eq!((refused.status, refused.element("Code")), (409, Some("OperationAborted")));
    assert!(refused.element("Message").unwrap().contains("held by alice@build-7"), "{}", refused.text());
    rig.fake.release(B);

    assert_eq!(item(&rig, "PutItem", &put_item(A)).status, 200);
    assert_eq!(Ask::s3("PUT", OBJECT, b"2").send(&rig).status, 200);
    let version = rig.fake.newest(STATE);
    assert_eq!(version.message.as_deref(), Some("terraform apply"));
    assert_eq!(
        (version.labels["gateway"].as_str(), version.labels["directory"].as_str()),
        ("s3", "build-7:/srv/infra")
    );

    // The daemon tells that it was broken; somebody else takes it, works, and gives it back.
    rig.fake.release(A);
    rig.work.lost(&LockId::parse(A).unwrap());
    assert_eq!(Ask::s3("PUT", OBJECT, b"3").send(&rig).status, 409, "nobody holds it, but the writer has lost it");
    assert_eq!(rig.fake.contents(STATE).len(), 1);
    assert_eq!(item(&rig, "PutItem", &put_item(B)).status, 200);
    assert_eq!(Ask::s3("PUT", OBJECT, b"4").send(&rig).status, 200, "with a new lock it may");
}
