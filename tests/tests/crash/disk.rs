//! A disk that fails.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use stated_client::Client;
use stated_shared::{Expect, Reply, Request, Version};
use stated_tests::{Direct, Host, Random, commit, tool};

/// Starts the daemon under `strace`, which makes the `when`th call of `fdatasync` of each thread fail.
fn daemon_whose_sync_fails(host: &Host, when: usize) -> stated_tests::Daemon {
    let inject = format!("inject=fdatasync:error=EIO:when={when}");
    let trace = host.path("strace");
    let args = ["-f", "-o", trace.to_str().unwrap(), "-e", "trace=fdatasync", "-e", &inject, "--"];
    let stated = host.stated_path();
    host.daemon_by(host.call("strace", args.iter().map(AsRef::as_ref).chain([stated.as_os_str(), "run".as_ref()])))
}

#[test]
fn a_failed_sync_halts_the_daemon_and_nothing_unacknowledged_is_claimed() {
    if !tool("strace") {
        return;
    }
    let mut random = Random::new();
    for when in [4, 7, 12] {
        let host = Host::new();
        host.stated(["init"]).run().ok();
        let mut daemon = daemon_whose_sync_fails(&host, when);
        let mut connection = Direct::connect(&host.socket(), &mut random).unwrap();
        let mut acknowledged = 0_u64;
        let refusal = loop {
            let content = format!("version {}", acknowledged + 1).into_bytes();
            let request = Request::Commit(commit([("a", Expect::Any, content)]));
            match connection.ask(request, &[]) {
                Ok(Ok(Reply::Committed(_))) => acknowledged += 1,
                Ok(Ok(other)) => panic!("{other:?}"),
                Ok(Err(failure)) => break Some(failure),
                Err(_) => break None,
            }
            assert!(acknowledged < 100, "no sync failed");
        };
        assert!(refusal.is_none(), "{refusal:?}: nobody knows what became of it");
        assert_eq!(daemon.exit(), 74, "{}", daemon.said());
        assert!(daemon.said().contains("start the daemon again"), "{}", daemon.said());

        let daemon = host.daemon();
        let rows = host.statectl(["log", "a", "--json"]).run();
        let versions = if rows.code == 66 { 0 } else { rows.ok().objects().len() as u64 };
        assert!(versions == acknowledged || versions == acknowledged + 1, "{versions} of {acknowledged}");
        for version in 1..=versions {
            assert_eq!(host.get(&format!("a@{version}")), format!("version {version}").into_bytes());
        }
        // A record that was written and not synced may be there: then it is durable now, and counts.
        assert_eq!(host.put("a", b"and on it goes"), format!("a@{}", versions + 1));
        daemon.stop();
        host.verify();
    }
}

/// Each on the condition that the one before is the newest: one that were applied twice would be in its own way.
fn twenty_commits(client: &mut Client) -> Vec<u64> {
    let one = |number: u64| {
        let expect = if number == 1 { Expect::Absent } else { Expect::Version(Version(number - 1)) };
        let committed = client.commit(commit([("a", expect, number.to_le_bytes().to_vec())]));
        committed.unwrap_or_else(|failure| panic!("commit {number}: {failure}")).states[0].version.0
    };
    (1..=20).map(one).collect()
}

#[test]
fn promise_4_a_client_that_retries_over_a_failed_sync_is_told_what_is_there() {
    if !tool("strace") {
        return;
    }
    let host = Host::new();
    host.stated(["init"]).run().ok();
    let mut daemon = daemon_whose_sync_fails(&host, 6);
    let mut client = host.client();
    let committing = std::thread::spawn(move || twenty_commits(&mut client));
    assert_eq!(daemon.exit(), 74, "{}", daemon.said());
    let _successor = host.daemon();
    let versions: Vec<u64> = committing.join().expect("every commit is acknowledged in the end");
    assert_eq!(versions, (1..=20).collect::<Vec<_>>(), "none twice, none lost");
    for version in versions {
        assert_eq!(host.get(&format!("a@{version}")), version.to_le_bytes());
    }
}

#[test]
fn a_daemon_killed_by_its_own_sync_loses_nothing() {
    if !tool("strace") {
        return;
    }
    for when in [4, 9] {
        let host = Host::new();
        host.stated(["init"]).run().ok();
        let inject = format!("inject=fdatasync:signal=SIGKILL:when={when}");
        let stated = host.stated_path();
        let args = ["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject, "--"];
        let call = host.call("strace", args.iter().map(AsRef::as_ref).chain([stated.as_os_str(), "run".as_ref()]));
        let mut daemon = host.daemon_by(call);
        let mut client = host.client();
        let committing = std::thread::spawn(move || twenty_commits(&mut client));
        assert_eq!(daemon.exit(), 128 + 9, "{}", daemon.said());
        let daemon = host.daemon();
        let versions: Vec<u64> = committing.join().expect("every commit is acknowledged in the end");
        assert_eq!(versions, (1..=20).collect::<Vec<_>>(), "none twice, none lost");
        daemon.kill();
        host.verify();
    }
}

/// A file system of its own for the state directory; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Of this size; `None`, aloud, where mounting is not allowed.
    fn mount(host: &Host, size: &str) -> Option<Self> {
        let dir = host.state_dir();
        fs::create_dir_all(&dir).unwrap();
        let size = ["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"];
        let mounted = host.call("mount", size.iter().map(AsRef::as_ref).chain([dir.as_os_str()])).run();
        if mounted.code != 0 {
            // Past the capture: a test that passes says nothing else.
            let _ = writeln!(std::io::stderr(), "SKIPPED: no file system can be mounted here: {}", mounted.stderr);
            return None;
        }
        Some(Self(dir))
    }

    /// Takes all that is free.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }

    fn give_back(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn promise_11_a_full_disk_refuses_writes_and_leaves_reads_release_and_break_working() {
    let mut random = Random::new();
    let host = Host::new();
    let Some(disk) = SmallDisk::mount(&host, "2m") else { return };
    let daemon = host.daemon();
    host.put("a", b"kept");
    let lease = |name: &str| host.run(["lock", "--ttl", "1h", name]).trim().to_owned();
    let leases: Vec<String> = (0..20).map(|n| lease(&format!("x{n}"))).collect();
    disk.fill();
    // What is zero-filled ahead takes some more, up to the reserve.
    let mut versions = 0;
    while host.statectl(["put", "b"]).stdin(random.bytes(20 << 10)).run().code == 0 {
        versions += 1;
        assert!(versions < 100, "the disk is not full");
    }
    host.statectl(["put", "b"]).stdin(random.bytes(20 << 10)).run().code(74).says("disk is full");
    assert_eq!(host.get("a"), b"kept");
    for (n, id) in leases.iter().enumerate() {
        let name = format!("x{n}");
        if n % 2 == 0 {
            host.run(["unlock", id]);
        } else {
            host.run(["break", &name]);
        }
        assert!(host.locks().iter().all(|row| row["name"] != name.as_str()), "{name} is free");
        host.statectl(["put", "b"]).stdin(random.bytes(20 << 10)).run().code(74);
    }
    host.statectl(["log", "b"]).run().ok();
    host.statectl(["audit"]).run().ok();
    disk.give_back();
    assert_eq!(host.put("b", b"on it goes"), format!("b@{}", versions + 1), "without a restart");
    daemon.kill();
    let daemon = host.daemon();
    assert!(host.locks().is_empty(), "what was released stays released");
    daemon.stop();
    host.verify();
}

#[test]
fn a_prune_makes_room_on_a_full_disk() {
    let mut random = Random::new();
    let host = Host::new();
    let Some(_disk) = SmallDisk::mount(&host, "8m") else { return };
    let daemon = host.daemon();
    // Each but the first of a state is a patch that is nearly as large: a line in common is all that they share.
    let mut put = |n: usize| {
        let content = [&[b'x'; 40_000][..], &random.bytes(200 << 10)].concat();
        let put = host.statectl(["put", &format!("s{}", n % 3)]).stdin(content.clone()).run();
        (put.code, content)
    };
    let mut newest = [const { Vec::new() }; 3];
    let mut versions = 0;
    loop {
        let (code, content) = put(versions);
        if code != 0 {
            assert_eq!(code, 74);
            break;
        }
        newest[versions % 3] = content;
        versions += 1;
        assert!(versions < 100, "the disk is not full");
    }
    for (n, content) in newest.iter().enumerate() {
        assert!(host.get(&format!("s{n}")) == *content);
    }
    let rows = host.statectl(["prune", "--keep-last", "1", "--json"]).run().ok().objects();
    assert!(!rows.is_empty());
    // What needs a version of before is stored anew once there is room, so the second time nothing is kept for it.
    host.run(["prune", "--keep-last", "1"]);
    for n in versions..versions + 6 {
        let (code, content) = put(n);
        assert_eq!(code, 0, "without a restart");
        newest[n % 3] = content;
    }
    for (n, content) in newest.iter().enumerate() {
        assert!(host.get(&format!("s{n}")) == *content);
        host.statectl(["get", &format!("s{n}@1")]).run().code(66).says("was pruned");
    }
    host.statectl(["verify", "--read-data"]).run().ok();
    daemon.stop();
    host.verify();
}
