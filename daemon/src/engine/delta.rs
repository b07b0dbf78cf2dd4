//! Which earlier version a content is patched from, so that every chain of patches stays short.
//!
//! A step from a version to its base is *near* where they are fewer than [`RUN_LEN`] versions apart, else a *leap*. A
//! content is patched from the newest one before it until [`NEAR_STEPS_MAX`] near steps lie between that and the
//! nearest *head*, a content that is reached by leaps alone; then it is patched from that head. Each near step leads at
//! least one version back, so that head is [`RUN_LEN`] versions away, and the step to it is a leap. So version n is at
//! most 63 + (n - 1) / 64 steps from a whole frame, whatever was committed between the choice of its base and its
//! commit: a base that is older than the newest one only makes the chain shorter.

use stated_shared::{Seq, StateName, Version};

use crate::machine::event::Content;
use crate::machine::{States, Unreadable};

/// Versions from one head to the next.
pub const RUN_LEN: u64 = 64;
/// Near steps in a chain.
const NEAR_STEPS_MAX: u64 = RUN_LEN - 1;
/// Contents below this gain nothing by a patch: a record's own overhead is larger.
pub const PATCHED_LEN_MIN: u64 = 128;
/// From this length on a content is patched from the head itself: each step back to it would cost as much as the
/// content, and so large ones are not kept in memory.
pub const LARGE_LEN: u64 = 16 << 20;
/// Bytes to be decoded to read one version, where that is more than [`LARGE_STEPS_MAX`] steps.
const CHAIN_LEN_MAX: u64 = 2 << 30;
const LARGE_STEPS_MAX: u64 = 8;

/// One version of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The version.
    pub version: Version,
    /// The record that holds its payload.
    pub seq: Seq,
    /// Where its payload is, and what must come out of it.
    pub content: Content,
}

/// A version and those that it is patched from, down to a whole frame; never empty.
pub type Chain = Vec<Link>;

/// The links of a version; none where it has no content.
pub fn chain(states: &States, state: &StateName, version: Version) -> Result<Chain, Unreadable> {
    let links = states.chain(state, version);
    links.map(|link| link.map(|(version, seq, content)| Link { version, seq, content: content.clone() })).collect()
}

/// The most bytes of content that reading a chain's first version holds.
pub fn load_len(chain: &[Link]) -> u64 {
    let pairs = chain.windows(2).map(|pair| pair[0].content.size_bytes + pair[1].content.size_bytes);
    pairs.max().or(chain.first().map(|link| link.content.size_bytes)).unwrap_or_default()
}

/// What the version after a content may be patched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bases {
    newest: Version,
    near_steps: u64,
    steps: u64,
    head: Version,
    head_steps: u64,
}

impl Bases {
    /// After the newest content of a state; `None` where it has none.
    pub fn of(states: &States, state: &StateName) -> Result<Option<Self>, Unreadable> {
        let Some(newest) = states.newest_content(state) else { return Ok(None) };
        let bases = states.chain(state, newest).map(|link| link.map(|(_, _, content)| content.base));
        let bases: Vec<_> = bases.collect::<Result<_, _>>()?;
        Ok(Some(Self::after(newest, bases.into_iter())))
    }

    /// After a version with these bases, its own first.
    fn after(newest: Version, bases: impl Iterator<Item = Option<Version>>) -> Self {
        let mut found = Self { newest, near_steps: 0, steps: 0, head: newest, head_steps: 0 };
        let mut at = newest;
        for base in bases.flatten() {
            found.steps += 1;
            found.head_steps += 1;
            if at.0 - base.0 < RUN_LEN {
                found.near_steps += 1;
                found.head = base;
                found.head_steps = 0;
            }
            at = base;
        }
        found
    }

    /// After a whole frame.
    #[cfg(test)]
    pub fn first(newest: Version) -> Self {
        Self::after(newest, std::iter::once(None))
    }

    /// The version that they come after.
    pub fn newest(&self) -> Version {
        self.newest
    }

    /// The version that a new content of this length is patched from; `None` for a whole frame.
    pub fn choose(&self, size_bytes: u64) -> Option<Version> {
        if size_bytes < PATCHED_LEN_MIN {
            return None;
        }
        let near = size_bytes < LARGE_LEN && self.near_steps < NEAR_STEPS_MAX;
        let (base, steps) = if near { (self.newest, self.steps) } else { (self.head, self.head_steps) };
        let steps_max = (CHAIN_LEN_MAX / size_bytes).max(LARGE_STEPS_MAX);
        (steps < steps_max).then_some(base)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps(bases: &[Option<Version>], version: u64) -> u64 {
        links(bases, Version(version)).flatten().count() as u64
    }

    fn links(bases: &[Option<Version>], version: Version) -> impl Iterator<Item = Option<Version>> {
        let base = |version: Version| bases[version.0 as usize - 1];
        std::iter::successors(Some(base(version)), move |of| of.map(base))
    }

    fn choose(bases: &[Option<Version>], newest: u64, size_bytes: u64) -> Option<Version> {
        Bases::after(Version(newest), links(bases, Version(newest))).choose(size_bytes)
    }

    #[test]
    fn one_after_the_other_every_64th_is_patched_from_the_one_64_before() {
        let mut bases = vec![None];
        for version in 2..=1000 {
            bases.push(choose(&bases, version - 1, 1 << 20));
        }
        for version in 2..=1000 {
            let expected = if version % 64 == 1 { version - 64 } else { version - 1 };
            assert_eq!(bases[version as usize - 1], Some(Version(expected)), "version {version}");
        }
        assert_eq!(steps(&bases, 1000), 39 + 15);
    }

    #[test]
    fn large_contents_are_patched_from_the_head() {
        let mut bases = vec![None];
        for version in 2..=200 {
            bases.push(choose(&bases, version - 1, LARGE_LEN));
        }
        assert_eq!((bases[63], bases[64], bases[65]), (Some(Version(1)), Some(Version(1)), Some(Version(65))));
        assert!((1..=200).all(|version| steps(&bases, version) <= 1 + version / 64));
    }

    #[test]
    fn a_chain_of_large_contents_begins_anew_before_it_costs_too_much() {
        let mut bases = vec![None];
        for version in 2..=2000 {
            bases.push(choose(&bases, version - 1, 1 << 30));
        }
        assert!((1..=2000).all(|version| steps(&bases, version) <= LARGE_STEPS_MAX));
        assert!(bases.iter().filter(|base| base.is_none()).count() <= 5);
    }

    proptest! {
        /// However many commits were under way when a base was chosen, and whatever the sizes.
        #[test]
        fn every_version_is_at_most_63_and_a_64th_of_its_number_away_from_a_whole_frame(
            rarity in prop_oneof![Just(u32::MAX), Just(300), Just(10)],
            versions in proptest::collection::vec((any::<u32>(), 0_u64..300, any::<u32>(), 0_u32..31), 1..1500)
        ) {
            let mut bases = vec![None];
            for (late, by, odd, log) in versions {
                let late = if late % rarity == 0 { by } else { 0 };
                let newest = (bases.len() as u64).saturating_sub(late).max(1);
                let size = if odd % rarity == 0 { 1 << log } else { 1 << 20 };
                let base = choose(&bases, newest, size);
                bases.push(base);
                let version = bases.len() as u64;
                prop_assert!(steps(&bases, version) <= 63 + (version - 1) / 64, "version {version}");
            }
        }
    }
}
