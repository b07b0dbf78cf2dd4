//! From a local file to here, and back.

use serde_json::Value;
use stated_tests::read;

use super::project::{BACKEND, Project, STATE, host, resources};

const MOVE: [&str; 4] = ["init", "-migrate-state", "-force-copy", "-input=false"];
const NOTHING_TO_DO: [&str; 3] = ["plan", "-detailed-exitcode", "-var=word=local"];

/// All that counts in a state: serial and lineage are new in a new place.
fn substance(state: &Value) -> (Value, Value) {
    assert!(!state["resources"].as_array().unwrap().is_empty(), "{state}");
    (state["resources"].clone(), state["outputs"].clone())
}

#[test]
fn a_local_state_moves_here_and_back() {
    let Some(host) = host() else { return };
    let project = Project::bare(&host, "d", STATE);
    project.write("main.tf", &resources());
    project.terraform_alone(["init"]).run().ok();
    project.terraform_alone(["apply", "-auto-approve", "-var=word=local"]).run().ok();
    let file = project.dir().join("terraform.tfstate");
    let local: Value = serde_json::from_slice(&read(&file)).unwrap();

    project.write("backend.tf", BACKEND);
    project.terraform(MOVE).run().ok();
    assert_eq!(substance(&project.content(None)), substance(&local));
    assert_eq!(project.log().len(), 1);
    assert!(read(&file).is_empty(), "Terraform empties the file that it moved from");
    assert_eq!(project.terraform(NOTHING_TO_DO).run().code, 0);
    project.apply("here").run().ok();
    project.apply("local").run().ok();
    assert_eq!(project.log().len(), 3);
    let here = project.content(None);

    project.write("backend.tf", "");
    project.terraform(MOVE).run().ok();
    let back: Value = serde_json::from_slice(&read(&file)).unwrap();
    assert_eq!(substance(&back), substance(&here));
    assert_eq!(project.terraform_alone(NOTHING_TO_DO).run().code, 0);
    assert_eq!(project.content(None), here, "what was here stays here");
    assert!(host.locks().is_empty() && !project.has_errored());
}

#[test]
fn a_migration_onto_a_locked_state_is_refused() {
    let Some(host) = host() else { return };
    let (holder, other) = (Project::new(&host, "holder"), Project::bare(&host, "other", STATE));
    other.write("main.tf", &resources());
    other.terraform_alone(["init"]).run().ok();
    other.terraform_alone(["apply", "-auto-approve", "-var=word=local"]).run().ok();
    let file = other.dir().join("terraform.tfstate");
    let before = read(&file);

    let slow = holder.apply_slowly("one");
    other.write("backend.tf", BACKEND);
    other.terraform(MOVE).run().code(1);
    assert_eq!(read(&file), before, "the local state stays where it is");
    slow.finish().ok();
    assert_eq!((holder.word(), holder.log().len()), ("one".to_owned(), 1));
    holder.is_settled();
}
