//! `[retention]` in `config.toml`: what the daemon keeps when it prunes by itself.
//!
//! One table, or an array of them, each of the states that its glob matches and no table before it. The rules have the
//! words of `statectl prune`.

use std::time::Duration;

use serde::Deserialize;
use stated_shared::{Failure, FailureKind};

use crate::engine::{Retention, Section};

/// What a configuration may hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    glob: Option<String>,
    keep_last: Option<u64>,
    keep_within: Option<String>,
    #[serde(default)]
    keep_tagged: bool,
}

/// The policy of a configuration, `said` being what it holds of it; `Err` says what is wrong and not where.
pub(super) fn retention(said: Option<toml::Value>) -> Result<Retention, Failure> {
    let tables = match said {
        None => Vec::new(),
        Some(toml::Value::Array(tables)) => tables,
        Some(table) => vec![table],
    };
    let sections = tables.into_iter().map(section).collect::<Result<_, _>>()?;
    Retention::new(sections).map_err(|failure| Failure { kind: FailureKind::Config, ..failure })
}

fn section(table: toml::Value) -> Result<Section, Failure> {
    let Table { glob, keep_last, keep_within, keep_tagged } = table.try_into().map_err(|error: toml::de::Error| {
        wrong(error.message()).hint("a section may hold: keep_last, keep_within, keep_tagged, glob")
    })?;
    if keep_last == Some(0) {
        return Err(wrong("keep_last is 0").hint("the newest content is always kept: keep_last = 1"));
    }
    let within = |text: &String| {
        humantime::parse_duration(text).map_err(|_| {
            wrong(&format!("keep_within is {text:?}")).hint("it is a duration in quotes: keep_within = \"90d\"")
        })
    };
    let keep_within = keep_within.as_ref().map(within).transpose()?;
    // What would be kept by no rule is all but the newest content, which nobody means who says nothing.
    if keep_last.is_none() && keep_within.is_none() && !keep_tagged {
        return Err(wrong("no rule says what is kept").hint("name one: keep_last, keep_within or keep_tagged"));
    }
    let keep_within_ms = keep_within.map(milliseconds);
    Ok(Section { glob, keep_last, keep_within_ms, keep_tagged })
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wrong(what: &str) -> Failure {
    Failure::new(FailureKind::Config, format!("[retention]: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Retention, Failure> {
        let mut whole: toml::Table = toml::from_str(text).expect("it is TOML");
        retention(whole.remove("retention"))
    }

    #[test]
    fn one_section_or_several() {
        assert!(parsed("").unwrap().is_empty(), "nothing is ever dropped");
        let one = parsed("[retention]\nkeep_last = 20\nkeep_within = \"90d\"\nkeep_tagged = true\n").unwrap();
        assert_eq!(one.told(), ["**: keeps the last 20, what is younger than 90d, what is tagged"]);
        let two = "[[retention]]\nglob = \"prod/**\"\nkeep_within = \"1h 30m\"\n[[retention]]\nkeep_last = 1\n";
        assert_eq!(parsed(two).unwrap().told(), ["prod/**: keeps what is younger than 1h 30m", "**: keeps the last 1"]);
    }

    #[test]
    fn what_says_nothing_or_something_odd_is_refused() {
        for (section, what) in [
            ("", "no rule"),
            ("keep_tagged = false", "no rule"),
            ("glob = \"prod/**\"", "no rule"),
            ("keep_last = 0", "keep_last is 0"),
            ("keep_last = -1", "-1"),
            ("keep_within = \"soon\"", "soon"),
            ("keep_within = 90", "90"),
            ("keep_lats = 1", "keep_lats"),
            ("keep_last = 1\nglob = \"[\"", "\"[\""),
        ] {
            let failure = parsed(&format!("[retention]\n{section}\n")).expect_err(section);
            assert_eq!(failure.kind, FailureKind::Config, "{section}");
            assert!(failure.message.contains(what) && failure.hint.is_some(), "{section}: {failure:?}");
        }
        assert_eq!(parsed("retention = 5").unwrap_err().kind, FailureKind::Config);
    }
}
