//! Who is let in, and how much of what they send.

use std::sync::mpsc;
use std::thread;

use super::*;

const PROD: &str = "/v1/state/prod";

fn status(rig: &Rig, head: &str) -> u16 {
    raw(rig.address, format!("{head}Connection: close\r\n\r\n").as_bytes()).expect("an answer").status
}

#[test]
fn only_who_knows_the_credential_is_let_in() {
    let rig = Rig::start();
    let (address, authorization) = (rig.address, authorization());
    assert_eq!(status(&rig, &format!("GET {PROD} HTTP/1.1\r\nHost: {address}\r\n")), 401);
    let home = format!("GET {PROD} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\n");
    assert_eq!(status(&rig, &home), 404);
    assert_eq!(status(&rig, &format!("{home}Origin: http://{address}\r\n")), 403);
    assert_eq!(status(&rig, &format!("{home}Sec-Fetch-Site: none\r\n")), 403);
    let rebound = format!("GET {PROD} HTTP/1.1\r\nHost: evil.example\r\nAuthorization: {authorization}\r\n");
    assert_eq!(status(&rig, &rebound), 403);
}

#[test]
fn a_body_must_match_its_md5() {
    let rig = Rig::start();
    let right = "Content-MD5: mZFLkyvTelC5g8XnyQrpOw==\r\n";
    assert_eq!(rig.ask_with("POST", PROD, right, b"{}").status, 200);
    assert_eq!(rig.ask_with("POST", PROD, right, b"{ }").status, 400);
    assert_eq!(rig.ask_with("POST", PROD, "Content-MD5: x\r\n", b"{}").status, 400);
    assert_eq!(rig.fake.contents("prod").len(), 1);
}

#[test]
fn bodies_are_bounded_before_they_are_read() {
    let rig = Rig::start();
    let head = |method: &str, length: &str| {
        format!(
            "{method} {PROD} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\n{length}\r\n",
            rig.address,
            authorization()
        )
    };
    assert_eq!(status(&rig, &head("POST", "Content-Length: 268435457")), 413);
    assert_eq!(status(&rig, &head("LOCK", "Content-Length: 16385")), 413);
    let chunked =
        head("LOCK", "Transfer-Encoding: chunked\r\nConnection: close\r\n") + "4001\r\n" + &"x".repeat(0x4001);
    assert_eq!(raw(rig.address, (chunked + "\r\n0\r\n\r\n").as_bytes()).unwrap().status, 413);
}

#[test]
fn a_head_is_bounded() {
    let rig = Rig::start();
    let long = format!("GET {PROD} HTTP/1.1\r\nHost: {}\r\nX: {}\r\n", rig.address, "x".repeat(100_000));
    assert!(matches!(status(&rig, &long), 400 | 431));
}

#[test]
fn a_write_does_not_hold_up_a_lock() {
    let rig = Rig::start();
    rig.fake.hold_commits(true);
    let address = rig.address;
    let (told, answered) = mpsc::channel();
    let write = thread::spawn(move || told.send(ask_at(address, "POST", PROD, "", b"1").status).unwrap());
    assert_eq!(rig.ask("LOCK", "/v1/state/dev", &lock_document("a")).status, 200);
    assert!(answered.try_recv().is_err(), "the write still waits");
    rig.fake.hold_commits(false);
    assert_eq!(answered.recv().unwrap(), 200);
    write.join().unwrap();
}
