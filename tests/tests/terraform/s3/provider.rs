//! A configuration that uses the aws provider: the backend is led here, and nothing else.

use std::net::TcpListener;
use std::thread;

use super::PROVIDER;
use crate::project::{Project, S3_BACKEND, host, resources, told};

/// What a child of Terraform finds of these variables.
const CHILD: &str = r#"
resource "terraform_data" "child" {
  triggers_replace = var.word
  provisioner "local-exec" { command = "env | grep ^AWS_ | sort >child.env; true" }
}
"#;

fn project<'h>(host: &'h stated_tests::Host, name: &str) -> Project<'h> {
    let project = Project::bare_s3(host, name);
    project.write("main.tf", &format!("{S3_BACKEND}{}{CHILD}", resources()));
    project.write("aws.tofu", PROVIDER);
    project
}

#[test]
fn the_aws_provider_keeps_its_endpoint_and_its_keys() {
    let Some(host) = host() else { return };
    let project = project(&host, "d");
    let own = |call: stated_tests::Call| call.env("AWS_ACCESS_KEY_ID", "AKIAMINE").env("AWS_SECRET_ACCESS_KEY", "mine");
    let init = own(project.terraform(["init"])).run().ok();
    assert!(init.stderr.contains("s3 for the backend only"), "{}", init.stderr);
    own(project.apply("one")).run().ok();
    let child = std::fs::read_to_string(project.dir().join("child.env")).unwrap();
    assert_eq!(child, "AWS_ACCESS_KEY_ID=AKIAMINE\nAWS_SECRET_ACCESS_KEY=mine\n");
    // A new shell, without the user's keys and by another gateway.
    assert_eq!(project.word(), "one");
    project.apply("two").run().ok();
    assert_eq!(project.log().len(), 2);
    project.is_settled();

    // By itself it finds nothing, rather than something else.
    let alone = project.terraform_alone(["plan"]).run().code(1);
    assert!(told(&alone).contains("stated.invalid"), "{}", alone.stderr);
    // What was initialised so stays so, also once the provider is gone.
    project.write("aws.tofu", "");
    assert!(project.terraform(["plan", "-var=word=two"]).run().ok().stderr.contains("for the backend only"));
}

#[test]
fn a_directory_that_was_initialised_otherwise_is_told_what_is_due() {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    project.apply("one").run().ok();
    project.write("aws.tofu", PROVIDER);
    let stale = project.apply("two").run().code(1);
    assert!(stale.stderr.contains("once: statectl exec -- terraform init -reconfigure"), "{}", stale.stderr);
    let init = project.terraform(["init", "-reconfigure"]).run().ok();
    assert!(!init.stderr.contains("once:"), "{}", init.stderr);
    project.apply("two").run().ok();
    assert_eq!((project.word(), project.log().len()), ("two".to_owned(), 2), "it is the same state");
    project.is_settled();
}

#[test]
fn the_route_can_be_chosen() {
    let Some(host) = host() else { return };
    let project = project(&host, "d");
    let by_variables = ["--s3-route", "environment"];
    project.exec_with(&by_variables, &["terraform", "init"]).run().ok();
    project.exec_with(&by_variables, &["terraform", "apply", "-auto-approve", "-var=word=one"]).run().ok();
    let child = std::fs::read_to_string(project.dir().join("child.env")).unwrap();
    assert!(child.contains("AWS_ENDPOINT_URL=http://127.0.0.1:"), "{child}");
    assert_eq!(project.log().len(), 1);
    // Other protocols, other variables.
    let variables = |options: &[&str]| project.exec_with(options, &["sh", "-c", "env"]).run().ok().text();
    let (http, s3) =
        (variables(&["--protocol", "http"]), variables(&["--protocol", "s3", by_variables[0], by_variables[1]]));
    assert!(http.contains("TF_HTTP_ADDRESS=") && !http.contains("AWS_") && !http.contains("HTTP_PROXY="), "{http}");
    assert!(!s3.contains("TF_HTTP_") && s3.contains("AWS_ACCESS_KEY_ID="), "{s3}");
}

#[test]
fn other_plain_http_of_the_command_goes_where_it_is_meant_to() {
    let Some(host) = host() else { return };
    if !stated_tests::tool("curl") {
        return;
    }
    let project = project(&host, "d");
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let count = stream.read(&mut head).unwrap();
            let line = String::from_utf8_lossy(&head[..count]).lines().next().unwrap_or_default().to_owned();
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{line}", line.len());
        }
    });
    // curl heeds the lower-case name only.
    let script = r#"http_proxy=$HTTP_PROXY curl -sS --noproxy '' "http://$SERVER/a?b=c""#;
    let direct = project.exec(&["sh", "-c", script]).env("SERVER", address.to_string()).run().ok().text();
    assert_eq!(direct, "GET /a?b=c HTTP/1.1");
    // Through the user's own proxy it is a request of a proxy again.
    let call = project.exec(&["sh", "-c", script]).env("SERVER", "example.invalid");
    let through = call.env("HTTP_PROXY", format!("http://{address}")).run().ok().text();
    assert_eq!(through, "GET http://example.invalid/a?b=c HTTP/1.1");
}
