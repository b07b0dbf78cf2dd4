//! Who may speak to a gateway at all.
//!
//! A loopback port can be reached by every user of the host and by every web page that a browser of theirs shows.
//! So each request proves that it knows the run's credential, names the address that it believes to speak to
//! (a rebound DNS name would differ), and carries no header that only browsers send.

use std::fmt::{self, Write as _};
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::random::random;

/// What a client must know: drawn for one run of one gateway.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credential {
    /// Not secret.
    pub username: String,
    /// 256 random bits in hexadecimal.
    pub password: String,
}

impl Credential {
    /// Draws a new one from the kernel.
    pub fn draw() -> io::Result<Self> {
        Ok(Self { username: "stated".to_owned(), password: random_hex::<32>()? })
    }

    /// Draws the keys of an AWS client: the access key's ID and the secret key.
    pub fn draw_keys() -> io::Result<Self> {
        let id = random_hex::<7>()?.to_uppercase();
        Ok(Self { username: format!("STATED{id}"), password: random_hex::<32>()? })
    }
}

/// So many random bytes from the kernel, in hexadecimal.
pub fn random_hex<const LEN: usize>() -> io::Result<String> {
    let bytes: [u8; LEN] = random()?;
    Ok(bytes.iter().fold(String::with_capacity(2 * LEN), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

/// Checks every request before anything else is done with it.
#[derive(Debug)]
pub struct Guard {
    hosts: Vec<String>,
    credential: Credential,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A browser sent it.
    #[error("requests of browsers are refused")]
    Browser,
    /// It was meant for another server.
    #[error("the request names another host")]
    Host,
    /// It knows no credential, or a wrong one.
    #[error("the request needs this run's username and password")]
    Credential,
}

impl Refusal {
    /// The status that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Browser | Self::Host => StatusCode::FORBIDDEN,
            Self::Credential => StatusCode::UNAUTHORIZED,
        }
    }
}

impl Guard {
    /// Lets in who names one of the hosts and knows the credential.
    pub fn new(hosts: Vec<String>, credential: Credential) -> Self {
        Self { hosts, credential }
    }

    /// Refuses what a browser sends, whatever it knows.
    pub fn check_browser(headers: &HeaderMap) -> Result<(), Refusal> {
        if headers.contains_key(ORIGIN) || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-")) {
            return Err(Refusal::Browser);
        }
        Ok(())
    }

    /// Checks one request's target and headers.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        Self::check_browser(headers)?;
        let mut hosts = headers.get_all(HOST).iter();
        let named = hosts.next().and_then(|host| host.to_str().ok());
        let known = named.is_some_and(|named| self.hosts.iter().any(|host| host == named));
        // A target with a host of its own is one meant for a proxy.
        if !known || hosts.next().is_some() || uri.authority().is_some() {
            return Err(Refusal::Host);
        }
        if self.is_known(headers, AUTHORIZATION) { Ok(()) } else { Err(Refusal::Credential) }
    }

    /// Whether a header holds the credential, once.
    pub fn is_known(&self, headers: &HeaderMap, name: HeaderName) -> bool {
        let mut given = headers.get_all(name).iter();
        let given = match (given.next(), given.next()) {
            (Some(given), None) => given.to_str().ok(),
            _ => None,
        };
        let given = given
            .and_then(|given| given.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
        let wanted = format!("{}:{}", self.credential.username, self.credential.password);
        given.is_some_and(|given| bool::from(given.ct_eq(wanted.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn check(uri: &str, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let credential = Credential { username: "stated".into(), password: "secret".into() };
        let guard = Guard::new(vec!["127.0.0.1:8080".into()], credential);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        guard.check(&uri.parse().unwrap(), &map)
    }

    // stated:secret
    const GOOD: (&str, &str) = ("authorization", "Basic c3RhdGVkOnNlY3JldA==");
    const HOME: (&str, &str) = ("host", "127.0.0.1:8080");

    #[test]
    fn the_credential_and_the_host_let_in() {
        assert_eq!(check("/x", &[HOME, GOOD]), Ok(()));
        assert_eq!(check("/x", &[HOME, ("authorization", "bAsIc c3RhdGVkOnNlY3JldA==")]), Ok(()));
    }

    #[test]
    fn a_wrong_credential_does_not() {
        for value in ["", "Basic", "Basic !", "Bearer c3RhdGVkOnNlY3JldA==", "Basic c3RhdGVkOnNlY3JlZA==", "Basic Og=="]
        {
            assert_eq!(check("/x", &[HOME, ("authorization", value)]), Err(Refusal::Credential), "{value}");
        }
        assert_eq!(check("/x", &[HOME]), Err(Refusal::Credential));
        assert_eq!(check("/x", &[HOME, GOOD, GOOD]), Err(Refusal::Credential));
    }

    #[test]
    fn another_host_does_not() {
        for host in ["localhost:8080", "127.0.0.1", "127.0.0.1:8081", "evil.example:8080", ""] {
            assert_eq!(check("/x", &[("host", host), GOOD]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check("/x", &[GOOD]), Err(Refusal::Host));
        assert_eq!(check("/x", &[HOME, HOME, GOOD]), Err(Refusal::Host));
        assert_eq!(check("http://127.0.0.1:8080/x", &[HOME, GOOD]), Err(Refusal::Host));
    }

    #[test]
    fn a_browser_does_not() {
        for header in ["origin", "sec-fetch-site", "sec-fetch-mode"] {
            assert_eq!(check("/x", &[HOME, GOOD, (header, "none")]), Err(Refusal::Browser), "{header}");
        }
    }

    #[test]
    fn credentials_are_long_and_do_not_show() {
        let credential = Credential::draw().unwrap();
        assert_eq!(credential.password.len(), 64);
        assert_ne!(credential.password, Credential::draw().unwrap().password);
        assert!(!format!("{credential:?}").contains(&credential.password));
    }
}
