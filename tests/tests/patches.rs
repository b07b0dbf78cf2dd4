//! Versions that are stored as patches from earlier ones: read back whole, damaged, checked in parts.

use std::collections::BTreeMap;

use stated_client::Client;
use stated_shared::{Expect, FailureKind};
use stated_tests::{Commits, Host, Random, TerraformState, commit, files_below, flip, read};

/// The content of a version, by the version's number.
type History = Vec<Option<Vec<u8>>>;

/// The next content after another: a bit of it changed, moved, grown or cut, or something else altogether.
fn next(random: &mut Random, last: &[u8]) -> Vec<u8> {
    let mut content = last.to_vec();
    let at = random.below(content.len() as u64 + 1) as usize;
    match random.below(8) {
        0 => {
            let len = [0, 1, 127, 128, 129, 5000, 70_000, 1 << 20][random.below(8) as usize];
            content = if random.one_in(2) { random.bytes(len) } else { text(random, len) };
        }
        1 => content.truncate(at),
        2 => content.rotate_left(at),
        3 | 4 => drop(content.splice(at..at, random.bits().to_string().into_bytes())),
        _ => {
            for byte in content[at..].iter_mut().take(40) {
                *byte = b'a' + random.below(26) as u8;
            }
        }
    }
    content
}

fn text(random: &mut Random, len: usize) -> Vec<u8> {
    let lines = std::iter::repeat_with(|| format!("\"attribute\": \"{:016x}\"\n", random.bits()).into_bytes());
    lines.flatten().take(len).collect()
}

fn all_read_back(host: &Host, histories: &BTreeMap<&str, History>) {
    for (state, history) in histories {
        for (index, content) in history.iter().enumerate() {
            let at = format!("{state}@{}", index + 1);
            let found = host.statectl(["get", &at]).run();
            match content {
                Some(content) => assert!(found.ok().stdout == *content, "{at}"),
                None => drop(found.code(66)),
            }
        }
    }
}

#[test]
fn whatever_was_put_removed_and_rolled_back_is_read_back_bit_for_bit_after_a_restart() {
    let host = Host::new();
    let mut daemon = host.daemon();
    let mut random = Random::new();
    let mut histories: BTreeMap<&str, History> = BTreeMap::from([("a", Vec::new()), ("b", Vec::new())]);
    for _ in 0..150 {
        let state = if random.one_in(2) { "a" } else { "b" };
        let history = histories.get_mut(state).expect("one of them");
        let newest = history.last().cloned().flatten();
        match (random.below(12), &newest) {
            (0, Some(_)) => {
                host.run(["rm", state]);
                history.push(None);
            }
            (1, _) => {
                let earlier = random.below(history.len() as u64 + 1);
                let content = history.get(earlier as usize).cloned().flatten();
                if let Some(content) = content.filter(|content| newest.as_ref() != Some(content)) {
                    host.run(["rollback", state, &(earlier + 1).to_string()]);
                    history.push(Some(content));
                }
            }
            (2, _) => {
                // Whatever was kept in memory is gone.
                daemon.stop();
                daemon = host.daemon();
            }
            _ => {
                let last = history.iter().rev().flatten().next().cloned().unwrap_or_default();
                let content = next(&mut random, &last);
                if newest.as_ref() != Some(&content) {
                    host.put(state, &content);
                    history.push(Some(content));
                }
            }
        }
    }
    daemon.stop();
    host.verify();
    let daemon = host.daemon();
    all_read_back(&host, &histories);
    daemon.stop();
}

/// Commits `count` versions of some 100 KB, each a little different from the one before.
fn long_history(client: &mut Client, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new();
    let mut content = text(&mut random, 100_000);
    let mut history = Vec::new();
    for version in 1..=count {
        let at = random.below(99_000) as usize;
        content[at..at + 5].copy_from_slice(b"12345");
        content[..20].copy_from_slice(format!("{version:020}").as_bytes());
        assert_eq!(client.put_one("a", &content), version as u64);
        history.push(content.clone());
    }
    history
}

#[test]
fn a_damaged_version_refuses_those_that_are_patched_from_it_and_no_other() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut client = host.client();
    let history = long_history(&mut client, 70);
    // Not compressible, so its payload is a blob; the versions before and after are its patches.
    let noise = Random::new().bytes(300 << 10);
    client.put_one("noise", b"a first version that helps nothing to patch the second one from: it is another one");
    client.put_one("noise", &noise);
    let changed = [&noise[..1000], b"changed", &noise[1000..]].concat();
    client.put_one("noise", &changed);
    drop(client);
    daemon.stop();
    let blobs = files_below(&host.state_dir().join("blob"));
    let [blob] = &blobs[..] else { panic!("one payload is large: {blobs:?}") };
    flip(blob, 100_000);
    let daemon = host.daemon();
    let mut client = host.client();
    host.run(["get", "noise@1"]);
    let refused = host.statectl(["get", "noise@3"]).run().code(74);
    let name = blob.strip_prefix(host.state_dir()).unwrap().to_str().unwrap().to_owned();
    assert!(refused.stdout.is_empty(), "not one byte of it");
    let refused = refused.says("noise@3 cannot be read: it is a patch from version 2");
    assert!(refused.stderr.contains(&name) && refused.stderr.contains("at byte 0"), "{}", refused.stderr);
    host.statectl(["get", "noise@2"]).run().code(74).says(&name);
    // What is written next stands alone, and is served.
    let after = [&changed[..], b"!"].concat();
    assert_eq!(client.put_one("noise", &after), 4);
    assert!(host.get("noise@4") == after);
    for version in [1, 2, 64, 65, 66, 70] {
        assert!(host.get(&format!("a@{version}")) == history[version - 1], "version {version}");
    }
    let told = host.statectl(["verify", "--read-data"]).run().code(74).text();
    assert!(told.contains(&name) && told.contains("version 3 of its state is a patch from version 2"), "{told}");
    drop(client);
    daemon.stop();
}

#[test]
fn verify_reads_every_content_once_in_as_many_parts_as_wanted_and_none_unasked() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut client = host.client();
    long_history(&mut client, 200);
    let payloads = |arg: &str| {
        let verified =
            host.statectl(["verify", "--json"].into_iter().chain([arg].into_iter().filter(|a| !a.is_empty())));
        verified.run().ok().object()["payloads"].as_u64().expect("a number")
    };
    assert_eq!(payloads(""), 0);
    assert_eq!(payloads("--read-data"), 200);
    let parts: Vec<u64> = (1..=3).map(|n| payloads(&format!("--read-data={n}/3"))).collect();
    assert_eq!(parts.iter().sum::<u64>(), 200, "{parts:?}");
    assert!(parts.iter().all(|part| *part >= 8), "{parts:?}");
    for wrong in ["--read-data=0/3", "--read-data=4/3", "--read-data=1", "--read-data=1/0", "--read-data=1/99999999"] {
        host.statectl(["verify", wrong]).run().code(2);
    }
    host.statectl(["verify"]).run().ok().says("no content was compared");
    drop(client);
    daemon.stop();
}

#[test]
fn commits_of_many_sessions_to_one_state_are_all_read_back() {
    let host = Host::new();
    let daemon = host.daemon();
    let history = TerraformState::seeded(3).next_version();
    let writers: Vec<_> = (0..4_u8)
        .map(|writer| {
            let (mut client, mut content) = (host.client(), history[..200_000].to_vec());
            std::thread::spawn(move || {
                let mut written = Vec::new();
                for number in 0..40_u8 {
                    content[usize::from(number) * 100..][..4].copy_from_slice(&[b'w', b'0' + writer, b'n', number]);
                    written.push((client.put_one("a", &content), content.clone()));
                }
                written
            })
        })
        .collect();
    let written: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    assert_eq!(written.len(), 160);
    daemon.stop();
    host.verify();
    let daemon = host.daemon();
    let mut client = host.client();
    for (version, content) in written.iter().step_by(7) {
        assert!(host.get(&format!("a@{version}")) == *content, "version {version}");
    }
    let stale = commit([("a", Expect::Version(stated_shared::Version(3)), b"x".to_vec())]);
    assert_eq!(client.commit(stale).unwrap_err().kind, FailureKind::Conflict);
    let log = files_below(&host.state_dir().join("log")).remove(0);
    assert!(read(&log).len() < 1 << 20, "they are patches");
    drop(client);
    daemon.stop();
}

/// Its content was written before anybody could refuse it.
#[test]
fn a_refused_commit_leaves_nothing_on_the_disk() {
    let host = Host::new();
    let daemon = host.daemon();
    let noise = Random::new().bytes(300 << 10);
    host.put("noise", &noise);
    let blobs = || files_below(&host.state_dir().join("blob"));
    let kept = blobs();
    assert_eq!(kept.len(), 1);
    for _ in 0..3 {
        host.statectl(["put", "noise", "--if-absent"]).stdin(noise.clone()).run().code(65);
        host.statectl(["put", "other", "--if-version", "7"]).stdin(noise.clone()).run().code(65);
    }
    // A stop waits for whoever removes them.
    daemon.stop();
    assert_eq!(blobs(), kept);
    let _daemon = host.daemon();
    assert!(host.get("noise") == noise);
}
