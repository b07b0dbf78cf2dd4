//! Starting and stopping: by a client, by hand, twice at once.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use stated_tests::{Commits, Host, Running, contains, files_below, read};

#[test]
fn the_first_put_on_an_empty_home_starts_the_daemon_and_makes_a_key() {
    let host = Host::new();
    let told = host.statectl(["put", "a"]).stdin("hello").run().ok();
    assert_eq!(told.text(), "a@1");
    let key = host.identity();
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(contains(&read(&key), b"AGE-SECRET-KEY-1"));
    assert!(told.stderr.contains(key.to_str().unwrap()), "it says where the key is: {}", told.stderr);
    assert!(told.stderr.contains("back it up"), "{}", told.stderr);
    let again = host.statectl(["get", "a"]).run().ok();
    assert_eq!((again.stdout, again.stderr), (b"hello".to_vec(), String::new()));
    host.stop_daemon();
    assert!(host.statectl(["get", "a"]).run().ok().stderr.is_empty(), "only once");
}

#[test]
fn ten_clients_at_once_on_an_empty_home_end_with_one_daemon() {
    let host = Host::new();
    let clients: Vec<Running> = (0..10)
        .map(|number| host.statectl(["put", &format!("state/{number}")]).stdin(vec![b'x'; 10]).start())
        .collect();
    for client in clients {
        client.finish().ok();
    }
    assert_eq!(host.statectl(["ls", "--json"]).run().ok().objects().len(), 10);
    let starts = host.statectl(["audit", "--verb", "start", "--json"]).run().ok().objects();
    assert_eq!(starts.len(), 1, "only one daemon ever served");
    let keyrings = files_below(&host.state_dir().join("keys"));
    assert_eq!(keyrings.len(), 1);
}

#[test]
fn ten_clients_at_once_after_a_killed_daemon_end_with_one_daemon() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", b"x");
    daemon.kill();
    assert!(host.socket().exists(), "a killed daemon leaves its socket");
    let clients: Vec<Running> =
        (0..10).map(|_| host.statectl(["get", "a"]).env_remove("STATED_NO_AUTOSTART").start()).collect();
    for client in clients {
        assert_eq!(client.finish().ok().stdout, b"x");
    }
    let starts = host.statectl(["audit", "--verb", "start", "--json"]).run().ok().objects();
    assert_eq!(starts.len(), 2);
}

#[test]
fn without_autostart_no_daemon_is_69() {
    let host = Host::new();
    host.statectl(["--no-autostart", "ls"]).run().code(69).says("hint: ");
    host.statectl(["ls"]).env("STATED_NO_AUTOSTART", "1").run().code(69);
    host.statectl(["status"]).run().code(69);
    assert!(!host.state_dir().exists());
    host.put("a", b"x");
    host.statectl(["--no-autostart", "get", "a"]).run().ok();
}

#[test]
fn a_second_daemon_on_the_same_directory_is_75_and_names_the_first() {
    let host = Host::new();
    let first = host.daemon();
    let pid = format!("pid {}", first.pid());
    host.stated(["run"]).run().code(75).says(&pid);
    let other_socket = host.path("other/s");
    host.stated(["run", "--socket", other_socket.to_str().unwrap()]).run().code(75).says(&pid);
    host.stated(["verify"]).run().code(75).says("statectl verify");
    host.stated(["init"]).run().code(75).says(&pid);
    host.put("a", b"x");
}

#[test]
fn a_daemon_of_another_directory_does_not_take_the_socket() {
    let host = Host::new();
    let _first = host.daemon();
    host.put("a", b"x");
    let other = host.path("other");
    host.stated(["run", "--state-dir", other.to_str().unwrap()]).run().code(75).says("listens");
    assert_eq!(host.get("a"), b"x");
}

#[test]
fn a_journal_gets_priorities_instead_of_times() {
    for (stream, begins) in [("$(stat -L -c %d:%i /proc/self/fd/2)", "<6>made a new repository "), ("1:1", "20")] {
        let host = Host::new();
        let log = host.path("w/log");
        let line = format!("exec 2>\"$0\"; export JOURNAL_STREAM={stream}; exec \"$1\" run");
        let stated = host.stated_path();
        let args = ["-c".as_ref(), line.as_ref(), log.as_os_str(), stated.as_os_str()];
        let daemon = host.daemon_by(host.call("sh", args));
        daemon.stop();
        let said = String::from_utf8(read(&log)).unwrap();
        assert!(said.starts_with(begins), "{said}");
        // What a new key's owner has to know is a warning.
        assert_eq!(said.lines().any(|line| line.starts_with("<4>made the key")), begins.starts_with('<'), "{said}");
    }
}

#[test]
fn init_makes_a_repository_once() {
    let host = Host::new();
    let made = host.stated(["init"]).run().ok().text();
    assert!(made.contains(host.identity().to_str().unwrap()) && made.contains("age1"), "{made}");
    let key = read(&host.identity());
    host.stated(["init"]).run().code(65).says("already");
    host.put("a", b"x");
    assert_eq!(read(&host.identity()), key);
    assert!(made.contains(host.status()["repository"].as_str().unwrap()));
}

#[test]
fn flags_and_variables_say_where_everything_is() {
    let host = Host::new();
    let (state_dir, socket) = (host.path("elsewhere"), host.path("t/s"));
    let (dir, path) = (state_dir.to_str().unwrap(), socket.to_str().unwrap());
    let _daemon = host.daemon_by(host.stated(["run", "--state-dir", dir]).env("STATED_SOCKET", path));
    host.statectl(["put", "a", "--socket", path]).stdin("x").run().ok();
    let status = host.statectl(["status", "--json"]).env("STATED_SOCKET", path).run().ok().object();
    assert_eq!((&status["state_dir"], &status["socket"]), (&dir.into(), &path.into()));
    host.statectl(["status"]).run().code(69);
    // The flag wins.
    host.statectl(["get", "a", "--socket", path]).env("STATED_SOCKET", "/no/such").run().ok();
}

#[test]
fn daemons_with_their_sockets_in_one_directory_keep_their_locks_apart() {
    let host = Host::new();
    let daemon = host.daemon();
    let held = host.hold(&["x"]);
    let (state_dir, socket) = (host.path("elsewhere"), host.socket().with_file_name("b.sock"));
    let (dir, path) = (state_dir.to_str().unwrap(), socket.to_str().unwrap());
    let _other = host.daemon_by(host.stated(["run", "--state-dir", dir, "--socket", path]));
    assert_eq!(host.statectl(["locks", "--json", "--socket", path]).run().ok().text(), "");
    daemon.stop();
    let _successor = host.daemon();
    assert_eq!(host.locks()[0]["id"], held.id.as_str());
    held.release().ok();
}

#[test]
fn a_socket_path_that_is_too_long_is_a_usage_error() {
    let host = Host::new();
    let path = host.path(&"x".repeat(120));
    host.statectl(["ls", "--socket", path.to_str().unwrap()]).run().code(2).says("107");
}

#[test]
fn a_clean_stop_keeps_everything_and_verifies() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut client = host.client();
    client.put_one("small", b"one");
    client.put_one("small", b"two");
    let large = stated_tests::Random::new().bytes(1 << 20);
    client.put_one("large", &large);
    let lease = host.run(["lock", "--ttl", "1h", "x"]);
    let before = host.status();
    drop(client);
    daemon.stop();
    assert!(!host.socket().exists(), "the socket is gone");
    host.verify();
    let log = files_below(&host.state_dir().join("log")).remove(0);
    assert_ne!(read(&log).last(), Some(&0), "the zeros written ahead are cut off");

    let _daemon = host.daemon();
    let after = host.status();
    assert_eq!(before["repository"], after["repository"]);
    assert!(before["epoch"].as_u64() < after["epoch"].as_u64(), "every start takes a new epoch");
    assert_eq!((host.get("small@1"), host.get("small@2")), (b"one".to_vec(), b"two".to_vec()));
    assert!(host.get("large") == large);
    assert_eq!(host.locks()[0]["id"], lease);
    assert!(host.run(["audit", "--verb", "stop"]).contains("stop"), "the stop is in the audit log");
}

#[test]
fn sigint_stops_it_too() {
    let host = Host::new();
    let mut daemon = host.daemon();
    host.put("a", b"x");
    daemon.signal(Signal::INT);
    assert_eq!(daemon.exit(), 0, "{}", daemon.said());
    host.verify();
}

#[test]
fn a_stop_waits_for_no_lock_holder() {
    let host = Host::new();
    let daemon = host.daemon();
    let held = host.hold(&["x"]);
    daemon.stop();
    let _daemon = host.daemon();
    assert_eq!(host.locks()[0]["id"], held.id);
}

#[test]
fn verify_says_how_much_it_read() {
    let host = Host::new();
    host.put("a", b"x");
    host.put("a", &stated_tests::Random::new().bytes(1 << 20));
    let found = host.statectl(["verify", "--read-data", "--json"]).run().ok().object();
    assert_eq!((&found["payloads"], &found["damage"]), (&2.into(), &serde_json::json!([])));
    assert_eq!(found["seq"], found["records"]);
    host.stop_daemon();
    assert!(host.verify().contains("records"));
}

#[test]
fn a_misspelled_setting_is_refused() {
    let host = Host::new();
    std::fs::create_dir_all(host.config_dir()).unwrap();
    std::fs::write(host.config_dir().join("config.toml"), "identitty = \"x\"\n").unwrap();
    host.stated(["run"]).run().code(78).says("identitty");
    host.statectl(["ls"]).run().code(78);
}
