//! Whose keys open a state directory, and where the keys and their passphrases come from.

mod plugins;
mod refused;
mod rekeyed;
mod users;

use std::fs;
use std::path::{Path, PathBuf};

use stated_tests::{Finished, Host, read, tool};

const PASSPHRASE: &str = "correct horse battery staple";

fn tools() -> bool {
    ["ssh-keygen", "age", "age-keygen", "bash", "zstd", "jq", "script"].iter().all(|name| tool(name))
}

/// The user's configuration.
fn configure(host: &Host, text: &str) {
    fs::create_dir_all(host.config_dir()).unwrap();
    fs::write(host.config_dir().join("config.toml"), text).unwrap();
}

/// A new SSH key, and the line in its `.pub` file.
fn ssh_key(host: &Host, name: &str, kind: &[&str], passphrase: &str) -> (PathBuf, String) {
    let path = host.path("w").join(name);
    let named = [path.to_str().unwrap(), "-N", passphrase, "-C", "alice@example with words"];
    let args = ["-q", "-t"].iter().chain(kind).chain(&["-f"]).chain(&named);
    host.call("ssh-keygen", args).run().ok();
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    (path, public.trim_end().to_owned())
}

/// A new age identity, sealed by the real `age -p`, and its recipient.
fn age_key_behind_a_passphrase(host: &Host, armor: bool) -> (PathBuf, String) {
    let plain = host.path("w/plain.key");
    host.call("age-keygen", ["-o", plain.to_str().unwrap()]).run().ok();
    let recipient = host.call("age-keygen", ["-y", plain.to_str().unwrap()]).run().ok().text();
    (behind_a_passphrase(host, &plain, armor), recipient)
}

/// The identity file, sealed by the real `age -p`.
fn behind_a_passphrase(host: &Host, plain: &Path, armor: bool) -> PathBuf {
    let (plain, sealed) = (plain.display(), host.path("w/sealed.key"));
    // It asks a terminal, twice.
    let line = format!("age -p {}-o {} {plain}", if armor { "-a " } else { "" }, sealed.display());
    let typed = format!("{PASSPHRASE}\n{PASSPHRASE}\n");
    host.call("script", ["-qec", &line, "/dev/null"]).stdin(typed).run().ok();
    fs::remove_file(plain.to_string()).unwrap();
    host.chmod(&sealed, 0o600);
    sealed
}

fn secret_file(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.file(name, text.as_bytes());
    host.chmod(&path, 0o600);
    path
}

fn age_decrypts_the_keyring(host: &Host, identity: &Path) -> Finished {
    let keyring = host.state_dir().join("keys/1.age");
    host.call("age", ["-d", "-i", identity.to_str().unwrap(), keyring.to_str().unwrap()]).run()
}

/// Everything that was put is recovered without the daemon, by this key.
#[track_caller]
fn recovers(host: &Host, identity: &Path, content: &[u8]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    let out = host.path("out");
    let args = [script.as_path(), &host.state_dir(), identity, &out];
    host.call("bash", args).run().ok();
    assert_eq!(read(&out.join("1/1")), content);
}
