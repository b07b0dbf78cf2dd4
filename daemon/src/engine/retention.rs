//! Pruning by itself: what the configuration wants kept, applied now and then, a page of states at a time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use stated_shared::{Failure, Prune, PrunePage, StateName};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::handle::{Engine, stopping};
use super::owner::{Command, OwnPrune};
use super::shown::{Matches, matcher};

/// Between two passes over all states.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// After each page of a pass, so that requests have the engine nearly to themselves.
const PAUSE: Duration = Duration::from_millis(50);

const DAY_S: u64 = 24 * 60 * 60;

/// What is kept of the states that a section is of. A version is kept where any of the rules says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// The states: those whose names match, and no section before it; all of them where absent.
    pub glob: Option<String>,
    /// So many of the newest contents of each state.
    pub keep_last: Option<u64>,
    /// What was committed within so many milliseconds.
    pub keep_within_ms: Option<u64>,
    /// What has a tag.
    pub keep_tagged: bool,
}

/// What is kept of all states. Of those that no section is of, everything.
#[derive(Clone, Default)]
pub struct Retention(Vec<(Section, Arc<Matches>)>);

impl Retention {
    /// `Err` where a glob is none.
    pub fn new(sections: Vec<Section>) -> Result<Self, Failure> {
        let section = |section: Section| {
            let matches = matcher(section.glob.clone())?;
            Ok((section, Arc::new(matches)))
        };
        sections.into_iter().map(section).collect::<Result<_, _>>().map(Self)
    }

    /// Whether nothing is ever dropped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each section in words, for `status`.
    pub fn told(&self) -> Vec<String> {
        self.0.iter().map(|(section, _)| section.told()).collect()
    }

    /// What is pruned by each section, and of which states.
    pub(super) fn prunes(&self) -> impl Iterator<Item = (Prune, Matches)> {
        self.0.iter().enumerate().map(|(at, (section, matches))| {
            let prune = Prune {
                keep_last: section.keep_last,
                keep_within_ms: section.keep_within_ms,
                keep_tagged: section.keep_tagged,
                ..Prune::default()
            };
            let matches = Arc::clone(matches);
            let before: Vec<Arc<Matches>> = self.0[..at].iter().map(|(_, before)| Arc::clone(before)).collect();
            let of = move |name: &str| matches(name) && !before.iter().any(|before| before(name));
            (prune, Box::new(of) as Matches)
        })
    }
}

impl fmt::Debug for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.told()).finish()
    }
}

impl Section {
    fn told(&self) -> String {
        let last = self.keep_last.map(|last| format!("the last {last}"));
        let within = self
            .keep_within_ms
            .map(|within_ms| format!("what is younger than {}", duration(Duration::from_millis(within_ms))));
        let tagged = self.keep_tagged.then(|| "what is tagged".to_owned());
        let rules: Vec<String> = [last, within, tagged].into_iter().flatten().collect();
        format!("{}: keeps {}", self.glob.as_deref().unwrap_or("**"), rules.join(", "))
    }
}

/// As one writes it: days where it is whole days.
pub(super) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds % DAY_S == 0 && duration.subsec_nanos() == 0 => format!("{}d", seconds / DAY_S),
        _ => humantime::format_duration(duration).to_string(),
    }
}

impl Engine {
    /// Prunes by a policy at once and then every hour, until it is stopped.
    pub async fn retain(self, retention: Retention, stop: CancellationToken) {
        while !retention.is_empty() {
            let passed = async {
                for (prune, matches) in retention.prunes() {
                    self.pass(prune, Arc::new(matches)).await;
                }
                sleep(EVERY).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = passed => {}
            }
        }
    }

    /// One pass over the states of a section. What fails is told in the log, and tried again by the next pass.
    async fn pass(&self, mut prune: Prune, matches: Arc<Matches>) {
        let (mut states, mut versions, mut bytes) = (0, 0, 0);
        loop {
            match self.prune_page(prune.clone(), Arc::clone(&matches)).await {
                Ok((page, next)) => {
                    states += page.rows.len();
                    versions += page.rows.iter().map(|row| row.versions).sum::<u64>();
                    bytes += page.rows.iter().map(|row| row.payload_bytes).sum::<u64>();
                    prune.after = next;
                }
                Err(failure) => return tracing::warn!("the retention of the configuration waits: {}", failure.message),
            }
            if prune.after.is_none() {
                break;
            }
            sleep(PAUSE).await;
        }
        if versions > 0 {
            tracing::info!(states, versions, bytes, "pruned by the retention of the configuration");
        }
    }

    /// Prunes a page of states in the daemon's own name. What was done, and where the next page goes on.
    async fn prune_page(&self, prune: Prune, matches: Arc<Matches>) -> Result<(PrunePage, Option<StateName>), Failure> {
        let planned = self.plan_prune(prune, Box::new(move |name| matches(name))).await?;
        let next = planned.next();
        if planned.is_empty() {
            return Ok((PrunePage { rows: Vec::new(), next: None }, next));
        }
        let (ask, bytes) = self.stage_prune(planned).await?;
        let (done, pruned) = oneshot::channel();
        self.send(Command::PruneItself(Box::new(OwnPrune { ask, bytes, done }))).await?;
        Ok((pruned.await.map_err(|_| stopping())??, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_section_that_matches_counts() {
        let section = |glob: Option<&str>, keep_last| Section {
            glob: glob.map(str::to_owned),
            keep_last: Some(keep_last),
            ..Section::default()
        };
        let sections = vec![section(Some("prod/**"), 30), section(Some("*/net"), 20), section(None, 10)];
        let retention = Retention::new(sections).unwrap();
        let kept = |name: &str| -> Vec<Option<u64>> {
            retention.prunes().filter(|(_, matches)| matches(name)).map(|(prune, _)| prune.keep_last).collect()
        };
        assert_eq!(kept("prod/net"), [Some(30)]);
        assert_eq!(kept("test/net"), [Some(20)]);
        assert_eq!(kept("test/db"), [Some(10)]);
        assert_eq!(Retention::new(vec![section(Some("prod/**"), 30)]).unwrap().prunes().count(), 1);
        assert!(Retention::new(vec![section(Some("prod/["), 30)]).is_err());
    }

    #[test]
    fn a_section_says_what_it_keeps() {
        let all = Section {
            glob: Some("prod/**".to_owned()),
            keep_last: Some(30),
            keep_within_ms: Some(90 * DAY_S * 1000),
            keep_tagged: true,
        };
        assert_eq!(all.told(), "prod/**: keeps the last 30, what is younger than 90d, what is tagged");
        assert_eq!(
            Section { keep_within_ms: Some(90_000), ..Section::default() }.told(),
            "**: keeps what is younger than 1m 30s"
        );
    }
}
