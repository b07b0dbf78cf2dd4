//! The variables that point Terraform's `http` backend and AWS clients at a gateway.

use stated_shared::StateName;

use super::Credential;
use super::percent;
use super::terraform::STATE_PATH;

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

/// What leads AWS clients elsewhere than [`for_aws`] does, or makes them sign with what is not this run's.
pub const AWS_CONFLICTS: [&str; 13] = [
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_STS",
    "AWS_S3_ENDPOINT",
    "AWS_DYNAMODB_ENDPOINT",
    "AWS_STS_ENDPOINT",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SSE_CUSTOMER_KEY",
];

/// The region that AWS clients believe to be in where the user has none: any will do, and some insist on one.
pub const AWS_REGION: &str = "us-east-1";

/// The user's region, or any.
pub fn region() -> String {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")).unwrap_or_else(|| AWS_REGION.to_owned())
}

/// What AWS clients need: one endpoint for all services, and the run's keys.
pub fn for_aws(gateway: &str, keys: &Credential) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", format!("http://{gateway}")),
        ("AWS_ACCESS_KEY_ID", keys.username.clone()),
        ("AWS_SECRET_ACCESS_KEY", keys.password.clone()),
    ]
}

/// The domain of the gateway's own hosts: nothing outside of its proxy can resolve it (RFC 6761).
pub const DOMAIN: &str = "stated.invalid";
/// Where S3 is behind the gateway's proxy.
pub const S3_ENDPOINT: &str = "http://s3.stated.invalid";

/// The keys that are signed with behind the proxy. They are recorded in directories and let nobody in: the proxy's own
/// credential does.
pub fn constant_keys() -> Credential {
    Credential { username: "STATEDBACKENDONLY".to_owned(), password: "letsnobodyin".to_owned() }
}

/// What `terraform init` is told of an `s3` backend: always the same, so that a directory needs it once.
pub fn init_arguments() -> Vec<String> {
    let keys = constant_keys();
    [
        ("use_path_style", "true"),
        ("access_key", &keys.username),
        ("secret_key", &keys.password),
        ("endpoint", S3_ENDPOINT),
        ("dynamodb_endpoint", "http://dynamodb.stated.invalid"),
        ("sts_endpoint", "http://sts.stated.invalid"),
    ]
    .into_iter()
    .map(|(name, value)| format!("-backend-config={name}={value}"))
    .collect()
}

/// The proxy of plain http at a gateway that listens at this address.
pub fn proxy_url(gateway: &str, credential: &Credential) -> String {
    format!("http://{}:{}@{gateway}", credential.username, credential.password)
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
