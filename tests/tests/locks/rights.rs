//! Who may end whose lock: a daemon of one user, a client of root, and a third user who is nobody there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use stated_tests::{Call, Host, root, skip};
use tempfile::TempDir;

/// Whose daemon it is.
const OWNER: u32 = 65534;
/// Somebody else.
const STRANGER: u32 = 65533;

/// A daemon of [`OWNER`], whose socket is where root believes it: in a directory that only root could have given away.
struct Shared {
    host: Host,
    directory: TempDir,
}

impl Shared {
    fn start() -> Option<Self> {
        if !root("run the daemon as another user") {
            return None;
        }
        let Ok(directory) = tempfile::Builder::new().prefix("st").tempdir_in("/run") else {
            skip("needs a /run to write to");
            return None;
        };
        let host = Host::new();
        give(directory.path());
        let places = ["", "h", "r", "s", "c", "w"];
        places.iter().for_each(|place| give(&host.path(place)));
        let shared = Self { host, directory };
        shared.of(OWNER, &["ls"]).run().ok();
        Some(shared)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// `statectl` of this user.
    fn of(&self, uid: u32, args: &[&str]) -> Call {
        let socket = self.socket();
        let args = ["--socket".as_ref(), socket.as_os_str()].into_iter().chain(args.iter().map(AsRef::as_ref));
        self.host.call_as(uid, self.host.statectl_path(), args)
    }

    fn lease(&self, uid: u32, name: &str) -> String {
        self.of(uid, &["lock", "--ttl", "1h", name]).run().ok().text()
    }
}

fn give(path: &Path) {
    chown(path, Some(OWNER), Some(OWNER)).expect("root gives things away");
}

#[test]
fn unlock_is_for_the_holder_and_break_is_for_root_and_the_daemons_user() {
    let Some(shared) = Shared::start() else { return };
    let (theirs, roots) = (shared.lease(OWNER, "theirs"), shared.lease(0, "roots"));
    for (uid, id, name) in [(0, &theirs, "theirs"), (OWNER, &roots, "roots")] {
        let refused = shared.of(uid, &["unlock", id, "--json"]).run().code(77);
        let hint = refused.error()["hint"].as_str().unwrap().to_owned();
        assert!(hint.contains(&format!("statectl break '{name}' {id}")), "{hint}");
        shared.of(uid, &["renew", id]).run().code(77);
        // An ID is no bearer's token: of another user it lets nobody write.
        assert_ne!(shared.of(uid, &["put", name, "--lock", id]).stdin("x").run().code, 0);
        assert_ne!(shared.of(uid, &["put", "free", "--lock", id]).stdin("x").run().code, 0);
        shared.of(uid, &["break", name, id]).run().ok();
        // What has ended was not this user's either.
        shared.of(uid, &["unlock", id]).run().code(66);
    }
    let broken = shared.of(0, &["audit", "--verb", "break", "--json"]).run().ok().objects();
    let uids: Vec<u64> = broken.iter().map(|entry| entry["actor"]["uid"].as_u64().unwrap()).collect();
    assert_eq!(uids, [0, u64::from(OWNER)]);
}

#[test]
fn doctor_judges_another_users_daemon_by_its_own_user() {
    let Some(shared) = Shared::start() else { return };
    let doctor = |uid| shared.of(uid, &["doctor", "--json"]).env_remove("XDG_RUNTIME_DIR").run();
    for uid in [OWNER, 0] {
        let findings = doctor(uid).ok().objects();
        assert!(
            findings.iter().any(|finding| finding["check"] == "daemon" && finding["verdict"] == "ok"),
            "{findings:?}"
        );
    }
    let findings = doctor(STRANGER).code(1).objects();
    let socket = findings.iter().find(|finding| finding["check"] == "socket").unwrap();
    assert_eq!(socket["verdict"], "fail", "{findings:?}");
    // Nobody is told to take what belongs to others.
    assert!(!findings.iter().any(|finding| finding["mend"].to_string().contains("chown")), "{findings:?}");
}

#[test]
fn a_stranger_is_denied_whatever_the_verb() {
    let Some(shared) = Shared::start() else { return };
    let id = shared.lease(OWNER, "x");
    // First the socket's own mode keeps strangers out, then the daemon does.
    for mode in [0o600, 0o666] {
        fs::set_permissions(shared.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(shared.socket(), fs::Permissions::from_mode(mode)).unwrap();
        for args in [&["unlock", &id][..], &["break", "x"], &["lock", "-n", "y", "--", "true"], &["ls"], &["edit", "x"]]
        {
            let denied = shared.of(STRANGER, args).env("EDITOR", "true").run().code(77);
            assert!(denied.stderr.contains("hint: ") && denied.stdout.is_empty(), "{args:?}: {}", denied.stderr);
        }
    }
    assert_eq!(shared.of(OWNER, &["locks", "--json"]).run().ok().objects().len(), 1);
}
