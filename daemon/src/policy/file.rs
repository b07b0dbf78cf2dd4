//! The grammar of `policy.toml`.
//!
//! Read by hand and not by derived types, so that whatever is wrong is told with its line.

use std::fmt;
use std::ops::Range;

use stated_shared::Verb;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Directory;
use super::rule::{EVERYBODY, Names, Rule, Verbs, Who};

/// Longest policy, in bytes.
pub const FILE_LEN_MAX: usize = 1 << 20;
/// Rules of one policy: a list of names is looked through by the rules that are about whoever asks.
const RULES_MAX: usize = 1024;
/// Principals, names or verbs of one rule.
const LIST_LEN_MAX: usize = 1024;

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for PolicyError {}

const TOP_HINT: &str = "a policy is a list of [[rule]], each with user, uid or group, names and verbs";
const RULE_HINT: &str = "a rule has user, uid or group, names and verbs";

/// The rules, and the users and groups that nobody knows.
pub(super) fn parse(text: &str, directory: &dyn Directory) -> Result<(Vec<Rule>, Vec<String>), PolicyError> {
    let reading = Reading { text, directory };
    if text.len() > FILE_LEN_MAX {
        return Err(reading.error(
            0..0,
            format!("a policy may have {FILE_LEN_MAX} bytes, this has {}", text.len()),
            "",
        ));
    }
    let parsed = DeTable::parse(text);
    let document = parsed.map_err(|error| {
        reading.error(error.span().unwrap_or_default(), format!("it is no TOML: {}", one_line(error.message())), "")
    })?;
    let (mut rules, mut unknown) = (Vec::new(), Vec::new());
    for (key, value) in document.get_ref() {
        if key.get_ref() != "rule" {
            return Err(reading.error(key.span(), format!("there is no setting {:?}", key.get_ref()), TOP_HINT));
        }
        let Some(tables) = value.get_ref().as_array() else {
            return Err(reading.error(key.span(), "a rule is a table of an array", "begin each rule with [[rule]]"));
        };
        if tables.len() > RULES_MAX {
            let message = format!("a policy may have {RULES_MAX} rules, this has {}", tables.len());
            return Err(reading.error(key.span(), message, "let one rule name several users, names and verbs"));
        }
        for table in tables {
            rules.push(reading.rule(table, &mut unknown)?);
        }
    }
    // Else a number of which the end is still to be written would be another user's.
    if !text.is_empty() && !text.ends_with('\n') {
        let message = "the last line has no end, so the file may be there in part only";
        return Err(reading.error(text.len()..text.len(), message, "end it with a newline"));
    }
    Ok((rules, unknown))
}

struct Reading<'a> {
    text: &'a str,
    directory: &'a dyn Directory,
}

impl Reading<'_> {
    fn rule(&self, rule: &Spanned<DeValue<'_>>, unknown: &mut Vec<String>) -> Result<Rule, PolicyError> {
        let Some(table) = rule.get_ref().as_table() else {
            return Err(self.error(rule.span(), "a rule is a table", "begin each rule with [[rule]]"));
        };
        let (mut who, mut names, mut verbs) = (Who::default(), None, None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "user" => self.users(value, &mut who, unknown)?,
                "uid" => {
                    for (uid, _) in self.list(value, "a uid is a number, or a list of them", Self::number)? {
                        who.told.push(format!("uid {uid}"));
                        who.uids.push(uid);
                    }
                }
                "group" => {
                    for (group, span) in self.words(value, "a group is a name in quotes, or a list of them")? {
                        match self.directory.gid(&group) {
                            Some(gid) => who.gids.push(gid),
                            None => unknown.push(format!("group {group:?} (line {})", self.line(&span))),
                        }
                        who.told.push(format!("group {group}"));
                    }
                }
                "names" => names = Some(self.names(value)?),
                "verbs" => verbs = Some(self.verbs(value)?),
                other => return Err(self.error(key.span(), format!("a rule has no {other:?}"), RULE_HINT)),
            }
        }
        let missing = |what| self.error(rule.span(), format!("the rule has no {what}"), RULE_HINT);
        if who.told.is_empty() {
            return Err(missing("user, uid or group"));
        }
        let (Some(names), Some(verbs)) = (names, verbs) else {
            return Err(missing(if verbs.is_some() { "names" } else { "verbs" }));
        };
        Ok(Rule { line: self.line(&rule.span()), who, names, verbs })
    }

    fn users(&self, value: &Spanned<DeValue<'_>>, who: &mut Who, unknown: &mut Vec<String>) -> Result<(), PolicyError> {
        for (user, span) in self.words(value, "a user is a name in quotes, or a list of them")? {
            match self.directory.uid(&user) {
                _ if user == EVERYBODY => who.everybody = true,
                Some(uid) => who.uids.push(uid),
                None => unknown.push(format!("user {user:?} (line {})", self.line(&span))),
            }
            who.told.push(format!("user {user}"));
        }
        Ok(())
    }

    fn names(&self, value: &Spanned<DeValue<'_>>) -> Result<Names, PolicyError> {
        let globs = self.words(value, "names are globs in quotes, or a list of them")?;
        let spans: Vec<_> = globs.iter().map(|(_, span)| span.clone()).collect();
        let texts: Vec<String> = globs.into_iter().map(|(glob, _)| glob).collect();
        Names::new(texts.clone()).map_err(|(at, why)| {
            let message = format!("{:?} is no glob: {why}", texts[at]);
            self.error(spans[at].clone(), message, "'*' matches within a part of a name, '**' across parts")
        })
    }

    fn verbs(&self, value: &Spanned<DeValue<'_>>) -> Result<Verbs, PolicyError> {
        let mut verbs = Verbs::default();
        for (word, span) in self.words(value, "verbs are words in quotes, or a list of them")? {
            let verb: Verb = word.parse().map_err(|error| self.error(span, format!("{error}"), ""))?;
            verbs = verbs.with(verb);
        }
        Ok(verbs)
    }

    fn words(&self, value: &Spanned<DeValue<'_>>, form: &str) -> Result<Vec<(String, Range<usize>)>, PolicyError> {
        let word = |value: &DeValue<'_>| value.as_str().filter(|word| !word.is_empty()).map(str::to_owned);
        self.list(value, form, word)
    }

    fn number(value: &DeValue<'_>) -> Option<u32> {
        let integer = value.as_integer()?;
        // The kernel's word for no user at all.
        u32::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| *number != u32::MAX)
    }

    /// One thing, or an array of at least one.
    fn list<T>(
        &self,
        value: &Spanned<DeValue<'_>>,
        form: &str,
        one: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Result<Vec<(T, Range<usize>)>, PolicyError> {
        let wrong = |span| self.error(span, form, "");
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref().as_array() {
            Some(array) if array.is_empty() => return Err(wrong(value.span())),
            Some(array) if array.len() > LIST_LEN_MAX => {
                let message = format!("a list may have {LIST_LEN_MAX} entries, this has {}", array.len());
                return Err(self.error(value.span(), message, ""));
            }
            Some(array) => array.iter().collect(),
            None => vec![value],
        };
        let item = |item: &Spanned<DeValue<'_>>| match one(item.get_ref()) {
            Some(one) => Ok((one, item.span())),
            None => Err(wrong(item.span())),
        };
        items.into_iter().map(item).collect()
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>, hint: &str) -> PolicyError {
        let hint = Some(hint.to_owned()).filter(|hint| !hint.is_empty());
        PolicyError { line: self.line(&span), message: message.into(), hint }
    }
}

/// The parser's own messages may be two lines.
fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(", ")
}
