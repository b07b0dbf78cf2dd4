//! A thread that commits until it is told to stop, over as many crashes as there are.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use stated_client::Client;
use stated_shared::{Content, Expect, Reply, Request, Version};
use stated_tests::{Direct, Random, commit};

use super::ledger::{Ledger, Plan, Recipe};

/// A commit of more than this goes in chunks.
const CHUNKED: usize = 60 << 10;

/// What the writers share with the test.
pub struct Load {
    pub socket: PathBuf,
    /// Set when the round's daemon is gone: what is under way is finished, and nothing new begun.
    pub stop: AtomicBool,
    /// One message for each acknowledged commit.
    pub acknowledged: Sender<()>,
}

/// Chooses what to commit: mostly small, sometimes a long record or a blob, sometimes several states at once.
///
/// What is large is what compressing takes long for, and no kill hits any harder: so it is rare, and no larger than it
/// must be to be a blob.
fn plan(writer: usize, random: &mut Random) -> Plan {
    let states = if random.one_in(3) { 2 + random.below(2) as usize } else { 1 };
    let first = random.below(3) as usize;
    (0..states)
        .map(|index| {
            let len = match random.below(60) {
                0 | 1 => (65 << 10) + random.below(10 << 10) as usize,
                2..=5 => (20 << 10) + random.below(42 << 10) as usize,
                _ => 1 + random.below(2000) as usize,
            };
            (format!("writer-{writer}/state-{}", (first + index) % 3), Recipe::new(random, len))
        })
        .collect()
}

/// Over the client library, which retries over a crash: every commit is acknowledged in the end, and applied once.
pub fn retrying(writer: usize, mut random: Random, ledger: &mut Ledger, load: &Load, client: &mut Client) {
    while !load.stop.load(Ordering::Acquire) {
        let plan = plan(writer, &mut random);
        let expected = ledger.expected(&plan);
        // With conditions: had a retry been applied twice, it would have been in its own way.
        let changes = conditions(&expected).zip(&plan);
        let changes = changes.map(|(expect, (name, recipe))| (name.as_str(), expect, recipe.content()));
        let committed = client.commit(commit(changes)).unwrap_or_else(|failure| panic!("{failure}"));
        let versions: Vec<u64> = committed.states.iter().map(|state| state.version.0).collect();
        assert_eq!(versions, expected, "a commit was lost, or applied twice");
        ledger.enter(plan);
        ledger.acknowledged += 1;
        let _ = load.acknowledged.send(());
    }
}

/// That each version is the next one.
fn conditions(expected: &[u64]) -> impl Iterator<Item = Expect> {
    expected.iter().map(|version| match version {
        1 => Expect::Absent,
        next => Expect::Version(Version(next - 1)),
    })
}

/// Over connections that ask once: a crash leaves one commit open, given back for later.
pub fn asking_once(writer: usize, mut random: Random, ledger: &mut Ledger, load: &Load) -> Option<Plan> {
    let mut connection = Direct::connect(&load.socket, &mut random).ok()?;
    while !load.stop.load(Ordering::Acquire) {
        let plan = plan(writer, &mut random);
        let expected = ledger.expected(&plan);
        let contents: Vec<Vec<u8>> = plan.iter().map(|(_, recipe)| recipe.content()).collect();
        let names = plan.iter().map(|(name, _)| name.as_str());
        let versions = conditions(&expected);
        let changes =
            names.zip(versions).zip(&contents).map(|((name, expect), content)| (name, expect, content.clone()));
        let mut commit = commit(changes);
        let mut streamed = Vec::new();
        let inline: usize = contents.iter().map(Vec::len).sum();
        for (change, content) in commit.changes.iter_mut().zip(contents) {
            if inline > CHUNKED {
                change.content = Content::Streamed { size_bytes: content.len() as u64 };
                streamed.push(content);
            }
        }
        match connection.ask(Request::Commit(commit), &streamed) {
            Ok(Ok(Reply::Committed(committed))) => {
                let versions: Vec<u64> = committed.states.iter().map(|state| state.version.0).collect();
                assert_eq!(versions, expected);
                ledger.enter(plan);
                ledger.acknowledged += 1;
                let _ = load.acknowledged.send(());
            }
            // A stop leaves it open too.
            Ok(Err(failure)) if failure.kind.exit_code() == 69 => return Some(plan),
            Ok(other) => panic!("{other:?}"),
            Err(_) => return Some(plan),
        }
    }
    None
}
