//! `edit`, with scripts for editors.

use std::path::PathBuf;

use rustix::process::Signal;
use stated_tests::{Call, Host, read, tool};

fn edit(host: &Host, state: &str, editor: &str) -> Call {
    host.statectl(["edit", state]).env("EDITOR", editor)
}

/// Where texts are while they are edited: nothing may be left there of this host's.
fn drafts(host: &Host, name: &str) -> Vec<PathBuf> {
    let places = [PathBuf::from("/dev/shm"), host.runtime_dir(), host.path("w")];
    let entries = places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten();
    let drafts = entries.map(|entry| entry.unwrap().path());
    drafts.filter(|path| path.to_string_lossy().contains("statectl-edit-") && path.join(name).exists()).collect()
}

/// The file that a failed edit says it kept.
fn kept(stderr: &str) -> PathBuf {
    let (_, rest) = stderr.split_once("your text is kept in ").unwrap_or_else(|| panic!("{stderr}"));
    PathBuf::from(rest.lines().next().unwrap())
}

#[test]
fn an_edited_text_is_a_version_and_an_untouched_one_is_none() {
    let host = Host::new();
    host.put("a/edited-list", b"one\n");
    let edited = host.statectl(["edit", "a/edited-list", "-m", "why"]).env("EDITOR", "sed -i s/one/two/").run().ok();
    assert_eq!(edited.text(), "a/edited-list@2");
    assert_eq!(host.get("a/edited-list"), b"two\n");
    assert_eq!(host.statectl(["show", "a/edited-list", "--json"]).run().ok().object()["message"], "why");
    let same = edit(&host, "a/edited-list", "true").run().ok().says("did not change");
    assert_eq!(same.text(), "a/edited-list@2");
    assert_eq!(host.statectl(["log", "a/edited-list", "--json"]).run().ok().objects().len(), 2);
    // What an editor leaves beside the file goes too.
    edit(&host, "a/edited-list", "sed -i.backup s/two/three/").run().ok();
    assert_eq!((drafts(&host, "edited-list").len(), host.locks().len()), (0, 0));
}

#[test]
fn visual_comes_before_editor_and_both_may_have_arguments() {
    let host = Host::new();
    host.put("a", b"one");
    edit(&host, "a", "false").env("VISUAL", "sed -i -e 's/one/two words/'").run().ok();
    assert_eq!(host.get("a"), b"two words");
    host.statectl(["edit", "a"]).run().code(2).says("EDITOR");
}

#[test]
fn a_state_that_does_not_exist_begins_empty() {
    let host = Host::new();
    let written = edit(&host, "new", "test ! -s \"$1\"; printf text >").run().ok();
    assert_eq!(written.text(), "new@1");
    assert_eq!(host.get("new"), b"text");
    host.run(["rm", "new"]);
    assert_eq!(edit(&host, "new", "printf again >").run().ok().text(), "new@3");
    assert_eq!(edit(&host, "other", "true").run().ok().text(), "");
    host.statectl(["get", "other"]).run().code(66);
}

#[test]
fn a_failed_editor_writes_nothing() {
    let host = Host::new();
    host.put("not-edited", b"one");
    for editor in ["sh -c 'echo two >$0; exit 3'", "/no/such/editor", "sh -c 'kill -TERM $$'"] {
        edit(&host, "not-edited", editor).run().code(1).says("nothing is written");
    }
    assert_eq!(host.get("not-edited"), b"one");
    assert_eq!((drafts(&host, "not-edited").len(), host.locks().len()), (0, 0));
}

#[test]
fn what_a_killed_editor_saved_is_kept() {
    let host = Host::new();
    host.put("a", b"one");
    let swap = r#"printf swap >"${1%/*}/.a.swp""#;
    for (ends, text) in [
        (r#"echo two >"$1"; kill -HUP $$"#, "two\n"),
        // What a shell says of a killed program that it waited for.
        (r#"echo two >"$1"; exit 129"#, "two\n"),
        (&format!("{swap}; kill -HUP $$"), "one"),
        (&format!("{swap}; exit 1"), "one"),
    ] {
        let failed = edit(&host, "a", &format!("f() {{ {ends}; }}; f")).run().code(1).says("nothing is written");
        let path = kept(&failed.stderr);
        assert_eq!(String::from_utf8(read(&path)).unwrap(), text, "{ends}");
        assert_eq!(path.with_file_name(".a.swp").exists(), ends.contains("swap"), "{ends}");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
    assert_eq!((host.get("a"), host.locks().len()), (b"one".to_vec(), 0));
}

#[test]
fn a_text_is_kept_also_where_nobody_hears_of_it() {
    let host = Host::new();
    host.put("unheard-of", br#"{"b": 1}"#);
    for editor in [r#"f() { echo two >"$1"; kill -HUP $$; }; f"#, "sed -i s/}//"] {
        // As after a hang-up, nothing can be said on standard error.
        let script = r#"exec 2> >(:); wait $!; exec "$0" edit unheard-of"#;
        let bash = ["-c".as_ref(), script.as_ref(), host.statectl_path().as_os_str()].map(std::ffi::OsStr::to_owned);
        assert_ne!(host.call("bash", bash).env("EDITOR", editor).run().code, 0);
        let drafts = drafts(&host, "unheard-of.json");
        assert_eq!(drafts.len(), 1, "{editor}");
        std::fs::remove_dir_all(&drafts[0]).unwrap();
    }
}

#[test]
fn the_text_is_its_users_alone_and_the_state_is_locked_meanwhile() {
    let host = Host::new();
    host.put("a/secret-of-mine", b"one");
    let script = r#"f() { stat -c %a "$1" "$(dirname "$1")"; echo "$1"; read -r _; echo two >"$1"; }; f"#;
    let mut editing = edit(&host, "a/secret-of-mine", script).start();
    assert_eq!((editing.line(), editing.line()), ("600".into(), "700".into()));
    let path = PathBuf::from(editing.line());
    assert!(path.exists());
    host.statectl(["put", "a/secret-of-mine"]).stdin("x").run().code(75).says("for edit");
    edit(&host, "a/secret-of-mine", "true").run().code(75);
    editing.feed(b"\n".to_vec());
    assert_eq!(editing.finish().ok().text(), "a/secret-of-mine@2");
    assert!(!path.exists() && !path.parent().unwrap().exists());
}

#[test]
fn a_signal_leaves_no_text_behind() {
    let host = Host::new();
    host.put("a/signalled", b"one");
    for signal in [Signal::TERM, Signal::HUP] {
        let mut editing = edit(&host, "a/signalled", r#"f() { echo "$1"; exec sleep 1000; }; f"#).start();
        let path = PathBuf::from(editing.line());
        editing.signal(signal);
        editing.finish().code(1);
        assert!(!path.parent().unwrap().exists(), "{signal:?}");
        assert_eq!(host.locks().len(), 0);
    }
}

#[test]
fn a_signal_leaves_what_was_saved() {
    let host = Host::new();
    host.put("a", b"one");
    // Some editors end with a code of their own.
    for waits in ["echo ready; exec sleep 1000", "trap 'kill -9 $!; exit 1' TERM HUP; sleep 1000 & echo ready; wait"] {
        for signal in [Signal::TERM, Signal::HUP] {
            let editor = format!(r#"f() {{ echo two >"$1"; {waits}; }}; f"#);
            let mut editing = edit(&host, "a", &editor).start();
            assert_eq!(editing.line(), "ready");
            editing.signal(signal);
            let path = kept(&editing.finish().code(1).stderr);
            assert_eq!(read(&path), b"two\n", "{signal:?}");
            std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        }
    }
    assert_eq!((host.get("a"), host.locks().len()), (b"one".to_vec(), 0));
}

#[test]
fn an_inherited_lock_is_relied_on() {
    let host = Host::new();
    host.put("a", b"one");
    let lease = host.run(["lock", "--ttl", "1h", "a"]);
    edit(&host, "a", "sed -i s/one/two/").run().code(75);
    edit(&host, "a", "sed -i s/one/two/").env("STATED_LOCK_ID", &lease).run().ok();
    host.statectl(["edit", "a", "--lock", &lease]).env("EDITOR", "sed -i s/two/three/").run().ok();
    assert_eq!(host.get("a"), b"three");
    assert_eq!(host.locks()[0]["id"], lease, "it is held still");
    host.run(["put", "b", host.file("b", b"one").to_str().unwrap()]);
    host.run(["unlock", &lease]);
    host.statectl(["edit", "b", "--lock", &lease]).env("EDITOR", "sed -i s/one/two/").run().code(75);
    assert_eq!(host.get("b"), b"one");
}

#[test]
fn what_was_json_must_stay_json_and_no_work_is_lost() {
    let host = Host::new();
    host.put("a", br#"{"b": 1}"#);
    let refused = edit(&host, "a", "sed -i s/}//").run().code(65);
    let path = kept(&refused.stderr);
    assert_eq!(std::fs::read(&path).unwrap(), br#"{"b": 1"#);
    assert_eq!(host.get("a"), br#"{"b": 1}"#);
    // The hint is the command that writes it all the same.
    let hint = refused.stderr.lines().find_map(|line| line.strip_prefix("hint: statectl ")).unwrap().to_owned();
    let line = format!("{} {hint}", host.statectl_path().display());
    assert_eq!(host.call("sh", ["-c", &line]).run().ok().text(), "a@2");
    assert!(!path.parent().unwrap().exists());
    host.put("text", b"{ no json");
    edit(&host, "text", "sed -i s/no/never/").run().ok();
}

#[test]
fn on_a_terminal_bad_json_may_be_edited_again() {
    if !tool("script") {
        return;
    }
    let host = Host::new();
    host.put("a", br#"{"b": 1}"#);
    let line = format!("{} edit a", host.statectl_path().display());
    let terminal = |answer: &str| {
        // The first run breaks the text, the second one mends it.
        let editor = r#"f() { if grep -q 1 "$1"; then echo '{"b"' >"$1"; else echo '{"b": 2}' >"$1"; fi; }; f"#;
        host.call("script", ["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("EDITOR", editor)
            .stdin(answer)
    };
    let refused = terminal("n\n").run().code(65);
    let path = kept(&refused.text().replace('\r', ""));
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(terminal("y\n").run().ok().text().contains("a@2"));
    assert_eq!(host.get("a"), b"{\"b\": 2}\n");
    // The second round's end is none of the first one's.
    let fails = r#"f() { if grep -q 2 "$1"; then echo '{"b"' >"$1"; else exit 3; fi; }; f"#;
    let failed = terminal("y\n").env("EDITOR", fails).run().code(1);
    let path = kept(&failed.text().replace('\r', ""));
    assert_eq!(read(&path), b"{\"b\"\n");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_lost_lock_is_told_and_the_text_is_kept() {
    let host = Host::new();
    host.put("a", b"one");
    let mut editing = edit(&host, "a", r#"f() { echo ready; read -r _; echo two >"$1"; }; f"#).start();
    assert_eq!(editing.line(), "ready");
    host.run(["break", "a"]);
    editing.says("the lock is lost");
    assert_eq!(host.put("a", b"theirs"), "a@2");
    editing.feed(b"\n".to_vec());
    let refused = editing.finish().code(75);
    let path = kept(&refused.stderr);
    assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
    assert_eq!(host.get("a"), b"theirs");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn an_edit_outlives_its_daemon() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", b"one");
    let mut editing = edit(&host, "a", r#"f() { echo ready; read -r _; echo two >"$1"; }; f"#).start();
    assert_eq!(editing.line(), "ready");
    daemon.kill();
    let _daemon = host.daemon();
    host.statectl(["put", "a"]).stdin("x").run().code(75);
    editing.feed(b"\n".to_vec());
    assert_eq!(editing.finish().ok().text(), "a@2");
    assert_eq!(host.locks().len(), 0);
}

#[test]
fn a_terraform_state_gets_the_next_serial() {
    let host = Host::new();
    let state = |serial: u64, value: &str| {
        format!(r#"{{"version":4,"serial":{serial},"lineage":"l","outputs":{{}},"resources":[],"x":"{value}"}}"#)
    };
    host.put("tf", state(7, "one").as_bytes());
    edit(&host, "tf", "sed -i s/one/two/").run().ok().says("the serial is 8 now");
    assert_eq!(host.get("tf"), state(8, "two").as_bytes());
    let by_hand = edit(&host, "tf", "sed -i -e s/two/three/ -e s/8/20/").run().ok();
    assert!(!by_hand.stderr.contains("serial"), "{}", by_hand.stderr);
    assert_eq!(host.get("tf"), state(20, "three").as_bytes());
    let refused = edit(&host, "tf", "sed -i s/20/3/").run().code(65);
    std::fs::remove_dir_all(kept(&refused.stderr).parent().unwrap()).unwrap();
}
