//! Many at once.

use std::collections::BTreeSet;

use stated_tests::Running;

use super::project::{Project, host, serials};

#[test]
fn eight_applies_at_once_end_one_after_the_other() {
    const COUNT: usize = 8;
    let Some(host) = host() else { return };
    let projects: Vec<Project<'_>> = (0..COUNT).map(|n| Project::new(&host, &format!("d{n}"))).collect();
    let applies: Vec<Running> =
        projects.iter().enumerate().map(|(n, project)| project.apply_waiting(&n.to_string()).start()).collect();
    for apply in applies {
        apply.finish().ok();
    }

    let log = projects[0].log();
    assert_eq!(serials(&log), (1..=COUNT as u64).collect::<Vec<_>>());
    let contents: Vec<_> = (1..=COUNT).map(|version| projects[0].content(Some(version))).collect();
    let words: BTreeSet<&str> =
        contents.iter().map(|content| content["outputs"]["word"]["value"].as_str().unwrap()).collect();
    assert_eq!(words.len(), COUNT, "each one's work is a version");
    let id = |content: &serde_json::Value| {
        let resources = content["resources"].as_array().unwrap();
        let resource = resources.iter().find(|resource| resource["name"] == "x").unwrap();
        resource["instances"][0]["attributes"]["id"].as_str().unwrap().to_owned()
    };
    assert!(contents.iter().all(|content| id(content) == id(&contents[0])), "each went on from the one before");
    let last = contents.last().unwrap()["outputs"]["word"]["value"].as_str().unwrap();
    for project in &projects {
        assert_eq!(project.word(), last);
        project.is_settled();
    }
}

#[test]
fn eight_applies_of_eight_states_do_not_wait_for_each_other() {
    let Some(host) = host() else { return };
    let projects: Vec<Project<'_>> =
        (0..8).map(|n| Project::of(&host, &format!("d{n}"), &format!("example/{n}"))).collect();
    let applies: Vec<_> = projects.iter().map(|project| project.apply_slowly("one")).collect();
    assert_eq!(host.locks().len(), 8, "all of them are at work");
    for apply in applies {
        apply.finish().ok();
    }
    projects.iter().for_each(Project::is_settled);
}
