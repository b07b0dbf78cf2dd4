//! What a daemon does that answers one request after the other.

use std::collections::BTreeMap;

/// The states of one history, by their letter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Model {
    states: BTreeMap<char, (u64, Option<u64>)>,
}

/// What was asked. Contents are numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Put { changes: Vec<(char, Expect, Option<u64>)> },
    Show { state: char },
    Get { state: char },
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Version(u64),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// State, its newest version, whether that is new.
    Committed(Vec<(char, u64, bool)>),
    Conflict,
    NotFound,
    /// The newest version and its content; none where it is a removal.
    Version(u64, Option<u64>),
    /// Of each state that exists.
    Versions(Vec<(char, u64, u64)>),
}

impl Model {
    /// The model after the request, and the answer.
    pub fn ask(&self, ask: &Ask) -> (Self, Answer) {
        let mut next = self.clone();
        let answer = match ask {
            Ask::Put { changes } => match next.put(changes) {
                Ok(committed) => Answer::Committed(committed),
                Err(refused) => return (self.clone(), refused),
            },
            Ask::Show { state } => match self.states.get(state) {
                Some((version, content)) => Answer::Version(*version, *content),
                None => Answer::NotFound,
            },
            Ask::Get { state } => match self.states.get(state) {
                Some((version, Some(content))) => Answer::Version(*version, Some(*content)),
                Some((_, None)) | None => Answer::NotFound,
            },
            Ask::List => {
                let exists = |(state, (version, content)): (&char, &(u64, Option<u64>))| {
                    content.map(|content| (*state, *version, content))
                };
                Answer::Versions(self.states.iter().filter_map(exists).collect())
            }
        };
        (next, answer)
    }

    fn put(&mut self, changes: &[(char, Expect, Option<u64>)]) -> Result<Vec<(char, u64, bool)>, Answer> {
        let mut committed = Vec::new();
        let before = self.clone();
        for (state, expect, content) in changes {
            let (version, present) = before.states.get(state).copied().unwrap_or_default();
            let met = match expect {
                Expect::Any => true,
                Expect::Absent => present.is_none(),
                Expect::Version(expected) => version > 0 && *expected == version,
            };
            if !met {
                return Err(Answer::Conflict);
            }
            match (content, present) {
                (None, None) => return Err(Answer::NotFound),
                (new, old) if *new == old => committed.push((*state, version, false)),
                (new, _) => {
                    self.states.insert(*state, (version + 1, *new));
                    committed.push((*state, version + 1, true));
                }
            }
        }
        committed.sort();
        Ok(committed)
    }
}
