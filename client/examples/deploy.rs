//! Counts up a number in a state, under a lock, and tells the three outcomes apart.
//!
//!     cargo run --example deploy --features tokio -- example/deploys

use stated_client::ConnectOptions;
use stated_client::tokio::{Client, LockGuard};
use stated_shared::{Commit, Expect, Failure, FailureKind, Lock, Selector, StateName, VersionInfo};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "example/deploys".to_owned());
    let name = StateName::parse(&name).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
    let client = Client::connect(&ConnectOptions::from_env()).await?;
    let guard = client.lock(&Lock::exclusive([name.clone()], "deploy")).await?;
    println!("locked {name} with fence {}", guard.fence());

    let deploy = deploy(&client, &guard, &name);
    let outcome = tokio::select! {
        outcome = deploy => outcome,
        why = guard.lost() => Err(Failure::new(FailureKind::Busy, format!("the lock is lost: {why}"))),
    };
    match &outcome {
        Ok(version) => println!("done: {name}@{version}"),
        // Nobody knows: whoever goes on must look first.
        Err(failure) if failure.kind == FailureKind::Unavailable => println!("unknown: {failure}"),
        Err(failure) => println!("refused: {failure}"),
    }
    guard.release().await?;
    outcome.map(drop)
}

async fn deploy(client: &Client, guard: &LockGuard, name: &StateName) -> Result<u64, Failure> {
    let (expect, count) = match client.get(name, Selector::Newest).await {
        Ok((VersionInfo { version, .. }, content)) => (Expect::Version(version), number(&content)),
        Err(failure) if failure.kind == FailureKind::NotFound => (Expect::Absent, 0),
        Err(failure) => return Err(failure),
    };
    let mut commit = Commit::put(name.clone(), (count + 1).to_string().into_bytes());
    commit.changes[0].expect = expect;
    commit.locks = vec![guard.id().clone()];
    commit.message = Some(format!("deploy {}", count + 1));
    let committed = client.commit(commit).await?;
    Ok(committed.states[0].version.0)
}

fn number(content: &[u8]) -> u64 {
    std::str::from_utf8(content).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
