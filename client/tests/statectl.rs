//! The command line against a scripted server: arguments, output, exit codes.
#![cfg(feature = "cli")]

mod fake;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use fake::{Fake, Peer, grant, name, version};
use stated_shared::{
    AuditEntry, AuditPage, Bytes, Commit, Committed, CommittedState, Content, Damage, Digest, Epoch, Expect, Failure,
    FailureKind, Fence, Fetched, LockId, LockInfo, LockKind, LockPage, Part, Reply, Request, Seq, SerialRule,
    Timestamp, Verified, Version, VersionInfo, VersionPage,
};

fn statectl(fake: &Fake, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statectl"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("STATED_SOCKET", fake.socket());
    command.arg("--no-autostart").stdin(Stdio::null());
    command
}

/// Runs a verb against a server that answers each request with what `answer` makes of it.
fn ask(
    arguments: &[&str],
    mut answer: impl FnMut(Request) -> Result<Reply, Failure> + Send + 'static,
) -> (i32, String, String) {
    let fake = Fake::run(move |listener| {
        let mut peer = Peer::accept(listener);
        while let Some(frame) = peer.frame() {
            let stated_shared::wire::ClientFrame::Request { number, request } = frame else { continue };
            let result = answer(*request);
            let content = match &result {
                Ok(Reply::Fetched(fetched)) => fetched.version.message.clone(),
                _ => None,
            };
            peer.reply(number, result);
            // A fetched version of these tests has its content as its message.
            if let Some(content) = content {
                let data = Bytes(content.into_bytes());
                peer.send(&stated_shared::wire::ServerFrame::Chunk { number, data });
            }
        }
    });
    let output = statectl(&fake, arguments).output().unwrap();
    let result = told(&output);
    fake.finish();
    result
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn committed(state: &str, number: u64) -> Reply {
    let states = vec![CommittedState { state: name(state), version: Version(number), changed: true }];
    Reply::Committed(Committed { seq: Some(Seq(9)), states, head: None })
}

fn fetched(state: &str, number: u64, content: &str, serial: Option<u64>) -> Reply {
    let mut info = version(state, number, content.as_bytes());
    info.message = Some(content.to_owned());
    info.content.as_mut().unwrap().serial = serial;
    Reply::Fetched(Fetched { version: info })
}

fn versions(versions: Vec<VersionInfo>, more: bool) -> Reply {
    Reply::Versions(VersionPage { versions, more })
}

fn lock_info() -> LockInfo {
    LockInfo {
        name: name("prod"),
        kind: LockKind::Semaphore { slots: 3 },
        id: LockId::parse("the-id").unwrap(),
        fence: Fence { epoch: Epoch(5), n: 7 },
        holder: fake::actor(),
        since: Timestamp(1_000),
        operation: "apply".into(),
        reason: Some("deploy".into()),
        info: None,
        under: None,
        process: Some(77),
        expires: Some(Timestamp(2_000)),
        waiters: 2,
    }
}

#[test]
fn put_commits_standard_input_and_prints_the_version() {
    let fake = Fake::run(|listener| {
        let mut peer = Peer::accept(listener);
        let (number, request) = peer.request();
        let Request::Commit(Commit { changes, locks, message, serials, .. }) = request else { panic!("{request:?}") };
        assert_eq!(changes[0].state, name("a/b"));
        assert_eq!(changes[0].expect, Expect::Version(Version(2)));
        assert_eq!(changes[0].content, Content::Inline(Bytes(b"content".to_vec())));
        assert_eq!(locks, [LockId::parse("inherited").unwrap()]);
        assert_eq!((message.as_deref(), serials), (Some("why"), SerialRule::Mark));
        peer.reply(number, Ok(committed("a/b", 3)));
    });
    let mut child = statectl(&fake, &["put", "a/b", "-", "--if-version", "2", "--force", "-m", "why"])
        .env("STATED_LOCK_ID", "inherited")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"content").unwrap();
    assert_eq!(told(&child.wait_with_output().unwrap()), (0, "a/b@3\n".into(), String::new()));
    fake.finish();
}

#[test]
fn a_failure_is_told_with_its_hint_and_in_json_as_the_last_line() {
    let refuse = |_| Err(Failure::new(FailureKind::Conflict, "a is at version 4").hint("statectl log a"));
    let (code, out, err) = ask(&["rm", "a"], refuse);
    assert_eq!((code, out.as_str()), (65, ""));
    assert_eq!(err, "statectl: a is at version 4\nhint: statectl log a\n");
    let (code, _, err) = ask(&["rm", "a", "--json"], refuse);
    assert_eq!(code, 65);
    assert_eq!(
        err.lines().last().unwrap(),
        r#"{"error":{"code":65,"kind":"conflict","message":"a is at version 4","hint":"statectl log a"}}"#
    );
}

#[test]
fn a_usage_error_exits_2_without_a_connection() {
    let fake = Fake::run(|_| {});
    for arguments in [&["put", "a@1"][..], &["get", "../x"], &["nonsense"], &["lock", "a"], &["log"]] {
        let (code, out, err) = told(&statectl(&fake, arguments).output().unwrap());
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
    }
    let (_, _, err) = told(&statectl(&fake, &["put", "a@1", "--json"]).output().unwrap());
    assert!(
        err.lines().last().unwrap().starts_with(r#"{"error":{"code":2,"kind":"usage","message":"invalid value"#),
        "{err}"
    );
    fake.finish();
}

#[test]
fn lists_are_read_page_by_page() {
    let answer = |request: Request| match request {
        Request::List { glob, after: None } => {
            assert_eq!(glob.as_deref(), Some("**"));
            Ok(versions(vec![version("a", 1, b"x")], true))
        }
        Request::List { after: Some(after), .. } => {
            assert_eq!(after, name("a"));
            Ok(versions(vec![version("b", 2, b"yy")], false))
        }
        other => panic!("{other:?}"),
    };
    let (code, out, _) = ask(&["ls", "**"], answer);
    let rows: Vec<&str> = out.lines().collect();
    assert_eq!((code, rows.len()), (0, 3), "{out}");
    assert!(rows[0].starts_with("STATE") && rows[2].starts_with("b "), "{out}");
    let (_, out, _) = ask(&["--json", "ls", "**"], answer);
    assert_eq!(
        out.lines().next().unwrap(),
        format!(
            concat!(
                r#"{{"state":"a","version":1,"sha256":"{}","size":1,"time":"2025-11-24T16:00:00.000Z","actor":{{"#,
                r#""uid":1000,"gid":1000,"pid":42,"comm":"sh","exe":null,"host":"build-7","user":"alice","#,
                r#""session":"{}"}},"message":"why","tags":[],"serial":null,"lineage":null,"labels":{{}},"forced":false,"removed":false,"pruned":false}}"#
            ),
            "ab".repeat(32),
            "01".repeat(16)
        )
    );
}

#[test]
fn an_empty_list_prints_nothing() {
    for arguments in [&["ls"][..], &["ls", "--json"]] {
        assert_eq!(ask(arguments, |_| Ok(versions(Vec::new(), false))), (0, String::new(), String::new()));
    }
}

#[test]
fn get_prints_the_bytes_or_replaces_a_file() {
    let (code, out, _) = ask(&["get", "a@3"], |_| Ok(fetched("a", 3, "content", None)));
    assert_eq!((code, out.as_str()), (0, "content"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let (code, out, _) = ask(&["get", "a", "-o", path.to_str().unwrap()], |_| Ok(fetched("a", 3, "content", None)));
    assert_eq!((code, out.as_str()), (0, ""));
    assert_eq!(std::fs::read(path).unwrap(), b"content");
}

/// Version 5 is current with serial 9, version 2 is the target with serial 3.
fn rollback(arguments: &[&str]) -> Commit {
    let (sender, commits) = std::sync::mpsc::channel();
    let (code, out, err) = ask(arguments, move |request| match request {
        Request::Log { .. } => {
            let mut newest = version("a", 5, b"");
            newest.content.as_mut().unwrap().serial = Some(9);
            Ok(versions(vec![newest], false))
        }
        Request::Get { .. } => Ok(fetched("a", 2, r#"{"version":4, "serial": 3, "x": 1}"#, Some(3))),
        Request::Commit(commit) => {
            sender.send(commit).unwrap();
            Ok(committed("a", 6))
        }
        other => panic!("{other:?}"),
    });
    assert_eq!((code, out.as_str()), (0, "a@6\n"), "{err}");
    commits.recv().unwrap()
}

#[test]
fn a_rollback_gives_a_terraform_state_the_next_serial() {
    let commit = rollback(&["rollback", "a", "2"]);
    assert_eq!(commit.changes[0].expect, Expect::Version(Version(5)));
    assert_eq!(commit.message.as_deref(), Some("rollback to 2"));
    assert_eq!(commit.changes[0].content, Content::Inline(Bytes(br#"{"version":4, "serial": 10, "x": 1}"#.to_vec())));
    let commit = rollback(&["rollback", "a", "2", "--exact"]);
    assert_eq!(commit.changes[0].content, Content::Inline(Bytes(br#"{"version":4, "serial": 3, "x": 1}"#.to_vec())));
}

#[test]
fn diff_compares_the_newest_with_the_one_before() {
    let answer = |request: Request| match request {
        Request::Show { at: stated_shared::Selector::Newest, .. } => Ok(Reply::Version(version("a", 2, b"x"))),
        Request::Show { at: stated_shared::Selector::Version(number), .. } => {
            Ok(Reply::Version(version("a", number.0, b"x")))
        }
        Request::Get { at: stated_shared::Selector::Version(Version(number)), .. } => {
            Ok(fetched("a", number, &format!("line {number}\n"), None))
        }
        other => panic!("{other:?}"),
    };
    let (code, out, _) = ask(&["diff", "a", "--exit-code"], answer);
    assert_eq!((code, out.as_str()), (1, "@@ -1 +1 @@\n-line 1\n+line 2\n"));
    let (code, out, _) = ask(&["diff", "a", "2", "2", "--exit-code"], answer);
    assert_eq!((code, out.as_str()), (0, ""));
}

#[test]
fn locks_have_their_fields() {
    let answer = |_| Ok(Reply::Locks(LockPage { locks: vec![lock_info()], more: false }));
    let (code, out, _) = ask(&["locks", "--json"], answer);
    assert_eq!(code, 0);
    assert!(
        out.starts_with(r#"{"name":"prod","kind":"semaphore:3","id":"the-id","fence":"5.7","holder":{"uid":1000"#),
        "{out}"
    );
    assert!(
        out.ends_with(
            r#""since":"1970-01-01T00:00:01.000Z","operation":"apply","reason":"deploy","waiters":2,"expires":"1970-01-01T00:00:02.000Z","under":null,"process":77}
"#
        ),
        "{out}"
    );
    let (_, out, _) = ask(&["locks"], answer);
    // The process that it is tied to, rather than the one that asked.
    assert!(out.contains("alice@build-7 (pid 77)") && out.contains("apply: deploy"), "{out}");
}

#[test]
fn break_prints_what_was_broken() {
    let (code, out, _) = ask(&["break", "prod", "the-id"], |request| {
        assert_eq!(request, Request::Break { name: name("prod"), id: Some(LockId::parse("the-id").unwrap()) });
        Ok(Reply::Broken(vec![lock_info()]))
    });
    assert!(code == 0 && out.contains("the-id"), "{out}");
}

#[test]
fn a_lease_prints_its_id() {
    let (code, out, _) = ask(&["lock", "--ttl", "1h", "-m", "review", "prod"], |request| {
        let Request::Lock(lock) = request else { panic!("{request:?}") };
        assert_eq!((lock.ttl_ms, lock.reason.as_deref()), (Some(3_600_000), Some("review")));
        Ok(Reply::Granted(grant(LockId::parse("the-lease").unwrap())))
    });
    assert_eq!((code, out.as_str()), (0, "the-lease\n"));
}

#[test]
fn audit_follows_its_pages() {
    let entry = |seq: u64| AuditEntry {
        seq: Seq(seq),
        index: 0,
        time: Timestamp(1_000),
        actor: fake::actor(),
        verb: "commit".into(),
        name: Some(name("a")),
        version: Some(Version(1)),
        outcome: "ok".into(),
        count: 1,
        note: None,
    };
    let (code, out, err) = ask(&["audit", "--json", "--user", "0", "--name", "a"], move |request| match request {
        Request::Audit { filter, after } => {
            assert_eq!((filter.uid, filter.glob.as_deref()), (Some(0), Some("a")));
            let next = if after.is_none() { Some((Seq(1), 0)) } else { None };
            Ok(Reply::Audit(AuditPage {
                entries: vec![entry(after.map_or(1, |(seq, _)| seq.0 + 1))],
                next,
                upto: Seq(9),
            }))
        }
        other => panic!("{other:?}"),
    });
    assert_eq!((code, out.lines().count()), (0, 2), "{err}");
    assert!(
        out.ends_with(
            r#""verb":"commit","name":"a","version":1,"outcome":"ok","count":1,"note":null}
"#
        ),
        "{out}"
    );
}

#[test]
fn damage_is_listed_and_fails() {
    let (code, out, err) = ask(&["verify", "--read-data"], |request| {
        assert_eq!(request, Request::Verify { read_data: Some(Part::ALL) });
        let damage = vec![Damage { file: "log/1.log".into(), offset_bytes: 7, what: "bad MAC".into() }];
        Ok(Reply::Verified(Verified { records: 3, payloads: 2, seq: Seq(3), head: Digest::ZERO, damage }))
    });
    assert_eq!(code, 74);
    assert!(out.starts_with("log/1.log at byte 7: bad MAC\n"), "{out}");
    assert!(err.contains("1 place does not verify"), "{err}");
}

#[test]
fn status_says_that_no_daemon_runs() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_statectl"))
        .args(["status", "--json", "--socket"])
        .arg(directory.path().join("none"))
        .output()
        .unwrap();
    let (code, out, err) = told(&output);
    assert_eq!((code, out.as_str()), (69, ""));
    assert!(err.contains("no daemon runs at") && err.contains("hint: start it: stated run"), "{err}");
    assert!(!directory.path().join("stated.log").exists());
}
