//! How arguments read: durations, points in time, versions, and the lock that the environment names.

use std::time::{Duration, SystemTime};

use stated_shared::{Failure, FailureKind, LockId, NameError, Selector, StateName, Timestamp, Version};

/// A number of seconds as `flock -w` takes it, or a duration such as `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| "expected a positive number of seconds".to_owned());
    }
    humantime::parse_duration(text).map_err(|_| "expected seconds or a duration such as 90s, 5m or 1h30m".to_owned())
}

/// A duration with its unit: what a number alone would mean must not be guessed where it takes something away.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a number and its unit, such as 90d or 12h".to_owned())
}

/// A time such as `2026-11-23T10:00:00Z` or `2026-11-23`, or how long ago: `2h`.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let date = |text: &str| humantime::parse_rfc3339_weak(text).ok();
    let time = date(text)
        .or_else(|| date(&format!("{text}T00:00:00Z")))
        .or_else(|| humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago)))
        .ok_or("expected a time such as 2026-11-23T10:00:00Z, a date, or how long ago: 2h")?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| "expected a time after 1970")?;
    Ok(Timestamp(since.as_millis() as u64))
}

/// `N` or `@N`.
pub(super) fn version(text: &str) -> Result<Version, String> {
    match text.strip_prefix('@').unwrap_or(text).parse() {
        Ok(0) | Err(_) => Err("expected a version number, from 1".to_owned()),
        Ok(number) => Ok(Version(number)),
    }
}

/// `N`, `@N` or a tag.
pub(super) fn version_or_tag(text: &str) -> Result<Selector, String> {
    match Selector::parse(text.strip_prefix('@').unwrap_or(text)) {
        Ok(Selector::Version(Version(0))) | Err(_) => Err("expected a version number, from 1, or a tag".to_owned()),
        Ok(at) => Ok(at),
    }
}

/// `STATE`, `STATE@N` or `STATE@TAG`.
pub(super) fn selector(text: &str) -> Result<(StateName, Selector), NameError> {
    Selector::split(text)
}

/// Milliseconds, as requests carry them.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `$STATED_LOCK_ID`, as `lock` and `exec` set it for their children.
pub(super) fn inherited_lock() -> Result<Option<LockId>, Failure> {
    match std::env::var("STATED_LOCK_ID") {
        Ok(text) if !text.is_empty() => LockId::parse(&text)
            .map(Some)
            .map_err(|error| Failure::new(FailureKind::Usage, format!("STATED_LOCK_ID: {error}"))),
        _ => Ok(None),
    }
}

/// The lock that a commit relies on: the flag's, else the environment's.
pub(super) fn relied_on(flag: Option<LockId>) -> Result<Vec<LockId>, Failure> {
    Ok(match flag {
        Some(id) => vec![id],
        None => inherited_lock()?.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_units() {
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("-1").is_err() && duration("soon").is_err() && duration("inf").is_err());
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        assert!(span("90").is_err() && span("1.5").is_err());
    }

    #[test]
    fn moments_are_times_dates_or_spans() {
        assert_eq!(moment("1970-01-02"), Ok(Timestamp(86_400_000)));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(Timestamp(1000)));
        assert!(moment("1h").unwrap() < moment("1s").unwrap());
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn a_version_may_have_its_sign() {
        assert_eq!((version("3"), version("@3")), (Ok(Version(3)), Ok(Version(3))));
        assert!(version("0").is_err() && version("x").is_err());
    }
}
