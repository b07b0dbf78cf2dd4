//! What of the data an answer tells of: the names that were asked for, as far as the asker may hear of them.

use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use stated_shared::{Failure, FailureKind, StateName, Verb};

use super::observed::Deed;
use super::service::Denied;
use crate::machine::Access;
use crate::machine::event::Actor;

/// Whether a name is wanted.
pub(super) type Matches = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// `*` stays in a part of the name, `**` crosses.
pub(super) fn matcher(glob: Option<String>) -> Result<Matches, Failure> {
    let Some(glob) = glob else { return Ok(Box::new(|_| true)) };
    let matcher: GlobMatcher = GlobBuilder::new(&glob)
        .literal_separator(true)
        .build()
        .map_err(|error| {
            Failure::new(FailureKind::Usage, format!("{glob:?} is no glob: {}", error.kind()))
                .hint("'*' matches within a part of a name, '**' across parts")
        })?
        .compile_matcher();
    Ok(Box::new(move |name| matcher.is_match(name)))
}

/// The names that match and that the asker may read, by the policy in force whenever a name is looked at.
pub(super) fn readable(glob: Option<String>, access: Arc<dyn Access>) -> Result<Matches, Failure> {
    let matches = matcher(glob)?;
    Ok(Box::new(move |name| matches(name) && access.may(Verb::Read, name)))
}

/// The entries that match and that the asker may audit; what is about no name is about the daemon.
pub(super) fn audited(
    glob: Option<String>,
    access: Arc<dyn Access>,
) -> Result<impl Fn(Option<&StateName>) -> bool + Send, Failure> {
    let has_glob = glob.is_some();
    let matches = matcher(glob)?;
    Ok(move |name: Option<&StateName>| match name.map(StateName::as_str) {
        Some(name) => matches(name) && access.may(Verb::Audit, name),
        None => !has_glob && access.may_everywhere(Verb::Audit),
    })
}

/// A refusal as the audit log has it.
pub(super) fn deeds(denied: Denied) -> Vec<Deed> {
    let Denied { actor, verb, names } = denied;
    let actor = Arc::new(Actor::from(actor));
    let outcome = FailureKind::Denied.as_str();
    let deed = |name| Deed { actor: Arc::clone(&actor), verb, name, version: None, outcome };
    match names.is_empty() {
        true => vec![deed(None)],
        false => names.into_iter().map(|name| deed(Some(name))).collect(),
    }
}
