//! Deciding tags.

use stated_shared::limits::TAGS_PER_STATE_MAX;
use stated_shared::{Failure, FailureKind, Reply, StateName, Tag, Version};

use super::event::{Event, Tagged, What};
use super::{Context, Decision, Machine, Step, Verdict};

impl Machine {
    /// A tag is a remark on a version and no new content: no lock is in its way.
    pub(super) fn decide_tag(&self, cx: &Context<'_>, ask: &Tag) -> Result<Decision, Failure> {
        let Tag { state, tag, at, moves } = ask;
        let present = self.states.tagged(state, tag);
        let version = match at {
            Some(at) => {
                let (version, entry) = self
                    .states
                    .select(state, at)?
                    .ok_or_else(|| self.no_version(state, &format!("{at} of {state}")))?;
                if entry.kept().is_none() {
                    let why = if entry.content.is_none() { "is a removal, which" } else { "was pruned, so it" };
                    let message = format!("{state}@{version} {why} has no content to tag");
                    return Err(Failure::new(FailureKind::NotFound, message)
                        .hint(format!("list its versions with: statectl log '{state}'")));
                }
                if present == Some(version) {
                    let reply = Reply::Version(self.states.info(state, version, entry));
                    return Ok(Decision { steps: Vec::new(), verdict: Verdict::Reply(reply) });
                }
                version
            }
            None => present.ok_or_else(|| self.no_version(state, &format!("tag {tag} of {state}")))?,
        };
        match present {
            Some(present) if at.is_some() && !moves => return Err(taken(ask, present, version)),
            None if self.states.tag_count(state) >= TAGS_PER_STATE_MAX => {
                let message = format!("{state} has {TAGS_PER_STATE_MAX} tags, which is the limit");
                return Err(Failure::new(FailureKind::Conflict, message)
                    .hint(format!("take one away with: statectl tag --delete '{state}' TAG")));
            }
            _ => {}
        }
        let (state, tag) = (state.clone(), tag.clone());
        let tagged = Tagged { number: cx.number, state, tag, version, removed: at.is_none() };
        let event = Event { at: cx.time.wall, actor: cx.actor.clone(), what: What::Tagged(tagged) };
        Ok(Decision { steps: vec![Step::Record(Box::new(event))], verdict: Verdict::Recall })
    }

    fn no_version(&self, state: &StateName, what: &str) -> Failure {
        match self.states.newest(state) {
            Some(_) => Failure::new(FailureKind::NotFound, format!("no {what}"))
                .hint(format!("list its versions and tags with: statectl log '{state}'")),
            None => Failure::new(FailureKind::NotFound, format!("no state {state}"))
                .hint("list the states with: statectl ls"),
        }
    }
}

fn taken(ask: &Tag, present: Version, wanted: Version) -> Failure {
    let Tag { state, tag, .. } = ask;
    Failure::new(FailureKind::Conflict, format!("{tag} is version {present} of {state} already"))
        .hint(format!("move it with: statectl tag --force '{state}@{wanted}' {tag}"))
}
