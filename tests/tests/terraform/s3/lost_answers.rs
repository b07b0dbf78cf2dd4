//! Requests and answers that get lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::project::{Project, S3_BACKEND, host, serials};
use crate::proxy::{Fate, Moment, start_before};

/// Leads Terraform through this proxy, and tells the proxy where the gateway is.
const THROUGH_PROXY: &str = r#"
printf '%s' "${AWS_ENDPOINT_URL#http://}" >"$GATEWAY"
AWS_ENDPOINT_URL=http://$PROXY exec terraform "$@"
"#;

/// What an apply of a change asks, and may lose.
const ASKED: [&str; 6] = ["PutItem", "HEAD", "GET", "PUT", "GetItem", "DeleteItem"];

/// Loses each kind of request once in each apply, at this moment.
fn losing(moment: Moment) {
    let Some(host) = host() else { return };
    let project = Project::s3(&host, "d", S3_BACKEND);
    let gateway = project.dir().join("gateway");
    let lost = Arc::new(Mutex::new(BTreeMap::new()));
    let proxy = start_before(&gateway, {
        let lost = Arc::clone(&lost);
        Box::new(move |asked, at| {
            let mut lost = lost.lock().unwrap();
            let times = lost.entry(asked.to_owned()).or_insert(0);
            if at != moment || *times == 1 {
                return Fate::Pass;
            }
            *times += 1;
            Fate::Cut
        })
    });
    for (round, word) in ["one", "two"].into_iter().enumerate() {
        let word_is = format!("-var=word={word}");
        let call = project.exec(&["sh", "-c", THROUGH_PROXY, "sh", "apply", "-auto-approve", &word_is]);
        call.env("PROXY", proxy.to_string()).env("GATEWAY", &gateway).run().ok();
        let lost = std::mem::take(&mut *lost.lock().unwrap());
        // The first apply has nothing to read.
        let asked = ASKED.iter().filter(|asked| round > 0 || **asked != "GET");
        assert!(asked.clone().all(|asked| lost.get(*asked) == Some(&1)), "{lost:?}");
        assert_eq!(project.word(), word);
        assert_eq!(project.log().len(), round + 1, "one apply, one version");
        project.is_settled();
    }
    assert_eq!(serials(&project.log()), [1, 2]);
    let breaks = host.statectl(["audit", "--verb", "break", "--json"]).run().ok();
    assert_eq!(breaks.text(), "", "nothing had to be broken");
}

#[test]
fn a_request_that_is_lost_before_the_server_does_no_harm() {
    losing(Moment::Arrived);
}

#[test]
fn an_answer_that_is_lost_does_no_harm() {
    losing(Moment::Answered);
}
