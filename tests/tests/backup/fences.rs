//! After a restore, and after a plain copy was put back, no fence of before comes back, and no lock is held by it.

use serde_json::Value;
use stated_tests::Host;

use super::{backup, epoch, restore};

fn lease(host: &Host, name: &str) -> (String, String) {
    let id = host.run(["lock", "--ttl", "1h", name]);
    let held = host.locks().into_iter().find(|row| row["name"] == name).expect("it is held");
    (id, held["fence"].as_str().expect("a fence").to_owned())
}

#[test]
fn a_restore_ends_every_lease_and_no_old_fence_comes_back() {
    let host = Host::new();
    let daemon = host.daemon();
    host.put("a", b"1");
    let (old, old_fence) = lease(&host, "a");
    let dir = host.path("backup");
    backup(&host, &dir);
    let backed_up = host.status()["epoch"].as_u64().unwrap();
    // What came after, of which the backup knows nothing: another start, another lease, a session lock that outlives it.
    daemon.stop();
    let daemon = host.daemon();
    let (later, later_fence) = lease(&host, "b");
    let held = host.hold(&["c"]);
    daemon.kill();
    let told = host.statectl(["restore", dir.to_str().unwrap(), "--force", "--json"]).run().ok().object();
    assert_eq!(told["leases"], 1, "{told}");
    let _daemon = host.daemon();
    host.run(["status", "--accept-rollback"]);
    let now = host.status()["epoch"].as_u64().unwrap();
    assert!(now > told["epoch"].as_u64().unwrap(), "{now} {told}");
    // Above all that may have been given, also where the clock went back since.
    assert!(now >> 32 > backed_up >> 32 && now > epoch(&later_fence) + (1 << 31), "{now}");
    assert_eq!(host.locks(), Vec::<Value>::new());
    for id in [&old, &later, &held.id] {
        host.statectl(["put", "a", "--lock", id]).stdin("under an old lock").run().code(75);
    }
    let (new, new_fence) = lease(&host, "a");
    assert!(new != old && epoch(&new_fence) == now && epoch(&old_fence) < now);
    host.statectl(["put", "a", "--lock", &new]).stdin("2").run().ok();
    let restores = host.statectl(["audit", "--json"]).run().ok().objects();
    let verbs: Vec<_> = restores.iter().map(|row| row["verb"].as_str().unwrap().to_owned()).collect();
    assert!(verbs.contains(&"restore".to_owned()) && verbs.contains(&"unlock".to_owned()), "{verbs:?}");
}

#[test]
fn a_second_restore_is_above_the_first_and_a_start_above_both() {
    let host = Host::new();
    host.put("a", b"1");
    let dir = host.path("backup");
    backup(&host, &dir);
    host.stop_daemon();
    let mut last = 0;
    for _ in 0..3 {
        let told = host.statectl(["restore", dir.to_str().unwrap(), "--force", "--json"]).run().ok().object();
        let restored = told["epoch"].as_u64().unwrap();
        assert!(restored >> 32 > last >> 32, "{restored} after {last}");
        let daemon = host.daemon();
        host.run(["status", "--accept-rollback"]);
        last = host.status()["epoch"].as_u64().unwrap();
        assert!(last > restored);
        daemon.stop();
    }
    // And from there on the clock counts on.
    let daemon = host.daemon();
    let next = host.status()["epoch"].as_u64().unwrap();
    assert!(next > last && next - last < 1 << 31, "{next} after {last}: a start takes no restore's step");
    daemon.stop();
}

#[test]
fn backup_and_restore_are_told_in_the_audit_log() {
    let host = Host::new();
    host.put("a", b"1");
    let dir = host.path("backup");
    backup(&host, &dir);
    let rows = host.statectl(["audit", "--verb", "backup", "--json"]).run().ok().objects();
    assert!(rows.len() == 1 && rows[0]["outcome"] == "ok", "{rows:?}");
    host.stop_daemon();
    restore(&host, &[dir.to_str().unwrap(), "--force"]).ok();
    let _daemon = host.daemon();
    host.run(["status", "--accept-rollback"]);
    let rows = host.statectl(["audit", "--verb", "restore", "--json"]).run().ok().objects();
    assert!(rows.len() == 1 && rows[0]["note"].as_str().unwrap().contains("before-restore-1"), "{rows:?}");
}
