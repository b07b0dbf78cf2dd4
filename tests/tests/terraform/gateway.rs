//! A gateway that stands by itself, and who may speak to one.

use std::collections::BTreeMap;

use rustix::process::Signal;
use stated_tests::{Call, Host, Running, read, root, tool};

use super::project::{BACKEND, Project, STATE, host, resources, the_lock};

/// A running `statectl gateway`, and what it tells its clients to set.
struct Standing {
    running: Running,
    variables: BTreeMap<String, String>,
    file: std::path::PathBuf,
}

impl Standing {
    fn start(host: &Host, options: &[&str]) -> Self {
        let file = host.path("w/gateway.env");
        let mut running = host.statectl([&["gateway", "--env-file", file.to_str().unwrap()], options].concat()).start();
        assert_eq!(running.line(), file.to_str().unwrap(), "it serves once it says where its variables are");
        let text = String::from_utf8(read(&file)).unwrap();
        let variable = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let variables = text.lines().map(|line| variable(line).unwrap()).collect();
        Self { running, variables, file }
    }

    fn given(&self, call: Call) -> Call {
        self.variables.iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    fn stop(self) {
        self.running.signal(Signal::TERM);
        self.running.finish().ok();
        assert!(!self.file.exists(), "its variables are of no use any more");
    }
}

#[test]
fn terraform_uses_a_standing_gateway_by_its_variables() {
    let Some(host) = host() else { return };
    let standing = Standing::start(&host, &["--state", STATE]);
    let (first, second) = (Project::new(&host, "first"), Project::new(&host, "second"));
    let apply = |project: &Project<'_>, word: &str| {
        standing.given(project.terraform_alone(["apply", "-auto-approve", &format!("-var=word={word}")]))
    };
    apply(&first, "one").run().ok();
    assert_eq!(first.word(), "one", "it is the same state");

    let mut slow = first.at_gate(apply(&first, "two"));
    assert_eq!(the_lock(&host)["process"], slow.terraform.pid());
    apply(&second, "three").run().code(1);
    second.apply("three").run().code(1);
    let waiting = host.queue(&[STATE]);
    slow.terraform.signal(Signal::KILL);
    waiting.granted().release().ok();
    assert_eq!(slow.running.exit(), 128 + 9);
    apply(&second, "three").run().ok();
    assert_eq!(first.word(), "three");
    first.is_settled();
    standing.stop();
}

#[test]
fn a_standing_gateway_serves_other_states_to_remote_state() {
    let Some(host) = host() else { return };
    let source = Project::new(&host, "source");
    source.apply("shared").run().ok();
    let reader = Project::bare(&host, "reader", "example/reader");
    let data = r#"
variable "address" {}
data "terraform_remote_state" "source" {
  backend = "http"
  config  = { address = var.address }
}
output "found" { value = data.terraform_remote_state.source.outputs.word }
"#;
    reader.write("main.tf", &format!("{BACKEND}{}{data}", resources()));
    reader.terraform(["init"]).run().ok();

    let standing = Standing::start(&host, &[]);
    let gateway = &standing.variables["STATED_GATEWAY"];
    let of_source = format!("{gateway}/{}", STATE.replace(' ', "%20"));
    let apply = |address: &str| {
        let address = format!("-var=address={address}");
        let call = standing.given(reader.terraform_alone(["apply", "-auto-approve", &address]));
        ["", "LOCK_", "UNLOCK_"]
            .into_iter()
            .fold(call, |call, kind| call.env(&format!("TF_HTTP_{kind}ADDRESS"), format!("{gateway}/example/reader")))
    };
    apply(&of_source).run().ok();
    let found = standing.given(reader.exec(&["terraform", "output", "-raw", "found"])).run().ok().text();
    assert_eq!(found, "shared");
    reader.is_settled();
    standing.stop();

    // That of one run serves no state but the run's own.
    let script = r#"terraform plan -no-color -var="address=${TF_HTTP_ADDRESS%/example/reader}/example/net%20work""#;
    reader.exec(&["sh", "-c", script]).run().code(1);
}

#[test]
fn another_user_is_not_let_in() {
    let Some(host) = host() else { return };
    if !tool("setpriv") || !tool("bash") || !root("become another user") {
        return;
    }
    let project = Project::bare(&host, "d", STATE);
    // Whoever asks knows the credential, and is told what a GET is answered with: nothing, or a status.
    let ask = r#"
exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET /v1/state/x HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nAuthorization: Basic %s\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
cat <&3
"#;
    let script = r#"
port=${TF_HTTP_ADDRESS#http://127.0.0.1:} port=${port%%/*}
credential=$(printf 'stated:%s' "$TF_HTTP_PASSWORD" | base64 -w0)
echo "mine: $(bash -c "$ASK" ask "$port" "$credential" 2>&1 | head -n 1)"
echo "another's: $(setpriv --reuid 65534 --regid 65534 --clear-groups bash -c "$ASK" ask "$port" "$credential" 2>&1 | head -n 1)"
"#;
    let printed = project.exec(&["bash", "-c", script]).env("ASK", ask).run().ok().text();
    let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
    assert_eq!(lines[0], "mine: HTTP/1.1 403 Forbidden", "it is let in, though the state is not the run's");
    assert!(!lines[1].contains("HTTP"), "{printed}");
}
