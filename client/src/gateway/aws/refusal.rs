//! Why an AWS client's request is not done, as each of the three services says it.

use hyper::StatusCode;
use serde_json::json;
use stated_shared::{Detail, Failure, FailureKind, Timestamp};

use super::answer::Answer;
use super::xml::escaped;

/// Whose form a refusal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// S3: XML.
    S3,
    /// DynamoDB: JSON.
    DynamoDb,
    /// STS: XML of another form.
    Sts,
}

/// A refusal. Users see code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status; clients ask again after 5xx, except 501.
    pub status: StatusCode,
    /// The service's own code.
    pub code: &'static str,
    /// What and why.
    pub message: String,
}

impl Refusal {
    /// A refusal of this code.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// What this gateway does not do.
    pub fn not_implemented(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", format!("stated's gateway does not implement {what}"))
    }

    /// The refusal in its service's form.
    pub fn answer(&self, service: Service) -> Answer {
        let (code, message) = (self.code, escaped(&self.message));
        match service {
            Service::S3 => {
                let body = format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                );
                Answer::of(self.status, "application/xml", body)
            }
            Service::Sts => {
                let body = format!(
                    "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
                );
                Answer::of(self.status, "text/xml", body)
            }
            Service::DynamoDb => {
                // DynamoDB knows no status but 400 for what the client did.
                let status = if self.status.is_client_error() { StatusCode::BAD_REQUEST } else { self.status };
                let body = json!({
                    "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"),
                    "message": self.message,
                });
                Answer::of(status, "application/x-amz-json-1.0", body.to_string())
            }
        }
    }
}

/// The failure in words: who is in the way, or what failed and the step that helps.
pub fn words(failure: &Failure, now: Timestamp) -> String {
    match (&failure.detail, &failure.hint) {
        // Its own sentence and hint are for users of `statectl`.
        (Detail::Held { holders, .. }, _) if !holders.is_empty() => {
            format!("{} is {}", holders[0].name, holders[0].describe(now))
        }
        (_, Some(hint)) => format!("{failure}; {hint}"),
        (_, None) => failure.to_string(),
    }
}

/// The status and the code of a failure at S3; DynamoDB and STS have other words for some of them.
pub fn of_failure(service: Service, failure: &Failure, now: Timestamp) -> Refusal {
    use StatusCode as S;
    let (status, s3, other) = match failure.kind {
        FailureKind::NotFound => (S::NOT_FOUND, "NoSuchKey", "ResourceNotFoundException"),
        FailureKind::Busy => (S::CONFLICT, "OperationAborted", "ConditionalCheckFailedException"),
        FailureKind::Conflict => (S::PRECONDITION_FAILED, "PreconditionFailed", "ConditionalCheckFailedException"),
        FailureKind::Denied => (S::FORBIDDEN, "AccessDenied", "AccessDeniedException"),
        FailureKind::Usage => (S::BAD_REQUEST, "InvalidRequest", "ValidationException"),
        FailureKind::Unavailable => (S::SERVICE_UNAVAILABLE, "ServiceUnavailable", "InternalServerError"),
        // A retry could not help: the versions do not match, or the configuration is wrong.
        FailureKind::Protocol | FailureKind::Config => (S::NOT_IMPLEMENTED, "NotImplemented", "ValidationException"),
        FailureKind::Storage | FailureKind::Internal | FailureKind::Other => {
            (S::INTERNAL_SERVER_ERROR, "InternalError", "InternalServerError")
        }
    };
    let code = if service == Service::S3 { s3 } else { other };
    Refusal::new(status, code, words(failure, now))
}
