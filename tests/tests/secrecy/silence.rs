//! Without the key nothing can be read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use stated_client::{Client, ConnectOptions};
use stated_tests::{Commits, Host, contains, files_below, read};

/// What is put into every place where a user can put something.
const MARKERS: [&str; 9] = [
    "MARKERname0xQ7",
    "MARKERcontent1",
    "MARKERmessage2",
    "MARKERlockname",
    "MARKERreason44",
    "MARKERlarge555",
    "MARKERleasenam",
    "MARKERrefused7",
    "MARKERactor888",
];

/// The ways in which a text might be written by somebody who encodes it.
fn forms(marker: &str) -> Vec<Vec<u8>> {
    let hex: String = marker.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        marker.as_bytes().to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        marker.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        marker.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        marker.bytes().rev().collect(),
    ];
    // In base64 a text looks different at each of three places; its first and last digits depend on what is around it.
    for shift in 0..3 {
        let padded = [vec![0; shift], marker.as_bytes().to_vec()].concat();
        let text = STANDARD_NO_PAD.encode(padded);
        forms.push(text.as_bytes()[4..text.len() - 2].to_vec());
    }
    forms
}

fn finds(bytes: &[u8], marker: &str) -> bool {
    forms(marker).iter().any(|form| contains(bytes, form))
}

/// Every file but the user's own key and what this test wrote itself.
fn kept_files(host: &Host) -> Vec<std::path::PathBuf> {
    [host.state_dir(), host.runtime_dir()].iter().flat_map(|dir| files_below(dir)).collect()
}

#[test]
fn no_name_content_message_label_reason_or_actor_is_readable_on_disk() {
    let host = Host::new();
    let [name, content, message, lock_name, reason, large, lease, refused, actor] = MARKERS;
    let daemon = host.daemon();
    for index in 0..50 {
        host.statectl(["put", name, "-m", message]).stdin(format!("{content} {index}")).run().ok();
    }
    let mut random = stated_tests::Random::new();
    let large = [large.as_bytes(), &random.bytes(1 << 20)].concat();
    let options = ConnectOptions { exe: Some(actor.to_owned()), ..host.options() };
    let mut client = Client::connect(&options).unwrap();
    client.put_all(&[("a", &large), (name, content.as_bytes())]).unwrap();
    let mut labelled = stated_tests::commit([("b", stated_shared::Expect::Any, b"x".to_vec())]);
    labelled.labels.insert(message.to_owned(), reason.to_owned());
    client.commit(labelled).unwrap();
    let held = host.hold(&["-m", reason, lock_name]);
    let waiting = host.queue(&["-m", reason, lock_name, name]);
    host.run(["lock", "--ttl", "1h", "-m", reason, lease]);
    host.statectl(["get", refused]).run().code(66);
    host.statectl(["put", lock_name]).stdin(content).run().code(75);
    host.run(["rm", "b", "-m", message]);

    let check = |when: &str| {
        let files = kept_files(&host);
        assert!(files.contains(&host.grant_table()) && files.len() >= 6, "{files:?}");
        for file in files {
            let bytes = read(&file);
            for marker in MARKERS {
                assert!(!finds(&bytes, marker), "{when}: {marker} is in {}", file.display());
            }
        }
    };
    check("while it serves");
    daemon.kill();
    check("after kill -9");
    let daemon = host.daemon();
    // The lock is there still, so the table holds it.
    assert!(host.locks().iter().any(|row| row["id"] == held.id.as_str()));
    drop((held, waiting));
    daemon.stop();
    check("after a clean stop");
}

#[test]
fn the_search_finds_what_is_there() {
    for marker in MARKERS {
        let plain = format!("xx{marker}yy");
        assert!(finds(plain.as_bytes(), marker));
        for shift in 0..3 {
            let encoded = STANDARD_NO_PAD.encode(format!("{}{plain}", "z".repeat(shift)));
            assert!(finds(encoded.as_bytes(), marker), "base64 shifted by {shift}: {encoded}");
        }
        let utf16: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(finds(&utf16, marker));
    }
    assert!(!finds(b"nothing of it", MARKERS[0]));
}

#[test]
fn the_repositorys_key_lies_nowhere_in_the_clear() {
    let host = Host::new();
    host.put("a", b"x");
    for file in kept_files(&host) {
        assert!(!finds(&read(&file), "AGE-SECRET-KEY-"), "{}", file.display());
    }
    assert!(finds(&read(&host.identity()), "AGE-SECRET-KEY-"), "the user's own is in the user's file");
}

#[test]
fn equal_contents_do_not_look_equal() {
    let host = Host::new();
    let content = stated_tests::Random::new().bytes(200 << 10);
    host.put("a", &content);
    host.put("b", &content);
    host.stop_daemon();
    let blobs = files_below(&host.state_dir().join("blob"));
    assert_eq!(blobs.len(), 2);
    let (one, other) = (read(&blobs[0]), read(&blobs[1]));
    assert_ne!(blobs[0].file_name(), blobs[1].file_name());
    assert_ne!(one[one.len() - 64..], other[other.len() - 64..]);
}
