use std::io::Write;

use stated_shared::{Request, Selector};
use stated_tests::{Direct, Host, Random, state};

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
