//! A backup as one file, and as a stream.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use stated_tests::{Host, Random, files_below, read};

use super::{backup, restore, verify};

fn filled() -> Host {
    let host = Host::new();
    let mut random = Random::new();
    for len in [10, 70_000, 400_000, 0] {
        host.put("a", &random.bytes(len));
    }
    host.put("b", b"small");
    host
}

#[test]
fn a_file_is_what_tar_makes_a_directory_of() {
    let host = filled();
    let file = host.path("b.tar");
    let made = backup(&host, &file);
    assert!(made["blobs"].as_u64().unwrap() >= 2, "{made}");
    let dir = host.path("unpacked");
    fs::create_dir(&dir).unwrap();
    host.chmod(&dir, 0o700);
    host.call("tar", ["-xf".as_ref(), file.as_os_str(), "-C".as_ref(), dir.as_os_str()]).run().ok();
    verify(&host, &dir);
    // And a backup that goes on.
    fs::remove_file(dir.join("LOCK")).unwrap();
    host.put("b", b"later");
    let next = backup(&host, &dir);
    assert!(next["bytes"].as_u64().unwrap() < 20_000, "{next}");
    verify(&host, &dir);
    assert_eq!(files_below(&host.path("")).iter().filter(|path| path.ends_with("b.tar.incoming")).count(), 0);
}

#[test]
fn a_stream_is_restored_as_a_file_is() {
    let host = filled();
    let stream = host.statectl(["backup", "-"]).run().ok().says("up to record");
    let file = host.path("b.tar");
    backup(&host, &file);
    let (a, b) = (host.get("a"), host.get("b"));
    let [by_file, by_stream] = [host.path("by-file"), host.path("by-stream")];
    let [file, to] = [&file, &by_file].map(|path| path.to_str().unwrap());
    restore(&host, &[file, "--state-dir", to]).ok();
    let to = by_stream.to_str().unwrap();
    host.statectl(["restore", "-", "--state-dir", to]).stdin(stream.stdout.clone()).run().ok();
    verify(&host, &by_file);
    verify(&host, &by_stream);
    host.stop_daemon();
    for (at, dir) in [by_file, by_stream].iter().enumerate() {
        let socket = host.path(&format!("{at}.sock"));
        let run = ["run".as_ref(), "--state-dir".as_ref(), dir.as_os_str(), "--socket".as_ref(), socket.as_os_str()];
        let _daemon = host.daemon_by(host.stated(run));
        let get = |name| host.statectl(["get", name, "--socket", socket.to_str().unwrap()]).run().ok().stdout;
        assert!(get("a") == a && get("b") == b);
    }
}

#[test]
fn a_file_that_is_no_backup_is_not_replaced() {
    let host = filled();
    for (name, content) in [("notes.tar", &b"precious"[..]), ("other.tar", &[0; 10240][..])] {
        let file = host.file(name, content);
        host.statectl(["backup".as_ref(), file.as_os_str()]).run().code(65).says("it is no earlier one");
        assert_eq!(fs::read(&file).unwrap(), content);
    }
    let empty = host.file("empty.tar", b"");
    for _ in 0..2 {
        backup(&host, &empty);
    }
}

#[test]
fn what_is_no_file_is_written_to_and_a_link_stays() {
    let host = filled();
    let restored = |name: &str, file: &Path, stdin: Vec<u8>| {
        let to = host.path(name);
        let args = ["restore".as_ref(), file.as_os_str(), "--state-dir".as_ref(), to.as_os_str()];
        host.statectl(args).stdin(stdin).run().ok();
        verify(&host, &to);
    };
    let pipe = host.path("pipe");
    host.call("mkfifo", [&pipe]).run().ok();
    let mut reader = host.call("cat", [&pipe]).start();
    backup(&host, &pipe);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(reader.exit(), 0);
    restored("by-pipe", Path::new("-"), reader.finish().stdout);

    let output = host.path("output");
    symlink("/proc/self/fd/1", &output).unwrap();
    let stream = host.statectl(["backup".as_ref(), output.as_os_str()]).run().ok().says("up to record");
    assert!(output.is_symlink());
    restored("by-output", Path::new("-"), stream.stdout);

    let (link, file) = (host.path("link.tar"), host.path("elsewhere/b.tar"));
    fs::create_dir(host.path("elsewhere")).unwrap();
    symlink("elsewhere/b.tar", &link).unwrap();
    for _ in 0..2 {
        backup(&host, &link);
        assert!(link.is_symlink() && file.is_file());
    }
    assert_eq!(files_below(&host.path("elsewhere")), [file]);
    restored("by-link", &link, Vec::new());
}

#[test]
fn a_stream_that_is_cut_short_or_none_at_all_is_no_backup() {
    let host = filled();
    let stream = host.statectl(["backup", "-"]).run().ok().stdout;
    host.stop_daemon();
    let to = host.path("to");
    let cut = |stream: &[u8]| host.statectl(["restore", "-", "--state-dir", to.to_str().unwrap()]).stdin(stream).run();
    let mut random = Random::new();
    for _ in 0..4 {
        let len = random.below(stream.len() as u64 - 1024) as usize;
        cut(&stream[..len]).code(74).says("cut short");
    }
    cut(b"").code(74).says("cut short");
    cut(&vec![b'x'; 2048]).code(74).says("no backup in the form of tar");
    cut(&[0; 1024]).code(65).says("FORMAT");
    assert_eq!(files_below(&to).len(), 1, "nothing but the lock");
    cut(&stream).ok();
}

#[test]
fn a_disk_that_is_full_leaves_no_half_of_a_file() {
    let host = filled();
    let file = host.path("b.tar");
    backup(&host, &file);
    let before = read(&file);
    host.put("b", b"more");
    let limited = |to: &str| {
        // A limit of a file's length is as near to a full disk as one comes without being root.
        let script = format!("trap '' XFSZ; ulimit -f 100; exec \"$0\" backup {to}");
        host.call("bash", ["-c".as_ref(), script.as_ref(), host.statectl_path().as_os_str()]).run()
    };
    limited(file.to_str().unwrap()).code(74).says("cannot write");
    assert!(read(&file) == before, "the backup before is as it was");
    let statectl = host.statectl_path();
    let full = ["-c".as_ref(), "exec \"$0\" backup - >/dev/full".as_ref(), statectl.as_os_str()];
    host.call("bash", full).run().code(74).says("cannot write standard output");
    // A directory's former backup is whole, and the next run completes it.
    let dir = host.path("backup");
    backup(&host, &dir);
    host.put("a", &Random::new().bytes(300_000));
    limited(dir.to_str().unwrap()).code(74).says("cannot write");
    verify(&host, &dir);
    assert_eq!(backup(&host, &dir)["blobs"], 1);
    verify(&host, &dir);
    backup(&host, &file);
}
