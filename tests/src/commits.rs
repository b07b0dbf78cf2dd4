//! Commits by the client library.

use stated_client::Client;
use stated_shared::{Bytes, Change, Commit, Committed, Content, Expect, Failure, SerialRule, StateName};

/// A name that is known to be one.
pub fn state(name: &str) -> StateName {
    StateName::parse(name).expect("a name")
}

/// A commit of these contents, without conditions.
pub fn commit<'a>(contents: impl IntoIterator<Item = (&'a str, Expect, Vec<u8>)>) -> Commit {
    let change =
        |(name, expect, content)| Change { state: state(name), expect, content: Content::Inline(Bytes(content)) };
    Commit {
        changes: contents.into_iter().map(change).collect(),
        locks: Vec::new(),
        message: None,
        labels: Default::default(),
        serials: SerialRule::Refuse,
    }
}

/// What tests do with a session.
pub trait Commits {
    /// Writes one state, whatever it was.
    fn put_one(&mut self, name: &str, content: &[u8]) -> u64;

    /// Writes several states at once.
    fn put_all(&mut self, contents: &[(&str, &[u8])]) -> Result<Committed, Failure>;
}

impl Commits for Client {
    fn put_one(&mut self, name: &str, content: &[u8]) -> u64 {
        let committed = self.put_all(&[(name, content)]).unwrap_or_else(|failure| panic!("{failure}"));
        committed.states[0].version.0
    }

    fn put_all(&mut self, contents: &[(&str, &[u8])]) -> Result<Committed, Failure> {
        self.commit(commit(contents.iter().map(|(name, content)| (*name, Expect::Any, content.to_vec()))))
    }
}
