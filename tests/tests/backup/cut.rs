//! Whatever ends a backup half-way, the one before it is whole, and the next run completes it.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use rustix::process::Signal;
use stated_tests::{Daemon, Host, Random, accept, connect, files_below};

use super::{backup, image, served, verify};

/// What ends half-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Client,
    Daemon,
    Connection,
}

/// Stands between client and daemon, and lets so many bytes of answers pass before it says so and lets no more pass.
fn pass(listener: &UnixListener, socket: &Path, mut len: usize, cut: impl FnOnce()) {
    let (mut client, mut daemon) = (accept(listener), connect(socket).unwrap());
    let (mut from, mut to) = (client.try_clone().unwrap(), daemon.try_clone().unwrap());
    let asked = thread::spawn(move || {
        // Either may be gone.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut piece = vec![0; 64 << 10];
    while len > 0 {
        let wanted = piece.len().min(len);
        match daemon.read(&mut piece[..wanted]) {
            Ok(read) if read > 0 && client.write_all(&piece[..read]).is_ok() => len -= read,
            _ => break,
        }
    }
    cut();
    let _ = (client.shutdown(Shutdown::Both), daemon.shutdown(Shutdown::Both));
    asked.join().unwrap();
}

/// One backup that is ended after so many bytes of answers; gives the daemon that runs then.
fn cut(host: &Host, daemon: Daemon, dir: &Path, victim: Victim, len: usize) -> Daemon {
    let proxy = host.path("proxy.sock");
    let _ = fs::remove_file(&proxy);
    let listener = UnixListener::bind(&proxy).unwrap();
    let args = ["backup".as_ref(), dir.as_os_str(), "--socket".as_ref(), proxy.as_os_str()];
    let running = host.statectl(args).start();
    let mut daemon = Some(daemon);
    pass(&listener, &host.socket(), len, || match victim {
        Victim::Client => running.signal(Signal::KILL),
        Victim::Daemon => daemon.take().unwrap().kill(),
        Victim::Connection => {}
    });
    // Whoever resumes finds nobody.
    drop(listener);
    fs::remove_file(&proxy).unwrap();
    if victim == Victim::Client {
        running.finish();
    } else {
        running.signal(Signal::KILL);
        running.finish();
    }
    daemon.unwrap_or_else(|| host.daemon())
}

#[test]
fn a_backup_that_is_cut_leaves_the_one_before_and_the_next_completes_it() {
    let host = Host::new();
    let mut daemon = host.daemon();
    let dir = host.path("backup");
    let mut random = Random::new();
    let mut last = random.bytes(1000);
    host.put("a", &last);
    let mut complete = false;
    for round in 0..6 {
        let victim = [Victim::Client, Victim::Daemon, Victim::Connection][round % 3];
        // Blobs and records of several answers.
        host.put("b", &random.bytes(200_000));
        host.put("c", &random.bytes(60_000));
        daemon = cut(&host, daemon, &dir, victim, random.below(400_000) as usize);
        if complete {
            assert!(served(&host, &dir, &["a"])["a"] == last, "round {round}: {victim:?}");
        } else if dir.join("FORMAT").exists() {
            verify(&host, &dir);
        }
        if round % 3 == 1 {
            last = random.bytes(1000);
            host.put("a", &last);
            backup(&host, &dir);
            verify(&host, &dir);
            complete = true;
        }
    }
    backup(&host, &dir);
    verify(&host, &dir);
    assert!(!dir.join("incoming").exists());
    daemon.stop();
}

#[test]
fn the_first_of_many_records_wait_until_all_of_it_is_there() {
    let host = Host::new();
    let daemon = host.daemon();
    let dir = host.path("backup");
    let mut random = Random::new();
    host.put("a", b"1");
    backup(&host, &dir);
    let before = image(&dir.join("log"));
    // Several answers, of half a MiB each, of records alone.
    for _ in 0..30 {
        host.put("b", &random.bytes(60_000));
    }
    let daemon = cut(&host, daemon, &dir, Victim::Client, 1_200_000);
    assert!(image(&dir.join("log")) == before, "some of what was fetched counts already");
    assert!(files_below(&dir.join("incoming")).iter().any(|path| path.extension() == Some("log".as_ref())));
    verify(&host, &dir);
    assert_eq!(served(&host, &dir, &["a"])["a"], b"1");
    backup(&host, &dir);
    verify(&host, &dir);
    daemon.stop();
}

#[test]
fn what_is_complete_and_not_in_its_place_yet_counts() {
    let host = Host::new();
    host.put("a", b"1");
    let dir = host.path("backup");
    backup(&host, &dir);
    let (mark, before) = (fs::read(dir.join("BACKUP")).unwrap(), files_below(&dir.join("log")));
    host.put("a", b"2");
    backup(&host, &dir);
    // As a crash leaves it right after the mark of the new one was durable.
    let new = files_below(&dir.join("log")).into_iter().find(|path| !before.contains(path)).unwrap();
    let incoming = dir.join("incoming");
    fs::create_dir(&incoming).unwrap();
    fs::rename(&new, incoming.join(new.file_name().unwrap())).unwrap();
    fs::rename(dir.join("BACKUP"), incoming.join("BACKUP")).unwrap();
    fs::write(dir.join("BACKUP"), mark).unwrap();
    verify(&host, &dir);
    assert_eq!(served(&host, &dir, &["a"])["a"], b"2");
    host.put("a", b"3");
    backup(&host, &dir);
    verify(&host, &dir);
    assert!(!incoming.exists());
}
