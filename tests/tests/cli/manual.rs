//! Completions and manual pages, as a shell and a formatter read them.

use stated_tests::{Host, tool};

/// The visible verbs, as the help lists them.
fn verbs(host: &Host) -> Vec<String> {
    let help = host.run(["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = commands.take_while(|line| !line.is_empty());
    lines
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn bash_completes_verbs_and_flags() {
    let host = Host::new();
    let completions = host.file("completions", &host.statectl(["completions", "bash"]).run().ok().stdout);
    let complete = |words: &[&str]| {
        let script = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            spec=$(complete -p statectl) && function=${spec#*-F } && ${function%% *} statectl "${!#}" "${@: -2:1}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let args = ["-c", script, "bash", text_of(&completions)].into_iter().chain(words.iter().copied());
        host.call("bash", args).run().ok().text()
    };
    assert_eq!(complete(&["statectl", "lo"]), "log\nlock\nlocks");
    assert!(complete(&["statectl", "lock", "--on"]).contains("--on-lost"));
    let all = complete(&["statectl", ""]);
    for verb in verbs(&host) {
        assert!(all.lines().any(|line| line == verb), "{verb} is not among {all}");
    }
    assert!(!all.contains("gateway-") && !all.contains("serve"), "{all}");
}

fn text_of(path: &std::path::Path) -> &str {
    path.to_str().expect("a path of ours")
}

#[test]
fn every_shell_gets_its_completions() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = host.run(["completions", shell]);
        assert!(script.contains("statectl") && script.contains("rollback"), "{shell}");
    }
    host.statectl(["completions", "tcl"]).run().code(2);
    assert!(!host.socket().exists(), "none of it needs a daemon");
}

#[test]
fn every_verb_has_a_page_that_a_formatter_reads() {
    let host = Host::new();
    let directory = host.path("man/man1");
    host.run(["man", text_of(&directory)]);
    let mut pages = vec!["statectl.1".to_owned()];
    pages.extend(verbs(&host).iter().map(|verb| format!("statectl-{verb}.1")));
    assert!(pages.len() > 20, "{pages:?}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), pages.len());
    for page in &pages {
        let text = std::fs::read_to_string(directory.join(page)).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"EXIT STATUS\"", "ENVIRONMENT", "\"SEE ALSO\""]
        {
            assert!(text.contains(&format!(".SH {section}\n")), "{page} lacks {section}");
        }
        if tool("groff") {
            let checked = host.call("groff", ["-man", "-ww", "-z", "-Tutf8", text_of(&directory.join(page))]);
            assert_eq!(checked.run().ok().stderr, "", "{page}");
        }
    }
    assert_eq!(host.run(["man"]), std::fs::read_to_string(directory.join("statectl.1")).unwrap().trim_end());
}
