//! Keys that do not open: each says why, and ends with 78.

use std::fs;

use stated_tests::{Host, Random};

use super::{PASSPHRASE, configure, secret_file, ssh_key, tools};

#[test]
fn a_passphrase_that_is_missing_or_wrong_is_78() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (key, _) = ssh_key(&host, "id", &["ed25519"], PASSPHRASE);
    configure(&host, &format!("identity = {key:?}\n"));
    let told = host.stated(["run"]).run().code(78).says("behind a passphrase");
    told.says("STATED_PASSPHRASE_FILE").says("passphrase_command");
    host.statectl(["put", "a"]).stdin("x").run().code(78).says("behind a passphrase");
    assert!(!host.state_dir().join("FORMAT").exists(), "nothing was founded");
    let file = secret_file(&host, "passphrase", PASSPHRASE);
    let path = file.to_str().unwrap();
    host.stated(["init"]).env("STATED_PASSPHRASE_FILE", path).run().ok();
    fs::write(&file, "wrong").unwrap();
    let told = host.stated(["run"]).env("STATED_PASSPHRASE_FILE", path).run().code(78);
    let told = told.says("the passphrase does not open it").says(key.to_str().unwrap()).says(path);
    assert!(!told.stderr.contains("wrong"), "it does not show what was tried: {}", told.stderr);
    fs::write(&file, "\n").unwrap();
    host.stated(["run"]).env("STATED_PASSPHRASE_FILE", path).run().code(78).says("empty");
    host.chmod(&file, 0o640);
    host.stated(["run"]).env("STATED_PASSPHRASE_FILE", path).run().code(78).says("chmod 600");
    host.stated(["run"]).env("STATED_PASSPHRASE_FILE", "/nonexistent").run().code(78).says("is missing");
}

#[test]
fn a_command_that_fails_is_78_and_what_it_said_is_shown() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (key, _) = ssh_key(&host, "id", &["ed25519"], PASSPHRASE);
    configure(&host, &format!("identity = {key:?}\npassphrase_command = 'echo the vault is shut >&2; exit 4'\n"));
    host.stated(["run"]).run().code(78).says("the vault is shut").says("exit status: 4");
    // Also through the client that started the daemon.
    host.statectl(["ls"]).run().code(78).says("the vault is shut");
}

#[test]
fn a_key_that_opens_nothing_says_what_it_is_and_what_would_open() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (_, public) = ssh_key(&host, "ed", &["ed25519"], "");
    let (other, _) = ssh_key(&host, "other", &["ed25519"], "");
    configure(&host, &format!("recipients = [{public:?}]\n"));
    host.put("a", b"sealed");
    host.stop_daemon();
    let fingerprint = |name: &str| {
        let said = host.call("ssh-keygen", ["-lf", host.path("w").join(name).to_str().unwrap()]).run().ok().text();
        said.split(' ').nth(1).unwrap().to_owned()
    };
    let told = host.stated(["run"]).env("STATED_IDENTITY_FILE", &other).run().code(78).says("opens nothing");
    // Of whom it is sealed to, the header tells the first five characters.
    let expected = &fingerprint("ed")[..12];
    told.says(&fingerprint("other")).says(expected).says("an age1… key").says("keys/1.age").says("hint: name the key");
    assert_eq!(host.get("a"), b"sealed", "with the right key all is as it was");
}

#[test]
fn weak_and_unknown_keys_are_78() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (weak, weak_public) = ssh_key(&host, "weak", &["rsa", "-b", "1024"], "");
    let (ecdsa, ecdsa_public) = ssh_key(&host, "ecdsa", &["ecdsa"], "");
    for (key, public, why) in [(&weak, &weak_public, "2048 bits"), (&ecdsa, &ecdsa_public, "ecdsa-sha2-nistp256")] {
        configure(&host, &format!("identity = {key:?}\n"));
        host.stated(["init"]).run().code(78).says(why);
        configure(&host, &format!("recipients = [{public:?}]\n"));
        host.stated(["init"]).run().code(78).says(why);
    }
    let noise = host.file("noise", &Random::new().bytes(1000));
    host.chmod(&noise, 0o600);
    configure(&host, &format!("identity = {noise:?}\n"));
    host.stated(["init"]).run().code(78).says("age-keygen");
    assert!(!host.state_dir().join("FORMAT").exists());
}
