//! The variables that point Terraform's `http` backend at a gateway.

use stated_shared::StateName;

use super::Credential;
use super::percent;
use super::server::STATE_PATH;

/// How often Terraform asks again, and how long it waits in between, in seconds: an answer comes after 30 s at the
/// latest, and a daemon that is being replaced is back before the last try.
const RETRIES: [(&str, &str); 3] =
    [("TF_HTTP_RETRY_MAX", "5"), ("TF_HTTP_RETRY_WAIT_MIN", "1"), ("TF_HTTP_RETRY_WAIT_MAX", "5")];

/// The address of a state at a gateway that listens at this one.
pub fn state_url(gateway: &str, state: &StateName) -> String {
    format!("http://{gateway}{STATE_PATH}{}", percent::encode_path(state.as_str()))
}

/// What a run needs: where its state is, and the credential.
pub fn for_state(url: &str, credential: &Credential) -> Vec<(&'static str, String)> {
    ["TF_HTTP_ADDRESS", "TF_HTTP_LOCK_ADDRESS", "TF_HTTP_UNLOCK_ADDRESS"]
        .into_iter()
        .map(|name| (name, url.to_owned()))
        .chain(for_any(credential))
        .collect()
}

/// What does not depend on the state.
pub fn for_any(credential: &Credential) -> Vec<(&'static str, String)> {
    let methods =
        [("TF_HTTP_UPDATE_METHOD", "POST"), ("TF_HTTP_LOCK_METHOD", "LOCK"), ("TF_HTTP_UNLOCK_METHOD", "UNLOCK")];
    [("TF_HTTP_USERNAME", credential.username.as_str()), ("TF_HTTP_PASSWORD", &credential.password)]
        .into_iter()
        .chain(methods)
        .chain(RETRIES)
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}

/// Whether the user's own value counts where there is one.
pub fn is_preference(name: &str) -> bool {
    RETRIES.iter().any(|(retry, _)| *retry == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terraform_finds_everything_in_its_environment() {
        let credential = Credential { username: "stated".into(), password: "secret".into() };
        let url = state_url("127.0.0.1:8080", &StateName::parse("github.com/org/my infra").unwrap());
        assert_eq!(url, "http://127.0.0.1:8080/v1/state/github.com/org/my%20infra");
        let variables = for_state(&url, &credential);
        let value = |name| &variables.iter().find(|(known, _)| *known == name).unwrap().1;
        for name in ["TF_HTTP_ADDRESS", "TF_HTTP_LOCK_ADDRESS", "TF_HTTP_UNLOCK_ADDRESS"] {
            assert_eq!(*value(name), url);
        }
        assert_eq!((value("TF_HTTP_USERNAME").as_str(), value("TF_HTTP_PASSWORD").as_str()), ("stated", "secret"));
        assert_eq!((value("TF_HTTP_LOCK_METHOD").as_str(), value("TF_HTTP_UPDATE_METHOD").as_str()), ("LOCK", "POST"));
        assert!(is_preference("TF_HTTP_RETRY_MAX") && !is_preference("TF_HTTP_ADDRESS"));
    }
}
