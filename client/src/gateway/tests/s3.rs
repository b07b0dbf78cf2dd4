//! What each request of S3 does, and what it is answered with.

use std::collections::BTreeSet;

use stated_shared::FailureKind;

use super::aws::{A, Ask, OBJECT, STATE};
use super::*;

fn s3(rig: &Rig, method: &str, target: &str, body: &[u8]) -> Reply {
    Ask::s3(method, target, body).send(rig)
}

fn code(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.element("Code").unwrap_or_default())
}

#[test]
fn an_object_is_a_state_and_its_versions_are_ours() {
    let rig = Rig::start();
    assert_eq!(code(&s3(&rig, "GET", OBJECT, b"")), (404, "NoSuchKey"));
    let head = s3(&rig, "HEAD", OBJECT, b"");
    assert_eq!((head.status, head.body.len()), (404, 0));
    let put = s3(&rig, "PUT", OBJECT, b"one");
    assert_eq!((put.status, put.header("x-amz-version-id")), (200, Some("1")));
    let tag = put.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"));
    s3(&rig, "PUT", OBJECT, b"three");

    let get = s3(&rig, "GET", OBJECT, b"");
    assert_eq!((get.status, get.text(), get.header("x-amz-version-id")), (200, "three", Some("2")));
    let first = s3(&rig, "GET", &format!("{OBJECT}?versionId=1"), b"");
    assert_eq!((first.text(), first.header("etag")), ("one", Some(tag.as_str())));
    let head = s3(&rig, "HEAD", OBJECT, b"");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("5"), 0));
    assert_eq!(head.header("last-modified"), Some("thu, 01 jan 1970 00:00:00 gmt"));

    let deleted = s3(&rig, "DELETE", OBJECT, b"");
    assert_eq!((deleted.status, deleted.header("x-amz-delete-marker")), (204, Some("true")));
    assert_eq!(deleted.header("x-amz-version-id"), Some("3"));
    assert_eq!(code(&s3(&rig, "GET", OBJECT, b"")), (404, "NoSuchKey"));
    assert_eq!(code(&s3(&rig, "GET", &format!("{OBJECT}?versionId=3"), b"")), (405, "MethodNotAllowed"));
    assert_eq!(code(&s3(&rig, "GET", &format!("{OBJECT}?versionId=9"), b"")), (404, "NoSuchVersion"));
    assert_eq!(s3(&rig, "GET", &format!("{OBJECT}?versionId=2"), b"").text(), "three", "its history stays");
    assert_eq!(s3(&rig, "DELETE", "/bucket/never", b"").status, 204, "gone is what was asked for");
}

#[test]
fn parts_of_a_content_are_read() {
    let rig = Rig::start();
    s3(&rig, "PUT", OBJECT, b"0123456789");
    let part = |range| Ask::s3("GET", OBJECT, b"").with("range", range).send(&rig);
    let middle = part("bytes=2-4");
    assert_eq!((middle.status, middle.text(), middle.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(part("bytes=-3").text(), "789");
    assert_eq!(code(&part("bytes=10-")), (416, "InvalidRange"));
    let head = Ask::s3("HEAD", OBJECT, b"").with("range", "bytes=0-3").send(&rig);
    assert_eq!((head.status, head.header("content-length")), (206, Some("4")));

    rig.fake.forget(STATE);
    let put = s3(&rig, "PUT", OBJECT, b"abcdefghij");
    assert_eq!((put.header("x-amz-version-id"), part("bytes=2-4").text()), (Some("1"), "cde"), "another version 1");
}

#[test]
fn conditions_are_kept() {
    let rig = Rig::start();
    let put = |name, value: &str, body| Ask::s3("PUT", OBJECT, body).with(name, value).send(&rig);
    let first = put("if-none-match", "*", b"one");
    assert_eq!(first.status, 200);
    assert_eq!(code(&put("if-none-match", "*", b"two")), (412, "PreconditionFailed"));
    let tag = first.header("etag").unwrap();
    assert_eq!(put("if-match", tag, b"two").status, 200);
    assert_eq!(code(&put("if-match", tag, b"three")), (412, "PreconditionFailed"));
    assert_eq!(code(&put("if-none-match", "\"x\"", b"")), (501, "NotImplemented"));
    assert_eq!(rig.fake.contents(STATE).len(), 2);

    let get = |name, value: &str| Ask::s3("GET", OBJECT, b"").with(name, value).send(&rig).status;
    let now = s3(&rig, "GET", OBJECT, b"");
    let now = now.header("etag").unwrap();
    assert_eq!((get("if-none-match", now), get("if-none-match", tag)), (304, 200));
    assert_eq!((get("if-match", now), get("if-match", tag)), (200, 412));
    assert_eq!(get("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT"), 304);
    assert_eq!(get("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT"), 200);

    s3(&rig, "DELETE", OBJECT, b"");
    assert_eq!(put("if-none-match", "*", b"again").status, 200, "what is removed is not there");
    assert_eq!(code(&Ask::s3("PUT", "/bucket/new", b"").with("if-match", tag).send(&rig)), (404, "NoSuchKey"));
}

#[test]
fn checksums_are_compared() {
    let rig = Rig::start();
    let put = |name, value: &str| Ask::s3("PUT", OBJECT, b"123456789").with(name, value).send(&rig);
    for (name, right) in [
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
        ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
    ] {
        assert_eq!(put(name, right).status, 200, "{name}");
        let wrong = right.replace(['a', 'w', 'J'], "b").replace('y', "z").replace('r', "s");
        assert_eq!(code(&put(name, &wrong)), (400, "BadDigest"), "{name}");
    }
    assert_eq!(code(&put("x-amz-checksum-sha1", "x")), (501, "NotImplemented"));
    assert_eq!(rig.fake.contents(STATE).len(), 1);
    let told = Ask::s3("GET", OBJECT, b"").with("x-amz-checksum-mode", "ENABLED").send(&rig);
    assert_eq!(told.header("x-amz-checksum-sha256"), Some("fekw08m4keuw8e9gnsqzqgwg4ydolmzfviwzeksosiu="));
}

#[test]
fn encryption_is_accepted_where_it_is_the_stores_own() {
    let rig = Rig::start();
    let put = |name, value: &str| Ask::s3("PUT", OBJECT, b"1").with(name, value).send(&rig);
    let encrypted = put("x-amz-server-side-encryption", "AES256");
    assert_eq!(encrypted.status, 200);
    assert_eq!(encrypted.header("x-amz-server-side-encryption"), None, "it is encrypted, but not by that");
    assert_eq!(put("x-amz-acl", "private").status, 200);
    assert_eq!(code(&put("x-amz-acl", "public-read")), (400, "AccessControlListNotSupported"));
    assert_eq!(code(&put("x-amz-storage-class", "GLACIER")), (400, "InvalidStorageClass"));
    for (name, value) in [
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-tagging", "a=b"),
    ] {
        assert_eq!(code(&put(name, value)), (501, "NotImplemented"), "{name}");
    }
}

#[test]
fn buckets_and_keys_have_their_form() {
    let rig = Rig::start();
    assert_eq!(code(&s3(&rig, "PUT", "/Bucket/k", b"")), (400, "InvalidBucketName"));
    assert_eq!(code(&s3(&rig, "PUT", &format!("/bucket/{}", "k".repeat(1025)), b"")), (400, "KeyTooLongError"));
    assert_eq!(s3(&rig, "PUT", "/bucket/a%40b//c%25/", b"x").status, 200);
    assert_eq!(rig.fake.contents("bucket/a%40b/%/c%25/%").len(), 1);
    assert_eq!(s3(&rig, "GET", "/bucket/a@b//c%25/", b"").text(), "x");
}

/// The keys and the prefixes of a list.
fn listed(reply: &Reply) -> (Vec<&str>, Vec<&str>) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let texts = |name: &str, text: &'static str| -> Vec<&str> {
        reply
            .text()
            .split(&format!("<{name}>"))
            .skip(1)
            .filter_map(|rest| rest.split_once(text).map(|(text, _)| text))
            .collect()
    };
    let keys = texts("Key", "</Key>");
    let prefixes = reply.text().split("<CommonPrefixes>").skip(1);
    (
        keys,
        prefixes
            .filter_map(|rest| rest.strip_prefix("<Prefix>")?.split_once("</Prefix>").map(|(text, _)| text))
            .collect(),
    )
}

#[test]
fn objects_are_listed_in_the_order_of_their_keys() {
    let rig = Rig::start();
    let keys = ["a", "a@b", "b/1", "b/2", "b/c/3", "z&lt;", "ü"];
    for key in keys {
        let target = format!("/bucket/{}", crate::gateway::percent::encode_path(&key.replace("&lt;", "<")));
        assert_eq!(s3(&rig, "PUT", &target, b"1").status, 200);
    }
    s3(&rig, "PUT", "/bucket-2/other", b"1");
    s3(&rig, "PUT", "/bucket/removed", b"1");
    s3(&rig, "DELETE", "/bucket/removed", b"");

    let list = |query: &str| s3(&rig, "GET", &format!("/bucket?list-type=2{query}"), b"");
    let all = list("");
    assert_eq!(listed(&all), (keys.to_vec(), vec![]));
    assert_eq!((all.element("KeyCount"), all.element("IsTruncated")), (Some("7"), Some("false")));
    assert_eq!((all.element("Size"), all.element("LastModified")), (Some("1"), Some("1970-01-01T00:00:00.000Z")));
    assert_eq!(listed(&list("&delimiter=%2F")), (vec!["a", "a@b", "z&lt;", "ü"], vec!["b/"]));
    assert_eq!(listed(&list("&prefix=b%2F&delimiter=%2F")), (vec!["b/1", "b/2"], vec!["b/c/"]));
    assert_eq!(listed(&list("&prefix=b")), (vec!["b/1", "b/2", "b/c/3"], vec![]));
    assert_eq!(listed(&list("&start-after=b%2F2")), (vec!["b/c/3", "z&lt;", "ü"], vec![]));
    assert_eq!(code(&list("&prefix=%C3")), (400, "InvalidURI"), "half a letter is none");
    assert_eq!(listed(&list("&prefix=%C3%BC&encoding-type=url")).0, ["%C3%BC"]);
    assert_eq!(listed(&list("&max-keys=0")), (vec![], vec![]));

    // Page after page.
    let (mut rows, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("&delimiter=%2F&max-keys=2{token}"));
        let (keys, prefixes) = listed(&page);
        rows.extend(keys.iter().chain(&prefixes).map(|row| (*row).to_owned()));
        match page.element("NextContinuationToken") {
            Some(next) => {
                token =
                    format!("&continuation-token={}", crate::gateway::percent::encode_strictly(next.as_bytes(), b""))
            }
            None => break,
        }
    }
    assert_eq!(rows, ["a", "a@b", "z&lt;", "b/", "ü"].map(str::to_owned), "in a page, keys come before prefixes");
}

#[test]
fn a_content_comes_in_parts() {
    let rig = Rig::start();
    let begun = s3(&rig, "POST", &format!("{OBJECT}?uploads="), b"");
    let id = begun.element("UploadId").unwrap();
    let upload = |number: u32, body: &[u8]| {
        let reply = s3(&rig, "PUT", &format!("{OBJECT}?partNumber={number}&uploadId={id}"), body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.header("etag").unwrap().to_owned()
    };
    // In any order, and again.
    let (second, _) = (upload(2, b"two"), upload(1, b"lost"));
    let first = upload(1, b"one ");
    let part = |number: u32, tag: &str| format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
    let whole = |parts: &str| format!("<CompleteMultipartUpload xmlns=\"x\">{parts}</CompleteMultipartUpload>");
    let complete = |body: &str| s3(&rig, "POST", &format!("{OBJECT}?uploadId={id}"), body.as_bytes());

    assert_eq!(code(&complete("<x>")), (400, "MalformedXML"));
    let swapped = whole(&[part(2, &second), part(1, &first)].concat());
    assert_eq!(code(&complete(&swapped)), (400, "InvalidPartOrder"));
    assert_eq!(code(&complete(&whole(&part(3, &first)))), (400, "InvalidPart"));
    assert_eq!(code(&complete(&whole(&part(1, &second)))), (400, "InvalidPart"));
    rig.fake.hold(A, STATE);
    let right = whole(&[part(1, &first.replace('"', "&quot;")), part(2, &second)].concat());
    assert_eq!(code(&complete(&right)), (409, "OperationAborted"));
    rig.fake.release(A);
    assert_eq!(rig.fake.contents(STATE), []);

    let done = complete(&right);
    assert_eq!((done.status, done.header("x-amz-version-id")), (200, Some("1")));
    assert_eq!(complete(&right).text(), done.text(), "asked again after a lost answer");
    assert_eq!(rig.fake.contents(STATE), [Some(b"one two".to_vec())]);
    assert_eq!(code(&s3(&rig, "PUT", &format!("{OBJECT}?partNumber=1&uploadId={id}"), b"")), (404, "NoSuchUpload"));

    let begun = s3(&rig, "POST", &format!("{OBJECT}?uploads="), b"");
    let other = begun.element("UploadId").unwrap();
    assert_eq!(s3(&rig, "DELETE", &format!("{OBJECT}?uploadId={other}"), b"").status, 204);
    assert_eq!(code(&s3(&rig, "DELETE", &format!("{OBJECT}?uploadId={other}"), b"")), (404, "NoSuchUpload"));
}

#[test]
fn buckets_are_there() {
    let rig = Rig::start();
    for key in ["b-1/x", "bucket/a", "bucket/b", "bucket0/c", "other-bucket/d"] {
        s3(&rig, "PUT", &format!("/{key}"), b"1");
    }
    rig.ask("POST", "/v1/state/no", "1");
    let buckets = s3(&rig, "GET", "/", b"");
    let names: Vec<_> = buckets.text().split("<Name>").skip(1).map(|rest| rest.split_once('<').unwrap().0).collect();
    assert_eq!(names, ["b-1", "bucket", "bucket0", "other-bucket"]);
    assert_eq!(s3(&rig, "HEAD", "/any-bucket", b"").status, 200);
    assert_eq!(code(&s3(&rig, "PUT", "/any-bucket", b"")), (409, "BucketAlreadyOwnedByYou"));
    assert_eq!(s3(&rig, "GET", "/bucket?versioning", b"").element("Status"), Some("Enabled"));
    assert_eq!(s3(&rig, "GET", "/bucket?location", b"").status, 200);
}

#[test]
fn the_older_list_goes_on_after_its_marker() {
    let rig = Rig::start();
    for key in ["a", "b/1", "b/2", "c"] {
        s3(&rig, "PUT", &format!("/bucket/{key}"), b"1");
    }
    let first = s3(&rig, "GET", "/bucket?delimiter=%2F&max-keys=2", b"");
    assert_eq!(listed(&first), (vec!["a"], vec!["b/"]));
    assert_eq!(first.element("NextMarker"), Some("b/"));
    assert_eq!(listed(&s3(&rig, "GET", "/bucket?delimiter=%2F&marker=b%2F", b"")), (vec!["c"], vec![]));
}

#[test]
fn versions_are_listed_the_newest_first() {
    let rig = Rig::start();
    for body in ["1", "2", "3", "4", "5"] {
        s3(&rig, "PUT", OBJECT, body.as_bytes());
    }
    s3(&rig, "PUT", "/bucket/b", b"1");
    let ids = |reply: &Reply| {
        let text = reply.text().to_owned();
        let row = |rest: &str| (rest.split_once('<').unwrap().0.to_owned(), rest.contains("<IsLatest>true"));
        text.split("<VersionId>").skip(1).map(row).collect::<Vec<_>>()
    };
    let list = |query: &str| s3(&rig, "GET", &format!("/bucket?versions{query}"), b"");
    let all = list("");
    let expected = [("5", true), ("4", false), ("3", false), ("2", false), ("1", false), ("1", true)];
    assert_eq!(ids(&all), expected.map(|(id, is_latest)| (id.to_owned(), is_latest)));
    let page = list("&max-keys=2");
    assert_eq!((page.element("NextKeyMarker"), page.element("NextVersionIdMarker")), (Some("a/state"), Some("4")));
    let rest = list("&key-marker=a%2Fstate&version-id-marker=4");
    assert_eq!(ids(&rest).iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["3", "2", "1", "1"]);

    s3(&rig, "DELETE", OBJECT, b"");
    assert_eq!(ids(&list("")).len(), 1, "what is removed is not looked for");
    let removed = list("&prefix=a%2Fstate");
    assert_eq!((ids(&removed).len(), removed.text().contains("<DeleteMarker>")), (6, true), "but found by its key");
}

#[test]
fn pages_of_versions_hold_each_version_once() {
    let rig = Rig::start();
    for (key, body) in [("a", "1"), ("b", "1"), ("b", "2"), ("b", "3"), ("c", "1"), ("d&", "1"), ("e", "1")] {
        s3(&rig, "PUT", &format!("/bucket/{}", key.replace('&', "%26")), body.as_bytes());
    }
    let all = ["a 1", "b 3", "b 2", "b 1", "c 1", "d%26 1", "e 1"];
    for max in 1..=all.len() + 1 {
        let (mut rows, mut markers) = (Vec::new(), String::new());
        loop {
            let target = format!("/bucket?versions&encoding-type=url&max-keys={max}{markers}");
            let page = s3(&rig, "GET", &target, b"");
            let (keys, text) = (listed(&page).0, page.text());
            let versions = text.split("<VersionId>").skip(1).map(|rest| rest.split_once('<').unwrap().0);
            rows.extend(keys.iter().zip(versions).map(|(key, version)| format!("{key} {version}")));
            assert!(keys.len() <= max && rows.len() <= all.len(), "{rows:?} by {max}");
            let (key, version) = (page.element("NextKeyMarker"), page.element("NextVersionIdMarker"));
            assert_eq!(page.element("IsTruncated"), Some(if key.is_some() { "true" } else { "false" }));
            let (Some(key), Some(version)) = (key, version) else { break };
            markers = format!("&key-marker={key}&version-id-marker={version}");
        }
        assert_eq!(rows, all, "by {max}");
    }
    let none = s3(&rig, "GET", "/bucket?versions&max-keys=0", b"");
    assert_eq!((listed(&none).0.len(), none.element("IsTruncated")), (0, Some("false")));
}

#[test]
fn many_are_removed_at_once() {
    let rig = Rig::start();
    for key in ["a", "b&c", "kept"] {
        s3(&rig, "PUT", &format!("/bucket/{}", key.replace('&', "%26")), b"1");
    }
    rig.fake.hold(A, "bucket/kept");
    let list = "<Delete><Object><Key>a</Key></Object><Object><Key>b&amp;c</Key></Object><Object><Key>kept</Key></Object><Object><Key>a</Key><VersionId>1</VersionId></Object></Delete>";
    let done = s3(&rig, "POST", "/bucket?delete=", list.as_bytes());
    assert_eq!((done.status, done.text().matches("<Deleted>").count()), (200, 2), "{}", done.text());
    assert!(
        done.text().contains("<Code>OperationAborted</Code>") && done.text().contains("<Code>NotImplemented</Code>")
    );
    assert_eq!(listed(&s3(&rig, "GET", "/bucket?list-type=2", b"")).0, ["kept"]);
    assert_eq!(code(&s3(&rig, "POST", "/bucket?delete", b"<Delete/>")), (400, "MalformedXML"));
}

#[test]
fn lists_show_what_is_within_the_scope_and_refuse_no_prefix() {
    let scope = Scope { states: vec!["bucket/prod/**".parse().unwrap()], verbs: Verb::ALL.to_vec() };
    let rig = Rig::with(Plan { scope, ..Plan::default() });
    s3(&rig, "PUT", "/bucket/prod/a", b"1");
    for query in ["", "prefix=pro", "prefix=prod", "prefix=prod/", "prefix=prod%2Fa"] {
        for list in ["list-type=2", "versions"] {
            let reply = s3(&rig, "GET", &format!("/bucket?{list}&{query}"), b"");
            assert_eq!(listed(&reply).0, ["prod/a"], "{list} {query}");
        }
    }
    for query in ["list-type=2&prefix=test", "versions&prefix=test", "versions&key-marker=test&version-id-marker=2"] {
        assert_eq!(listed(&s3(&rig, "GET", &format!("/bucket?{query}"), b"")).0, [] as [&str; 0], "{query}");
    }
    assert_eq!(rig.reports(), [] as [&str; 0], "nobody asked for a state that is out of reach");
    assert_eq!(code(&s3(&rig, "GET", "/bucket/prod", b"")), (403, "AccessDenied"));
}

#[test]
fn a_removal_may_have_a_condition() {
    let rig = Rig::start();
    let put = |key: &str| s3(&rig, "PUT", &format!("/bucket/{key}"), b"1").header("etag").unwrap().to_owned();
    let tag = put("same");
    for key in ["any", "dated", "deep", "other", "sized"] {
        put(key);
    }
    rig.fake.hold(A, "bucket/locked");
    let list = [
        ("same", format!("<ETag>{}</ETag>", tag.replace('"', "&quot;"))),
        ("any", "<ETag>*</ETag>".to_owned()),
        ("other", "<ETag>&quot;other&quot;</ETag>".to_owned()),
        ("none", format!("<ETag>{tag}</ETag>")),
        ("sized", "<Size>1</Size>".to_owned()),
        ("dated", "<LastModifiedTime>Thu, 01 Jan 1970 00:00:00 GMT</LastModifiedTime>".to_owned()),
        ("deep", "<Deep><Key>any</Key></Deep>".to_owned()),
        ("locked.tflock", "<ETag>*</ETag>".to_owned()),
    ];
    let list: String = list.map(|(key, rest)| format!("<Object><Key>{key}</Key>{rest}</Object>")).concat();
    let done = s3(&rig, "POST", "/bucket?delete", format!("<Delete>{list}</Delete>").as_bytes());
    assert_eq!(done.status, 200, "{}", done.text());
    let outcome = |rest: &str| {
        let (key, rest) = rest.split_once("</Key>").unwrap();
        let code = rest.strip_prefix("<Code>").and_then(|rest| rest.split_once('<'));
        (key.to_owned(), code.map(|(code, _)| code.to_owned()))
    };
    let outcomes: Vec<_> = done.text().split("<Key>").skip(1).map(outcome).collect();
    let expected = [
        ("same", None),
        ("any", None),
        ("other", Some("PreconditionFailed")),
        ("none", Some("NoSuchKey")),
        ("sized", Some("NotImplemented")),
        ("dated", Some("NotImplemented")),
        ("deep", Some("NotImplemented")),
        ("locked.tflock", Some("NotImplemented")),
    ];
    assert_eq!(outcomes, expected.map(|(key, code)| (key.to_owned(), code.map(str::to_owned))));
    assert_eq!(listed(&s3(&rig, "GET", "/bucket?list-type=2", b"")).0, ["dated", "deep", "other", "sized"]);
    let one = |target, name, value| Ask::s3("DELETE", target, b"").with(name, value).send(&rig);
    assert_eq!(code(&one("/bucket/other", "if-match", "\"other\"")), (412, "PreconditionFailed"));
    assert_eq!(code(&one("/bucket/sized", "x-amz-if-match-size", "9")), (501, "NotImplemented"));
    assert_eq!(code(&one("/bucket/locked.tflock", "if-match", "\"other\"")), (501, "NotImplemented"));
    assert_eq!(rig.fake.held(), [A]);
}

#[test]
fn what_is_said_of_a_content_is_kept_with_it() {
    let rig = Rig::start();
    let put =
        |name, value: &str| Ask::s3("PUT", OBJECT, b"1").with("content-type", "text/x").with(name, value).send(&rig);
    assert_eq!(put("x-amz-meta-mtime", "1700000000.5").status, 200);
    let head = s3(&rig, "HEAD", OBJECT, b"");
    assert_eq!((head.header("x-amz-meta-mtime"), head.header("content-type")), (Some("1700000000.5"), Some("text/x")));
    assert_eq!(code(&put("x-amz-meta-long", &"x".repeat(257))), (400, "MetadataTooLarge"));
}

#[test]
fn a_conditional_write_is_answered_again() {
    let rig = Rig::start();
    let put = |attempt: &str| {
        let ask = Ask::s3("PUT", OBJECT, b"1").with("if-none-match", "*");
        ask.with("amz-sdk-invocation-id", attempt).send(&rig)
    };
    assert_eq!(put("a").status, 200);
    assert_eq!(put("a").status, 200, "the answer was lost");
    assert_eq!(code(&put("b")), (412, "PreconditionFailed"), "another client with the same content");
}

#[test]
fn a_body_comes_in_pieces() {
    let rig = Rig::start();
    let put = |body: &[u8]| {
        let ask = Ask { hash: Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), ..Ask::s3("PUT", OBJECT, body) };
        ask.with("x-amz-decoded-content-length", "9").with("content-encoding", "aws-chunked").send(&rig)
    };
    let right = b"4\r\n1234\r\n5\r\n56789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
    assert_eq!(put(right).status, 200);
    assert_eq!(rig.fake.contents(STATE), [Some(b"123456789".to_vec())]);
    let wrong = String::from_utf8(right.to_vec()).unwrap().replace("y/Q5", "y/Q6");
    assert_eq!(code(&put(wrong.as_bytes())), (400, "BadDigest"));
    assert_eq!(code(&put(&right[..20])), (400, "IncompleteBody"));
    let signed = Ask {
        hash: Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ..Ask::s3("PUT", OBJECT, b"1;chunk-signature=00\r\nx\r\n")
    };
    assert_eq!(code(&signed.send(&rig)), (403, "SignatureDoesNotMatch"));
    assert_eq!(rig.fake.contents(STATE).len(), 1);
}

#[test]
fn a_content_is_copied_also_from_before() {
    let rig = Rig::start();
    let put = |body| Ask::s3("PUT", OBJECT, body).with("x-amz-meta-who", "me").send(&rig);
    put(b"one");
    put(b"two");
    let copy = |target, source| Ask::s3("PUT", target, b"").with("x-amz-copy-source", source);
    let back = copy(OBJECT, "bucket/a/state?versionId=1").send(&rig);
    assert_eq!((back.status, back.header("x-amz-version-id")), (200, Some("3")), "{}", back.text());
    assert_eq!(back.header("x-amz-copy-source-version-id"), Some("1"));
    let tag = s3(&rig, "HEAD", OBJECT, b"").header("etag").unwrap().replace('"', "&quot;");
    assert!(back.text().contains("CopyObjectResult") && back.text().contains(&tag), "{}", back.text());
    assert_eq!(rig.fake.contents(STATE).last().unwrap(), &Some(b"one".to_vec()));

    assert_eq!(copy("/bucket/b%20c", "/bucket/a%2Fstate").send(&rig).status, 200);
    let copied = s3(&rig, "GET", "/bucket/b%20c", b"");
    assert_eq!((copied.text(), copied.header("x-amz-meta-who")), ("one", Some("me")));
    let other = copy("/bucket/d", "/bucket/b%20c").with("x-amz-metadata-directive", "REPLACE").send(&rig);
    assert_eq!(other.status, 200);
    assert_eq!(s3(&rig, "HEAD", "/bucket/d", b"").header("x-amz-meta-who"), None);

    assert_eq!(code(&copy(OBJECT, "/bucket/none").send(&rig)), (404, "NoSuchKey"));
    assert_eq!(code(&copy(OBJECT, "bucket").send(&rig)), (400, "InvalidArgument"));
    let on_condition = copy(OBJECT, "/bucket/d").with("x-amz-copy-source-if-match", "x");
    assert_eq!(code(&on_condition.send(&rig)), (501, "NotImplemented"));
    rig.fake.hold(A, STATE);
    assert_eq!(code(&copy(OBJECT, "/bucket/d?versionId=1").send(&rig)), (409, "OperationAborted"));
}

/// The operations of a service by the page's table.
fn told(service: &str) -> BTreeSet<String> {
    let page = include_str!("../../../../docs/gateway.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix(&format!("| {service} | "))?.split_once(" | "));
    let names = rows.flat_map(|(names, _)| names.split(", ").map(|name| name.trim_matches('`').to_owned()));
    names.collect()
}

#[test]
fn the_table_of_operations_is_true() {
    let does = [
        ("ListBuckets", "GET", "/", ""),
        ("HeadBucket", "HEAD", "/bucket", ""),
        ("CreateBucket", "PUT", "/bucket", ""),
        ("GetBucketLocation", "GET", "/bucket?location", ""),
        ("GetBucketVersioning", "GET", "/bucket?versioning", ""),
        ("ListObjects", "GET", "/bucket", ""),
        ("ListObjectsV2", "GET", "/bucket?list-type=2", ""),
        ("ListObjectVersions", "GET", "/bucket?versions", ""),
        ("DeleteObjects", "POST", "/bucket?delete", "<Delete><Object><Key>k</Key></Object></Delete>"),
        ("PutObject", "PUT", "/bucket/k", "1"),
        ("GetObject", "GET", "/bucket/k", ""),
        ("HeadObject", "HEAD", "/bucket/k", ""),
        ("CopyObject", "PUT", "/bucket/copy", ""),
        ("DeleteObject", "DELETE", "/bucket/k", ""),
        ("CreateMultipartUpload", "POST", "/bucket/k?uploads", ""),
        ("UploadPart", "PUT", "/bucket/k?partNumber=1&uploadId=none", "1"),
        ("CompleteMultipartUpload", "POST", "/bucket/k?uploadId=none", "<CompleteMultipartUpload/>"),
        ("AbortMultipartUpload", "DELETE", "/bucket/k?uploadId=none", ""),
    ];
    assert_eq!(told("S3"), does.iter().map(|(name, ..)| (*name).to_owned()).collect());
    let rig = Rig::start();
    for (name, method, target, body) in does {
        let ask = Ask::s3(method, target, body.as_bytes());
        let ask = if name == "CopyObject" { ask.with("x-amz-copy-source", "/bucket/k") } else { ask };
        let reply = ask.send(&rig);
        assert_ne!(reply.status, 501, "{name}: {}", reply.text());
    }
    for (name, method, target) in [
        ("DeleteBucket", "DELETE", "/bucket"),
        ("GetBucketAcl", "GET", "/bucket?acl"),
        ("GetBucketPolicy", "GET", "/bucket?policy"),
        ("PutBucketVersioning", "PUT", "/bucket?versioning"),
        ("PutBucketEncryption", "PUT", "/bucket?encryption"),
        ("ListMultipartUploads", "GET", "/bucket?uploads"),
        ("ListParts", "GET", "/bucket/k?uploadId=none"),
        ("UploadPartCopy", "PUT", "/bucket/k?partNumber=1&uploadId=none"),
        ("GetObjectAcl", "GET", "/bucket/k?acl"),
        ("PutObjectTagging", "PUT", "/bucket/k?tagging"),
        ("GetObjectAttributes", "GET", "/bucket/k?attributes"),
        ("SelectObjectContent", "POST", "/bucket/k?select&select-type=2"),
        ("RestoreObject", "POST", "/bucket/k?restore"),
        ("DeleteObject of a version", "DELETE", "/bucket/k?versionId=1"),
    ] {
        let ask = Ask::s3(method, target, b"");
        let ask = if name == "UploadPartCopy" { ask.with("x-amz-copy-source", "/bucket/k") } else { ask };
        assert_eq!(code(&ask.send(&rig)), (501, "NotImplemented"), "{name}");
    }
    let operations = ["DeleteItem", "DescribeTable", "GetItem", "PutItem"];
    assert_eq!(told("DynamoDB"), operations.map(str::to_owned).into());
    for operation in ["BatchWriteItem", "CreateTable", "Query", "Scan", "TransactWriteItems", "UpdateItem"] {
        let reply = Ask::item(operation, "{}").send(&rig);
        let kind = reply.json()["__type"].as_str().unwrap_or_default().to_owned();
        assert!(kind.ends_with("#UnknownOperationException"), "{operation}: {kind}");
    }
    for operation in operations {
        let kind = Ask::item(operation, "{}").send(&rig).json()["__type"].as_str().unwrap_or_default().to_owned();
        assert!(!kind.ends_with("#UnknownOperationException"), "{operation}");
    }
    assert_eq!(told("STS"), ["GetCallerIdentity".to_owned()].into());
}

#[test]
fn uploads_are_bounded() {
    let rig = Rig::start();
    let begin = || s3(&rig, "POST", &format!("{OBJECT}?uploads="), b"");
    for _ in 0..64 {
        assert_eq!(begin().status, 200);
    }
    assert_eq!(code(&begin()), (503, "SlowDown"));
}

#[test]
fn failures_have_their_codes() {
    let rig = Rig::start();
    for (kind, expected) in [
        (FailureKind::Denied, (403, "AccessDenied")),
        (FailureKind::Unavailable, (503, "ServiceUnavailable")),
        (FailureKind::Storage, (500, "InternalError")),
        (FailureKind::Usage, (400, "InvalidRequest")),
    ] {
        rig.fake.fail(Some(kind));
        assert_eq!(code(&s3(&rig, "PUT", OBJECT, b"1")), expected);
        assert_eq!(code(&s3(&rig, "GET", OBJECT, b"")), expected);
    }
}
