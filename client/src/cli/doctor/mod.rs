//! `doctor`: what is broken between this user and the states, and the command that mends each.
//!
//! **Invariant:** it starts no daemon, changes nothing, and prints no secret. Whatever one check finds, the next ones
//! run.

mod daemon;
mod finding;
mod places;
mod program;
mod service;
mod surroundings;

use std::time::Duration;

use clap::Args;
use stated_shared::Failure;

use super::{Context, args};
use finding::{Findings, Verdict};
use places::Places;
pub(super) use program::find as daemon_program;

/// Find what is broken, and name the command that mends it; changes nothing
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl doctor
  statectl doctor --json | jq -r 'select(.verdict != \"ok\") | .mend'

It looks at programs, configuration, key, state directory, socket, daemon, locks, the environment, the
kernel, the clock, and the services of user and host. It works without a daemon, and starts none. The exit code is 1
where something is broken; what is only doubtful (warn) leaves it at 0.")]
pub(super) struct Doctor {
    /// From what age on a lock is doubtful
    #[arg(long, value_name = "DUR", default_value = "1d", value_parser = args::duration)]
    lock_age: Duration,
}

impl Doctor {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut findings = Findings::default();
        let options = &context.options;
        let socket = daemon::find(options);
        let answer = daemon::ask(&socket, options);
        let program = program::check(&mut findings, &socket, &answer, options);
        let places = Places::of(&program, &answer, &socket);
        places::check(&mut findings, &places);
        daemon::check(&mut findings, &socket, &answer, &places, options);
        daemon::check_locks(&mut findings, &answer, self.lock_age);
        surroundings::check(&mut findings, &answer);
        service::check(&mut findings, &program);
        service::check_hosts(&mut findings);
        findings.print(&context.output)?;
        let (failed, doubtful) = (findings.count(Verdict::Fail), findings.count(Verdict::Warn));
        if failed + doubtful > 0 && !context.output.json {
            context.output.say(&format!("{failed} broken, {doubtful} doubtful"));
        }
        Ok(u8::from(failed > 0))
    }
}
