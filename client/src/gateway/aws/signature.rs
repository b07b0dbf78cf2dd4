//! AWS Signature Version 4, as a server checks it.
//!
//! By "Signature Version 4 signing process" of the AWS General Reference, and for S3 by "Authenticating Requests" of
//! its API reference. The signature covers method, path, query, the headers that it names, and the body's SHA-256;
//! who knows the secret key made it. It is compared in constant time.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, Mac as _};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap};
use hyper::{Method, Uri};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::super::guard::Credential;
use super::super::percent;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a request's date may be from now.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
/// The hash of a body that is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Why a signature does not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("the request is not signed")]
    Absent,
    /// Not of the form.
    #[error("the authorization is not of Signature Version 4's form")]
    Form,
    /// Of an access key that this gateway did not give out.
    #[error("the access key is not this run's; its variables are found in the environment of statectl exec")]
    Key,
    /// Too old, or of the future.
    #[error("the request's date differs from the clock here by more than 15 minutes")]
    Date,
    /// Not made with the secret key, or of another request.
    #[error("the signature does not match the request and the secret key")]
    Mismatch,
}

/// What a request says of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    access_key: String,
    /// The day, `20261130`.
    day: String,
    /// The region that the client believes to be in.
    pub region: String,
    /// The service that it believes to speak to.
    pub service: String,
    signed_headers: Vec<String>,
    signature: String,
    /// The date, `20261130T104157Z`.
    date: String,
}

impl Claim {
    /// Whether a request means to be signed so.
    pub fn is_made(headers: &HeaderMap) -> bool {
        headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(ALGORITHM.as_bytes()))
    }

    /// Reads the `Authorization` header.
    pub fn read(headers: &HeaderMap) -> Result<Self, SignatureError> {
        let text = one(headers, AUTHORIZATION.as_str()).ok_or(SignatureError::Absent)?;
        let fields = text.strip_prefix(ALGORITHM).ok_or(SignatureError::Form)?;
        let field = |name: &str| {
            fields
                .split(',')
                .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
                .ok_or(SignatureError::Form)
        };
        let date = one(headers, "x-amz-date").ok_or(SignatureError::Form)?;
        let scope: Vec<&str> = field("Credential")?.split('/').collect();
        let &[access_key, day, region, service, "aws4_request"] = scope.as_slice() else {
            return Err(SignatureError::Form);
        };
        let claim = Self {
            access_key: access_key.to_owned(),
            day: day.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed_headers: field("SignedHeaders")?.split(';').map(str::to_owned).collect(),
            signature: field("Signature")?.to_owned(),
            date: date.to_owned(),
        };
        // What nobody signed anybody could have written: the host says whom the request was meant for.
        let binds_host = claim.signed_headers.iter().any(|name| name == HOST.as_str());
        if binds_host && claim.date.starts_with(&claim.day) { Ok(claim) } else { Err(SignatureError::Form) }
    }

    /// Checks all of it; `payload` is the hash of the body in hexadecimal, or what stands for it.
    pub fn check(
        &self,
        keys: &Credential,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        payload: &str,
        now: SystemTime,
    ) -> Result<(), SignatureError> {
        if !bool::from(self.access_key.as_bytes().ct_eq(keys.username.as_bytes())) {
            return Err(SignatureError::Key);
        }
        let at = parse_date(&self.date).ok_or(SignatureError::Form)?;
        let apart = now.duration_since(at).or_else(|_| at.duration_since(now)).map_err(|_| SignatureError::Date)?;
        if apart > SKEW_MAX {
            return Err(SignatureError::Date);
        }
        // A path is signed as S3 encodes it; some clients sign it as they sent it.
        let normal = percent::decode_bytes(uri.path()).map(|path| percent::encode_strictly(&path, b"/"));
        let paths = normal.iter().map(String::as_str).chain([uri.path()]);
        let right = paths.into_iter().any(|path| {
            let request = self.canonical_request(method, path, uri.query().unwrap_or_default(), headers, payload);
            let expected = self.sign(keys, &request);
            bool::from(self.signature.as_bytes().ct_eq(expected.as_bytes()))
        });
        if right { Ok(()) } else { Err(SignatureError::Mismatch) }
    }

    /// What checks the pieces of a body that come after a head with this signature, which was checked.
    pub fn chunk_signer(&self, keys: &Credential) -> ChunkSigner {
        ChunkSigner {
            key: self.key(keys),
            date: self.date.clone(),
            scope: self.scope(),
            previous: self.signature.clone(),
        }
    }

    fn canonical_request(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        payload: &str,
    ) -> String {
        let mut text = format!("{method}\n{path}\n{}\n", canonical_query(query));
        for name in &self.signed_headers {
            let values = headers.get_all(name.as_str()).iter();
            let values: Vec<String> =
                values.map(|value| collapsed(&String::from_utf8_lossy(value.as_bytes()))).collect();
            let _ = writeln!(text, "{name}:{}", values.join(","));
        }
        let _ = write!(text, "\n{}\n{payload}", self.signed_headers.join(";"));
        text
    }

    fn sign(&self, keys: &Credential, request: &str) -> String {
        let text = format!("{ALGORITHM}\n{}\n{}\n{}", self.date, self.scope(), sha256(request.as_bytes()));
        hex(&mac(&self.key(keys), &text))
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.day, self.region, self.service)
    }

    fn key(&self, keys: &Credential) -> [u8; 32] {
        let mut key = mac(format!("AWS4{}", keys.password).as_bytes(), &self.day);
        for part in [self.region.as_str(), &self.service, "aws4_request"] {
            key = mac(&key, part);
        }
        key
    }
}

/// Checks the signatures of a body's pieces, each of which is made over the one before.
pub struct ChunkSigner {
    key: [u8; 32],
    date: String,
    scope: String,
    previous: String,
}

impl ChunkSigner {
    /// The next piece.
    pub fn check(&mut self, piece: &[u8], given: &str) -> Result<(), SignatureError> {
        let hashes = format!("{}\n{}", sha256(b""), sha256(piece));
        self.check_next("PAYLOAD", &hashes, given)
    }

    /// The headers after the last piece, each a line.
    pub fn check_trailer(&mut self, lines: &str, given: &str) -> Result<(), SignatureError> {
        self.check_next("TRAILER", &sha256(lines.as_bytes()), given)
    }

    fn check_next(&mut self, what: &str, hashes: &str, given: &str) -> Result<(), SignatureError> {
        let text = format!("{ALGORITHM}-{what}\n{}\n{}\n{}\n{hashes}", self.date, self.scope, self.previous);
        let expected = hex(&mac(&self.key, &text));
        if !bool::from(expected.as_bytes().ct_eq(given.as_bytes())) {
            return Err(SignatureError::Mismatch);
        }
        self.previous = expected;
        Ok(())
    }

    /// One of the reference's example keys.
    #[cfg(test)]
    pub fn example(date: &str, scope: &str, seed: &str) -> Self {
        let parts: Vec<&str> = scope.split('/').collect();
        let mut key = mac(b"AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", parts[0]);
        for part in &parts[1..] {
            key = mac(&key, part);
        }
        Self { key, date: date.to_owned(), scope: scope.to_owned(), previous: seed.to_owned() }
    }
}

/// The `Authorization` header of a client with these keys; the headers hold a date, a host and a hash.
#[cfg(test)]
pub fn authorization(keys: &Credential, service: &str, request: (&Method, &Uri, &HeaderMap), payload: &str) -> String {
    let date = request.2["x-amz-date"].to_str().expect("a date");
    let mut signed_headers: Vec<String> = request.2.keys().map(ToString::to_string).collect();
    signed_headers.sort();
    let claim = Claim {
        access_key: keys.username.clone(),
        day: date[..8].to_owned(),
        region: "us-west-2".to_owned(),
        service: service.to_owned(),
        signed_headers,
        signature: String::new(),
        date: date.to_owned(),
    };
    let (method, uri, headers) = request;
    let text = claim.canonical_request(method, uri.path(), uri.query().unwrap_or_default(), headers, payload);
    format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={}",
        claim.access_key,
        claim.scope(),
        claim.signed_headers.join(";"),
        claim.sign(keys, &text)
    )
}

/// The value of a header that may come once.
pub fn one<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn mac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Sorted, and encoded in one way.
fn canonical_query(query: &str) -> String {
    let encode = |text: &str| match percent::decode_bytes(text) {
        Some(bytes) => percent::encode_strictly(&bytes, b""),
        None => text.to_owned(),
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encode(name), encode(value))
        })
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Trimmed, and runs of spaces as one.
fn collapsed(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Reads `20261130T104157Z`.
fn parse_date(text: &str) -> Option<SystemTime> {
    let digits = text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !digits {
        return None;
    }
    let part = |from: usize, to: usize| &text[from..to];
    let spelled =
        format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(9, 11), part(11, 13), part(13, 15));
    humantime::parse_rfc3339(&spelled).ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    // The example "GET Object" of "Authenticating Requests: Using the Authorization Header" in S3's API reference.
    const AUTHORIZED: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn keys() -> Credential {
        Credential {
            username: "AKIAIOSFODNN7EXAMPLE".into(),
            password: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn example() -> HeaderMap {
        headers(&[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("authorization", AUTHORIZED),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
        ])
    }

    fn check(uri: &str, headers: &HeaderMap, after: Duration) -> Result<(), SignatureError> {
        let now = humantime::parse_rfc3339("2013-05-24T00:00:00Z").unwrap() + after;
        Claim::read(headers)?.check(&keys(), (&Method::GET, &uri.parse().unwrap(), headers), EMPTY, now)
    }

    #[test]
    fn the_references_example_is_let_in() {
        assert_eq!(check("/test.txt", &example(), Duration::ZERO), Ok(()));
        assert_eq!(check("/test%2Etxt", &example(), Duration::ZERO), Ok(()), "another spelling of the same path");
        let claim = Claim::read(&example()).unwrap();
        assert_eq!((claim.region.as_str(), claim.service.as_str()), ("us-east-1", "s3"));
    }

    #[test]
    fn the_references_example_with_a_query_is_let_in() {
        // "GET Bucket (List Objects)" of the same page.
        let signed = AUTHORIZED.replace("range;", "").replace(
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        );
        let mut map = example();
        map.insert(AUTHORIZATION, HeaderValue::from_str(&signed).unwrap());
        assert_eq!(check("/?max-keys=2&prefix=J", &map, Duration::ZERO), Ok(()));
        assert_eq!(check("/?prefix=J&max-keys=2", &map, Duration::ZERO), Ok(()), "the order does not count");
        assert_eq!(check("/?max-keys=3&prefix=J", &map, Duration::ZERO), Err(SignatureError::Mismatch));
    }

    #[test]
    fn whatever_is_changed_does_not_match() {
        assert_eq!(check("/test.txu", &example(), Duration::ZERO), Err(SignatureError::Mismatch));
        for name in ["host", "range", "x-amz-content-sha256"] {
            let mut map = example();
            map.insert(name, HeaderValue::from_static("other"));
            assert_eq!(check("/test.txt", &map, Duration::ZERO), Err(SignatureError::Mismatch), "{name}");
        }
        let mut map = example();
        map.insert("x-amz-date", HeaderValue::from_static("20130524T000001Z"));
        assert_eq!(check("/test.txt", &map, Duration::ZERO), Err(SignatureError::Mismatch));
        map.insert("x-amz-date", HeaderValue::from_static("20130525T000000Z"));
        assert_eq!(check("/test.txt", &map, Duration::ZERO), Err(SignatureError::Form), "not of the scope's day");
    }

    #[test]
    fn an_old_request_and_a_foreign_key_are_told_apart() {
        assert_eq!(check("/test.txt", &example(), SKEW_MAX), Ok(()));
        assert_eq!(check("/test.txt", &example(), SKEW_MAX + Duration::from_secs(1)), Err(SignatureError::Date));
        let mut map = example();
        map.insert(AUTHORIZATION, HeaderValue::from_str(&AUTHORIZED.replace("AKIA", "AKIB")).unwrap());
        assert_eq!(check("/test.txt", &map, Duration::ZERO), Err(SignatureError::Key));
    }

    #[test]
    fn other_forms_are_refused() {
        for (from, to) in
            [("SignedHeaders=host;", "SignedHeaders="), ("aws4_request", "x"), ("Signature=", "S="), ("/s3", "")]
        {
            let mut map = example();
            map.insert(AUTHORIZATION, HeaderValue::from_str(&AUTHORIZED.replace(from, to)).unwrap());
            assert_eq!(check("/test.txt", &map, Duration::ZERO), Err(SignatureError::Form), "{from}");
        }
        let mut map = example();
        map.append(AUTHORIZATION, HeaderValue::from_static(AUTHORIZED));
        assert_eq!(Claim::read(&map), Err(SignatureError::Absent), "two are none");
    }
}
