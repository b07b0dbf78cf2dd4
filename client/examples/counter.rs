//! A counter that many processes increase at once, each under a lock: `cargo run --example counter`.
//!
//! The lock makes the increments wait for each other; the expected version makes sure that one which lost its lock
//! overwrites nothing.

use std::collections::BTreeSet;

use stated_client::{Client, ConnectOptions};
use stated_shared::{
    Bytes, Change, Commit, Content, Expect, Failure, FailureKind, Hold, Lock, LockKind, Notice, Selector, SerialRule,
    StateName, Wait,
};

fn main() {
    match increase() {
        Ok(count) => println!("{count}"),
        Err(failure) => {
            eprintln!("counter: {failure}");
            std::process::exit(failure.kind.exit_code().into());
        }
    }
}

fn increase() -> Result<u64, Failure> {
    let name = StateName::parse("example/counter").expect("a valid name");
    let mut client = Client::connect(&ConnectOptions::from_env())?;
    client.on_notice(Box::new(|notice| {
        if let Notice::Queued { ahead, .. } = notice {
            eprintln!("counter: waiting, {ahead} before this one");
        }
    }));
    let grant = client.lock(
        &Lock {
            id: None,
            names: BTreeSet::from([name.clone()]),
            kind: LockKind::Exclusive,
            wait: Wait::Forever,
            ttl_ms: None,
            operation: "increase".to_owned(),
            reason: None,
            info: None,
            under: None,
            // This program is the work, so the lock may end with its connection.
            hold: Hold::Connection,
            process: None,
        },
        None,
    )?;
    let (count, expect) = match client.get(&name, Selector::Newest) {
        Ok((version, bytes)) => (parse(&bytes)?, Expect::Version(version.version)),
        Err(failure) if failure.kind == FailureKind::NotFound => (0, Expect::Absent),
        Err(failure) => return Err(failure),
    };
    client.commit(Commit {
        changes: vec![Change { state: name, expect, content: Content::Inline(Bytes((count + 1).to_string().into())) }],
        locks: vec![grant.id.clone()],
        message: Some("increase".to_owned()),
        labels: Default::default(),
        serials: SerialRule::Refuse,
    })?;
    client.unlock(&grant.id)?;
    Ok(count + 1)
}

fn parse(bytes: &[u8]) -> Result<u64, Failure> {
    let number = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| Failure::new(FailureKind::Conflict, "the state is no number"))
}
