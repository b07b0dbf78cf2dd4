//! What a neighbour on the same host may try; the hostile peers of the socket are in `hostile/`, those of the gateways in
//! `terraform/`, forged records in `secrecy/`.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use stated_tests::{Direct, Host, Random, connect, read, root, tool};

const NEIGHBOUR: u32 = 65534;

#[test]
fn a_link_in_the_sockets_place_is_left_alone_and_so_is_what_it_leads_to() {
    let host = Host::new();
    let victim = host.file("victim", b"somebody's");
    let dir = host.path("w/run");
    fs::create_dir(&dir).unwrap();
    host.chmod(&dir, 0o700);
    let socket = dir.join("stated.sock");
    let make: [fn(&Path, &Path) -> std::io::Result<()>; 2] =
        [|from, to| symlink(from, to), |from, to| fs::hard_link(from, to)];
    for make in make {
        make(&victim, &socket).unwrap();
        let args = ["run", "--socket", socket.to_str().unwrap()];
        host.stated(args).run().code(78).says("is not a socket; it is left alone");
        assert_eq!(read(&victim), b"somebody's");
        fs::remove_file(&socket).unwrap();
    }
    // Nor is a directory believed that is a link.
    let link = host.path("w/link");
    symlink(&dir, &link).unwrap();
    let args = ["run".to_owned(), "--socket".to_owned(), link.join("stated.sock").display().to_string()];
    host.stated(args).run().code(78).says("is a symbolic link");
}

#[test]
fn a_socket_of_another_users_daemon_gets_nothing_to_read() {
    if !root("run a daemon as another user") || !tool("setpriv") || !tool("perl") {
        return;
    }
    let host = Host::new();
    let dir = host.path("w/theirs");
    fs::create_dir(&dir).unwrap();
    for path in [host.path(""), host.path("w")] {
        host.chmod(&path, 0o755);
    }
    chown(&dir, Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    let socket = dir.join("stated.sock");
    // It takes whatever comes, and prints how much that was.
    let listener = "use IO::Socket::UNIX; $| = 1; \
        my $s = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 1) or die $!; print \"listens\\n\"; \
        my $c = $s->accept; my $got = ''; while (sysread($c, my $part, 65536)) { $got .= $part } \
        print 'got ', length($got), \"\\n\";";
    let mut theirs = host.call_as(NEIGHBOUR, "perl", ["-e", listener, socket.to_str().unwrap()]).start();
    theirs.prints("listens");
    let put = host.statectl(["--socket", socket.to_str().unwrap(), "put", "a"]).stdin("secret");
    put.run().code(77).says("which is not believed");
    assert_eq!(theirs.line(), "got 0", "it was told something");
}

#[test]
fn the_daemons_memory_is_no_other_programs_to_read() {
    if !root("act as an ordinary user") || !tool("setpriv") || !tool("head") {
        return;
    }
    let host = Host::new();
    let dir = host.path("w/home");
    for path in [host.path(""), host.path("w")] {
        host.chmod(&path, 0o755);
    }
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    let as_user = |program: &str, args: &[&str]| {
        host.call_as(NEIGHBOUR, program, args).env("HOME", &dir).env_remove("XDG_RUNTIME_DIR")
    };
    let [state, socket] = ["state", "run/stated.sock"].map(|name| dir.join(name).display().to_string());
    let stated = host.stated_path().display().to_string();
    let config = dir.join("config.toml");
    fs::write(&config, "").unwrap();
    let config = config.display().to_string();
    let args = ["run", "--config", &config, "--state-dir", &state, "--socket", &socket];
    let mut daemon = as_user(&stated, &args).start();
    daemon.says("serving");
    let proc = format!("/proc/{}", daemon.pid());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    assert!(status.contains(&format!("\nUid:\t{NEIGHBOUR}\t")), "{status}");
    for file in ["mem", "environ", "maps"] {
        // The very user of the daemon, from another process.
        as_user("head", &["-c", "1", &format!("{proc}/{file}")]).run().code(1).says("Permission denied");
    }
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().trim();
    assert_ne!(locked, "0 kB", "its keys may be swapped out");
}

#[test]
fn a_daemon_that_has_no_descriptor_left_serves_who_is_in_and_recovers() {
    if !tool("prlimit") {
        return;
    }
    let host = Host::new();
    let stated = host.stated_path().display().to_string();
    let mut daemon = host.call("prlimit", ["--nofile=96:96", &stated, "run"]).start();
    daemon.says("serving");
    let mut random = Random::seeded(1);
    let mut honest = Direct::connect(&host.socket(), &mut random).unwrap();
    let crowd: Vec<_> = (0..200).map_while(|_| connect(&host.socket()).ok()).collect();
    assert!(crowd.len() > 96, "only {} came as far as the socket", crowd.len());
    for _ in 0..3 {
        honest.ask(stated_shared::Request::Status, &[]).unwrap().unwrap();
    }
    drop(crowd);
    let mut late = Direct::connect(&host.socket(), &mut random).unwrap();
    late.ask(stated_shared::Request::Status, &[]).unwrap().unwrap();
}
