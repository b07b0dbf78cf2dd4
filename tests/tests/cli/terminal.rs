//! What only a terminal gets: colours, a pager, a bar for long transfers. `script` is the terminal.

use stated_tests::{Call, Commits, Finished, Host, tool};

/// `statectl` on a terminal of its own; both of its outputs come back as one.
fn on_terminal(host: &Host, line: &str) -> Call {
    let line = format!("{} {line}", host.statectl_path().display());
    host.call("script", ["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm")
}

fn shown(call: Call) -> String {
    call.run().ok().text()
}

/// A host with more states than a screen has lines.
fn full_host() -> Host {
    let host = Host::new();
    let mut client = host.client_started();
    for number in 0..40 {
        Commits::put_one(&mut client, &format!("state/{number}"), b"x");
    }
    host
}

#[test]
fn long_lists_go_through_the_pager_on_a_terminal_only() {
    if !tool("script") {
        return;
    }
    let host = full_host();
    let marking = |call: Call| call.env("STATED_PAGER", "sed s/^/paged:/").env("PAGER", "false");
    let paged = |line: &str| shown(marking(on_terminal(&host, line)));
    for line in ["ls", "audit"] {
        assert!(
            paged(line).lines().count() > 40 && paged(line).lines().all(|line| line.starts_with("paged:")),
            "{line}"
        );
    }
    for line in ["ls 'state/1'", "--no-pager ls", "ls --json", "log state/1", "status"] {
        assert!(!paged(line).contains("paged:"), "{line}");
    }
    assert!(!marking(host.statectl(["ls"])).run().ok().text().contains("paged:"));
    let other = shown(on_terminal(&host, "ls").env("PAGER", "sed s/^/other:/"));
    assert!(other.starts_with("other:"), "{other}");
}

#[test]
fn without_a_pager_the_list_is_there_all_the_same() {
    if !tool("script") {
        return;
    }
    let host = full_host();
    for pager in ["/no/such/pager", "", "cat", "/dev/null"] {
        let list = shown(on_terminal(&host, "ls").env("STATED_PAGER", pager));
        assert!(list.contains("state/39"), "{pager:?}: {list}");
    }
    // One that its reader leaves at once is no failure.
    shown(on_terminal(&host, "ls").env("STATED_PAGER", "true"));
}

#[test]
fn colours_are_for_terminals_and_can_be_refused() {
    if !tool("script") {
        return;
    }
    let host = Host::new();
    host.put("a", b"1");
    host.run(["rm", "a"]);
    let coloured = |output: Finished| output.text().contains("\u{1b}[") || output.stderr.contains("\u{1b}[");
    for line in ["log a", "show a", "status", "audit", "diff a"] {
        assert!(coloured(on_terminal(&host, line).run().ok()), "{line}");
        assert!(!coloured(on_terminal(&host, line).env("NO_COLOR", "1").run().ok()), "{line} with NO_COLOR");
        assert!(!coloured(on_terminal(&host, line).env("TERM", "dumb").run().ok()), "{line} on a dumb terminal");
        assert!(!coloured(on_terminal(&host, &format!("--color never {line}")).run().ok()), "{line} with never");
        let words = || ["--color", "always"].into_iter().chain(line.split(' '));
        assert!(coloured(host.statectl(words()).env("NO_COLOR", "1").run().ok()), "{line} with always");
    }
    for line in ["get none", "frobnicate", "put"] {
        assert!(coloured(on_terminal(&host, line).run()), "{line}");
        assert!(!coloured(on_terminal(&host, line).env("NO_COLOR", "1").run()), "{line} with NO_COLOR");
        assert!(!coloured(on_terminal(&host, &format!("--color=never {line}")).run()), "{line} with never");
    }
}

#[test]
fn a_long_transfer_shows_how_far_it_is_on_a_terminal_only() {
    if !tool("script") {
        return;
    }
    let host = Host::new();
    let long = host.file("long", &vec![b'x'; 9 << 20]);
    let short = host.file("short", &vec![b'x'; 1 << 20]);
    let put = format!("put a {}", long.display());
    host.run(["put", "a", short.to_str().unwrap()]);
    let sent = shown(on_terminal(&host, &put));
    assert!(sent.contains("sending") && sent.contains("9.00 MiB") && sent.contains("a@2"), "{sent:?}");
    let get = format!("get a -o {}", host.path("w/copy").display());
    assert!(shown(on_terminal(&host, &get)).contains("reading"));
    assert_eq!(std::fs::read(host.path("w/copy")).unwrap(), std::fs::read(&long).unwrap());
    assert!(!shown(on_terminal(&host, &format!("{get} --json"))).contains("reading"));
    assert!(!shown(on_terminal(&host, &format!("put b {}", short.display()))).contains("sending"));
    let piped = host.statectl(["get", "a"]).run().ok();
    assert_eq!((piped.stdout.len(), piped.stderr.as_str()), (9 << 20, ""));
}
