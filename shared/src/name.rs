//! Names of states, locks and tags, and the selectors that choose a version.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Version;
use crate::limits::{NAME_LEN_MAX, TAG_LEN_MAX};

/// The name of a state or lock: a `/`-separated path of printable Unicode.
///
/// A name never becomes a file's path. The wire validates it on decoding; the journal's JSON does not, so
/// that a rule which grows stricter never makes an old journal unreadable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateName(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("a name may not be empty")]
    Empty,
    /// Over [`NAME_LEN_MAX`] bytes.
    #[error("a name may have at most {NAME_LEN_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A character that does not print, or that turns the direction of text.
    #[error("a name may not hold the character {0:?}")]
    Character(char),
    /// `@` chooses a version and so cannot be part of a name.
    #[error("a name may not hold '@' (STATE@N or STATE@TAG selects a version)")]
    At,
    /// What follows `@` is neither a version's number nor a tag.
    #[error(transparent)]
    Tag(#[from] TagNameError),
    /// An empty part, `.` or `..`.
    #[error("a name may not have the part {0:?}")]
    Part(String),
}

impl StateName {
    /// Checks the rules of a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        for c in text.chars() {
            match c {
                '@' => return Err(NameError::At),
                c if !is_printable(c) => return Err(NameError::Character(c)),
                _ => {}
            }
        }
        match text.split('/').find(|part| matches!(*part, "" | "." | "..")) {
            Some(part) => Err(NameError::Part(part.to_owned())),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control, format and bidirectional characters could make one name look like another, or break a line.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for StateName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl Serialize for StateName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StateName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = deserializer.is_human_readable();
        let text = String::deserialize(deserializer)?;
        if stored { Ok(Self(text)) } else { Self::parse(&text).map_err(D::Error::custom) }
    }
}

/// A word for one version of a state: ASCII letters, digits, `.`, `_` and `-`, of which the first is a letter.
///
/// So it can never be taken for a version's number, and needs no quotes in a shell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(String);

/// A text that is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tag starts with a letter and has at most {TAG_LEN_MAX} letters, digits, '.', '_' and '-'; {0:?} is none")]
pub struct TagNameError(String);

impl TagName {
    /// Checks the rules of a tag.
    pub fn parse(text: &str) -> Result<Self, TagNameError> {
        let starts = text.starts_with(|c: char| c.is_ascii_alphabetic());
        let holds = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if starts && holds && text.len() <= TAG_LEN_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(TagNameError(text.chars().take(TAG_LEN_MAX).collect()))
        }
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for TagName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TagName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = deserializer.is_human_readable();
        let text = String::deserialize(deserializer)?;
        if stored { Ok(Self(text)) } else { Self::parse(&text).map_err(D::Error::custom) }
    }
}

/// Which version of a state: `STATE` is the newest, `STATE@N` the one with that number, `STATE@TAG` the tagged one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// The version that counts now.
    Newest,
    /// Exactly this version.
    Version(Version),
    /// The version that has this tag.
    Tag(TagName),
}

impl Selector {
    /// Splits `STATE`, `STATE@N` or `STATE@TAG`.
    pub fn split(text: &str) -> Result<(StateName, Self), NameError> {
        match text.rsplit_once('@') {
            Some((name, at)) => Ok((StateName::parse(name)?, Self::parse(at)?)),
            None => Ok((StateName::parse(text)?, Self::Newest)),
        }
    }

    /// `N` or `TAG`.
    pub fn parse(text: &str) -> Result<Self, TagNameError> {
        match text.parse() {
            Ok(version) => Ok(Self::Version(Version(version))),
            Err(_) => TagName::parse(text).map(Self::Tag),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest version"),
            Self::Version(version) => write!(f, "version {version}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_be() {
        for name in ["prod", "example/network", "a b/ü", ".hidden", "...", "a/..b", &"x".repeat(4096)] {
            assert!(StateName::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_may_not_be() {
        for name in ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a@1", "a\nb", "a\0", "a\u{202e}b", "\u{7f}"] {
            assert!(StateName::parse(name).is_err(), "{name:?}");
        }
        assert_eq!(StateName::parse(&"x".repeat(4097)), Err(NameError::TooLong(4097)));
    }

    #[test]
    fn a_selector_names_a_version() {
        assert_eq!(Selector::split("a/b@3"), Ok((StateName::parse("a/b").unwrap(), Selector::Version(Version(3)))));
        assert_eq!(Selector::split("a"), Ok((StateName::parse("a").unwrap(), Selector::Newest)));
        let tag = TagName::parse("v1.2_rc-3").unwrap();
        assert_eq!(Selector::split("a/b@v1.2_rc-3"), Ok((StateName::parse("a/b").unwrap(), Selector::Tag(tag))));
        for text in ["a@", "a@-1", "a@1a", "a@x y", "a@ü", "a@b/c"] {
            assert!(matches!(Selector::split(text), Err(NameError::Tag(_))), "{text}");
        }
        assert_eq!(Selector::split("a@b@c"), Err(NameError::At));
        assert!(
            TagName::parse(&"x".repeat(TAG_LEN_MAX)).is_ok() && TagName::parse(&"x".repeat(TAG_LEN_MAX + 1)).is_err()
        );
    }
}
