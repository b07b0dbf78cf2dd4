//! Whoever is at the other end, before the policy.

use std::sync::{Arc, Mutex, PoisonError};

use stated_shared::{AccessCheck, Failure, FailureKind, PolicyInfo, Reply, Request, StateName, Verb};

use crate::engine::Access;
use crate::host::{Account, Peer, Users};
use crate::policy::{Need, Policies, Subject, View, need};

/// The user of a connection, and what of the policy in force is about them.
#[derive(Debug)]
pub(super) struct Asker {
    policies: Arc<Policies>,
    view: Mutex<Arc<View>>,
}

/// Why a request is refused, and the names that it is about.
#[derive(Debug)]
pub(super) struct Refusal {
    pub failure: Failure,
    pub names: Vec<StateName>,
}

impl Asker {
    pub fn new(policies: &Arc<Policies>, peer: &Peer) -> Self {
        let gids = peer.groups.iter().copied().chain([peer.gid]).collect();
        let view = policies.current().view(Subject::new(peer.uid, gids));
        Self { policies: Arc::clone(policies), view: Mutex::new(Arc::new(view)) }
    }

    /// What the policy in force at this moment has about them.
    pub fn view(&self) -> Arc<View> {
        let policy = self.policies.current();
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if !view.is_of(&policy) {
            *view = Arc::new(policy.view(view.subject().clone()));
        }
        Arc::clone(&view)
    }

    /// Whether they may ask this.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let view = self.view();
        let at_large = |failure| Err(Refusal { failure, names: Vec::new() });
        match need(request) {
            Need::Own => Ok(()),
            _ if !view.may_connect() => at_large(view.stranger()),
            Need::Known => Ok(()),
            Need::On(verb, names) => {
                let lacking: Vec<_> = names.into_iter().filter(|name| !view.may(verb, name.as_str())).collect();
                match lacking.first() {
                    None => Ok(()),
                    Some(first) => {
                        let failure = view.denial(verb, first.as_str());
                        Err(Refusal { failure, names: lacking.into_iter().cloned().collect() })
                    }
                }
            }
            Need::Somewhere(verb) if !view.may_somewhere(verb) => at_large(view.denial_at_large(verb, false)),
            Need::Everywhere(verb) if !view.may_everywhere(verb) => at_large(view.denial_at_large(verb, true)),
            Need::Somewhere(_) | Need::Everywhere(_) => Ok(()),
        }
    }
}

/// What the policy in force decides of somebody. Of others than oneself it takes `admin` on the name to ask.
pub(super) async fn explain(asker: &Asker, check: AccessCheck) -> Result<Reply, Refusal> {
    let AccessCheck { user, verb, state } = check;
    let meant = user.clone();
    let account = tokio::task::spawn_blocking(move || Users::account(&meant)).await.ok().flatten();
    // Looked at after the user database, which may have taken its time.
    let view = asker.view();
    let own = view.subject().uid();
    let refused = |failure| Err(Refusal { failure, names: vec![state.clone()] });
    match account {
        // One's own groups are the connection's: these decide.
        Some(account) if account.uid == own => Ok(Reply::Access(view.explain(verb, &state, account.name))),
        // Also of users that there are not: who there are is not for everybody.
        _ if !view.may(Verb::Admin, state.as_str()) => refused(view.denial(Verb::Admin, state.as_str())),
        Some(Account { uid, name, gids }) => {
            let theirs = asker.policies.current().view(Subject::new(uid, gids));
            Ok(Reply::Access(theirs.explain(verb, &state, name)))
        }
        None => {
            let message = format!("this host knows no user {user:?}");
            refused(Failure::new(FailureKind::NotFound, message).hint("give a user's name or number"))
        }
    }
}

impl Access for Asker {
    fn may(&self, verb: Verb, name: &str) -> bool {
        self.view().may(verb, name)
    }

    fn may_everywhere(&self, verb: Verb) -> bool {
        self.view().may_everywhere(verb)
    }

    fn denial(&self, verb: Verb, name: &str) -> Failure {
        self.view().denial(verb, name)
    }

    fn policy(&self) -> PolicyInfo {
        let mut told = self.policies.told();
        // Both quote the file, which may name what they must not read.
        if !self.may_everywhere(Verb::Admin) {
            told.unknown.clear();
            told.error = told.error.map(|_| "the file is broken; the rules of before are in force".to_owned());
        }
        told
    }
}
