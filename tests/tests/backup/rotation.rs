//! Keys come and go between backups.

use stated_tests::{Host, Random, files_below};

use super::{backup, served, verify};

#[test]
fn a_backup_goes_on_over_a_rotation_of_the_keys() {
    let host = Host::new();
    let daemon = host.daemon();
    let (dir, whole) = (host.path("backup"), host.path("whole"));
    let mut random = Random::new();
    let (old, new) = (random.bytes(200_000), random.bytes(150_000));
    host.put("old", &old);
    backup(&host, &dir);
    host.run(["key", "rotate"]);
    host.put("new", &new);
    let next = backup(&host, &dir);
    assert_eq!((&next["blobs"], files_below(&dir.join("keys")).len()), (&1.into(), 1), "{next}");
    backup(&host, &whole);
    for dir in [&dir, &whole] {
        verify(&host, dir);
        let served = served(&host, dir, &["old", "new"]);
        assert!(served["old"] == old && served["new"] == new);
    }
    daemon.stop();
}
