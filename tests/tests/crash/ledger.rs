//! What one writer knows of its states: the content of every version that must be there.

use std::collections::BTreeMap;

use stated_shared::{Reply, Request, Selector};
use stated_tests::{Direct, Host, Random, sha256, state};

/// A content that need not be kept: its seed and its length give it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    seed: u64,
    len: usize,
}

impl Recipe {
    pub fn new(random: &mut Random, len: usize) -> Self {
        Self { seed: random.bits(), len }
    }

    pub fn content(self) -> Vec<u8> {
        Random::seeded(self.seed).bytes(self.len)
    }
}

/// The versions of some states, that nobody else writes: version n is entry n - 1.
#[derive(Debug, Default)]
pub struct Ledger {
    states: BTreeMap<String, Vec<Recipe>>,
    pub acknowledged: u64,
}

/// One commit: names and contents.
pub type Plan = Vec<(String, Recipe)>;

impl Ledger {
    /// The versions that a commit is answered with.
    pub fn expected(&self, plan: &Plan) -> Vec<u64> {
        plan.iter().map(|(name, _)| self.states.get(name).map_or(0, Vec::len) as u64 + 1).collect()
    }

    /// Takes note of a commit that is durable.
    pub fn enter(&mut self, plan: Plan) {
        for (name, recipe) in plan {
            self.states.entry(name).or_default().push(recipe);
        }
    }

    /// Finds out whether a commit without an answer is there: all of it or nothing, anything else is a failure.
    pub fn settle(&mut self, plan: Plan, connection: &mut Direct) {
        let expected = self.expected(&plan);
        let present: Vec<bool> = plan
            .iter()
            .zip(&expected)
            .map(|((name, recipe), version)| match newest(connection, name) {
                None => {
                    assert_eq!(*version, 1, "{name} is gone");
                    false
                }
                Some((newest, _)) if newest + 1 == *version => false,
                Some((newest, digest)) => {
                    assert_eq!(newest, *version, "{name} has a version that nobody wrote");
                    assert_eq!(digest, sha256(&recipe.content()), "{name}@{newest} is another content");
                    true
                }
            })
            .collect();
        assert!(present.iter().all(|there| *there == present[0]), "a commit is there in part: {plan:?} {present:?}");
        if present[0] {
            self.enter(plan);
        }
    }

    /// Reads every version and compares every byte; there must be no other version.
    pub fn check(&self, host: &Host) -> usize {
        let mut client = host.client();
        let mut checked = 0;
        for (name, recipes) in &self.states {
            let (newest, _) = client.get(&state(name), Selector::Newest).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(newest.version.0, recipes.len() as u64, "{name} has as many versions as were written");
            for (index, recipe) in recipes.iter().enumerate() {
                let at = Selector::Version(stated_shared::Version(index as u64 + 1));
                let (_, content) = client.get(&state(name), at).unwrap_or_else(|failure| panic!("{failure}"));
                assert!(content == recipe.content(), "{name}@{} is not what was written", index + 1);
                checked += 1;
            }
        }
        checked
    }
}

fn newest(connection: &mut Direct, name: &str) -> Option<(u64, String)> {
    let request = Request::Show { state: state(name), at: Selector::Newest };
    match connection.ask(request, &[]).expect("the daemon answers between two crashes") {
        Ok(Reply::Version(version)) => {
            Some((version.version.0, version.content.expect("nobody removes").sha256.to_string()))
        }
        Ok(other) => panic!("{other:?}"),
        Err(failure) if failure.kind.exit_code() == 66 => None,
        Err(failure) => panic!("{failure}"),
    }
}
