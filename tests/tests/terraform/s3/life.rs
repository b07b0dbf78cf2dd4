//! The whole life of a state, from wherever it comes.

use serde_json::Value;
use stated_tests::read;

use crate::project::{BACKEND, Project, S3_BACKEND, S3_STATE, STATE, host, resources, serials};

const MOVE: [&str; 4] = ["init", "-migrate-state", "-force-copy", "-input=false"];

#[test]
fn a_whole_life() {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    assert_eq!(project.terraform(["plan", "-detailed-exitcode"]).run().code, 2, "there is something to do");
    assert_eq!(project.statectl(&["ls"]).run().ok().text(), "", "planning writes nothing");
    let applied = project.apply("one").run().ok();
    assert!(applied.stderr.contains(&format!("statectl: state {S3_STATE}")), "{}", applied.stderr);
    assert!(applied.stderr.contains("statectl: s3 by environment variables"), "{}", applied.stderr);
    assert_eq!(project.word(), "one");
    project.apply("one").run().ok();
    assert_eq!(project.log().len(), 1, "applying nothing writes nothing");

    project.terraform(["state", "mv", "terraform_data.x", "terraform_data.y"]).run().ok();
    let pulled = project.terraform(["state", "pull"]).run().ok();
    assert_eq!(pulled.text(), project.statectl(&["get", S3_STATE]).run().ok().text());
    project.terraform(["destroy", "-auto-approve"]).run().ok();
    assert_eq!(project.terraform(["state", "list"]).run().ok().text(), "");

    let log = project.log();
    let messages: Vec<&str> = log.iter().map(|version| version["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["terraform apply", "terraform state-mv", "terraform apply"]);
    assert_eq!(serials(&log), [1, 2, 3]);
    assert_eq!(log[0]["labels"]["gateway"], "s3");
    project.is_settled();
    project.statectl(&["verify", "--read-data"]).run().ok();
}

#[test]
fn workspaces_are_states_of_their_own() {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    project.apply("default").run().ok();
    project.terraform(["workspace", "new", "dev"]).run().ok();
    let applied = project.apply("dev").run().ok();
    let dev = "my-terraform-state-bucket/env:/dev/terraform/state.tfstate";
    assert!(applied.stderr.contains(&format!("statectl: state {dev}")), "{}", applied.stderr);
    assert_eq!(project.word(), "dev");
    let listed = project.terraform(["workspace", "list"]).run().ok().text();
    assert!(listed.contains("default") && listed.contains("* dev"), "{listed}");
    project.terraform(["workspace", "select", "default"]).run().ok();
    assert_eq!(project.word(), "default");

    project.terraform(["workspace", "delete", "dev"]).run().code(1);
    project.terraform(["workspace", "delete", "-force", "dev"]).run().ok();
    let listed = project.terraform(["workspace", "list"]).run().ok().text();
    assert!(!listed.contains("dev"), "{listed}");
    assert_eq!(project.statectl(&["ls", "--json"]).run().ok().objects().len(), 1);
    project.terraform(["workspace", "new", "dev"]).run().ok();
    assert_eq!(project.terraform(["state", "list"]).run().ok().text(), "", "it begins anew");
    project.is_settled();
}

#[test]
fn a_large_state_comes_in_parts() {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    let with_lines = |count: u32| {
        let large = format!(
            r#"locals {{ text = join("", [for n in range(96) : sha256(n)]) }}
resource "terraform_data" "large" {{ input = [for n in range({count}) : "line ${{n}} ${{local.text}}"] }}"#
        );
        project.write("large.tf", &large);
        project.apply("one").run().ok();
        let pulled = project.terraform(["state", "pull"]).run().ok().document();
        assert_eq!(pulled, project.content(None));
        project.log().last().unwrap()["size"].as_u64().unwrap()
    };
    assert!(with_lines(1000) > 11 << 20, "longer than two of the parts that it is written and read in");
    assert!(with_lines(1) < 1 << 20);
    assert_eq!(serials(&project.log()), [1, 2]);
    project.is_settled();
}

/// Moves what a project has at another place to the `s3` backend.
fn moves_here(project: &Project<'_>, before: &Value) {
    project.write("backend.tf", S3_BACKEND);
    project.exec(&[&["terraform"], MOVE.as_slice()].concat()).run().ok();
    let log = project.statectl(&["log", S3_STATE, "--json"]).run().ok().objects();
    assert_eq!(log.len(), 1);
    let here: Value = serde_json::from_slice(&project.statectl(&["get", S3_STATE]).run().ok().stdout).unwrap();
    assert_eq!((&here["resources"], &here["outputs"]), (&before["resources"], &before["outputs"]));
    assert_eq!(project.terraform(["plan", "-detailed-exitcode", "-var=word=one"]).run().code, 0);
    project.is_settled_beside(&["terraform.tfstate"]);
}

#[test]
fn a_local_state_moves_here() {
    let Some(host) = host() else { return };
    let project = Project::bare_s3(&host, "d");
    project.write("main.tf", &resources());
    project.terraform_alone(["init"]).run().ok();
    project.terraform_alone(["apply", "-auto-approve", "-var=word=one"]).run().ok();
    let local = serde_json::from_slice(&read(&project.dir().join("terraform.tfstate"))).unwrap();
    moves_here(&project, &local);
}

#[test]
fn a_state_of_the_http_backend_moves_here() {
    let Some(host) = host() else { return };
    let project = Project::bare(&host, "d", STATE);
    project.write("main.tf", &resources());
    project.write("backend.tf", BACKEND);
    project.terraform(["init"]).run().ok();
    project.apply("one").run().ok();
    moves_here(&project, &project.content(None));
    assert_eq!(project.log().len(), 1, "what was there stays there");
}
