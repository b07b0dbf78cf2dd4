//! What a request of the `http` backend asks: its method, its path, its query.

use hyper::{Method, StatusCode, Uri};
use stated_shared::StateName;

use super::super::percent;
use super::super::server::States;
use super::{Answer, STATE_PATH, Verb};

/// The state that a path names, where it is served.
pub fn state(path: &str, states: &States) -> Result<StateName, Answer> {
    let bad = |what: &dyn std::fmt::Display| Answer::text(StatusCode::BAD_REQUEST, what);
    let Some(encoded) = path.strip_prefix(STATE_PATH) else {
        return Err(bad(&format_args!("states are found below {STATE_PATH}")));
    };
    let name = percent::decode(encoded).ok_or_else(|| bad(&"the path is not percent-encoded UTF-8"))?;
    let name = StateName::parse(&name).map_err(|error| bad(&error))?;
    match states {
        // Not 404: Terraform would take it for an empty state.
        States::One(only) if *only != name => {
            Err(Answer::text(StatusCode::FORBIDDEN, format_args!("this gateway serves {only} only")))
        }
        States::None => Err(Answer::text(StatusCode::FORBIDDEN, "this gateway serves no state by http")),
        _ => Ok(name),
    }
}

/// What a method means.
pub fn verb(method: &Method) -> Result<Verb, Answer> {
    match method.as_str() {
        "GET" => Ok(Verb::Read),
        "POST" | "PUT" => Ok(Verb::Write),
        "DELETE" => Ok(Verb::Remove),
        "LOCK" => Ok(Verb::Lock),
        "UNLOCK" => Ok(Verb::Unlock),
        _ => Err(Answer::text(StatusCode::METHOD_NOT_ALLOWED, "this method means nothing here")),
    }
}

/// The `ID` that Terraform puts into the query of a write.
pub fn lock_id(uri: &Uri) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == "ID")?;
    // What does not decode is no lock ID, and is refused as such.
    Some(percent::decode(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_id_is_found_in_the_query() {
        let id = |uri: &str| lock_id(&uri.parse().unwrap());
        assert_eq!(id("/x?a=b&ID=9f-2c").as_deref(), Some("9f-2c"));
        assert_eq!(id("/x?ID=a%20b").as_deref(), Some("a b"));
        assert_eq!(id("/x?id=1"), None);
        assert_eq!(id("/x"), None);
    }
}
