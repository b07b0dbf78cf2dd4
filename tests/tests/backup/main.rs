//! Backups of a running daemon, and directories that are made of them again.

mod archives;
mod cut;
mod fences;
mod gateways;
mod held;
mod incremental;
mod restoring;
mod rotation;
mod storm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stated_client::{Client, ConnectOptions};
use stated_shared::Selector;
use stated_tests::{Finished, Host, files_below, read, state, tool};

/// `statectl backup TO --json`; gives what it says.
#[track_caller]
fn backup(host: &Host, to: &Path) -> Value {
    host.statectl(["backup".as_ref(), to.as_os_str(), "--json".as_ref()]).run().ok().object()
}

/// `statectl restore` with these arguments.
fn restore(host: &Host, args: &[&str]) -> Finished {
    host.statectl(["restore"].iter().chain(args)).run()
}

/// Reads everything in a backup, as in any state directory.
#[track_caller]
fn verify(host: &Host, dir: &Path) {
    host.stated(["verify".as_ref(), "--state-dir".as_ref(), dir.as_os_str()]).run().ok();
}

/// The newest content of each state in a directory, by stock tools; `None` without them.
fn recovered(host: &Host, dir: &Path) -> Option<BTreeMap<String, Vec<u8>>> {
    if !["bash", "age", "zstd", "jq", "sha256sum"].iter().all(|name| tool(name)) {
        return None;
    }
    let out = host.path("recovered");
    let _ = std::fs::remove_dir_all(&out);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    let identity = host.identity();
    host.call("bash", [&script, dir, &identity, &out].map(|path| path.as_os_str())).run().ok();
    let mut newest = BTreeMap::new();
    for line in String::from_utf8(read(&out.join("index.jsonl"))).unwrap().lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        if entry["status"] == "ok" {
            let content = read(&out.join(entry["path"].as_str().unwrap()));
            newest.insert(entry["state"].as_str().unwrap().to_owned(), content);
        }
    }
    Some(newest)
}

/// All files below a directory with their bytes, but for the lock, which says who had it last.
fn image(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(dir).into_iter().filter(|path| !path.ends_with("LOCK"));
    files.map(|path| (path.clone(), read(&path))).collect()
}

/// The newest content of each state in a backup, as a daemon serves it that was started on what was restored of it.
fn served(host: &Host, dir: &Path, names: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let [to, socket] = [host.path("served"), host.path("served.sock")];
    let _ = std::fs::remove_dir_all(&to);
    restore(host, &[dir, "--state-dir".as_ref(), &to].map(|arg| arg.to_str().unwrap())).ok();
    let run = ["run".as_ref(), "--state-dir".as_ref(), to.as_os_str(), "--socket".as_ref(), socket.as_os_str()];
    let _daemon = host.daemon_by(host.stated(run));
    let mut client = Client::connect(&ConnectOptions { socket: Some(socket), ..host.options() }).unwrap();
    let content = |name: &&str| ((*name).to_owned(), client.get(&state(name), Selector::Newest).unwrap().1);
    names.iter().map(content).collect()
}

/// The parts of a fence such as `1764000000.7`.
fn epoch(fence: &str) -> u64 {
    fence.split('.').next().and_then(|epoch| epoch.parse().ok()).expect("a fence")
}
