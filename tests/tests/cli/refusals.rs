//! What is refused, and that nothing happens then.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use stated_tests::{Host, accept, connect, root};

#[test]
fn names_that_may_not_be_are_a_usage_error() {
    let host = Host::new();
    let too_long = "x".repeat(4097);
    for name in ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a@1", "a\nb", "a\u{202e}b", "a\u{7f}", &too_long] {
        for verb in ["put", "rm", "log"] {
            host.statectl([verb, "--", name]).run().code(2);
        }
        host.statectl(["lock", "-n", "--ttl", "1m", "--", name]).run().code(2);
    }
    host.statectl(["get", "../../etc/passwd"]).run().code(2);
    assert!(!host.socket().exists(), "no daemon was asked");
}

#[test]
fn names_that_may_be_are_names_and_no_paths() {
    let host = Host::new();
    let longest = "x".repeat(4096);
    let names = ["a b", "example/ü/名前", ".hidden", "...", "a/..b", "-dash", "*", "semi;colon $(x) 'q'", &longest];
    for name in names {
        assert_eq!(host.statectl(["put", "--", name]).stdin(name).run().ok().text(), format!("{name}@1"));
    }
    for name in names {
        assert_eq!(host.statectl(["get", "--", name]).run().ok().stdout, name.as_bytes());
    }
    let files = stated_tests::files_below(&host.state_dir());
    assert!(files.iter().all(|file| !file.to_string_lossy().contains("hidden")), "{files:?}");
}

#[test]
fn a_state_directory_that_others_may_write_is_refused() {
    let host = Host::new();
    fs::create_dir(host.state_dir()).unwrap();
    host.chmod(&host.state_dir(), 0o777);
    host.stated(["run"]).run().code(78).says("chmod 700");
    host.statectl(["put", "a"]).run().code(78).says("may be written by others");
    host.chmod(&host.state_dir(), 0o700);
    host.put("a", b"x");
}

#[test]
fn what_a_daemon_makes_is_readable_by_its_user_alone() {
    let host = Host::new();
    // With the most careless of umasks.
    let script = r#"umask 000; exec "$STATECTL" put a"#;
    host.call("sh", ["-c", script]).env("STATECTL", host.statectl_path()).stdin(vec![b'x'; 200]).run().ok();
    host.run(["lock", "--ttl", "1h", "x"]);
    let paths = [host.state_dir(), host.config_dir(), host.runtime_dir().join("stated")];
    let open = host.call("find", paths.iter().map(|path| path.as_os_str()).chain(["-perm", "/077"].map(AsRef::as_ref)));
    assert_eq!(open.run().ok().text(), "", "nobody else may do anything with these");
}

#[test]
fn a_log_that_cannot_be_written_is_told_and_left_alone() {
    if rustix::process::geteuid().is_root() {
        stated_tests::skip("root writes everywhere");
        return;
    }
    let host = Host::new();
    host.put("a", b"x");
    host.stop_daemon();
    let log = stated_tests::files_below(&host.state_dir().join("log")).remove(0);
    host.chmod(&log, 0o400);
    host.stated(["run"]).run().code(74).says("log/");
    host.statectl(["put", "a"]).stdin("y").run().code(74);
    host.verify();
    host.chmod(&log, 0o600);
    assert_eq!(host.get("a"), b"x");
}

#[test]
fn the_key_must_be_its_users_alone() {
    let host = Host::new();
    host.put("a", b"x");
    host.stop_daemon();
    host.chmod(&host.identity(), 0o644);
    host.stated(["run"]).run().code(78).says("chmod 600");
    host.chmod(&host.identity(), 0o600);
    assert_eq!(host.get("a"), b"x");
}

#[test]
fn another_users_key_opens_nothing_and_changes_nothing() {
    let host = Host::new();
    host.put("a", b"x");
    host.stop_daemon();
    let other = Host::new();
    other.put("b", b"y");
    let own = fs::read(host.identity()).unwrap();
    fs::write(host.identity(), fs::read(other.identity()).unwrap()).unwrap();
    let before =
        stated_tests::files_below(&host.state_dir()).iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>();
    host.stated(["run"]).run().code(78).says("opens nothing");
    host.stated(["verify"]).run().code(78);
    host.statectl(["get", "a"]).run().code(78);
    let after = stated_tests::files_below(&host.state_dir());
    let unlocked = |file: &&std::path::PathBuf| !file.ends_with("LOCK");
    let after = after.iter().filter(unlocked).map(|file| fs::read(file).unwrap());
    assert!(after.into_iter().all(|content| before.contains(&content)), "a file changed");
    fs::write(host.identity(), own).unwrap();
    assert_eq!(host.get("a"), b"x");
}

#[test]
fn a_lost_key_is_told_and_no_new_one_is_made() {
    let host = Host::new();
    host.put("a", b"x");
    host.stop_daemon();
    let aside = host.path("aside");
    fs::rename(host.identity(), &aside).unwrap();
    let refused = host.stated(["run"]).run().code(78);
    assert!(refused.stderr.contains("identity.txt") && refused.stderr.contains("hint: "), "{}", refused.stderr);
    host.statectl(["put", "a"]).stdin("y").run().code(78);
    assert!(!host.identity().exists());
    fs::rename(&aside, host.identity()).unwrap();
    assert_eq!(host.get("a"), b"x");
}

#[test]
fn another_protocol_version_is_a_clear_error_on_the_clients_side() {
    let host = Host::new();
    fs::create_dir(host.runtime_dir().join("stated")).unwrap();
    let listener = UnixListener::bind(host.socket()).unwrap();
    let server = std::thread::spawn(move || {
        let mut peer = accept(&listener);
        let mut preamble = [0; 8];
        peer.read_exact(&mut preamble).unwrap();
        assert_eq!(&preamble, b"stated\x00\x01");
        peer.write_all(b"stated\x00\x63").unwrap();
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let refused = host.statectl(["ls", "--json"]).run().code(76);
    assert_eq!(refused.error()["kind"], "protocol");
    assert!(refused.stderr.contains("99"), "{}", refused.stderr);
    server.join().unwrap();
}

#[test]
fn something_else_on_the_socket_is_no_daemon() {
    let host = Host::new();
    fs::create_dir(host.runtime_dir().join("stated")).unwrap();
    let listener = UnixListener::bind(host.socket()).unwrap();
    let server = std::thread::spawn(move || {
        let mut peer = accept(&listener);
        peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = peer.read_to_end(&mut Vec::new());
    });
    host.statectl(["ls"]).run().code(76);
    server.join().unwrap();
}

#[test]
fn a_newer_client_is_told_the_daemons_version_and_others_are_served() {
    let host = Host::new();
    let _daemon = host.daemon();
    let mut newer = connect(&host.socket()).unwrap();
    newer.write_all(b"stated\x00\x63").unwrap();
    let mut answer = Vec::new();
    newer.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"stated\x00\x01");
    host.put("a", b"x");
}

#[test]
fn another_users_client_is_not_let_in() {
    if !root("run a client as another user") {
        return;
    }
    let host = Host::new();
    host.put("a", b"secret");
    // Everything on the way to the socket is opened, so that the socket itself is what refuses.
    for path in [host.path(""), host.runtime_dir(), host.runtime_dir().join("stated")] {
        host.chmod(&path, 0o755);
    }
    let socket = host.socket();
    let args = ["--socket".as_ref(), socket.as_os_str(), "get".as_ref(), "a".as_ref()];
    let refused = host.call_as(65534, host.statectl_path(), args).run().code(77);
    assert!(refused.stdout.is_empty() && !refused.stderr.contains("secret"));
}
