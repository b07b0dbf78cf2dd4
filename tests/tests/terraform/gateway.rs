//! A gateway that stands by itself, and who may speak to one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::process::Signal;
use stated_tests::{Call, Host, Running, read, root, tool};

use super::project::{BACKEND, Project, S3_BACKEND, STATE, host, resources, the_lock, told};

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

    /// Ends it; what it said meanwhile.
    fn stop(self) -> String {
        self.running.signal(Signal::TERM);
        let said = self.running.finish().ok().stderr;
        assert!(!self.file.exists(), "its variables are of no use any more");
        said
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
fn a_standing_gateway_speaks_s3_for_the_states_in_its_scope() {
    let Some(host) = host() else { return };
    let standing = Standing::start(&host, &["--protocol", "s3", "--state", "my-terraform-state-bucket/**"]);
    assert!(!standing.variables.contains_key("TF_HTTP_USERNAME"), "it is not led where nobody serves");
    let project = Project::bare_s3(&host, "d");
    project.write("main.tf", &format!("{S3_BACKEND}{}", resources()));
    let terraform =
        |project: &Project<'_>, args: &[&str]| standing.given(project.terraform_alone(args.iter().copied()));
    let apply = |word: &str| terraform(&project, &["apply", "-auto-approve", &format!("-var=word={word}")]);
    terraform(&project, &["init"]).run().ok();
    apply("one").run().ok();
    let slow = project.at_gate(apply("two"));
    assert_eq!(the_lock(&host)["process"], slow.terraform.pid());
    let refused = apply("three").run().code(1);
    assert!(told(&refused).contains("state lock"), "{}", refused.stderr);
    slow.finish().ok();
    assert_eq!(terraform(&project, &["output", "-raw", "word"]).run().ok().text(), "two");
    assert_eq!(project.log().len(), 2);

    let other = Project::bare(&host, "other", "another-bucket/terraform/state.tfstate");
    other.write("main.tf", &S3_BACKEND.replace("my-terraform-state-bucket", "another-bucket"));
    terraform(&other, &["init"]).run().code(1);
    let said = standing.stop();
    let refused = "refused: another-bucket/terraform/state.tfstate is none of this gateway's states";
    assert_eq!(said.matches(refused).count(), 1, "few clients show why: {said}");
}

#[test]
fn who_may_read_only_neither_locks_nor_writes() {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    project.apply("one").run().ok();
    let by_http = Project::new(&host, "by-http");
    by_http.apply("one").run().ok();

    let standing = Standing::start(&host, &["--protocol", "http,s3", "--allow", "read"]);
    let terraform = |args: &[&str]| standing.given(project.terraform_alone(args.iter().copied()));
    terraform(&["init", "-reconfigure"]).run().ok();
    assert_eq!(terraform(&["output", "-raw", "word"]).run().ok().text(), "one");
    let locked = terraform(&["apply", "-auto-approve", "-var=word=two"]).run().code(1);
    assert!(told(&locked).contains("lets nobody lock states"), "{}", locked.stderr);
    let written = terraform(&["apply", "-auto-approve", "-lock=false", "-var=word=two"]).run().code(1);
    assert!(told(&written).contains("lets nobody write states"), "{}", written.stderr);
    assert_eq!(project.log().len(), 1);

    let url = format!("{}/{}", standing.variables["STATED_GATEWAY"], STATE.replace(' ', "%20"));
    let by_http = |args: &[&str]| {
        let call = standing.given(by_http.terraform_alone(args.iter().copied()));
        ["", "LOCK_", "UNLOCK_"].into_iter().fold(call, |call, kind| call.env(&format!("TF_HTTP_{kind}ADDRESS"), &url))
    };
    assert_eq!(by_http(&["output", "-raw", "word"]).run().ok().text(), "one");
    by_http(&["apply", "-auto-approve", "-var=word=two"]).run().code(1);
    by_http(&["apply", "-auto-approve", "-lock=false", "-var=word=two"]).run().code(1);
    assert_eq!(host.statectl(["log", STATE, "--json"]).run().ok().objects().len(), 1);
    standing.stop();
}

#[test]
fn the_variables_have_a_place_where_another_daemon_serves() {
    let host = Host::new();
    let socket = host.path("elsewhere/stated.sock");
    let mut running = host.statectl(["gateway", "--socket", socket.to_str().unwrap()]).start();
    let directory = host.runtime_dir().join("stated");
    assert_eq!(running.line(), directory.join(format!("gateway-{}.env", running.pid())).to_str().unwrap());
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    running.signal(Signal::TERM);
    running.finish().ok();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn a_link_to_the_variables_stays_and_only_what_was_made_is_removed() {
    let host = Host::new();
    let (link, file) = (host.path("w/link.env"), host.path("w/d/gateway.env"));
    let start = || host.statectl(["gateway", "--env-file", link.to_str().unwrap()]).start();
    let stop = |running: Running| {
        running.signal(Signal::TERM);
        running.finish().ok();
        assert!(link.is_symlink());
    };
    fs::create_dir(host.path("w/d")).unwrap();
    symlink("d/gateway.env", &link).unwrap();
    let mut running = start();
    assert_eq!(running.line(), link.to_str().unwrap());
    assert!(file.is_file());
    stop(running);
    assert!(!file.exists());
    // Another gateway begins with the same file.
    let mut running = start();
    running.line();
    fs::rename(host.file("others", b"theirs"), &file).unwrap();
    stop(running);
    assert_eq!(read(&file), b"theirs");

    fs::remove_file(&link).unwrap();
    symlink("/proc/self/fd/1", &link).unwrap();
    let mut running = start();
    running.prints("TF_HTTP_PASSWORD=");
    stop(running);
    fs::remove_file(&link).unwrap();
    symlink("/dev/null", &link).unwrap();
    let mut running = start();
    assert_eq!(running.line(), link.to_str().unwrap());
    stop(running);
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
