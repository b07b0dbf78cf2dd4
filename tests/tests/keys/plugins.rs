//! Keys that a plugin of age keeps.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use stated_tests::{Host, programs_dir, read};

use super::{PASSPHRASE, behind_a_passphrase, configure, secret_file, tools};

/// A token's plugin in a directory of its own, and the identity and recipient of a new key.
struct Token {
    program: PathBuf,
    identity: PathBuf,
    recipient: String,
}

impl Token {
    fn new(host: &Host, pin: &str) -> Self {
        let bin = host.path("w/bin");
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("age-plugin-token");
        install(host, &programs_dir().join("age-plugin-token"), &program, "");
        let made = host.call(&program, [pin]).run().ok().text();
        let recipient = made.lines().find_map(|line| line.strip_prefix("# recipient: ")).unwrap().to_owned();
        assert!(recipient.starts_with("age1token1"), "{made}");
        let identity = secret_file(host, "token.key", &format!("{made}\n"));
        Self { program, identity, recipient }
    }

    /// The configuration that lets this program be asked.
    fn listed(&self, program: &Path) -> String {
        format!("identity = {:?}\nrecipients = [{:?}]\n[plugins]\ntoken = {program:?}\n", self.identity, self.recipient)
    }
}

/// A program in the token's place.
fn script(host: &Host, text: &str) -> PathBuf {
    let path = host.path("w/age-plugin-script");
    install(host, Path::new("/dev/stdin"), &path, &format!("#!/bin/sh\n{text}\n"));
    path
}

/// By a process of its own: what a thread has open for writing its siblings' children have, too, and then it is busy.
fn install(host: &Host, from: &Path, to: &Path, stdin: &str) {
    host.call("install", ["-m".as_ref(), "755".as_ref(), from, to]).stdin(stdin).run().ok();
}

/// Reads all that a plugin is told, up to where it is to answer.
const HEAR_OUT: &str = "until read -r line && [ \"$line\" = '-> done' ]; do :; done; read -r line";

fn log(host: &Host) -> String {
    fs::read_to_string(host.runtime_dir().join("stated/stated.log")).unwrap()
}

/// What a plugin waits for in the place of a touch: a pipe that somebody has had open for writing.
struct Touch(PathBuf);

/// A plugin that waits; it goes on where this is dropped.
struct Waiting(fs::File);

impl Touch {
    /// And the program of a token's plugin that waits for it.
    fn awaited_by(host: &Host, token: &Token) -> (Self, PathBuf) {
        let pipe = host.path("w/pipe");
        host.call("mkfifo", [&pipe]).run().ok();
        let text = format!("read -r touched <{}; exec {} \"$@\"", pipe.display(), token.program.display());
        (Self(pipe), script(host, &text))
    }

    /// The plugin, once it waits: until then the pipe does not open.
    fn plugin(&self) -> Waiting {
        Waiting(fs::OpenOptions::new().write(true).open(&self.0).unwrap())
    }
}

impl Waiting {
    /// Waits until it ends.
    #[track_caller]
    fn ends(mut self) {
        let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&self.0, PollFlags::empty())], Some(&limit)).unwrap();
        assert_eq!(ended, 1, "it runs still");
        assert_eq!(self.0.write(b"\n").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_plugins_key_founds_serves_and_rotates_and_stock_age_opens_by_it() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    configure(&host, &token.listed(&token.program));
    let put = host.statectl(["put", "a"]).stdin("sealed").run().ok();
    assert_eq!(put.stderr.lines().next(), Some("statectl: age-plugin-token: touch the token"), "{put:?}");
    assert!(log(&host).contains("touch the token"), "{}", log(&host));
    let doctor = host.statectl(["doctor"]).run().ok().text();
    assert!(doctor.contains("token.key holds the key of age-plugin-token"), "{doctor}");
    host.stop_daemon();
    assert_eq!(host.get("a"), b"sealed", "a restart opens it again");
    assert_eq!(host.statectl(["key", "rotate"]).run().ok().text(), "keyring 2");
    host.stop_daemon();
    assert_eq!(host.get("a"), b"sealed");
    host.stop_daemon();
    host.verify();
    assert!(!host.identity().exists(), "no key is made beside the one that is named");

    let path = format!("{}:{}", token.program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let keyring = host.state_dir().join("keys/2.age");
    let args = ["-d", "-i", token.identity.to_str().unwrap(), keyring.to_str().unwrap()];
    let opened = host.call("age", args).env("PATH", &path).run().ok();
    assert!(opened.text().contains(&format!("\n# sealed to: {}\n", token.recipient)), "{}", opened.text());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.sh");
    let out = host.path("out");
    host.call("bash", [&script, &host.state_dir(), &token.identity, &out]).env("PATH", &path).run().ok();
    assert_eq!(read(&out.join("1/1")), b"sealed");
}

#[test]
fn a_plugins_recipient_comes_and_goes_as_others_do() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    configure(&host, &format!("[plugins]\ntoken = {:?}\n", token.program));
    host.put("a", b"sealed");
    host.statectl(["key", "add", &token.recipient]).run().ok();
    assert!(host.statectl(["key", "ls"]).run().ok().text().contains(&token.recipient));
    let first = host.call("age-keygen", ["-y", host.identity().to_str().unwrap()]).run().ok().text();
    // The daemon's own does not open it any more without the first.
    host.statectl(["key", "rm", &first]).run().code(65).says("could not start again");
    host.stop_daemon();

    let by_token = |args: &[&str]| host.statectl(args).env("STATED_IDENTITY_FILE", &token.identity).run();
    assert_eq!(by_token(&["get", "a"]).ok().stdout, b"sealed");
    // The plugin itself says that it opens what is sealed to it, and nothing else.
    by_token(&["key", "rm", &token.recipient]).code(65).says("could not start again");
    by_token(&["key", "rm", &first]).ok();
    by_token(&["key", "rotate"]).ok();
    host.stop_daemon();
    host.statectl(["get", "a"]).run().code(78).says("opens nothing").says("a key of the kind token");
    assert_eq!(by_token(&["get", "a"]).ok().stdout, b"sealed");
}

#[test]
fn no_plugin_is_asked_where_a_key_at_hand_opens() {
    if !tools() {
        return;
    }
    let host = Host::new();
    host.put("a", b"sealed");
    host.stop_daemon();
    let token = Token::new(&host, "");
    let both = [read(&token.identity), read(&host.identity())].concat();
    fs::write(host.identity(), both).unwrap();
    // None is listed, so to ask would fail.
    assert_eq!(host.get("a"), b"sealed");
    host.statectl(["key", "rotate"]).run().ok();
}

#[test]
fn a_pin_is_told_once_and_comes_from_where_passphrases_do() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "123456");
    let asks = |program: &Path, passphrase: &str| {
        let pin = secret_file(&host, "pin", passphrase);
        configure(&host, &format!("passphrase_file = {pin:?}\n{}", token.listed(program)));
    };
    asks(&token.program, "123456\n");
    host.put("a", b"sealed");
    host.stop_daemon();
    let note = host.state_dir().join("secret-told");
    assert!(!note.exists(), "it was right");
    asks(&token.program, "654321\n");
    host.statectl(["get", "a"]).run().code(78).says("age-plugin-token: wrong PIN, 2 tries are left");
    // Who is started again and again tells it no more, right or wrong.
    asks(&token.program, "123456\n");
    let again = host.statectl(["get", "a"]).run().code(78).says("2 tries are left; it asked for a secret and got none");
    again.says(&format!("rm {}", note.display()));
    fs::remove_file(&note).unwrap();
    assert_eq!(host.get("a"), b"sealed");
    host.stop_daemon();
    configure(&host, &token.listed(&token.program));
    host.statectl(["get", "a"]).run().code(78).says("wrong PIN").says("got none: nothing says where that is");
    // One that asks again is told nothing, or a token would lock itself.
    let heard = host.path("w/heard");
    let text = format!(
        "{HEAR_OUT}\nfor n in 1 2; do\nprintf -- '-> request-secret\\nUElO\\n'\nread -r line; read -r body\n\
         echo \"$line $body\" >>{}\ndone\nprintf -- '-> done\\n\\n'",
        heard.display()
    );
    let again = script(&host, &text);
    asks(&again, "123456\n");
    host.statectl(["get", "a"]).run().code(78);
    assert_eq!(fs::read_to_string(heard).unwrap(), "-> ok MTIzNDU2\n-> fail \n");
}

#[test]
fn a_plugin_is_asked_where_it_is_listed_and_nobody_else_could_have_written_it() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    let refused = |text: &str| {
        configure(&host, text);
        let refused = host.stated(["init"]).run();
        assert!(!host.state_dir().join("FORMAT").exists(), "{refused:?}");
        refused.code(78)
    };
    let listed = token.listed(&token.program);
    refused(listed.split("[plugins]").next().unwrap())
        .says("the configuration names no program for token")
        .says("plugins.\"token\" = ");
    refused(&token.listed(Path::new("age-plugin-token"))).says("is not an absolute path");
    refused(&token.listed(&host.path("w/nothing"))).says("cannot be run");
    refused(&token.listed(&host.path("w"))).says("is not a file");
    // A plugin's identity does not say what to seal to.
    let not_to_own = "token.key would not open what is sealed to the configured recipients";
    refused(&listed.replace(&format!("{:?}", token.recipient), "")).says(not_to_own).says("put that into recipients");
    let elsewhere = host.call(&token.program, [""]).run().ok().text();
    let other = elsewhere.lines().find_map(|line| line.strip_prefix("# recipient: ")).unwrap();
    refused(&listed.replace(&token.recipient, other)).says(not_to_own);
    fs::set_permissions(&token.program, PermissionsExt::from_mode(0o775)).unwrap();
    refused(&listed).says("may be written by others").says("nobody but root and the daemon's user");
    fs::set_permissions(&token.program, PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(host.path("w/bin"), PermissionsExt::from_mode(0o777)).unwrap();
    refused(&listed).says("may be written by others");
}

#[test]
fn a_plugin_that_does_not_do_as_plugins_do_is_told_of() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    for (text, says) in [
        ("exit 3", "did not do as a plugin of age does"),
        ("cat >/dev/null & yes", "what it said is no stanza"),
        ("cat >/dev/null & while :; do printf -- '-> msg\\n\\n'; done", "it says too much"),
        ("cat >/dev/null & tr '\\0' A </dev/zero | fold -w 64 | (printf -- '-> msg\\n'; cat)", "it says too much"),
        (&format!("{HEAR_OUT}; printf -- '-> done\\n\\n'"), "it wrapped no key"),
        (
            &format!("{HEAR_OUT}; printf -- '-> error internal\\nbm8gdG9rZW4bWzMxbQ\\n'; read -r line; read -r line"),
            "it said: no token [31m",
        ),
        (
            &format!(
                "{HEAR_OUT}; printf -- '-> error internal\\nbm8gdG9rZW4\\n'; read -r line; read -r line; \
                 printf -- '-> done\\n\\n'"
            ),
            "age-plugin-script: no token",
        ),
    ] {
        configure(&host, &token.listed(&script(&host, text)));
        host.stated(["init"]).run().code(78).says(says);
    }
    configure(&host, &token.listed(&token.program));
    host.put("a", b"sealed");
}

#[test]
fn a_plugin_gets_a_plain_environment() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    let seen = host.path("w/seen");
    let text = format!("env >{}; pwd >>{}; exec {} \"$@\"", seen.display(), seen.display(), token.program.display());
    configure(&host, &token.listed(&script(&host, &text)));
    host.statectl(["put", "a"]).stdin("sealed").env("SECRET", "1").env("LD_LIBRARY_PATH", "/nowhere").run().ok();
    let seen = fs::read_to_string(seen).unwrap();
    let mut names: Vec<&str> = seen.lines().map(|line| line.split('=').next().unwrap()).collect();
    // The shell's own.
    names.retain(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["/", "LC_ALL", "PATH"]);
}

#[test]
fn while_somebody_has_to_touch_a_token_commits_go_on() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    let (touch, program) = Touch::awaited_by(&host, &token);
    configure(&host, &format!("[plugins]\ntoken = {:?}\n", program));
    host.put("a", b"before");

    let adding = host.statectl(["key", "add", &token.recipient]).start();
    host.put("a", b"during");
    assert_eq!(host.get("a"), b"during");
    drop(touch.plugin());
    adding.finish().ok();
    assert!(host.statectl(["key", "ls"]).run().ok().text().contains(&token.recipient));

    // Who changes the keyring meanwhile comes first.
    let rotating = host.statectl(["key", "rotate"]).start();
    let plugin = touch.plugin();
    host.statectl(["key", "rm", &token.recipient]).run().ok();
    drop(plugin);
    rotating.finish().code(65).says("at the same time");
}

#[test]
fn a_secret_is_told_to_open_a_key_and_for_nothing_else() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    let heard = host.path("w/heard");
    let text = format!(
        "{HEAR_OUT}\nprintf -- '-> request-secret\\nUElO\\n'\nread -r line; read -r body\n\
         echo \"$line $body\" >{}\nprintf -- '-> done\\n\\n'",
        heard.display()
    );
    let pin = secret_file(&host, "pin", PASSPHRASE);
    configure(&host, &format!("passphrase_file = {pin:?}\n{}", token.listed(&script(&host, &text))));
    host.stated(["init"]).run().code(78).says("it wrapped no key");
    assert_eq!(fs::read_to_string(&heard).unwrap(), "-> fail \n");

    // Nor the passphrase of the identity's own file, which the token would take for a wrong PIN.
    let token = Token::new(&host, "123456");
    let sealed = behind_a_passphrase(&host, &token.identity, false);
    let listed = token.listed(&token.program).replace("token.key", "sealed.key");
    configure(&host, &format!("passphrase_file = {pin:?}\n{listed}"));
    let refused = host.stated(["init"]).run().code(78).says("wrong PIN");
    refused.says(&format!("got none: the passphrase is that of {}", sealed.display()));
}

#[test]
fn a_daemon_that_ends_takes_the_plugin_with_it() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    let (touch, program) = Touch::awaited_by(&host, &token);
    configure(&host, &format!("[plugins]\ntoken = {:?}\n", program));
    for is_killed in [false, true] {
        let daemon = host.daemon();
        let adding = host.statectl(["key", "add", &token.recipient]).start();
        let plugin = touch.plugin();
        // It would wait for another daemon.
        adding.signal(Signal::KILL);
        match is_killed {
            true => daemon.kill(),
            false => daemon.stop(),
        }
        plugin.ends();
    }
}

#[test]
fn a_start_that_waits_for_a_touch_ends_at_once_when_it_is_told_to() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    configure(&host, &token.listed(&token.program));
    host.stated(["init"]).run().ok();
    let (touch, program) = Touch::awaited_by(&host, &token);
    configure(&host, &token.listed(&program));
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = host.daemon_unready();
        let plugin = touch.plugin();
        daemon.signal(signal);
        assert_eq!(daemon.exit(), 128 + signal.as_raw());
        plugin.ends();
    }
    configure(&host, &token.listed(&token.program));
    let _daemon = host.daemon();
    host.put("a", b"sealed");
}

#[test]
fn a_restore_asks_for_one_touch() {
    if !tools() {
        return;
    }
    let host = Host::new();
    let token = Token::new(&host, "");
    let asked = host.path("w/asked");
    let text = format!("echo \"$@\" >>{}; exec {} \"$@\"", asked.display(), token.program.display());
    configure(&host, &token.listed(&script(&host, &text)));
    host.put("a", b"sealed");
    let backup = host.path("w/backup");
    host.statectl(["backup", backup.to_str().unwrap()]).run().ok();
    host.put("a", b"later");
    host.stop_daemon();
    fs::write(&asked, "").unwrap();
    host.statectl(["restore", backup.to_str().unwrap(), "--force"]).run().ok();
    assert_eq!(fs::read_to_string(&asked).unwrap(), "--age-plugin=identity-v1\n");
    host.stated(["verify"]).run().ok();
}
