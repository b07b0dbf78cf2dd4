//! How much room a history takes, and how it comes back.

use std::path::Path;
use std::time::Duration;

use stated_tests::{Commits, Host, TerraformState, files_below, run_within, tool};

/// How long git may take to pack 300 versions on a machine that has other things to do.
const GC_LIMIT: Duration = Duration::from_secs(900);

/// The bytes of all files below a directory.
fn room(dir: &Path) -> u64 {
    files_below(dir).iter().map(|file| file.metadata().expect("a file").len()).sum()
}

/// Commits one version after the other; gives the room that the state directory takes after a clean stop.
fn kept_by_stated(host: &Host, history: TerraformState, versions: usize) -> u64 {
    let daemon = host.daemon();
    let mut client = host.client();
    for content in history.versions().take(versions) {
        client.put_one("prod/network", &content);
    }
    drop(client);
    daemon.stop();
    room(&host.state_dir())
}

/// Commits the same to git; gives the room that the repository takes once it is packed as tightly as git can.
fn kept_by_git(host: &Host, history: TerraformState, versions: usize) -> u64 {
    let git = |args: &[&str]| host.call("git", args).run().ok();
    // Without the sample hooks.
    git(&["init", "--quiet", "--template=", "."]);
    for content in history.versions().take(versions) {
        host.file("terraform.tfstate", &content);
        git(&["add", "terraform.tfstate"]);
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "gc.auto=0"];
        git(&[&identity[..], &["commit", "--quiet", "--message=apply"]].concat());
    }
    let gc = host.call("git", ["gc", "--aggressive", "--quiet"]).into_command();
    run_within(gc, GC_LIMIT).ok();
    let (dir, objects) = (room(&host.path("w").join(".git")), room(&host.path("w").join(".git/objects")));
    eprintln!("git takes {dir} bytes, {objects} of them for its objects");
    dir
}

#[test]
fn a_history_takes_less_room_than_in_git_packed_aggressively() {
    if !tool("git") {
        return;
    }
    // All 300 versions: STATED_ROOM_VERSIONS=300 cargo test --release --package stated-tests --test room
    let versions = std::env::var("STATED_ROOM_VERSIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(66);
    let history = TerraformState::seeded(1);
    let (host, other) = (Host::new(), Host::new());
    let ours = kept_by_stated(&host, history.clone(), versions);
    let gits = kept_by_git(&other, history, versions);
    eprintln!("{versions} versions: stated {ours} bytes, git {gits} bytes");
    assert!(ours < gits, "stated {ours} bytes, git {gits} bytes");
}
