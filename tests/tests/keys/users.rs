//! Keys that open: each kind that is supported, from each place.

use std::fs;

use stated_tests::{Host, contains, read};

use super::{PASSPHRASE, age_decrypts_the_keyring, age_key_behind_a_passphrase, configure, recovers, secret_file};
use super::{ssh_key, tools};

#[test]
fn a_directory_is_founded_served_and_recovered_by_an_ssh_key() {
    if !tools() {
        return;
    }
    for kind in [["ed25519"].as_slice(), &["rsa", "-b", "2048"]] {
        let host = Host::new();
        let (key, public) = ssh_key(&host, "id", kind, "");
        configure(&host, &format!("identity = {key:?}\n"));
        host.put("a", b"sealed");
        host.stop_daemon();
        assert_eq!(host.get("a"), b"sealed", "a restart opens it again");
        host.stop_daemon();
        host.verify();
        assert!(!host.identity().exists(), "no key is made beside the one that is named");
        let keyring = age_decrypts_the_keyring(&host, &key).ok().text();
        let spelled: Vec<&str> = public.split(' ').take(2).collect();
        assert!(keyring.contains(&format!("\n# sealed to: {}\n", spelled.join(" "))), "{kind:?}");
        recovers(&host, &key, b"sealed");
    }
}

#[test]
fn each_recipient_opens_what_one_of_them_founded() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (ed25519, ed25519_public) = ssh_key(&host, "ed", &["ed25519"], "");
    let (rsa, rsa_public) = ssh_key(&host, "rsa", &["rsa", "-b", "3072"], "");
    configure(&host, &format!("recipients = [{ed25519_public:?}, {rsa_public:?}]\n"));
    let founded = host.stated(["init"]).run().ok().text();
    assert_eq!(founded.matches("sealed to ").count(), 3, "{founded}");
    host.put("a", b"sealed");
    host.stop_daemon();
    for key in [&ed25519, &rsa] {
        // The environment counts more than the key that lies in its usual place.
        let got = host.statectl(["get", "a"]).env("STATED_IDENTITY_FILE", key).run().ok();
        assert_eq!(got.stdout, b"sealed");
        host.stop_daemon();
        age_decrypts_the_keyring(&host, key).ok();
    }
    recovers(&host, &rsa, b"sealed");
}

#[test]
fn a_recovery_key_is_named_when_a_repository_is_made() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let recovery = host.path("w/recovery.txt");
    host.call("age-keygen", ["-o", recovery.to_str().unwrap()]).run().ok();
    let public = host.call("age-keygen", ["-y", recovery.to_str().unwrap()]).run().ok().text();
    host.stated(["init", "--recipient", "age1nothing"]).run().code(78).says("recipient \"age1nothing\"");
    let made = host.stated(["init", "--recipient", &public]).run().ok().text();
    assert!(made.contains(&format!("sealed to {public}\n")) && made.matches("sealed to ").count() == 2, "{made}");
    host.put("a", b"sealed");
    host.stop_daemon();
    recovers(&host, &recovery, b"sealed");
}

#[test]
fn an_ssh_key_behind_a_passphrase_opens_by_file_and_by_command() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (key, _) = ssh_key(&host, "id", &["ed25519"], PASSPHRASE);
    let file = secret_file(&host, "passphrase", &format!("{PASSPHRASE}\nanother line\n"));
    configure(&host, &format!("identity = {key:?}\npassphrase_file = {file:?}\n"));
    host.put("a", b"sealed");
    host.stop_daemon();
    configure(&host, &format!("identity = {key:?}\npassphrase_command = 'cat {}'\n", file.display()));
    assert_eq!(host.get("a"), b"sealed");
    host.stop_daemon();
    // The environment counts more, also where it says it in the other way; the path is meant from here.
    configure(&host, &format!("identity = {key:?}\npassphrase_command = 'false'\n"));
    let got = host.statectl(["get", "a"]).env("STATED_PASSPHRASE_FILE", "passphrase").run().ok();
    assert_eq!(got.stdout, b"sealed");
    host.stop_daemon();
    let got = host.statectl(["get", "a"]).env("STATED_PASSPHRASE_COMMAND", format!("cat {}", file.display()));
    assert_eq!(got.run().ok().stdout, b"sealed");
}

#[test]
fn an_age_identity_behind_a_passphrase_opens() {
    if !tools() {
        return;
    }
    for armor in [false, true] {
        let host = Host::new();
        let (key, recipient) = age_key_behind_a_passphrase(&host, armor);
        let file = secret_file(&host, "passphrase", PASSPHRASE);
        configure(&host, &format!("identity = {key:?}\npassphrase_file = {file:?}\n"));
        host.put("a", b"sealed");
        host.stop_daemon();
        assert_eq!(host.get("a"), b"sealed");
        host.stop_daemon();
        assert!(host.stated(["verify"]).run().ok().text().contains("as they were written"));
        let header = read(&host.state_dir().join("keys/1.age"));
        assert!(contains(&header, b"-> X25519 ") && !contains(&header, b"-> scrypt "), "it is sealed to {recipient}");
    }
}

#[test]
fn an_identity_comes_from_a_command_too() {
    if !tools() {
        return;
    }
    let host = Host::new();
    host.put("a", b"sealed");
    host.stop_daemon();
    let elsewhere = host.path("w/elsewhere");
    fs::rename(host.identity(), &elsewhere).unwrap();
    let line = format!("cat {}", elsewhere.display());
    configure(&host, &format!("identity_command = {line:?}\n"));
    assert_eq!(host.get("a"), b"sealed");
    assert!(!host.identity().exists());
}

#[test]
fn a_second_key_in_the_file_opens_as_well_as_the_first() {
    if !tools() {
        return;
    }
    let host = Host::new();
    host.put("a", b"sealed");
    host.stop_daemon();
    let other = host.call("age-keygen", [""; 0]).run().ok().stdout;
    fs::write(host.identity(), [other, read(&host.identity())].concat()).unwrap();
    assert_eq!(host.get("a"), b"sealed");
}

#[test]
fn no_secret_is_in_the_daemons_arguments_environment_or_log() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let (key, _) = ssh_key(&host, "id", &["ed25519"], PASSPHRASE);
    let file = secret_file(&host, "passphrase", PASSPHRASE);
    let call = host.statectl(["put", "a"]).stdin("sealed").env("STATED_IDENTITY_FILE", &key);
    call.env("STATED_LOG", "trace").env("STATED_PASSPHRASE_COMMAND", format!("cat {}", file.display())).run().ok();
    let process = format!("/proc/{}", host.status()["pid"]);
    let log = read(&host.runtime_dir().join("stated/stated.log"));
    assert!(!log.is_empty());
    for (place, bytes) in [
        ("arguments", fs::read(format!("{process}/cmdline")).unwrap()),
        // Of a process that cannot be traced, only root may read it.
        ("environment", fs::read(format!("{process}/environ")).unwrap_or_default()),
        ("log", log),
    ] {
        assert!(!contains(&bytes, PASSPHRASE.as_bytes()), "its {place} show the passphrase");
    }
}
