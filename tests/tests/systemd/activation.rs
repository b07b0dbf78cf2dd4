//! A socket that the service manager bound.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use stated_tests::{Host, Running, tool};

/// Binds a socket as systemd does, and starts the daemon once somebody connects.
fn activated(host: &Host, sockets: &[&Path]) -> Running {
    let mut call = host.call("systemd-socket-activate", [] as [&str; 0]).into_command();
    for socket in sockets {
        call.arg("--listen").arg(socket);
    }
    for name in ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
        call.arg("--setenv").arg(name);
    }
    let words = [call.get_args().map(ToOwned::to_owned).collect(), vec![host.stated_path().into(), "run".into()]];
    let mut running = host.call("systemd-socket-activate", words.concat()).start();
    for _ in sockets {
        running.says("Listening on ");
    }
    running
}

/// A directory as a runtime directory is made, with a socket to be.
fn place(host: &Host, directory: &str, mode: u32) -> PathBuf {
    let directory = host.path(directory);
    fs::create_dir(&directory).unwrap();
    host.chmod(&directory, mode);
    directory.join("given.sock")
}

/// What tells one socket's file from another, and whom it lets in.
fn file(socket: &Path) -> (u64, u32) {
    let metadata = fs::symlink_metadata(socket).unwrap();
    (metadata.ino(), metadata.permissions().mode() & 0o777)
}

#[test]
fn a_socket_that_was_given_stays_as_it_is() {
    if !tool("systemd-socket-activate") {
        return;
    }
    let host = Host::new();
    // Elsewhere than the settings say: the one that was given counts.
    let socket = place(&host, "given", 0o755);
    let mut daemon = activated(&host, &[&socket]);
    host.chmod(&socket, 0o640);
    let before = file(&socket);
    let statectl = |args: &[&str]| host.statectl(args).env("STATED_SOCKET", &socket).env("STATED_NO_AUTOSTART", "1");
    // The first connection starts the daemon, and is served by it.
    assert_eq!(statectl(&["put", "a"]).stdin("1").run().ok().text(), "a@1");
    let status = statectl(&["status", "--json"]).run().ok().object();
    assert_eq!(status["socket"], socket.to_str().unwrap());
    assert_eq!(status["pid"], daemon.pid());
    let mut table = socket.clone().into_os_string();
    table.push(".grants");
    assert!(!host.socket().exists() && Path::new(&table).exists());
    assert_eq!(file(&socket), before);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(), 0);
    assert_eq!(file(&socket), before, "a stop leaves the socket to whoever made it");
}

#[test]
fn no_program_that_the_daemon_runs_has_its_socket() {
    if !tool("systemd-socket-activate") {
        return;
    }
    let host = Host::new();
    host.stated(["init"]).run().ok();
    let (socket, seen) = (place(&host, "given", 0o755), host.path("w/seen"));
    let line = format!("ls -l /proc/self/fd >{}; cat {}", seen.display(), host.identity().display());
    fs::write(host.config_dir().join("config.toml"), format!("identity_command = {line:?}\n")).unwrap();
    let mut daemon = activated(&host, &[&socket]);
    let put = host.statectl(["put", "a"]).stdin("1").env("STATED_SOCKET", &socket).env("STATED_NO_AUTOSTART", "1");
    put.run().ok();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(), 0);
    let seen = fs::read_to_string(seen).unwrap();
    // Its standard error is where ours leads.
    let others = seen.lines().filter(|line| !line.contains(" 2 -> ") && line.contains("socket:"));
    assert_eq!(others.count(), 0, "{seen}");
}

#[test]
fn what_is_no_place_for_a_socket_is_refused() {
    if !tool("systemd-socket-activate") {
        return;
    }
    let host = Host::new();
    let refused = |sockets: &[&Path], what: &str| {
        let mut daemon = activated(&host, sockets);
        drop(std::os::unix::net::UnixStream::connect(sockets[0]).unwrap());
        daemon.says(what);
        assert_eq!(daemon.exit(), 78);
    };
    let open = place(&host, "open", 0o777);
    refused(&[&open], "may be written by others");
    let [one, two] = ["one", "two"].map(|directory| place(&host, directory, 0o755));
    refused(&[&one, &two], "handed over 2 descriptors; expected one");
}
