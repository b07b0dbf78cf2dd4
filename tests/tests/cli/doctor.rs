//! `doctor`: each test breaks one thing on purpose, and mends it by the command that doctor names.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use serde_json::Value;
use stated_tests::{Call, Host, Process, accept, programs_dir};

/// Makes a call with the variables that this test sets.
type With<'a> = &'a dyn Fn(Call) -> Call;

const PLAIN: With = &|call| call;

/// What is not in order, by `doctor` with these arguments.
#[track_caller]
fn troubles(host: &Host, with: With, args: &[&str]) -> Vec<Value> {
    let report = with(host.statectl(["doctor", "--json"].iter().chain(args))).run();
    let findings = report.objects();
    assert!(findings.len() > 5, "{findings:?}");
    let troubles: Vec<Value> = findings.into_iter().filter(|finding| finding["verdict"] != "ok").collect();
    let is_broken = troubles.iter().any(|finding| finding["verdict"] == "fail");
    assert_eq!(report.code, i32::from(is_broken), "{troubles:?}");
    troubles
}

#[track_caller]
fn is_clean(host: &Host, with: With) {
    assert_eq!(troubles(host, with, &[]), [] as [Value; 0]);
}

/// The command for the one thing that is broken.
#[track_caller]
fn mend(host: &Host, with: With, check: &str, verdict: &str, args: &[&str]) -> String {
    let troubles = troubles(host, with, args);
    let [trouble] = &troubles[..] else { panic!("not one trouble: {troubles:?}") };
    assert_eq!((&trouble["check"], &trouble["verdict"]), (&check.into(), &verdict.into()), "{trouble}");
    trouble["mend"].as_str().expect("a command").to_owned()
}

/// Runs the command that was named.
#[track_caller]
fn apply(host: &Host, mend: &str) {
    let path = format!("{}:/usr/bin:/bin", programs_dir().display());
    host.call("sh", ["-c", mend]).env("PATH", path).run().ok();
}

/// Breaks are found, mended as doctor says, and gone then.
#[track_caller]
fn mended(host: &Host, with: With, check: &str, verdict: &str, expected: &str) {
    let mend = mend(host, with, check, verdict, &[]);
    assert!(mend.starts_with(expected), "{mend}");
    apply(host, &mend);
    is_clean(host, with);
}

/// A host with a repository, and no daemon.
fn resting_host() -> Host {
    let host = Host::new();
    host.put("a", b"x");
    host.stop_daemon();
    host
}

#[test]
fn nothing_is_broken_on_a_new_host_a_running_one_and_a_resting_one() {
    let host = Host::new();
    is_clean(&host, PLAIN);
    assert!(!host.state_dir().exists() && !host.socket().exists(), "it starts nothing");
    host.put("a", b"x");
    is_clean(&host, PLAIN);
    host.stop_daemon();
    is_clean(&host, PLAIN);
    assert!(!host.socket().exists(), "it starts nothing");
}

#[test]
fn it_changes_nothing_and_tells_no_secret() {
    let host = resting_host();
    let content = || {
        let places = [host.state_dir(), host.config_dir(), host.runtime_dir()];
        let files = places.iter().flat_map(|place| stated_tests::files_below(place));
        files.map(|file| (fs::read(&file).unwrap(), file.metadata().unwrap().modified().unwrap())).collect::<Vec<_>>()
    };
    let before = content();
    let report = host.statectl(["doctor"]).run().ok();
    assert!(before == content());
    assert!(!report.text().contains("SECRET-KEY"), "{}", report.text());
    assert!(report.text().lines().all(|line| line.starts_with("ok  ")), "{}", report.text());
}

#[test]
fn a_key_that_others_may_read() {
    let host = resting_host();
    host.chmod(&host.identity(), 0o644);
    mended(&host, PLAIN, "key", "fail", "chmod 600 ");
}

#[test]
fn a_key_that_is_lost() {
    let host = resting_host();
    fs::rename(host.identity(), host.path("aside")).unwrap();
    let mend = mend(&host, PLAIN, "key", "fail", &[]);
    assert!(mend.starts_with("put back the key") && mend.contains("config.toml"), "{mend}");
    fs::rename(host.path("aside"), host.identity()).unwrap();
    is_clean(&host, PLAIN);
}

#[test]
fn a_key_that_opens_nothing() {
    let (host, other) = (resting_host(), resting_host());
    let own = fs::read(host.identity()).unwrap();
    fs::write(host.identity(), fs::read(other.identity()).unwrap()).unwrap();
    let mend = mend(&host, PLAIN, "keyring", "fail", &[]);
    assert!(mend.starts_with("name the key that it was sealed to"), "{mend}");
    fs::write(host.identity(), own).unwrap();
    is_clean(&host, PLAIN);
}

#[test]
fn a_configuration_with_an_unknown_setting() {
    let host = resting_host();
    fs::write(host.config_dir().join("config.toml"), "identitty = \"x\"\n").unwrap();
    let mend = mend(&host, PLAIN, "configuration", "fail", &[]);
    assert_eq!(mend, format!("${{EDITOR:-vi}} {}", host.config_dir().join("config.toml").display()));
    apply(&host, &format!("EDITOR='sed -i /identitty/d'; {mend}"));
    is_clean(&host, PLAIN);
}

#[test]
fn a_state_directory_that_others_may_write_or_read() {
    let host = resting_host();
    host.chmod(&host.state_dir(), 0o777);
    mended(&host, PLAIN, "state directory", "fail", "chmod 700 ");
    host.chmod(&host.state_dir(), 0o755);
    mended(&host, PLAIN, "state directory", "warn", "chmod 700 ");
}

#[test]
fn a_state_directory_of_another_user() {
    if !stated_tests::root("give a directory away") {
        return;
    }
    let host = resting_host();
    std::os::unix::fs::chown(host.state_dir(), Some(65534), None).unwrap();
    let mend = mend(&host, PLAIN, "state directory", "fail", &[]);
    assert_eq!(mend, "sudo -u '#65534' statectl doctor");
    std::os::unix::fs::chown(host.state_dir(), Some(0), None).unwrap();
    is_clean(&host, PLAIN);
}

#[test]
fn a_socket_directory_that_others_may_write() {
    let host = resting_host();
    host.chmod(host.socket().parent().unwrap(), 0o777);
    mended(&host, PLAIN, "socket directory", "fail", "chmod 700 ");
}

#[test]
fn a_socket_that_a_killed_daemon_left() {
    let host = Host::new();
    host.put("a", b"x");
    let daemon = Process::open(host.status()["pid"].as_u64().unwrap() as u32);
    daemon.signal(Signal::KILL);
    daemon.await_end();
    mended(&host, PLAIN, "socket", "warn", "statectl ls");
}

#[test]
fn something_else_in_the_sockets_place() {
    let host = resting_host();
    fs::write(host.socket(), "precious").unwrap();
    mended(&host, PLAIN, "socket", "fail", "mv ");
    assert_eq!(fs::read(host.socket().with_extension("sock.aside")).unwrap(), b"precious");
}

#[test]
fn a_socket_that_vanished_under_its_daemon() {
    let host = Host::new();
    host.put("a", b"x");
    let daemon = Process::open(host.status()["pid"].as_u64().unwrap() as u32);
    fs::remove_file(host.socket()).unwrap();
    let mend = mend(&host, PLAIN, "socket", "fail", &[]);
    assert_eq!(mend, format!("kill {}", daemon.pid()));
    apply(&host, &mend);
    daemon.await_end();
    is_clean(&host, PLAIN);
    assert_eq!(host.get("a"), b"x");
}

#[test]
fn a_socket_that_others_may_use() {
    let host = Host::new();
    host.put("a", b"x");
    host.chmod(&host.socket(), 0o666);
    mended(&host, PLAIN, "socket", "warn", "chmod 600 ");
}

/// A variable that is in the way; the command that mends it is for the user's own shell.
#[track_caller]
fn variable_in_the_way(host: &Host, name: &str, value: &str, check: &str, verdict: &str) {
    let with = |call: Call| call.env(name, value);
    assert_eq!(mend(host, &with, check, verdict, &[]), format!("unset {name}"));
    is_clean(host, &|call| with(call).env_remove(name));
}

#[test]
fn variables_that_are_in_the_way() {
    let host = Host::new();
    host.put("a", b"x");
    let gone = host.run(["lock", "--ttl", "1h", "x"]);
    let nowhere = host.path("w/nowhere.sock");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("http://127.0.0.1:{port}/v1/state/a");
    is_clean(&host, &|call| call.env("STATED_LOCK_ID", &gone));
    host.run(["unlock", &gone]);
    variable_in_the_way(&host, "STATED_LOCK_ID", &gone, "environment", "fail");
    variable_in_the_way(&host, "STATED_SOCKET", nowhere.to_str().unwrap(), "socket", "fail");
    variable_in_the_way(&host, "STATED_STATE_DIR", "/somewhere/else", "environment", "warn");
    variable_in_the_way(&host, "TF_HTTP_ADDRESS", &address, "environment", "warn");
    variable_in_the_way(&host, "TF_CLI_CONFIG_FILE", "/no/such/file", "environment", "warn");
    variable_in_the_way(&host, "TF_CLI_ARGS_apply", "-auto-approve -lock=false", "environment", "warn");
    is_clean(&host, &|call| call.env("TF_CLI_ARGS_plan", "-compact-warnings"));
}

#[test]
fn a_runtime_directory_that_is_missing_or_open_to_others() {
    let host = resting_host();
    let elsewhere = host.path("elsewhere");
    mended(&host, &|call| call.env("XDG_RUNTIME_DIR", &elsewhere), "runtime directory", "fail", "mkdir -m 700 ");
    host.chmod(&host.runtime_dir(), 0o755);
    mended(&host, PLAIN, "runtime directory", "warn", "chmod 700 ");
}

#[test]
fn a_format_of_another_version() {
    let host = resting_host();
    let path = host.state_dir().join("FORMAT");
    let own = fs::read(&path).unwrap();
    fs::write(&path, "stated state directory, format 99\n").unwrap();
    assert!(mend(&host, PLAIN, "format", "fail", &[]).starts_with("stated verify"));
    fs::write(&path, own).unwrap();
    is_clean(&host, PLAIN);
}

#[test]
fn a_log_that_is_damaged() {
    let host = resting_host();
    let log = stated_tests::files_below(&host.state_dir().join("log")).remove(0);
    let own = fs::read(&log).unwrap();
    let mut damaged = own.clone();
    damaged[200] ^= 1;
    fs::write(&log, damaged).unwrap();
    host.statectl(["ls"]).run().code(74);
    let mend = mend(&host, PLAIN, "last start", "warn", &[]);
    assert!(mend.contains("stated verify"), "{mend}");
    fs::write(&log, own).unwrap();
    assert_eq!(host.get("a"), b"x");
    is_clean(&host, PLAIN);
    host.stop_daemon();
    is_clean(&host, PLAIN);
}

#[test]
fn a_forgotten_lock() {
    let host = Host::new();
    host.run(["lock", "--ttl", "1h", "-m", "why", "a b", "x"]);
    is_clean(&host, PLAIN);
    let mend = mend(&host, PLAIN, "locks", "warn", &["--lock-age", "0"]);
    assert!(mend.starts_with("statectl break "), "{mend}");
    apply(&host, &mend);
    assert_eq!(troubles(&host, PLAIN, &["--lock-age", "0"]), [] as [Value; 0]);
    assert_eq!(host.locks().len(), 0);
}

#[test]
fn a_daemon_of_another_protocol() {
    let host = resting_host();
    let listener = UnixListener::bind(host.socket()).unwrap();
    host.chmod(&host.socket(), 0o600);
    let server = std::thread::spawn(move || {
        // The first connection only looks whether anybody listens.
        for _ in 0..2 {
            let mut peer = accept(&listener);
            let _ = peer.write_all(b"stated\x00\x63");
            let _ = peer.read_to_end(&mut Vec::new());
        }
    });
    assert_eq!(mend(&host, PLAIN, "daemon", "fail", &[]), format!("kill {}", std::process::id()));
    server.join().unwrap();
    fs::remove_file(host.socket()).unwrap();
    is_clean(&host, PLAIN);
}

#[test]
fn a_unit_that_runs_no_program() {
    let host = resting_host();
    let units = host.path("c/systemd/user");
    fs::create_dir_all(units.join("default.target.wants")).unwrap();
    let unit = units.join("stated.service");
    fs::write(&unit, "[Service]\nExecStart=%h/.local/bin/stated run\n").unwrap();
    symlink(&unit, units.join("default.target.wants/stated.service")).unwrap();
    mended(&host, PLAIN, "service", "fail", "install -D -t ");
    fs::remove_file(units.join("default.target.wants/stated.service")).unwrap();
    assert_eq!(mend(&host, PLAIN, "service", "warn", &[]), "systemctl --user enable --now stated");
    fs::write(host.home().join(".local/bin/stated"), "of yesterday").unwrap();
    assert!(mend(&host, PLAIN, "service", "warn", &[]).starts_with("install -D -t "));
}

#[test]
fn a_daemon_that_listens_elsewhere_is_named() {
    let host = Host::new();
    let _daemon = host.daemon();
    let other = host.path("other");
    fs::create_dir(&other).unwrap();
    host.chmod(&other, 0o700);
    let doctor = || host.statectl(["doctor", "--json"]).env("XDG_RUNTIME_DIR", &other);
    let findings = doctor().run().code(1).objects();
    let broken = findings.iter().find(|finding| finding["verdict"] == "fail").unwrap();
    assert_eq!(broken["check"], "socket");
    assert_eq!(broken["mend"], format!("export STATED_SOCKET={}", host.socket().display()));
    doctor().env("STATED_SOCKET", host.socket()).run().ok();
}

#[test]
fn a_missing_daemon_program() {
    let host = Host::new();
    let alone = host.path("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(host.statectl_path(), alone.join("statectl")).unwrap();
    let doctor = || host.call(alone.join("statectl"), ["doctor", "--json"]).env("PATH", "/usr/bin:/bin").run();
    let findings = doctor().code(1).objects();
    let broken = findings.iter().find(|finding| finding["verdict"] == "fail").unwrap();
    assert_eq!(broken["check"], "program");
    let mend = broken["mend"].as_str().unwrap();
    assert_eq!(mend, format!("install -t {} PATH/TO/stated", alone.display()));
    apply(&host, &mend.replace("PATH/TO/stated", host.stated_path().to_str().unwrap()));
    doctor().ok();
    fs::set_permissions(alone.join("stated"), fs::Permissions::from_mode(0o600)).unwrap();
    let findings = doctor().code(1).objects();
    let broken = findings.iter().find(|finding| finding["verdict"] == "fail").unwrap();
    apply(&host, broken["mend"].as_str().unwrap());
    doctor().ok();
}

#[test]
fn people_read_a_line_for_each_finding_and_what_to_do() {
    let host = resting_host();
    host.chmod(&host.identity(), 0o644);
    let report = host.statectl(["doctor"]).run().code(1).says("1 broken, 0 doubtful");
    let text = report.text();
    assert!(
        text.contains("FAIL  key ") && text.contains(&format!("mend: chmod 600 {}", host.identity().display())),
        "{text}"
    );
}
