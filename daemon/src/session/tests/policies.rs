//! What of a connection's requests gets past the policy in force.

use stated_shared::{AuditFilter, Lock, LockId, Prune, Tag, TagName, Verb};

use super::*;
use crate::policy::{Directory, Mode, Policy};

struct Nobody;

impl Directory for Nobody {
    fn uid(&self, _: &str) -> Option<u32> {
        None
    }
    fn gid(&self, _: &str) -> Option<u32> {
        None
    }
}

fn policy(text: &str, mode: Mode) -> Policy {
    Policy::parse(text, mode, &Nobody).unwrap()
}

/// Whoever runs the test, root or not, is no rule's business and owns nothing.
pub(super) fn about_nobody_here() -> Policies {
    Policies::new(Policy::without_rules(Mode::Closed), String::new(), None)
}

/// A policy of one rule, which gives whoever runs the test these verbs on these names and nothing else.
fn only(verbs: &[Verb], names: &str) -> Policy {
    let verbs: Vec<_> = verbs.iter().map(|verb| verb.as_str()).collect();
    policy(&format!("[[rule]]\nuser = \"*\"\nnames = {names:?}\nverbs = {verbs:?}\n"), Mode::Closed)
}

fn state(name: &str) -> StateName {
    StateName::parse(name).unwrap()
}

/// Every request about the name `a`, what it needs, and whether its answer is cut down to what may be told.
fn requests() -> Vec<(Request, &'static [Verb], bool)> {
    let (a, at, id) = (state("a"), Selector::Newest, LockId::parse("x").unwrap());
    let commit = Request::Commit(Commit::put(a.clone(), b"x".to_vec()));
    let tag = Tag { state: a.clone(), tag: TagName::parse("t").unwrap(), at: Some(Selector::Newest), moves: false };
    vec![
        (commit, &[Verb::Read, Verb::Write], false),
        (Request::Tag(tag), &[Verb::Read, Verb::Write], false),
        (Request::Show { state: a.clone(), at: at.clone() }, &[Verb::Read], false),
        (Request::Log { state: a.clone(), before: None }, &[Verb::Read], false),
        (Request::Get { state: a.clone(), at }, &[Verb::Read], false),
        (Request::Lock(Lock::exclusive([a.clone()], "test")), &[Verb::Read, Verb::Lock], false),
        (Request::Audit { filter: AuditFilter::default(), after: None }, &[Verb::Audit], true),
        (Request::Prune(Prune { keep_last: Some(1), ..Prune::default() }), &[Verb::Admin], true),
        (Request::List { glob: None, after: None }, &[], true),
        (Request::Locks { glob: None, after: None }, &[], true),
        (Request::Status, &[], true),
        (Request::Unlock { id: id.clone() }, &[], true),
        (Request::Renew { id, ttl_ms: None }, &[], true),
        (Request::Break { name: a, id: None }, &[], true),
    ]
}

/// Whether a request gets to the engine, and if not, what was noted.
async fn asks(server: &mut Server, client: &mut Client, number: u64, request: Request) -> Result<(), Denied> {
    let is_get = matches!(request, Request::Get { .. });
    client.request(number, request).await;
    let reply = match client.frame().await {
        Some(ServerFrame::Reply { result, .. }) => Some(*result),
        _ => None,
    };
    if let Some(Err(failure)) = &reply
        && failure.kind == FailureKind::Denied
    {
        match server.events.recv().await {
            Some(Event::Refused(of, denied)) => {
                assert_eq!(of, number);
                return Err(denied);
            }
            other => panic!("{other:?}"),
        }
    }
    if !is_get {
        assert_eq!(server.submission().await.number, number);
    }
    Ok(())
}

#[tokio::test]
async fn each_request_needs_its_verbs_and_nothing_else() {
    for given in Verb::ALL.map(|verb| vec![verb]).into_iter().chain([vec![Verb::Read, Verb::Write, Verb::Lock]]) {
        let policies = Arc::new(Policies::new(only(&given, "a"), String::new(), None));
        let mut server = Server::start_with(Rules::of(policies), 1 << 20);
        let mut client = server.client().await;
        for (number, (request, needed, _)) in (1..).zip(requests()) {
            let what = format!("{request:?} by {given:?}");
            let asked = asks(&mut server, &mut client, number, request).await;
            assert_eq!(asked.is_ok(), needed.iter().all(|verb| given.contains(verb)), "{what}");
        }
        // Verify is never answered by this engine, so what is refused is all that can be seen.
        client.request(99, VERIFY).await;
        assert_eq!(client.refusal().await, (99, FailureKind::Denied), "on one name only");
    }
}

#[tokio::test]
async fn a_rule_about_one_name_is_about_no_other() {
    let policies = Arc::new(Policies::new(only(&Verb::ALL, "b/**"), String::new(), None));
    let mut server = Server::start_with(Rules::of(policies), 1 << 20);
    let mut client = server.client().await;
    for (number, (request, needed, at_large)) in (1..).zip(requests()) {
        let what = format!("{request:?}");
        let asked = asks(&mut server, &mut client, number, request).await;
        assert_eq!(asked.is_ok(), at_large || needed.is_empty(), "{what}");
        if let Err(denied) = asked {
            assert_eq!(denied.names, [state("a")], "{what}");
        }
    }
}

#[tokio::test]
async fn a_commit_needs_the_verb_on_each_of_its_names_before_its_content_is_read() {
    let policies = Arc::new(Policies::new(only(&[Verb::Read, Verb::Write], "0"), String::new(), None));
    let mut server = Server::start_with(Rules::of(policies), 1 << 20);
    let mut client = server.client().await;
    client.request(1, commit(vec![Content::Removed, Content::Streamed { size_bytes: 3 }])).await;
    let (number, result) = client.reply().await;
    let failure = result.unwrap_err();
    assert_eq!((number, failure.kind), (1, FailureKind::Denied));
    assert!(failure.message.contains("may not write 1"), "{failure}");
    client.chunk(1, b"abc").await;
    let Some(Event::Refused(1, denied)) = server.events.recv().await else { panic!("not noted") };
    assert_eq!((denied.verb, denied.names), ("commit", vec![state("1")]));
    // What followed the refused request was read over.
    client.request(2, commit(vec![Content::Removed])).await;
    assert_eq!(client.reply().await, (2, Ok(Reply::Done)));
}

#[tokio::test]
async fn a_new_policy_counts_from_the_next_request_on() {
    let policies = Arc::new(Policies::new(only(&[Verb::Read], "a"), String::new(), None));
    let mut server = Server::start_with(Rules::of(Arc::clone(&policies)), 1 << 20);
    let mut client = server.client().await;
    assert!(asks(&mut server, &mut client, 1, show()).await.is_ok());
    policies.replace(only(&[Verb::Read], "b"), None);
    assert!(asks(&mut server, &mut client, 2, show()).await.is_err());
    assert!(asks(&mut server, &mut client, 3, Request::Status).await.is_ok());
    // One's own locks can be ended also by whom no rule is about any more.
    policies.replace(Policy::without_rules(Mode::Closed), None);
    assert!(asks(&mut server, &mut client, 4, Request::Status).await.is_err());
    let id = LockId::parse("x").unwrap();
    assert!(asks(&mut server, &mut client, 5, Request::Unlock { id }).await.is_ok());
    policies.replace(only(&[Verb::Read], "**"), None);
    assert!(asks(&mut server, &mut client, 6, show()).await.is_ok());
}

#[tokio::test]
async fn what_a_broken_file_quotes_is_for_whoever_administers() {
    for (verb, told) in [(Verb::Read, "the file is broken"), (Verb::Admin, "/p:3: secret/name")] {
        let policies = Arc::new(Policies::new(only(&[verb], "**"), "/p".to_owned(), None));
        policies.keep("/p:3: secret/name".to_owned());
        let mut server = Server::start_with(Rules::of(policies), 1 << 20);
        let mut client = server.client().await;
        client.assert_alive(1).await;
        let error = server.submission().await.access.policy().error.unwrap();
        assert!(error.starts_with(told), "{error}");
    }
}
