//! The host's daemon on a machine that booted.

use serde_json::Value;
use stated_tests::Running;

use crate::machine::{Machine, debian};

/// How many versions a writer makes.
const WRITES: u32 = 60;

/// A command that runs under a lock, without the program that took it: only the daemon's table ties the two.
pub struct Held {
    name: String,
    command: String,
}

impl Machine {
    fn installed(root_dir: &std::path::Path) -> Self {
        let machine = Self::boot(root_dir);
        machine.install();
        machine
    }

    /// As docs/operations.md has it.
    pub fn install(&self) {
        self.run(
            "dpkg -i /packages/1.deb
             install -m 644 -D -t /etc/stated /usr/share/doc/stated/examples/policy.toml
             systemctl enable --now stated.socket",
        );
    }

    /// Takes a lock for a command, and kills the program that took it. So after a restart nobody comes back for the lock:
    /// the daemon must tell by itself whether the command lives.
    pub fn hold(&self, name: &str) -> Held {
        let command = "echo $$; exec sleep 100000";
        let mut holder = self.start(&format!("echo $$; exec statectl lock {name} -- sh -c '{command}'"));
        let wrapper = holder.line();
        let command = holder.line();
        self.run(&format!("kill -KILL {wrapper}"));
        Held { name: name.to_owned(), command }
    }

    /// The only row of a lock.
    pub fn lock(&self, name: &str) -> Value {
        let rows = self.run(&format!("statectl locks --json {name}"));
        serde_json::from_str(&rows).unwrap_or_else(|error| panic!("{rows:?}: {error}"))
    }

    /// Whose the entries of the audit log are that match.
    fn uids(&self, which: &str) -> Vec<String> {
        let entries = self.run(&format!("statectl audit --json {which}"));
        let uid = |line: &str| serde_json::from_str::<Value>(line).unwrap()["actor"]["uid"].to_string();
        entries.lines().map(uid).collect()
    }

    /// Starts to write versions one after the other, each on condition of the one before; returns in the midst of it.
    pub fn write(&self, state: &str) -> Running {
        let mut writer = self.start(&format!(
            "statectl put {state} --if-absent </dev/null
             for n in $(seq 2 {WRITES}); do echo $n | statectl put {state} --if-version $((n - 1)); done"
        ));
        writer.prints("@5");
        writer
    }

    /// Waits for the writer, which heard of no failure, and finds all that it wrote.
    pub fn all_is_written(&self, state: &str, writer: Running) {
        writer.finish().ok();
        assert_eq!(self.run(&format!("statectl get {state}")), WRITES.to_string());
        assert_eq!(self.run(&format!("statectl log {state} --json | wc -l")), WRITES.to_string());
        self.run("statectl verify");
    }
}

impl Held {
    /// Ends the command, and with it the lock, at once: what the daemon cannot tell it gives up half a minute later.
    pub fn release(self, machine: &Machine) {
        machine.run(&format!("kill {}; statectl lock -w 15 {} -- true", self.command, self.name));
    }
}

#[test]
fn the_first_client_starts_it_and_two_users_are_told_apart() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::installed(&root_dir);
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!(machine.run("echo 1 | statectl put a"), "a@1");
    assert_eq!(machine.property("ActiveState"), "active");
    // The daemon's own user is nobody to it, as long as no rule says otherwise.
    machine.try_run("runuser -u stated -- statectl get a").code(77).says("no rule is about it");
    // The sandbox hides no peer, and neither its groups: a rule lets one of two in, and the audit log tells them apart.
    machine.run("useradd bob && useradd eve && groupadd team && usermod -a -G team bob");
    let bob = "runuser -u bob -- statectl";
    machine.try_run(&format!("{bob} get a")).code(77).says("uid 1000");
    machine.run(
        "printf '[[rule]]\ngroup = \"team\"\nnames = \"a\"\nverbs = [\"read\", \"write\"]\n' >>/etc/stated/policy.toml
         timeout 60 sh -c 'until statectl status | grep -q \"2 rules\"; do :; done'",
    );
    machine.run(&format!("echo 2 | {bob} put a --if-version 1"));
    machine.try_run(&format!("{bob} get b")).code(77).says("no rule gives it \"read\" there");
    machine.try_run("runuser -u eve -- statectl get a").code(77);
    assert_eq!(machine.uids("--verb commit"), ["0", "1000"]);
    let stated = machine.run("id -u stated");
    assert_eq!(machine.uids("--outcome denied"), [&stated, "1000", "1000", "1001"]);
    assert_eq!(
        machine.run("statectl access check bob write a"),
        "allowed: bob (uid 1000) may write a: rule 2 (line 33: group team)"
    );

    // Everything is its own, and nobody else's to look into.
    assert_eq!(machine.run("stat -c %U /proc/$(systemctl show -P MainPID stated)"), "stated");
    let places = "/var/lib/stated /var/lib/stated-key /run/stated";
    assert_eq!(machine.run(&format!("find {places} ! -user stated")), "");
    assert_eq!(machine.run(&format!("find {places} -type f -perm /077")), "");
    assert_eq!(machine.run(&format!("stat -c %a {places}")), "700\n700\n755");
    // As systemd reads the units where the programs are.
    let units = "/usr/lib/systemd/system/stated.service /usr/lib/systemd/system/stated.socket";
    let verified = machine.try_run(&format!("systemd-analyze --man=no verify {units}")).ok();
    assert_eq!((verified.text(), verified.stderr), (String::new(), String::new()));
}

#[test]
fn a_restart_keeps_a_lock_and_turns_nobody_away() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::installed(&root_dir);
    let held = machine.hold("x");
    let before = machine.lock("x");
    let writer = machine.write("log");
    let restart = "systemctl restart stated.service";
    for how in [restart, "kill -KILL $(systemctl show -P MainPID stated)", restart] {
        let old = machine.property("MainPID");
        machine.run(how);
        // The next client waits at the socket until somebody serves it.
        machine.run("statectl status");
        assert_ne!(machine.property("MainPID"), old, "{how}");
    }
    let after = machine.lock("x");
    for field in ["id", "fence", "since"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    machine.try_run("statectl lock -n x -- true").code(75);
    machine.all_is_written("log", writer);
    held.release(&machine);
}

#[test]
fn a_daemon_that_stands_still_is_replaced() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::installed(&root_dir);
    machine.run(
        "mkdir -p /run/systemd/system/stated.service.d
         printf '[Service]\\nWatchdogSec=2s\\n' >/run/systemd/system/stated.service.d/soon.conf
         systemctl daemon-reload",
    );
    machine.run("echo 1 | statectl put a");
    let old = machine.property("MainPID");
    machine.run(&format!("kill -STOP {old}"));
    // It hangs with the daemon, and is served by the next one.
    assert_eq!(machine.run("statectl get a"), "1");
    assert_ne!(machine.property("MainPID"), old);
    assert_eq!(machine.property("NRestarts"), "1");
    assert!(machine.run("journalctl --unit stated --output cat").contains("Watchdog timeout"));
    // Its own lines have priorities: what a new key's owner has to know, and not that it serves.
    let warned = machine.run("journalctl --unit stated --priority warning --output cat _COMM=stated");
    assert!(warned.starts_with("made the key that opens every state"), "{warned}");
    assert!(!warned.contains("serving"), "{warned}");
}

#[test]
fn the_doctor_knows_the_hosts_service() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::boot(&root_dir);
    machine.run("dpkg -i /packages/1.deb");
    let doctor = |code| {
        let found = machine.try_run("statectl doctor --json").code(code).objects();
        let is_odd = |finding: &&Value| finding["verdict"] != "ok";
        let odd: Vec<Value> = found.iter().filter(is_odd).cloned().collect();
        (found, odd)
    };
    assert_eq!(doctor(0).1, [] as [Value; 0]);
    machine.install();
    machine.run("echo 1 | statectl put a");
    let (found, odd) = doctor(0);
    assert_eq!(odd, [] as [Value; 0]);
    // It is the host's daemon that is looked at, and not one that root might have.
    for place in ["/var/lib/stated-key/identity.txt holds the key", "/var/lib/stated holds repository"] {
        let is_told = |finding: &Value| finding["what"].as_str().unwrap().starts_with(place);
        assert!(found.iter().any(is_told), "{place}: {found:?}");
    }
    machine.run("echo nonsense = 1 >/etc/stated/config.toml && systemctl stop stated.service");
    machine.try_run("statectl get a").code(69);
    let (_, odd) = doctor(1);
    assert_eq!((odd.len(), &odd[0]["check"]), (1, &"host's service".into()), "{odd:?}");
    machine.run("rm /etc/stated/config.toml");
    machine.run(odd[0]["mend"].as_str().unwrap());
    assert_eq!(machine.run("statectl get a"), "1");
}

#[test]
fn a_key_may_come_as_a_credential() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::boot(&root_dir);
    machine.run("dpkg -i /packages/1.deb");
    // As docs/operations.md has it, but for age-keygen, which is not there.
    machine.run(
        "HOME=/tmp stated init --state-dir /tmp/s >/dev/null
         install -d -m 700 /etc/credstore
         mv /tmp/.config/stated/identity.txt /etc/credstore/stated.identity
         install -m 644 -D -t /etc/stated /usr/share/doc/stated/examples/policy.toml
         systemctl enable --now stated.socket
         echo 1 | statectl put a
         ! test -e /var/lib/stated-key/identity.txt",
    );
    machine.run(
        "systemctl stop stated.socket stated.service
         systemd-run --quiet --pipe -p User=stated -p UnsetEnvironment=HOME -p LoadCredential=stated.identity stated verify
         mkdir -p -m 700 /etc/credstore.encrypted /etc/systemd/system/stated.service.d
         systemd-creds encrypt --name=stated.identity /etc/credstore/stated.identity /etc/credstore.encrypted/stated.identity
         rm /etc/credstore/stated.identity
         printf '[Service]\\nLoadCredential=\\nLoadCredentialEncrypted=stated.identity\\n' \\
             >/etc/systemd/system/stated.service.d/key.conf
         systemctl daemon-reload
         systemctl start stated.socket",
    );
    assert_eq!(machine.run("statectl get a"), "1");
}

#[test]
fn a_users_own_service_starts_with_its_first_client() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::boot(&root_dir);
    // Without PAM nobody logs in on it, so what a login starts is started by hand.
    machine.run(
        "dpkg -i /packages/1.deb
         useradd --create-home bob
         install -d -m 700 -o bob /run/user/1000
         systemd-run --quiet --unit bob -p User=bob -p Type=notify -p Delegate=yes \\
             -p Environment=XDG_RUNTIME_DIR=/run/user/1000 /lib/systemd/systemd --user",
    );
    let bob = |line: &str| {
        machine.run(&format!("cd / && runuser -u bob -- env HOME=/home/bob XDG_RUNTIME_DIR=/run/user/1000 {line}"))
    };
    bob("systemctl --user enable --now stated.socket");
    let main_pid = || bob("systemctl --user show --property MainPID --value stated.service");
    assert_eq!(main_pid(), "0");
    assert_eq!(bob("statectl put a /dev/null"), "a@1");
    let first = main_pid();
    assert_ne!(first, "0");
    bob("systemctl --user restart stated.service");
    assert_eq!(bob("statectl put a /etc/hostname --if-version 1"), "a@2");
    assert_ne!(main_pid(), first);
    assert_eq!(bob("stat -c '%U %a' /run/user/1000/stated /home/bob/.local/state/stated"), "bob 700\nbob 700");
}

#[test]
fn the_agent_of_the_examples_works_under_its_lock() {
    let Some(root_dir) = debian() else { return };
    let machine = Machine::installed(&root_dir);
    machine.run(
        "printf '#!/bin/sh\nexec sleep 100000\n' >/usr/local/bin/build-agent
         chmod +x /usr/local/bin/build-agent
         cp /usr/share/doc/stated/examples/build-agent.service /etc/systemd/system/
         systemctl start build-agent
         timeout 60 sh -c 'until statectl locks --json ci/agent | grep -q build; do :; done'",
    );
    let before = machine.lock("ci/agent");
    assert_eq!(before["reason"], "build agent");
    machine.run("systemctl restart stated.service");
    assert_eq!(machine.lock("ci/agent")["id"], before["id"]);
    machine.run("systemctl stop build-agent && statectl lock -w 15 ci/agent -- true");
}
