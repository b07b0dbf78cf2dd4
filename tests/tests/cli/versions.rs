//! Versions: written, read, listed, compared, taken back, removed.

use std::os::unix::fs::PermissionsExt;

use stated_tests::{Commits, Host, Random, read};

/// A Terraform state with one output.
fn terraform(serial: u64, lineage: &str, output: &str) -> Vec<u8> {
    format!(
        r#"{{"version":4,"terraform_version":"1.11.4","serial":{serial},"lineage":"{lineage}","outputs":{{"o":{{"value":"{output}","type":"string"}}}},"resources":[]}}"#
    )
    .into_bytes()
}

#[test]
fn what_was_put_comes_back_byte_for_byte() {
    let host = Host::new();
    let mut random = Random::new();
    let contents = [
        Vec::new(),
        b"one line\n".to_vec(),
        vec![0, 0xff, b'\r', b'\n', 0],
        vec![b'x'; 1 << 20],
        random.bytes(300 << 10),
        random.bytes(5 << 20),
    ];
    for (index, content) in contents.iter().enumerate() {
        assert_eq!(host.put("example/bytes", content), format!("example/bytes@{}", index + 1));
        assert!(host.get("example/bytes") == *content, "content {index}");
    }
    for (index, content) in contents.iter().enumerate() {
        assert!(host.get(&format!("example/bytes@{}", index + 1)) == *content, "content {index} later");
    }
}

#[test]
fn content_comes_from_a_file_or_standard_input() {
    let host = Host::new();
    let file = host.file("content", b"of a file");
    assert_eq!(host.run(["put", "a", file.to_str().unwrap()]), "a@1");
    assert_eq!(host.get("a"), b"of a file");
    let dash = host.statectl(["put", "a", "-"]).stdin("of a pipe").run().ok();
    assert_eq!(dash.text(), "a@2");
    assert_eq!(host.get("a"), b"of a pipe");
    host.statectl(["put", "a", "no-such-file"]).run().code(1).says("no-such-file");
    assert_eq!(host.get("a"), b"of a pipe");
}

#[test]
fn identical_content_makes_no_new_version() {
    let host = Host::new();
    assert_eq!(host.put("a", b"same"), "a@1");
    assert_eq!(host.put("a", b"same"), "a@1");
    let told = host.statectl(["put", "a", "--json"]).stdin("same").run().ok().object();
    assert_eq!((&told["version"], &told["changed"]), (&1.into(), &false.into()));
    assert_eq!(host.put("a", b"other"), "a@2");
    assert_eq!(host.put("a", b"same"), "a@3", "only the newest version counts");
    assert_eq!(host.statectl(["log", "a", "--json"]).run().ok().objects().len(), 3);
}

#[test]
fn a_condition_on_the_version_holds_or_the_put_is_refused_with_who_was_there() {
    let host = Host::new();
    host.run(["put", "a", "--if-absent"]);
    let refused = host.statectl(["put", "a", "--if-absent"]).stdin("x").run().code(65);
    assert!(refused.stderr.contains("version 1") && refused.stderr.contains("(pid "), "{}", refused.stderr);
    assert_eq!(host.statectl(["put", "a", "--if-version", "1"]).stdin("x").run().ok().text(), "a@2");
    let refused = host.statectl(["put", "a", "--if-version", "1"]).stdin("y").run().code(65);
    assert!(refused.stderr.contains("version 2") && refused.stdout.is_empty(), "{}", refused.stderr);
    host.statectl(["put", "b", "--if-version", "1"]).stdin("y").run().code(65);
    host.statectl(["rm", "a", "--if-version", "1"]).run().code(65);
    assert_eq!(host.get("a"), b"x");
    host.statectl(["put", "a", "--if-version", "1", "--if-absent"]).run().code(2);
}

#[test]
fn a_version_that_is_not_there_is_66() {
    let host = Host::new();
    host.put("a", b"x");
    for args in [&["get", "b"][..], &["get", "a@2"], &["show", "b"], &["show", "a@7"], &["rollback", "a", "9"]] {
        let missing = host.statectl(args).run().code(66);
        assert!(missing.stdout.is_empty() && missing.stderr.contains("hint: "), "{args:?}: {}", missing.stderr);
    }
    host.statectl(["log", "b"]).run().code(66);
    host.statectl(["diff", "b"]).run().code(66);
    host.statectl(["rm", "b"]).run().code(66);
}

#[test]
fn ls_lists_what_exists_and_globs_know_slashes() {
    let host = Host::new();
    for name in ["a", "example/one", "example/two", "example/deep/three", "other/one"] {
        host.put(name, b"x");
    }
    host.run(["rm", "other/one"]);
    let names = |args: &[&str]| -> Vec<String> {
        let rows = host.statectl(["ls", "--json"].iter().chain(args)).run().ok().objects();
        rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["a", "example/deep/three", "example/one", "example/two"]);
    assert_eq!(names(&["example/*"]), ["example/one", "example/two"]);
    assert_eq!(names(&["example/**"]), ["example/deep/three", "example/one", "example/two"]);
    assert_eq!(names(&["**/one"]), ["example/one"]);
    assert_eq!(names(&["*"]), ["a"]);
    assert_eq!(names(&["nothing*"]), [""; 0]);
}

#[test]
fn log_goes_from_the_newest_to_the_oldest_over_many_pages() {
    let host = Host::new();
    let mut client = host.client_started();
    for number in 0..1100_u32 {
        client.put_one("many", number.to_string().as_bytes());
    }
    let rows = host.statectl(["log", "many", "--json"]).run().ok().objects();
    let versions: Vec<u64> = rows.iter().map(|row| row["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, (1..=1100).rev().collect::<Vec<_>>());
}

#[test]
fn a_removal_is_a_version_and_its_history_stays() {
    let host = Host::new();
    host.put("a", b"first");
    assert_eq!(host.run(["rm", "a", "-m", "gone"]), "a@2");
    host.statectl(["get", "a"]).run().code(66);
    host.statectl(["rm", "a"]).run().code(66);
    assert_eq!(host.run(["ls"]), "");
    let rows = host.statectl(["log", "a", "--json"]).run().ok().objects();
    assert_eq!(
        (&rows[0]["version"], &rows[0]["removed"], &rows[0]["message"]),
        (&2.into(), &true.into(), &"gone".into())
    );
    assert_eq!((&rows[0]["sha256"], &rows[0]["size"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!(host.get("a@1"), b"first");
    assert_eq!(host.statectl(["put", "a", "--if-absent"]).stdin("again").run().ok().text(), "a@3");
    assert_eq!(host.get("a"), b"again");
}

#[test]
fn a_rollback_is_a_new_version_with_the_old_content() {
    let host = Host::new();
    host.put("a", b"first");
    host.put("a", b"second");
    assert_eq!(host.run(["rollback", "a", "1"]), "a@3");
    assert_eq!(host.get("a"), b"first");
    host.run(["rm", "a"]);
    assert_eq!(host.run(["rollback", "a", "2", "-m", "back"]), "a@5");
    assert_eq!(host.get("a"), b"second");
    host.statectl(["rollback", "a", "4"]).run().code(66).says("removal");
}

#[test]
fn a_terraform_states_serial_goes_up_also_when_it_goes_back() {
    let host = Host::new();
    host.put("tf", &terraform(1, "l", "one"));
    host.put("tf", &terraform(2, "l", "two"));
    host.run(["rollback", "tf", "1"]);
    assert_eq!(String::from_utf8(host.get("tf")), String::from_utf8(terraform(3, "l", "one")));
    host.run(["rollback", "tf", "1", "--exact"]);
    assert_eq!(host.get("tf"), terraform(1, "l", "one"));
}

#[test]
fn an_older_serial_and_a_foreign_lineage_are_refused_unless_forced() {
    let host = Host::new();
    host.put("tf", &terraform(5, "mine", "a"));
    let put = |content: Vec<u8>, more: &[&str]| host.statectl(["put", "tf"].iter().chain(more)).stdin(content).run();
    put(terraform(4, "mine", "b"), &[]).code(65).says("serial");
    put(terraform(6, "yours", "b"), &[]).code(65).says("lineage");
    assert_eq!(host.get("tf"), terraform(5, "mine", "a"));
    put(terraform(6, "mine", "b"), &[]).ok();
    put(terraform(1, "yours", "c"), &["--force"]).ok();
    let rows = host.statectl(["log", "tf", "--json"]).run().ok().objects();
    let forced: Vec<_> = rows.iter().map(|row| row["forced"].as_bool().unwrap()).collect();
    assert_eq!(forced, [true, false, false]);
    assert_eq!((&rows[0]["serial"], &rows[0]["lineage"]), (&1.into(), &"yours".into()));
}

#[test]
fn diff_tells_by_its_exit_code_only_where_asked() {
    let host = Host::new();
    host.put("a", b"one\ntwo\n");
    host.put("a", b"one\nthree\n");
    let diff = host.statectl(["diff", "a"]).run().ok().text();
    assert!(diff.contains("-two") && diff.contains("+three"), "{diff}");
    host.statectl(["diff", "a", "--exit-code"]).run().code(1);
    host.statectl(["diff", "a", "2", "2", "--exit-code"]).run().ok();
    let since_the_first = host.statectl(["diff", "a", "1"]).run().ok().text();
    assert_eq!(since_the_first, diff);
}

#[test]
fn diff_hides_sensitive_values_until_they_are_asked_for() {
    let host = Host::new();
    let state = |secret: &str| {
        terraform(1, "l", secret)
            .iter()
            .map(|byte| *byte as char)
            .collect::<String>()
            .replace(r#""type":"string""#, r#""type":"string","sensitive":true"#)
    };
    host.put("tf", state("hunter2").as_bytes());
    host.put("tf", state("correct-horse").replace(r#""serial":1"#, r#""serial":2"#).as_bytes());
    let hidden = host.run(["diff", "tf"]);
    assert!(hidden.contains("sensitive") && !hidden.contains("hunter2") && !hidden.contains("horse"), "{hidden}");
    let json = host.run(["diff", "tf", "--json"]);
    assert!(!json.is_empty() && !json.contains("hunter2") && !json.contains("horse"), "{json}");
    let shown = host.run(["diff", "tf", "--show-sensitive"]);
    assert!(shown.contains("hunter2") && shown.contains("correct-horse"), "{shown}");
}

#[test]
fn get_into_a_file_replaces_it_whole_or_not_at_all() {
    let host = Host::new();
    host.put("a", b"new");
    let file = host.file("target", b"old");
    host.chmod(&file, 0o644);
    let path = file.to_str().unwrap();
    host.statectl(["get", "nothing", "-o", path]).run().code(66);
    assert_eq!(read(&file), b"old");
    assert_eq!(host.run(["get", "a", "-o", path]), "");
    assert_eq!(read(&file), b"new");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    host.statectl(["get", "a", "-o", "no/such/directory"]).run().code(1);
    let link = host.path("w/link");
    std::os::unix::fs::symlink("elsewhere", &link).unwrap();
    host.run(["get", "a", "-o", link.to_str().unwrap()]);
    assert!(link.is_symlink() && host.path("w/elsewhere").is_file());
}
