use std::io::{Read, Write};

use stated_shared::limits::FRAME_LEN_MAX;
use stated_shared::{Content, Request};
use stated_tests::{Direct, Host, Random};

use super::{is_served, put, request, shaken};

/// Oversize, truncated and random: each ends its own connection, at once or when it hangs up.
#[test]
fn hostile_frames_end_their_own_connection_only() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    let mut honest = Direct::connect(&host.socket(), &mut random).expect("a connection");
    let whole = request(1, put("victim", b"content"));
    for n in 0..300 {
        let bytes = match n % 4 {
            0 => ((FRAME_LEN_MAX + 1 + n) as u32).to_be_bytes().to_vec(),
            1 => whole[..1 + n % (whole.len() - 1)].to_vec(),
            2 => {
                let len = 1 + random.below(512) as usize;
                [&(len as u32).to_be_bytes()[..], &random.bytes(len)].concat()
            }
            _ => random.bytes(1 + n),
        };
        let mut stream = shaken(&host, &mut random);
        // The daemon may have hung up before all of it is written.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        is_served(&mut honest, n as u64);
    }
    assert_eq!(host.run(["ls", "victim"]), "", "nothing of them was taken for a request");
    daemon.stop();
    host.verify();
}

/// A gigabyte is announced, and a byte now and then: only what arrives takes memory.
#[test]
fn promise_10_slow_and_boastful_peers_take_no_memory() {
    let host = Host::new();
    let daemon = host.daemon();
    let mut random = Random::new();
    let mut honest = Direct::connect(&host.socket(), &mut random).expect("a connection");
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut stream = shaken(&host, &mut random);
        let bytes = if n % 2 == 0 {
            (FRAME_LEN_MAX as u32).to_be_bytes().to_vec()
        } else {
            let mut boast = put("boast", b"");
            if let Request::Commit(commit) = &mut boast {
                commit.changes[0].content = Content::Streamed { size_bytes: 5 << 20 };
            }
            request(1, boast)
        };
        stream.write_all(&bytes).expect("sent");
        stream.write_all(&[0]).expect("sent");
        slow.push(stream);
    }
    for n in 0..50 {
        is_served(&mut honest, n);
    }
    let memory = daemon.memory_max_bytes();
    assert!(memory < 256 << 20, "{memory} bytes");
    drop(slow);
    daemon.stop();
    host.verify();
}
