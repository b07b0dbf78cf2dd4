//! Deciding tags.

use stated_shared::limits::TAGS_PER_STATE_MAX;
use stated_shared::{Failure, FailureKind, Reply, Selector, StateName, Tag, Version};

use super::event::{Event, Tagged, What};
use super::{Context, Decision, Machine, Step, Verdict, no_version};

impl Machine {
    /// A tag is a remark on a version and no new content: no lock is in its way.
    pub(super) fn decide_tag(&self, cx: &Context<'_>, ask: &Tag) -> Result<Decision, Failure> {
        let Tag { state, tag, at, moves } = ask;
        let present = self.states.tagged(state, tag);
        let version = match at {
            Some(at) => {
                let (version, entry) = self.states.select(state, at)?.ok_or_else(|| self.missing(state, at))?;
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
            None => present.ok_or_else(|| self.missing(state, &Selector::Tag(tag.clone())))?,
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

    fn missing(&self, state: &StateName, at: &Selector) -> Failure {
        let is_known = self.states.newest(state).is_some();
        no_version(state, if is_known { at } else { &Selector::Newest })
    }
}

fn taken(ask: &Tag, present: Version, wanted: Version) -> Failure {
    let Tag { state, tag, .. } = ask;
    Failure::new(FailureKind::Conflict, format!("{tag} is version {present} of {state} already"))
        .hint(format!("move it with: statectl tag --force '{state}@{wanted}' {tag}"))
}
