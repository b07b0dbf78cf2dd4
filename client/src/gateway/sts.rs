//! STS, as far as clients ask who they are.

use hyper::StatusCode;

use super::aws::Answer;
use super::aws::refusal::{Refusal, Service};
use super::percent;

/// Longest request, in bytes.
pub const BODY_LEN_MAX: usize = 8 << 10;
/// The account that everything belongs to.
pub const ACCOUNT: &str = "000000000000";

/// Answers one request, which comes as a form.
pub fn answer(body: &[u8], uid: u32) -> Answer {
    let form = std::str::from_utf8(body).unwrap_or_default();
    let action = form.split('&').find_map(|pair| pair.strip_prefix("Action=")).and_then(percent::decode);
    match action.as_deref() {
        Some("GetCallerIdentity") => {
            let body = format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
                 <Arn>arn:aws:iam::{ACCOUNT}:user/uid-{uid}</Arn><UserId>uid-{uid}</UserId><Account>{ACCOUNT}</Account>\
                 </GetCallerIdentityResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata>\
                 </GetCallerIdentityResponse>"
            );
            Answer::of(StatusCode::OK, "text/xml", body)
        }
        action => {
            let message =
                format!("stated's gateway does not implement {}", action.unwrap_or("a request without Action"));
            Refusal::new(StatusCode::BAD_REQUEST, "InvalidAction", message).answer(Service::Sts)
        }
    }
}
