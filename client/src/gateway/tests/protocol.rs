//! What each request of Terraform's does, and what it is answered with.

use stated_shared::{FailureKind, Hold, LockId, ProcessRef, Timestamp};

use super::*;
use crate::gateway::owner::Owner;
use crate::gateway::terraform::{Call, Verb};

const A: &str = "9f2c41aa-0000-4000-8000-00000000000a";
const B: &str = "9f2c41aa-0000-4000-8000-00000000000b";
const PROD: &str = "/v1/state/prod";

#[test]
fn a_state_is_written_read_and_removed() {
    let rig = Rig::start();
    assert_eq!(rig.ask("GET", PROD, "").status, 404);
    assert_eq!(rig.ask("POST", PROD, "{}").status, 200);
    let read = rig.ask("GET", PROD, "");
    assert_eq!((read.status, read.text()), (200, "{}"));
    assert!(read.head.contains("content-type: application/json"), "{}", read.head);
    assert!(read.head.contains("content-md5: mzflkyvtelc5g8xnyqrpow=="), "{}", read.head);

    assert_eq!(rig.ask("PUT", PROD, "{\"serial\":2}").status, 200);
    assert_eq!(rig.ask("DELETE", PROD, "").status, 200);
    assert_eq!(rig.ask("DELETE", PROD, "").status, 200, "gone is what was asked for");
    assert_eq!(rig.ask("GET", PROD, "").status, 404);
    assert_eq!(rig.fake.contents("prod").len(), 3);
    assert_eq!(rig.reports(), [] as [String; 0]);
}

#[test]
fn names_come_percent_encoded() {
    let rig = Rig::start();
    assert_eq!(rig.ask("POST", "/v1/state/a%20b%2Fc/100%25", "x").status, 200);
    assert_eq!(rig.fake.contents("a b/c/100%").len(), 1);
    for path in ["/v1/state/", "/v1/state/a@1", "/v1/state/a/../b", "/v1/state/%zz", "/v1/states", "/"] {
        assert_eq!(rig.ask("GET", path, "").status, 400, "{path}");
    }
}

#[test]
fn a_run_reaches_its_own_state_only() {
    let rig = Rig::with(Plan { states: States::One(state_name("prod")), ..Plan::default() });
    assert_eq!(rig.ask("POST", PROD, "{}").status, 200);
    assert_eq!(rig.ask("GET", "/v1/state/other", "").status, 403, "404 would pass for an empty state");
}

#[test]
fn a_lock_guards_its_state() {
    let rig = Rig::start();
    assert_eq!(rig.ask("LOCK", PROD, &lock_document(A)).status, 200);
    assert_eq!(rig.ask("LOCK", "/v1/state/dev", &lock_document(B)).status, 200, "locks are independent");
    assert_eq!(rig.ask("GET", PROD, "").status, 404, "a locked state can be read");

    assert_eq!(rig.ask("POST", PROD, "1").status, 423, "nobody writes without the lock");
    assert_eq!(rig.ask("POST", &format!("{PROD}?ID={B}"), "1").status, 423, "nor with another state's");
    assert_eq!(rig.ask("POST", &format!("{PROD}?ID={A}"), "1").status, 200);
    let version = rig.fake.newest("prod");
    assert_eq!(version.message.as_deref(), Some("terraform apply"));
    assert_eq!(version.labels["gateway"], "http");
    assert_eq!(version.labels["directory"], "build-7:/srv/infra");

    assert_eq!(rig.ask("UNLOCK", PROD, &lock_document(A)).status, 200);
    assert_eq!(rig.fake.held(), [B]);
    assert_eq!(rig.ask("POST", PROD, "2").status, 200);
    assert_eq!(rig.fake.newest("prod").message.as_deref(), Some("terraform write"));
}

#[test]
fn a_refused_lock_names_its_holder() {
    let rig = Rig::start();
    assert_eq!(rig.ask("LOCK", PROD, &lock_document(A)).status, 200);
    let refused = rig.ask("LOCK", PROD, &lock_document(B));
    assert_eq!(refused.status, 423);
    let document = refused.json();
    let id = document["ID"].as_str().unwrap();
    assert!(id.starts_with(&format!("{A} held by alice@build-7 (pid 4200001) for apply since ")), "{id}");
    assert_eq!(document["Who"], "alice@laptop");
    assert_eq!(document["Operation"], "OperationTypeApply");
    assert_eq!(rig.reports(), [] as [String; 0], "Terraform prints it");

    let written = rig.ask("POST", PROD, "1");
    assert_eq!((written.status, written.json()["Who"].as_str()), (423, Some("alice@laptop")));
    assert_eq!(rig.reports(), ["prod: prod is locked"], "of a write Terraform prints a number only");
}

#[test]
fn a_lock_is_tied_to_the_process_that_asks() {
    let rig = Rig::start();
    rig.ask("LOCK", PROD, &lock_document(A));
    let asked = rig.fake.asked().pop().unwrap();
    assert_eq!(asked.hold, Hold::Process);
    assert_eq!(asked.process, Some(ProcessRef::Descriptor));
    assert_eq!(asked.ttl_ms, None);
    assert_eq!(asked.operation, "apply");
    assert_eq!(asked.info.as_deref(), Some(lock_document(A).as_str()), "the document is kept as it is");
    let held = rig.work.held(&LockId::parse(A).unwrap()).unwrap();
    assert_eq!(held.process.unwrap().pid, std::process::id());
}

#[test]
fn everything_may_be_asked_twice() {
    let rig = Rig::start();
    let write = format!("{PROD}?ID={A}");
    for _ in 0..2 {
        assert_eq!(rig.ask("LOCK", PROD, &lock_document(A)).status, 200);
    }
    for _ in 0..2 {
        assert_eq!(rig.ask("POST", &write, "1").status, 200);
    }
    assert_eq!(rig.fake.contents("prod").len(), 1);
    for _ in 0..2 {
        assert_eq!(rig.ask("UNLOCK", PROD, &lock_document(A)).status, 200);
    }
}

#[test]
fn an_unlock_takes_the_id_as_it_was_printed() {
    let rig = Rig::start();
    rig.ask("LOCK", PROD, &lock_document(A));
    let printed = rig.ask("LOCK", PROD, &lock_document(B)).json()["ID"].as_str().unwrap().to_owned();
    assert_eq!(rig.ask("UNLOCK", PROD, &lock_document(&printed)).status, 200);
    assert_eq!(rig.fake.held(), [] as [&str; 0]);
}

#[test]
fn a_wrong_id_does_not_unlock() {
    let rig = Rig::start();
    rig.ask("LOCK", PROD, &lock_document(A));
    let refused = rig.ask("UNLOCK", PROD, &lock_document(B));
    assert_eq!(refused.status, 409);
    assert!(refused.json()["ID"].as_str().unwrap().starts_with(A));
    let elsewhere = rig.ask("UNLOCK", "/v1/state/dev", &lock_document(A));
    assert_eq!(elsewhere.status, 409, "{}", elsewhere.text());
    assert_eq!(rig.fake.held(), [A]);
}

#[test]
fn a_forced_unlock_without_an_id_breaks_whoever_holds() {
    let rig = Rig::start();
    rig.fake.hold(A, "prod");
    rig.fake.hold(B, "dev");
    let head = format!(
        "UNLOCK {PROD} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        rig.address,
        authorization()
    );
    assert_eq!(raw(rig.address, head.as_bytes()).unwrap().status, 200);
    assert_eq!(rig.fake.broken(), [A]);
    assert_eq!(rig.fake.held(), [B]);
    assert_eq!(raw(rig.address, head.as_bytes()).unwrap().status, 200, "a lost answer is asked for again");
}

#[test]
fn a_forced_unlock_of_opentofu_breaks_the_lock_that_it_names() {
    let rig = Rig::start();
    rig.fake.hold(A, "prod");
    let forced = |id: &str| {
        format!(
            r#"{{"ID":"{id}","Operation":"","Info":"","Who":"","Version":"","Created":"0001-01-01T00:00:00Z","Path":""}}"#
        )
    };
    assert_eq!(rig.ask("UNLOCK", PROD, &forced(B)).status, 409);
    assert_eq!(
        rig.ask("UNLOCK", PROD, &forced(&format!("{A} held by alice@build-7 for apply since 3m12s"))).status,
        200
    );
    assert_eq!(rig.fake.broken(), [A]);

    rig.ask("LOCK", PROD, &lock_document(B));
    assert_eq!(rig.ask("UNLOCK", PROD, &forced(B)).status, 200);
    assert_eq!(rig.fake.broken(), [A], "a lock of this gateway is given back, not broken");
}

#[test]
fn a_lock_around_the_run_does_not_block_it() {
    let outer = LockId::parse(A).unwrap();
    let rig = Rig::with(Plan { under: Some(outer.clone()), ..Plan::default() });
    rig.fake.hold(A, "prod");
    assert_eq!(rig.ask("POST", PROD, "1").status, 200, "a write without a lock relies on the outer one");
    assert_eq!(rig.ask("LOCK", PROD, &lock_document(B)).status, 200);
    assert_eq!(rig.fake.asked()[0].under, Some(outer));
    assert_eq!(rig.ask("POST", &format!("{PROD}?ID={B}"), "2").status, 200);
    assert_eq!(rig.ask("UNLOCK", PROD, "").status, 200);
    assert_eq!(rig.fake.held(), [A], "a forced unlock leaves the run's own lock");
}

#[test]
fn failures_have_their_status() {
    let rig = Rig::start();
    let cases = [
        (FailureKind::Busy, 423),
        (FailureKind::Conflict, 409),
        (FailureKind::Denied, 403),
        (FailureKind::Unavailable, 503),
        (FailureKind::Storage, 500),
    ];
    for (kind, status) in cases {
        rig.fake.fail(Some(kind));
        assert_eq!(rig.ask("POST", PROD, "1").status, status);
        assert_eq!(rig.ask("LOCK", PROD, &lock_document(A)).status, status);
    }
    let unavailable = rig.ask("GET", PROD, "");
    assert_eq!(unavailable.status, 500);
    rig.fake.fail(Some(FailureKind::Unavailable));
    assert!(rig.ask("GET", PROD, "").head.contains("retry-after: 1"));
    assert!(rig.reports().contains(&"prod: the fake fails".to_owned()));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let rig = Rig::start();
    assert_eq!(rig.ask("POST", PROD, "").status, 400, "an empty body is no state");
    assert_eq!(rig.ask("POST", &format!("{PROD}?ID=a%20b"), "1").status, 400);
    assert_eq!(rig.ask("LOCK", PROD, "{}").status, 400);
    assert_eq!(rig.ask("LOCK", PROD, &lock_document("ü")).status, 400);
    assert_eq!(rig.ask("UNLOCK", PROD, "x").status, 400);
    for method in ["HEAD", "PATCH", "OPTIONS", "lock"] {
        assert_eq!(rig.ask(method, PROD, "").status, 405, "{method}");
    }
    assert_eq!(rig.fake.contents("prod").len(), 0);
}

#[test]
fn a_lock_of_a_process_that_cannot_be_traced_is_a_lease() {
    let fake = Arc::new(Fake::default());
    let model = Arc::new(Model {
        backend: Arc::clone(&fake),
        work: Arc::default(),
        under: None,
        labels: Default::default(),
        program: "terraform".into(),
        report: Arc::new(|text| panic!("{text}")),
    });
    let terraform = Terraform { model: Arc::clone(&model) };
    let ask = |verb, id: Option<&str>, body: String| {
        let (id, body) = (id.map(str::to_owned), body.into_bytes());
        let mut call = Call { verb, state: state_name("prod"), id, body, owner: None, now: Timestamp(0) };
        terraform.answer(&mut call).status.as_u16()
    };
    assert_eq!(ask(Verb::Lock, None, lock_document(A)), 200);
    let asked = fake.asked().pop().unwrap();
    assert_eq!((asked.ttl_ms, asked.process), (Some(3_600_000), None));
    assert_eq!(fake.renewals(), 0);
    assert_eq!(ask(Verb::Lock, None, lock_document(A)), 200);
    assert_eq!(ask(Verb::Write, Some(A), "1".into()), 200);
    assert_eq!(fake.renewals(), 2, "each request that names it extends it");

    // Where there is a child of the run, that one keeps the lock.
    model.work.has_child(Owner::open(std::process::id()).unwrap());
    assert_eq!(ask(Verb::Unlock, None, lock_document(A)), 200);
    assert_eq!(ask(Verb::Lock, None, lock_document(B)), 200);
    let asked = fake.asked().pop().unwrap();
    assert_eq!((asked.ttl_ms, asked.process), (None, Some(ProcessRef::Descriptor)));
}
