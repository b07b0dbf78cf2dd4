//! Clients of S3 that know nothing of states, through `statectl exec`, before a real daemon.

use std::fs;
use std::path::PathBuf;

use stated_tests::{Finished, Host, skip, tool};

/// A host, and a directory of files to keep.
struct Desk {
    host: Host,
    dir: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let host = Host::new();
        let dir = host.path("w/desk");
        fs::create_dir_all(dir.join("up/a")).unwrap();
        fs::write(dir.join("up/one"), "one\n").unwrap();
        fs::write(dir.join("up/a/two words"), "two\n").unwrap();
        Self { host, dir }
    }

    /// Runs a script of the shell that speaks S3 to the gateway.
    #[track_caller]
    fn run(&self, script: &str) -> Finished {
        let call = self.host.statectl(["exec", "--protocol", "s3", "--", "sh", "-eu", "-c", script]);
        call.env("AWS_EC2_METADATA_DISABLED", "true").current_dir(&self.dir).run().ok()
    }

    fn states(&self) -> Vec<String> {
        let rows = self.host.statectl(["ls", "--json"]).run().ok().objects();
        rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn the_aws_command_line_does_what_it_does_with_a_bucket() {
    if !tool("aws") {
        return;
    }
    let desk = Desk::new();
    let put = desk.run("aws s3 sync --only-show-errors up s3://bucket-1/x; aws s3 sync up s3://bucket-1/x; aws s3 ls");
    assert!(
        !put.text().contains("upload:") && put.text().contains("bucket-1"),
        "nothing is sent twice: {}",
        put.text()
    );
    assert_eq!(desk.states(), ["bucket-1/x/a/two words", "bucket-1/x/one"]);
    assert_eq!(desk.host.get("bucket-1/x/one"), b"one\n");

    desk.host.put("bucket-1/x/one", b"other\n");
    assert_eq!(desk.run("aws s3 cp s3://bucket-1/x/one -").text(), "other");
    let versions =
        "aws s3api list-object-versions --bucket bucket-1 --prefix x/one --query 'Versions[].VersionId' --output text";
    assert_eq!(desk.run(versions).text(), "2\t1");
    let first = "aws s3api get-object --bucket bucket-1 --key x/one --version-id 1 first >&2; cat first";
    assert_eq!(desk.run(first).text(), "one");
    desk.run("aws s3 rm --only-show-errors --recursive s3://bucket-1/x");
    assert_eq!(desk.states(), [] as [&str; 0]);
    assert_eq!(desk.host.statectl(["get", "bucket-1/x/one@1"]).run().ok().text(), "one", "its history stays");
}

#[test]
fn a_hundred_mebibytes_come_and_go_in_parts() {
    if !tool("aws") {
        return;
    }
    let desk = Desk::new();
    let script = "
head -c 104857600 /dev/urandom >large
aws s3 cp --only-show-errors large s3://bucket-1/large
aws s3 cp --only-show-errors s3://bucket-1/large back
cmp large back
rm large back";
    desk.run(script);
    assert_eq!(desk.host.statectl(["show", "bucket-1/large", "--json"]).run().ok().object()["size"], 104_857_600);
}

#[test]
fn rclone_does_what_it_does_with_a_bucket() {
    if !tool("rclone") {
        return;
    }
    let desk = Desk::new();
    let rclone = |script: &str| {
        let head =
            "export RCLONE_CONFIG=/dev/null; at=\":s3,provider=Other,env_auth,endpoint=\\\"$AWS_ENDPOINT_URL\\\":\";";
        desk.run(&format!("{head} {script}"))
    };
    rclone("rclone sync up \"$at\"bucket-1/x");
    assert_eq!(desk.states(), ["bucket-1/x/a/two words", "bucket-1/x/one"]);
    let again = rclone("rclone sync -v up \"$at\"bucket-1/x");
    assert!(again.stderr.contains("There was nothing to transfer"), "{}", again.stderr);
    fs::remove_file(desk.dir.join("up/one")).unwrap();
    rclone("rclone sync up \"$at\"bucket-1/x; rclone sync \"$at\"bucket-1/x down");
    assert_eq!(fs::read_to_string(desk.dir.join("down/a/two words")).unwrap(), "two\n");
    assert!(!desk.dir.join("down/one").exists());
    rclone("rclone delete \"$at\"bucket-1");
    assert_eq!(desk.states(), [] as [&str; 0]);
}

const RACE: &str = r#"
import threading, boto3
from botocore.exceptions import ClientError

winners, gate = [], threading.Barrier(24)

def create(n):
    client = boto3.session.Session().client("s3")
    gate.wait()
    try:
        client.put_object(Bucket="bucket-1", Key="race", Body=b"the same", IfNoneMatch="*")
        winners.append(n)
    except ClientError as error:
        assert error.response["Error"]["Code"] == "PreconditionFailed", error

threads = [threading.Thread(target=create, args=(n,)) for n in range(24)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(winners) == 1, winners

s3 = boto3.client("s3")
tag = s3.put_object(Bucket="bucket-1", Key="v", Body=b"1", ContentType="text/x", Metadata={"who": "me"})["ETag"]
s3.put_object(Bucket="bucket-1", Key="v", Body=b"2", IfMatch=tag)
old = s3.get_object(Bucket="bucket-1", Key="v", VersionId="1")
assert (old["Body"].read(), old["Metadata"], old["ContentType"]) == (b"1", {"who": "me"}, "text/x")
s3.delete_objects(Bucket="bucket-1", Delete={"Objects": [{"Key": "v"}, {"Key": "race"}]})
assert "Contents" not in s3.list_objects_v2(Bucket="bucket-1")
kinds = s3.list_object_versions(Bucket="bucket-1", Prefix="v")
assert [row["VersionId"] for row in kinds["DeleteMarkers"] + kinds["Versions"]] == ["3", "2", "1"], kinds
s3.copy_object(Bucket="bucket-1", Key="v", CopySource={"Bucket": "bucket-1", "Key": "v", "VersionId": "1"})
assert s3.get_object(Bucket="bucket-1", Key="v")["Body"].read() == b"1"
for ask in [lambda: s3.get_bucket_acl(Bucket="bucket-1"), lambda: s3.list_multipart_uploads(Bucket="bucket-1")]:
    try:
        ask()
        raise SystemExit("it was not refused")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NotImplemented", error
"#;

#[test]
fn of_twenty_four_racing_creates_one_wins() {
    if !tool("python3") {
        return;
    }
    let desk = Desk::new();
    let has_boto3 = desk.host.call("python3", ["-c", "import boto3"]).run().code == 0;
    if !has_boto3 {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "boto3 is not installed, and CI must not skip this test");
        return skip("boto3 is not installed");
    }
    fs::write(desk.dir.join("race.py"), RACE).unwrap();
    desk.run("python3 race.py");
}
