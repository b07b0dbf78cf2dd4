use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use stated_shared::{Request, Selector};
use stated_tests::{Direct, Host, Random, commit, state};

use super::{is_served, request, shaken};

const CONTENT_LEN: usize = 8 << 20;
const BUDGET_MIB: u64 = 64;

#[test]
fn who_never_reads_neither_fills_the_memory_nor_stops_the_others() {
    let host = Host::new();
    std::fs::create_dir_all(host.config_dir()).expect("a directory");
    std::fs::write(host.config_dir().join("config.toml"), format!("content_memory_mib = {BUDGET_MIB}\n"))
        .expect("a file");
    let daemon = host.daemon();
    let mut random = Random::new();
    host.put("large", &random.bytes(CONTENT_LEN));
    let mut honest = Direct::connect(&host.socket(), &mut random).expect("a connection");
    let deaf: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = shaken(&host, &mut random);
            for number in 1..=4 {
                let get = Request::Get { state: state("large"), at: Selector::Newest };
                stream.write_all(&request(number, get)).expect("sent");
            }
            stream
        })
        .collect();
    for n in 0..50 {
        is_served(&mut honest, n);
    }
    // A content that is read is held sealed and compressed too.
    let memory = daemon.memory_max_bytes();
    assert!(memory < (BUDGET_MIB << 20) * 3 + (64 << 20), "{memory} bytes");
    drop(deaf);
    assert!(host.get("large").len() == CONTENT_LEN, "the room that they had is free again");
    daemon.stop();
}

#[test]
fn who_never_stops_asking_does_not_keep_the_others_waiting() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    let mut honest = Direct::connect(&host.socket(), &mut random).expect("a connection");
    let stream = shaken(&host, &mut random);
    let half = || stream.try_clone().expect("a descriptor");
    let (mut asking, mut reading) = (half(), half());
    // Refused where they are read, so that nothing but the reader itself can make an end.
    let nothing = || Request::Commit(commit([]));
    let asks = thread::spawn(move || {
        for first in (1..).step_by(100) {
            let requests: Vec<u8> = (first..first + 100).flat_map(|number| request(number, nothing())).collect();
            if asking.write_all(&requests).is_err() {
                return first;
            }
        }
        unreachable!("the numbers do not end")
    });
    let reads = thread::spawn(move || {
        let mut answers = [0; 64 << 10];
        while matches!(reading.read(&mut answers), Ok(1..)) {}
    });
    for n in 0..200 {
        is_served(&mut honest, n);
    }
    stream.shutdown(Shutdown::Both).expect("a socket");
    let asked = asks.join().expect("it ends with its socket");
    reads.join().expect("it ends with its socket");
    assert!(asked > 1000, "it asked only {asked} times");
    daemon.stop();
}
