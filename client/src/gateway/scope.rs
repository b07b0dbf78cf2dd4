//! What a gateway's clients may do, and with which states: no more than the user, and less where the user says so.

use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use globset::{GlobBuilder, GlobMatcher};
use stated_shared::{
    Commit, Committed, Failure, FailureKind, Grant, Lock, LockId, LockInfo, Selector, StateName, Version, VersionInfo,
    VersionPage,
};

use super::backend::Backend;
use super::model::Report;

/// What a client does with states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads them, their versions and their names.
    Read,
    /// Writes and removes them.
    Write,
    /// Takes, gives back and breaks their locks.
    Lock,
}

/// One state, or all that a glob matches.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// One.
    Name(StateName),
    /// `*` stays in a part of the name, `**` crosses.
    Glob(GlobMatcher),
}

/// What is allowed.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Which states; every one where there is none.
    pub states: Vec<Pattern>,
    /// What may be done with them.
    pub verbs: Vec<Verb>,
}

impl Verb {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Lock];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Lock => "lock",
        }
    }
}

impl FromStr for Verb {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text).ok_or_else(|| format!("{text:?} is no verb"))
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['*', '?', '[', '{', '\\']) {
            let glob = GlobBuilder::new(text).literal_separator(true).build();
            return glob.map(|glob| Self::Glob(glob.compile_matcher())).map_err(|error| error.kind().to_string());
        }
        StateName::parse(text).map(Self::Name).map_err(|error| error.to_string())
    }
}

impl Pattern {
    fn matches(&self, state: &StateName) -> bool {
        match self {
            Self::Name(name) => name == state,
            Self::Glob(glob) => glob.is_match(state.as_str()),
        }
    }
}

impl Scope {
    /// The one state that it is about, where it is about one.
    pub fn only(&self) -> Option<&StateName> {
        match &self.states[..] {
            [Pattern::Name(state)] => Some(state),
            _ => None,
        }
    }

    fn covers(&self, state: &StateName) -> bool {
        self.states.is_empty() || self.states.iter().any(|pattern| pattern.matches(state))
    }

    fn allow(&self, verb: Verb) -> Result<(), Failure> {
        if self.verbs.contains(&verb) {
            return Ok(());
        }
        let verb = verb.as_str();
        Err(Failure::new(FailureKind::Denied, format!("this gateway lets nobody {verb} states"))
            .hint(format!("start one that does: statectl gateway --allow {verb},…")))
    }

    fn admit(&self, verb: Verb, state: &StateName) -> Result<(), Failure> {
        self.allow(verb)?;
        self.admit_state(state)
    }

    fn admit_state(&self, state: &StateName) -> Result<(), Failure> {
        if self.covers(state) {
            return Ok(());
        }
        Err(Failure::new(FailureKind::Denied, format!("{state} is none of this gateway's states"))
            .hint("start one for it: statectl gateway --state GLOB"))
    }
}

/// A daemon of which only a scope can be reached.
pub struct Scoped<B> {
    backend: Arc<B>,
    scope: Scope,
    report: Report,
    /// What was reported last: clients ask again and again.
    reported: Mutex<String>,
}

impl<B: Backend> Scoped<B> {
    /// What the scope leaves of this daemon. What is refused is told too: few clients show why they were refused.
    pub fn new(backend: Arc<B>, scope: Scope, report: Report) -> Self {
        Self { backend, scope, report, reported: Mutex::default() }
    }

    fn allow(&self, verb: Verb) -> Result<(), Failure> {
        self.scope.allow(verb).inspect_err(|failure| self.refused(failure))
    }

    fn admit(&self, verb: Verb, state: &StateName) -> Result<(), Failure> {
        self.scope.admit(verb, state).inspect_err(|failure| self.refused(failure))
    }

    fn refused(&self, failure: &Failure) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if *reported != failure.message {
            (self.report)(&format!("refused: {}", failure.message));
            reported.clone_from(&failure.message);
        }
    }
}

impl<B: Backend> Backend for Scoped<B> {
    fn get(&self, state: &StateName, at: Selector) -> Result<(VersionInfo, Vec<u8>), Failure> {
        self.admit(Verb::Read, state)?;
        self.backend.get(state, at)
    }

    fn show(&self, state: &StateName, at: Selector) -> Result<VersionInfo, Failure> {
        self.admit(Verb::Read, state)?;
        self.backend.show(state, at)
    }

    fn list(&self, glob: &str, mut after: Option<StateName>) -> Result<VersionPage, Failure> {
        self.allow(Verb::Read)?;
        loop {
            let mut page = self.backend.list(glob, after)?;
            after = page.versions.last().map(|version| version.state.clone());
            page.versions.retain(|version| self.scope.covers(&version.state));
            // A page without rows would look like the last one.
            if !page.versions.is_empty() || !page.more || after.is_none() {
                return Ok(page);
            }
        }
    }

    fn log(&self, state: &StateName, before: Option<Version>) -> Result<VersionPage, Failure> {
        self.allow(Verb::Read)?;
        // Asked of prefixes of lists too, so that a refusal is no news.
        self.scope.admit_state(state)?;
        self.backend.log(state, before)
    }

    fn commit(&self, commit: Commit) -> Result<Committed, Failure> {
        commit.changes.iter().try_for_each(|change| self.admit(Verb::Write, &change.state))?;
        self.backend.commit(commit)
    }

    fn lock(&self, lock: &Lock, pidfd: Option<BorrowedFd<'_>>) -> Result<Grant, Failure> {
        lock.names.iter().try_for_each(|name| self.admit(Verb::Lock, name))?;
        self.backend.lock(lock, pidfd)
    }

    fn renew(&self, id: &LockId) -> Result<(), Failure> {
        self.allow(Verb::Lock)?;
        self.backend.renew(id)
    }

    fn unlock(&self, id: &LockId) -> Result<(), Failure> {
        self.allow(Verb::Lock)?;
        self.backend.unlock(id)
    }

    fn break_lock(&self, name: &StateName, id: &LockId) -> Result<(), Failure> {
        self.admit(Verb::Lock, name)?;
        self.backend.break_lock(name, id)
    }

    fn holders(&self, name: &StateName) -> Result<Vec<LockInfo>, Failure> {
        // Whoever may read a state sees who works on it.
        let allowed = self.scope.allow(Verb::Lock).or_else(|_| self.scope.allow(Verb::Read));
        allowed.and_then(|()| self.scope.admit_state(name)).inspect_err(|failure| self.refused(failure))?;
        self.backend.holders(name)
    }
}

#[cfg(test)]
mod tests {
    use stated_shared::{Bytes, Change, Content, Expect, SerialRule};

    use super::super::fake::Fake;
    use super::*;

    fn name(text: &str) -> StateName {
        StateName::parse(text).unwrap()
    }

    fn commit(state: &str) -> Commit {
        let content = Content::Inline(Bytes(b"x".to_vec()));
        Commit {
            changes: vec![Change { state: name(state), expect: Expect::Any, content }],
            locks: Vec::new(),
            message: None,
            labels: Default::default(),
            serials: SerialRule::Mark,
        }
    }

    fn lock(names: &[&str]) -> Lock {
        let id = Some(LockId::parse("a-lock").unwrap());
        Lock { id, ..Lock::exclusive(names.iter().map(|text| name(text)), "test") }
    }

    fn scoped(states: &[&str], verbs: &[Verb]) -> Scoped<Fake> {
        let backend = Arc::new(Fake::default());
        for n in 0..9 {
            backend.commit(commit(&format!("a/{n}"))).unwrap();
            backend.commit(commit(&format!("b/{n}"))).unwrap();
        }
        let states = states.iter().map(|state| state.parse().unwrap()).collect();
        Scoped::new(backend, Scope { states, verbs: verbs.to_vec() }, Arc::new(|_| {}))
    }

    fn kind<T>(result: Result<T, Failure>) -> Option<FailureKind> {
        result.err().map(|failure| failure.kind)
    }

    #[test]
    fn each_verb_is_allowed_by_itself() {
        let lock = lock(&["a/1"]);
        for allowed in Verb::ALL {
            let scoped = scoped(&[], &[allowed]);
            let denied = |verb| (verb != allowed).then_some(FailureKind::Denied);
            assert_eq!(kind(scoped.get(&name("a/1"), Selector::Newest)), denied(Verb::Read));
            assert_eq!(kind(scoped.show(&name("a/1"), Selector::Newest)), denied(Verb::Read));
            assert_eq!(kind(scoped.log(&name("a/1"), None)), denied(Verb::Read));
            assert_eq!(kind(scoped.list("**", None)), denied(Verb::Read));
            assert_eq!(kind(scoped.commit(commit("a/1"))), denied(Verb::Write));
            assert_eq!(kind(scoped.lock(&lock, None)), denied(Verb::Lock));
            let is_blind = allowed == Verb::Write;
            assert_eq!(kind(scoped.holders(&name("a/1"))), is_blind.then_some(FailureKind::Denied));
            if allowed != Verb::Lock {
                let id = LockId::parse("x").unwrap();
                assert_eq!(kind(scoped.unlock(&id)), Some(FailureKind::Denied));
                assert_eq!(kind(scoped.renew(&id)), Some(FailureKind::Denied));
                assert_eq!(kind(scoped.break_lock(&name("a/1"), &id)), Some(FailureKind::Denied));
            }
        }
    }

    #[test]
    fn no_other_state_is_reached_or_seen() {
        for states in [&["b/*"][..], &["b/1", "b/**"]] {
            let scoped = scoped(states, &Verb::ALL);
            assert_eq!(kind(scoped.get(&name("b/1"), Selector::Newest)), None);
            assert_eq!(kind(scoped.get(&name("a/1"), Selector::Newest)), Some(FailureKind::Denied));
            assert_eq!(kind(scoped.commit(commit("a/1"))), Some(FailureKind::Denied));
            assert_eq!(
                kind(scoped.lock(&lock(&["b/1", "a/1"]), None)),
                Some(FailureKind::Denied),
                "of several names each counts"
            );
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = scoped.list("**", after).unwrap();
                after = page.versions.last().map(|version| version.state.clone());
                seen.extend(page.versions.into_iter().map(|version| version.state.to_string()));
                if !page.more || after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, (0..9).map(|n| format!("b/{n}")).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_pattern_is_a_name_or_a_glob() {
        assert!(matches!("a b/$c".parse(), Ok(Pattern::Name(_))));
        assert!(matches!("a/**".parse(), Ok(Pattern::Glob(_))));
        for odd in ["", "a//b", "a/[", "../x"] {
            assert!(odd.parse::<Pattern>().is_err(), "{odd}");
        }
        let scope = |states: &[&str]| Scope {
            states: states.iter().map(|state| state.parse().unwrap()).collect(),
            verbs: Vec::new(),
        };
        assert_eq!(scope(&["a/b"]).only(), Some(&name("a/b")));
        assert_eq!(scope(&["a/*"]).only(), None);
        assert_eq!(scope(&["a", "b"]).only(), None);
    }
}
