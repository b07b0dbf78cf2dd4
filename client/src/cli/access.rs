//! `access`: what the daemon's policy decides.

use clap::{Args, Subcommand};
use serde::Serialize;
use stated_shared::{AccessCheck, AccessInfo, Failure, FailureKind, Reply, Request, StateName, Verb};

use super::{Context, failure};
use crate::printable::printable;

/// Ask what the daemon's policy decides
#[derive(Debug, Args)]
pub(super) struct AccessVerb {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    Check(Check),
}

/// Say whether a user may do something to a state, and by which rule; exits with 77 where not
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl access check alice write example/network
  statectl access check $(id -u) read example/network --json | jq -r .why

Of yourself you may always ask, and your groups are those of this very process. Of others it takes the
verb admin on the name, and their groups are those that the daemon's host knows. The state need not exist.")]
struct Check {
    /// A user's name, or number
    user: String,
    /// read, write, lock, break, audit or admin
    verb: Verb,
    /// The name of a state or lock
    #[arg(value_parser = StateName::parse)]
    state: StateName,
}

#[derive(Serialize)]
struct AccessView<'a> {
    allowed: bool,
    user: Option<&'a str>,
    uid: u32,
    gids: &'a [u32],
    verb: &'a str,
    state: &'a str,
    rule: Option<u64>,
    line: Option<u64>,
    missing: Option<&'a str>,
    why: &'a str,
}

impl AccessVerb {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let Question::Check(Check { user, verb, state }) = self.question;
        let info = match context.connect()?.call(&Request::Access(AccessCheck { user, verb, state }))? {
            Reply::Access(info) => info,
            _ => return Err(failure::unexpected()),
        };
        print(&info, context)?;
        Ok(if info.allowed { 0 } else { FailureKind::Denied.exit_code() })
    }
}

fn print(info: &AccessInfo, context: &Context) -> Result<(), Failure> {
    let AccessInfo { allowed, uid, user, gids, verb, state, rule, line, missing, why } = info;
    if context.output.json {
        return context.output.print_object(&AccessView {
            allowed: *allowed,
            user: user.as_deref(),
            uid: *uid,
            gids,
            verb: verb.as_str(),
            state: state.as_str(),
            rule: *rule,
            line: *line,
            missing: missing.map(Verb::as_str),
            why,
        });
    }
    let (word, color) = if *allowed { ("allowed", "32") } else { ("denied", "31") };
    let who = user.as_ref().map_or_else(|| format!("uid {uid}"), |user| format!("{user} (uid {uid})"));
    let may = if *allowed { "may" } else { "may not" };
    let told = format!("{who} {may} {verb} {state}: {why}");
    context.output.print(&format!("{}: {}", context.output.paint(color, word), printable(&told)))
}
