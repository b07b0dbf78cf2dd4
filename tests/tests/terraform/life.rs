//! The whole life of a state.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use stated_tests::{root, tool};

use super::project::{Project, STATE, host, serials};

/// Everything that Terraform does with a state, and what is left of it here.
fn live(project: &Project<'_>) {
    assert_eq!(project.terraform(["plan", "-detailed-exitcode"]).run().code, 2, "there is something to do");
    assert_eq!(project.statectl(&["ls"]).run().ok().text(), "", "planning writes nothing");

    project.apply("one").run().ok();
    assert_eq!(project.word(), "one");
    let same = ["plan", "-detailed-exitcode", "-var=word=one"];
    assert_eq!(project.terraform(same).run().code, 0, "there is nothing to do");
    project.apply("one").run().ok();
    assert_eq!(project.log().len(), 1, "applying nothing writes nothing");
    let listed = project.terraform(["state", "list"]).run().ok().text();
    assert_eq!(listed, "terraform_data.work\nterraform_data.x");
    assert!(project.terraform(["show", "-json"]).run().ok().object()["values"]["outputs"]["word"]["value"] == "one");

    project.terraform(["state", "mv", "terraform_data.x", "terraform_data.y"]).run().ok();
    project.terraform(["state", "mv", "terraform_data.y", "terraform_data.x"]).run().ok();
    project.terraform(["taint", "terraform_data.x"]).run().ok();
    project.apply("one").run().ok();

    let pulled = project.terraform(["state", "pull"]).run().ok();
    assert_eq!(pulled.text(), project.statectl(&["get", STATE]).run().ok().text());
    let mut state = pulled.document();
    state["serial"] = (state["serial"].as_u64().unwrap() + 1).into();
    state["outputs"]["word"]["value"] = "pushed".into();
    project.write("new.tfstate", &state.to_string());
    project.terraform(["state", "push", "new.tfstate"]).run().ok();
    assert_eq!(project.word(), "pushed");
    project.terraform(["state", "rm", "terraform_data.work"]).run().ok();
    project.terraform(["destroy", "-auto-approve"]).run().ok();
    assert_eq!(project.terraform(["state", "list"]).run().ok().text(), "");

    let log = project.log();
    let messages: Vec<&str> = log.iter().map(|version| version["message"].as_str().unwrap()).collect();
    let expected = ["apply", "state-mv", "state-mv", "taint", "apply", "state-push", "state-rm", "apply"];
    assert_eq!(messages, expected.map(|word| format!("terraform {word}")));
    assert_eq!(serials(&log), [1, 2, 3, 4, 5, 7, 8, 9], "a push raises the serial that it was given");
    for (version, position) in log.iter().zip(1..) {
        assert_eq!(version["version"], position);
        assert_eq!(version["lineage"], log[0]["lineage"], "one life, one lineage");
        assert_eq!(version["forced"], false);
        assert_eq!(project.content(Some(position))["serial"], version["serial"], "each one can still be read");
    }
    assert_eq!(project.content(Some(1))["outputs"]["word"]["value"], "one");
    assert_eq!(project.content(None)["resources"], serde_json::json!([]));
    project.is_settled();
    project.statectl(&["verify", "--read-data"]).run().ok();
}

#[test]
fn a_whole_life() {
    let Some(host) = host() else { return };
    live(&Project::new(&host, "d"));
}

#[test]
fn a_large_state_grows_and_shrinks() {
    let Some(host) = host() else { return };
    let project = Project::new(&host, "d");
    let with_lines = |count: u32| {
        let large = format!(
            r#"resource "terraform_data" "large" {{ input = [for n in range({count}) : [for m in range(200) : "line ${{n}} ${{sha256(m)}}"]] }}"#
        );
        project.write("large.tf", &large);
        project.apply("one").run().ok();
        let pulled = project.terraform(["state", "pull"]).run().ok().document();
        assert_eq!(pulled, project.content(None));
        project.log().last().unwrap()["size"].as_u64().unwrap()
    };
    assert!(with_lines(200) > 3 << 20, "larger than a frame, and than what rides in a batch");
    assert!(with_lines(1) < 1 << 20);
    assert!(with_lines(201) > 3 << 20);
    assert_eq!(serials(&project.log()), [1, 2, 3]);
    project.statectl(&["verify", "--read-data"]).run().ok();
    project.is_settled();
}

#[test]
fn a_whole_life_of_an_ordinary_user() {
    const UID: u32 = 65534;
    let Some(host) = host() else { return };
    if !tool("setpriv") || !root("become another user") {
        return;
    }
    let project = Project::bare(&host, "d", STATE).by(UID);
    project.write("main.tf", &format!("{}{}", super::project::BACKEND, super::project::resources()));
    give(host.path("h").parent().unwrap(), UID);
    project.terraform(["init"]).run().ok();
    live(&project);
    for version in project.log() {
        assert_eq!(version["actor"]["uid"], UID);
    }
    let status = project.statectl(&["status", "--json"]).run().ok().object();
    let daemon = fs::metadata(format!("/proc/{}", status["pid"])).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&daemon), UID, "the daemon is the user's own");
}

fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), uid));
    }
}
