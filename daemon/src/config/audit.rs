//! `[audit]` in `config.toml`: how long what was read and locked is told one by one.

use serde::Deserialize;
use stated_shared::{Failure, FailureKind};

use crate::engine::AuditKeep;

/// What a configuration may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    keep: Option<String>,
}

/// What a configuration says, `said` being what it holds of it; `Err` says what is wrong and not where.
pub(super) fn keep(said: Option<toml::Value>) -> Result<AuditKeep, Failure> {
    let Some(said) = said else { return Ok(AuditKeep::default()) };
    let Table { keep } = said.try_into().map_err(|error: toml::de::Error| wrong(error.message()))?;
    match keep.as_deref() {
        None => Ok(AuditKeep::default()),
        Some("forever") => Ok(AuditKeep::FOR_EVER),
        Some(text) => match humantime::parse_duration(text) {
            Ok(within) if !within.is_zero() => Ok(AuditKeep::within(within)),
            Ok(_) | Err(_) => Err(wrong(&format!("keep is {text:?}"))),
        },
    }
}

fn wrong(what: &str) -> Failure {
    Failure::new(FailureKind::Config, format!("[audit]: {what}"))
        .hint("it may hold how long reads and locks are told one by one: keep = \"90d\", or keep = \"forever\"")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parsed(text: &str) -> Result<AuditKeep, Failure> {
        let mut whole: toml::Table = toml::from_str(text).expect("it is TOML");
        keep(whole.remove("audit"))
    }

    #[test]
    fn a_duration_or_for_ever() {
        let days = |days: u64| AuditKeep::within(Duration::from_secs(days * 24 * 60 * 60));
        assert_eq!(parsed("").unwrap(), days(90));
        assert_eq!(parsed("[audit]\n").unwrap(), days(90));
        assert_eq!(parsed("[audit]\nkeep = \"30d\"\n").unwrap(), days(30));
        assert_eq!(days(30).told(), "reads, locks and unlocks are summed up after 30d");
        let told = |text: &str| parsed(text).unwrap().told();
        assert_eq!(told("[audit]\nkeep = \"36h\""), "reads, locks and unlocks are summed up after 1day 12h");
        assert_eq!(parsed("[audit]\nkeep = \"forever\"\n").unwrap(), AuditKeep::FOR_EVER);
    }

    #[test]
    fn something_odd_is_refused() {
        for (text, what) in [
            ("audit = 5", "5"),
            ("[audit]\nkeep = 90", "90"),
            ("[audit]\nkeep = \"soon\"", "soon"),
            ("[audit]\nkeep = \"0s\"", "0s"),
            ("[audit]\nkeeep = \"90d\"", "keeep"),
            ("[[audit]]\nkeep = \"90d\"", "audit"),
        ] {
            let failure = parsed(text).expect_err(text);
            assert_eq!(failure.kind, FailureKind::Config, "{text}");
            assert!(failure.message.contains(what) && failure.hint.is_some(), "{text}: {failure:?}");
        }
    }
}
