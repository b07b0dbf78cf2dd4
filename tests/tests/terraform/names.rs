//! What the command finds in its environment, what its end becomes, and the name of a state that is not given.

use std::path::{Path, PathBuf};

use stated_tests::{Finished, Host, tool};

use super::project::{BACKEND, Project, STATE, host, resources};

#[test]
fn the_commands_exit_code_is_passed_through() {
    let Some(host) = host() else { return };
    let project = Project::bare(&host, "d", STATE);
    let run = |script: &str| project.exec(&["sh", "-c", script]).run().code;
    for code in [0, 1, 2, 42, 65, 255] {
        assert_eq!(run(&format!("exit {code}")), code);
    }
    assert_eq!(run("kill -TERM $$"), 128 + 15);
    assert_eq!(run("kill -KILL $$"), 128 + 9);
    project.exec(&["no-such-program-anywhere"]).run().code(127);
    project.write("not-executable", "");
    project.exec(&["./not-executable"]).run().code(126);
    project.terraform(["no-such-verb"]).run().code(1);
}

#[test]
fn the_command_finds_everything_in_its_environment() {
    let Some(host) = host() else { return };
    let project = Project::bare(&host, "d", STATE);
    let script =
        r#"printf '%s\n' "$STATED_STATE" "$STATED_SOCKET" "$TF_HTTP_ADDRESS" "${STATED_LOCK_ID-none}" "$@"; cat"#;
    let finished = project.exec(&["sh", "-c", script, "sh", "a b"]).stdin("input").run().ok();
    let printed = finished.text();
    let lines: Vec<&str> = printed.lines().collect();
    let [state, socket, address, lock, argument, input] = lines[..] else { panic!("{printed}") };
    assert_eq!((state, socket), (STATE, host.socket().to_str().unwrap()));
    assert!(address.starts_with("http://127.0.0.1:") && address.ends_with("/v1/state/example/net%20work"), "{address}");
    assert_eq!((lock, argument, input), ("none", "a b", "input"));
}

#[test]
fn the_credential_is_in_nobodys_arguments() {
    let Some(host) = host() else { return };
    let project = Project::bare(&host, "d", STATE);
    // Of all processes, only those that must know the password have it in their environment, and none in its arguments.
    let script = r#"for file in /proc/[0-9]*/cmdline; do grep -qaF -e "$TF_HTTP_PASSWORD" "$file" 2>/dev/null && echo "$file"; done; echo ${#TF_HTTP_PASSWORD}"#;
    // grep's own arguments hold it while it looks: so it may find itself, but no file that is still there.
    let printed = project.exec(&["bash", "-c", script]).run().ok().text();
    let found: Vec<&str> = printed.lines().filter(|line| Path::new(line).exists()).collect();
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(printed.lines().last(), Some("64"));
}

/// A clone with a configuration in `net`; gives that directory.
fn clone(host: &Host, name: &str) -> PathBuf {
    let net = host.path("w").join(name).join("net");
    std::fs::create_dir_all(&net).unwrap();
    let repository = net.parent().unwrap();
    let git = |args: &[&str]| host.call("git", args).current_dir(repository).run().ok();
    git(&["init", "--quiet"]);
    git(&["remote", "add", "origin", "git@git.example:acme/infra.git"]);
    std::fs::write(net.join("main.tf"), format!("{BACKEND}{}", resources())).unwrap();
    net
}

fn exec(host: &Host, dir: &Path, args: &[&str]) -> Finished {
    let args = [&["exec", "--", "terraform"], args].concat();
    host.statectl(args).env("CHECKPOINT_DISABLE", "1").current_dir(dir).run()
}

const NAME: &str = "git.example/acme/infra/net";

#[test]
fn the_name_comes_from_the_remote_and_is_refused_from_another_directory() {
    let Some(host) = host() else { return };
    if !tool("git") {
        return;
    }
    let (mine, other) = (clone(&host, "mine"), clone(&host, "other"));
    exec(&host, &mine, &["init"]).ok().says(&format!("state {NAME}"));
    exec(&host, &mine, &["apply", "-auto-approve", "-var=word=mine"]).ok();
    // From above, by Terraform's own option, it is the same directory and the same name.
    let chdir = format!("-chdir={}", mine.display());
    exec(&host, &host.path("w"), &[&chdir, "apply", "-auto-approve", "-var=word=again"]).ok();
    assert_eq!(host.run(["ls"]).lines().filter(|line| line.contains(NAME)).count(), 1);

    let refused = exec(&host, &other, &["init"]).code(65);
    let line = format!("statectl exec --state {NAME} -- terraform init");
    let refused = refused.says(&line).says(mine.to_str().unwrap()).says(other.to_str().unwrap());
    assert!(refused.stdout.is_empty() && !other.join(".terraform").exists(), "the command did not run");

    // The line can be typed; writing by that name moves the state here.
    let typed = |args: &[&str]| {
        let args = [&["exec", "--state", NAME, "--", "terraform"], args].concat();
        host.statectl(args).current_dir(&other).run().ok()
    };
    typed(&["init"]);
    typed(&["apply", "-auto-approve", "-var=word=other"]);
    exec(&host, &other, &["plan"]).ok();
    exec(&host, &mine, &["plan"]).code(65);
    assert_eq!(exec(&host, &other, &["output", "-raw", "word"]).ok().text(), "other");
}

#[test]
fn a_configuration_without_the_block_is_told_what_to_add() {
    let Some(host) = host() else { return };
    let project = Project::bare(&host, "d", STATE);
    project.write("main.tf", &resources());
    project.terraform(["init"]).run().ok().says("backend \"http\" {}");
    project.write("main.tf", &format!("{BACKEND}{}", resources()));
    let finished = project.terraform(["init"]).run().ok();
    assert!(!finished.stderr.contains("backend"), "{}", finished.stderr);
}
