//! Names that a mistyped one may have been meant for.

use stated_shared::{Failure, Reply, Request, StateName};

use super::Context;
use crate::{Client, ConnectOptions};

/// Pages of names that are looked at: a hint is worth no more.
const PAGES_MAX: usize = 4;

/// Adds to the failure the name that was probably meant, where a state of nearly that name exists.
///
/// Nothing is added where the state exists, so that its version was the wrong one, or where nobody can tell.
pub(super) fn similar(failure: Failure, name: &StateName, context: &Context) -> Failure {
    let options = ConnectOptions { autostart: false, ..context.options.clone() };
    let Some(names) = Client::connect(&options).ok().and_then(|mut client| names(&mut client)) else { return failure };
    match closest(name.as_str(), names.iter().map(StateName::as_str)) {
        Some(meant) => failure.hint(format!("did you mean {meant}? list the states with: statectl ls")),
        None => failure,
    }
}

fn names(client: &mut Client) -> Option<Vec<StateName>> {
    let mut names: Vec<StateName> = Vec::new();
    for _ in 0..PAGES_MAX {
        let Reply::Versions(page) = client.call(&Request::List { glob: None, after: names.last().cloned() }).ok()?
        else {
            return None;
        };
        names.extend(page.versions.into_iter().map(|version| version.state));
        if !page.more {
            break;
        }
    }
    Some(names)
}

/// The name with the fewest differing characters, where these are few.
fn closest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let differing_max = (name.chars().count() / 3).min(2);
    let (differing, meant) = names.map(|other| (strsim::osa_distance(name, other), other)).min()?;
    (1..=differing_max).contains(&differing).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_nearly_the_name_is_suggested() {
        let names = ["example/network", "example/nets", "prod"];
        let closest = |name| closest(name, names.into_iter());
        assert_eq!(closest("example/netwrok"), Some("example/network"));
        assert_eq!(closest("rod"), Some("prod"));
        assert_eq!(closest("p"), None);
        assert_eq!(closest("example/storage"), None);
        // It exists: the version was the wrong one.
        assert_eq!(closest("prod"), None);
    }
}
