//! What of a policy is about somebody, and what it decides.

use std::fmt;
use std::sync::Arc;

use stated_shared::{AccessInfo, Failure, FailureKind, StateName, Verb};

use super::rule::Rule;
use super::{Mode, Policy, Subject};

/// A policy, as far as it is about somebody.
#[derive(Debug)]
pub struct View {
    policy: Arc<Policy>,
    subject: Subject,
    standing: Standing,
    /// The rules that are about them, by their places.
    rules: Vec<usize>,
}

/// What somebody may by the mode alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Nothing,
    /// `admin` on every name.
    Administers,
    Everything,
}

/// What gives somebody a verb on a name.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// The daemon is theirs, or they are root and it is a user's.
    Mode,
    /// They are root, who may `admin` the system's daemon.
    Root,
    /// A rule.
    Rule(ByRule<'a>),
}

/// A rule that gives it.
#[derive(Debug, Clone, Copy)]
pub struct ByRule<'a> {
    /// Its place in the file, from 1.
    pub number: usize,
    /// The line in which it begins.
    pub line: usize,
    told: &'a [String],
}

impl By<'_> {
    /// The rule's place and line, where it is one.
    pub fn rule(&self) -> Option<(usize, usize)> {
        match self {
            Self::Mode | Self::Root => None,
            Self::Rule(rule) => Some((rule.number, rule.line)),
        }
    }
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode => f.write_str("the daemon is their own, or they are root and it is a user's"),
            Self::Root => f.write_str("root may admin the system's daemon"),
            Self::Rule(rule) => write!(f, "rule {} (line {}: {})", rule.number, rule.line, rule.told.join(", ")),
        }
    }
}

impl View {
    pub(super) fn new(policy: Arc<Policy>, subject: Subject) -> Self {
        let standing = match policy.mode {
            Mode::User { owner } if subject.uid == owner || subject.uid == 0 => Standing::Everything,
            Mode::System if subject.uid == 0 => Standing::Administers,
            _ => Standing::Nothing,
        };
        let rules = policy.rules.iter().enumerate().filter(|(_, rule)| rule.who.is(&subject));
        let rules = rules.map(|(at, _)| at).collect();
        Self { policy, subject, standing, rules }
    }

    /// Whether it is of this very policy.
    pub fn is_of(&self, policy: &Arc<Policy>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
    }

    /// Whose it is.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether they may speak with the daemon at all: whoever may anything.
    pub fn may_connect(&self) -> bool {
        self.standing != Standing::Nothing || !self.rules.is_empty()
    }

    /// Whether they may do this to a name, with what it needs besides.
    pub fn may(&self, verb: Verb, name: &str) -> bool {
        self.missing(verb, name).is_none()
    }

    /// Whether there can be a name to which they may do this.
    pub fn may_somewhere(&self, verb: Verb) -> bool {
        self.by_mode(verb).is_some() || self.rules().any(|(_, rule)| rule.verbs.have(verb))
    }

    /// Whether they may do this to every name, by one rule for all names.
    pub fn may_everywhere(&self, verb: Verb) -> bool {
        let mut rules = self.rules();
        self.by_mode(verb).is_some() || rules.any(|(_, rule)| rule.verbs.have(verb) && rule.names.are_all())
    }

    /// What gives them this one verb on a name; the first rule that does.
    pub fn grants(&self, verb: Verb, name: &str) -> Option<By<'_>> {
        let gives = |rule: &Rule| rule.verbs.have(verb) && rule.names.match_name(name);
        self.by_mode(verb).or_else(|| {
            let (at, rule) = self.rules().find(|(_, rule)| gives(rule))?;
            Some(By::Rule(ByRule { number: at + 1, line: rule.line, told: &rule.who.told }))
        })
    }

    /// The verb that they lack to do this to a name.
    pub fn missing(&self, verb: Verb, name: &str) -> Option<Verb> {
        let mut needed = [Some(verb), verb.needs()].into_iter().flatten();
        needed.find(|verb| self.grants(*verb, name).is_none())
    }

    /// The decision about a verb on a name, in words and for programs; `user` is what the host calls them.
    pub fn explain(&self, verb: Verb, name: &StateName, user: Option<String>) -> AccessInfo {
        let missing = self.missing(verb, name.as_str());
        let by = self.grants(verb, name.as_str());
        let why = match (missing, by) {
            (Some(missing), _) => self.lacking(verb, missing),
            (None, Some(by)) => {
                let besides = verb.needs().and_then(|needed| Some((needed, self.grants(needed, name.as_str())?)));
                let besides = besides.filter(|(_, other)| other.rule() != by.rule());
                besides.map_or_else(|| by.to_string(), |(needed, other)| format!("{by}; \"{needed}\" by {other}"))
            }
            (None, None) => String::new(),
        };
        let rule = by.and_then(|by| by.rule());
        AccessInfo {
            allowed: missing.is_none(),
            uid: self.subject.uid,
            user,
            gids: self.subject.gids.clone(),
            verb,
            state: name.clone(),
            rule: rule.map(|(number, _)| number as u64),
            line: rule.map(|(_, line)| line as u64),
            missing,
            why,
        }
    }

    /// The refusal of a verb on a name. Says nothing of what is there, so it is the same for a name that nothing has.
    pub fn denial(&self, verb: Verb, name: &str) -> Failure {
        let uid = self.subject.uid;
        let why = self.lacking(verb, self.missing(verb, name).unwrap_or(verb));
        Failure::new(FailureKind::Denied, format!("uid {uid} may not {verb} {name}: {why}"))
            .hint(format!("see what decides with: statectl access check {uid} {verb} '{name}'"))
    }

    /// The refusal of a verb that is needed on some name, or on all.
    pub fn denial_at_large(&self, verb: Verb, everywhere: bool) -> Failure {
        let (uid, names) = (self.subject.uid, if everywhere { "every name" } else { "any name" });
        let hint =
            if everywhere { "it takes a rule with names = \"**\"" } else { "ask whoever administers the daemon" };
        let message = format!("uid {uid} may not {verb} {names}: no rule gives it \"{verb}\"");
        Failure::new(FailureKind::Denied, message).hint(hint)
    }

    /// The refusal of somebody who may nothing.
    pub fn stranger(&self) -> Failure {
        let uid = self.subject.uid;
        match self.policy.mode {
            Mode::User { .. } if self.policy.rules.is_empty() => {
                let message = format!("uid {uid} may not use this daemon, which serves its own user");
                Failure::new(FailureKind::Denied, message)
                    .hint("use a daemon of your own: unset STATED_SOCKET, or run `stated`")
            }
            _ => Failure::new(FailureKind::Denied, format!("uid {uid} may not use this daemon: no rule is about it"))
                .hint("ask whoever administers it for a rule in its policy, or use a daemon of your own"),
        }
    }

    fn lacking(&self, verb: Verb, missing: Verb) -> String {
        let needed = if missing == verb { String::new() } else { format!(", which \"{verb}\" needs") };
        format!("no rule gives it \"{missing}\" there{needed}")
    }

    fn by_mode(&self, verb: Verb) -> Option<By<'_>> {
        match self.standing {
            Standing::Everything => Some(By::Mode),
            Standing::Administers if verb == Verb::Admin => Some(By::Root),
            Standing::Administers | Standing::Nothing => None,
        }
    }

    fn rules(&self) -> impl Iterator<Item = (usize, &Rule)> {
        self.rules.iter().map(|at| (*at, &self.policy.rules[*at]))
    }
}
