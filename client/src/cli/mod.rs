//! `statectl`: one verb, one file.
//!
//! **Invariant:** standard output carries data only; everything else goes to standard error. A verb returns its exit
//! code or a failure and never ends the process itself.
#![deny(clippy::print_stderr)]

#[macro_use]
mod tell;

mod access;
mod args;
mod audit;
mod backup;
mod break_lock;
mod child;
mod completions;
mod demo;
mod diff;
mod doctor;
mod edit;
mod exec;
mod failure;
mod gateway;
mod get;
mod interrupt;
mod key;
mod list;
mod lock;
mod locks;
mod log;
mod man;
mod metrics;
mod output;
mod pager;
mod progress;
mod prune;
mod put;
mod remove;
mod renew;
mod restore;
mod rollback;
mod serial;
mod show;
mod status;
mod suggest;
mod table;
mod tag;
mod target;
mod unlock;
mod users;
mod verify;
mod versions;
mod views;
mod watch;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use signal_hook::consts::SIGCHLD;
use stated_shared::paths::{self, ProcessEnvironment};
use stated_shared::{Failure, FailureKind, StateName};

use crate::client::{Opening, WELCOME_MAX};
use crate::gateway::process;
use crate::held_back::is_ignored;
use crate::printable::printable;
use crate::{Client, ConnectOptions};
use output::Output;

/// The state daemon's client: versioned, encrypted, locked state.
#[derive(Debug, Parser)]
#[command(name = "statectl", version, max_term_width = 100, disable_help_subcommand = true,
    subcommand_value_name = "COMMAND", after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  statectl put example/greeting hello.txt -m 'first'   write a version, print example/greeting@1
  statectl get example/greeting                        read the newest version
  statectl lock example/greeting -- make deploy        run a command under a lock

Exit codes: 0 done, 1 failure or differs, 2 usage, 65 conflict, 66 not found, 69 no daemon,
74 storage, 75 lock busy, 76 protocol, 77 denied, 78 configuration, 126 command not runnable,
127 command not found, 130 interrupted.";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Everywhere")]
struct Globals {
    /// The daemon's socket [default: the user's, then the system's]
    #[arg(long, global = true, value_name = "PATH", env = "STATED_SOCKET", hide_env_values = true)]
    socket: Option<PathBuf>,
    /// Print JSON: lists as one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Do not start a daemon where none runs
    #[arg(long, global = true)]
    no_autostart: bool,
    /// Use colour auto(matically), always or never; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    color: Color,
    /// Show long output as it is, not a screen at a time
    #[arg(long, global = true)]
    no_pager: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Verb {
    Put(put::Put),
    Get(get::Get),
    Ls(list::List),
    Log(log::Log),
    Show(show::Show),
    Diff(diff::Diff),
    Rollback(rollback::Rollback),
    Rm(remove::Remove),
    Tag(tag::TagVerb),
    Lock(lock::LockVerb),
    Exec(exec::Exec),
    Gateway(gateway::Gateway),
    Renew(renew::Renew),
    Unlock(unlock::Unlock),
    Break(break_lock::Break),
    Locks(locks::Locks),
    Watch(watch::Watch),
    Audit(audit::Audit),
    Verify(verify::Verify),
    Status(status::Status),
    Demo(demo::Demo),
    Edit(edit::Edit),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Manual),
    Prune(prune::PruneVerb),
    Access(access::AccessVerb),
    Key(key::KeyVerb),
    Backup(backup::Backup),
    Restore(restore::Restore),
}

impl Verb {
    /// The state that it cannot do without.
    fn reads(&self) -> Option<&StateName> {
        match self {
            Self::Get(get) => Some(get.state()),
            Self::Log(log) => Some(log.state()),
            Self::Show(show) => Some(show.state()),
            Self::Diff(diff) => Some(diff.state()),
            Self::Rollback(rollback) => Some(rollback.state()),
            Self::Rm(remove) => Some(remove.state()),
            _ => None,
        }
    }
}

/// What every verb gets: how to connect, and where to print.
struct Context {
    options: ConnectOptions,
    output: Output,
}

impl Context {
    fn connect(&self) -> Result<Client, Failure> {
        self.finish(self.open()?)
    }

    /// Says hello to the daemon; [`Self::finish`] waits for its answer.
    fn open(&self) -> Result<Opening, Failure> {
        Opening::begin(&self.options, WELCOME_MAX)
    }

    fn finish(&self, opening: Opening) -> Result<Client, Failure> {
        let mut client = opening.finish()?;
        progress::show(&mut client, &self.output);
        // That it serves goes without saying.
        if let Some(said) = client.daemon_said().filter(|said| *said != "serving") {
            tell!("statectl: the daemon {said}");
        }
        Ok(client)
    }
}

/// One verb, defined alone.
#[derive(Debug, Parser)]
#[command(name = "statectl", disable_help_flag = true)]
struct Alone<V: clap::Args> {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    verb: V,
}

impl<V: clap::Args> Alone<V> {
    fn parse(named: fn(V) -> Verb) -> Option<Cli> {
        let Self { globals, verb } = Self::try_parse_from(std::env::args_os().skip(1)).ok()?;
        Some(Cli { globals, verb: named(verb) })
    }
}

/// Parses the arguments of this process.
///
/// To define all verbs takes longer than to take a lock, so one that scripts call in loops is tried alone. Whatever is no
/// complete call of that, help and mistakes included, is for the whole definition to tell.
fn parse() -> Result<Cli, clap::Error> {
    let alone = match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some("get") => Alone::parse(Verb::Get),
        Some("lock") => Alone::parse(Verb::Lock),
        Some("put") => Alone::parse(Verb::Put),
        Some("unlock") => Alone::parse(Verb::Unlock),
        _ => None,
    };
    alone.map_or_else(parse_all, Ok)
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // No verbs of the command line, so that neither help, completions nor the manual tell of them.
    match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some(process::VERB) => return ExitCode::from(process::run()),
        Some(exec::SENTINEL_VERB) => return exec::sentinel(),
        _ => {}
    }
    // Where a careless parent ignores it, how a command ended could not be told.
    if is_ignored(SIGCHLD) {
        let _ = signal_hook::flag::register(SIGCHLD, Arc::default());
    }
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let mut options = ConnectOptions::from_env();
    // The flag includes STATED_SOCKET; an empty value counts as none.
    options.socket = cli.globals.socket.filter(|path| !path.as_os_str().is_empty());
    options.autostart &= !cli.globals.no_autostart;
    options.on_ask = Some(|asked| tell!("statectl: {}", printable(asked)));
    options.pins = paths::state_home(&ProcessEnvironment).map(|home| home.join("statectl/pins"));
    let output = Output::new(cli.globals.json, cli.globals.color, cli.globals.no_pager);
    let context = Context { options, output };
    let state = cli.verb.reads().cloned();
    let ended = interruptible(&cli.verb, &context.output).and_then(|()| run(cli.verb, &context));
    let ended = context.output.finish().and(ended);
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let failure = match &state {
                Some(state) if failure.kind == FailureKind::NotFound => suggest::similar(failure, state, &context),
                _ => failure,
            };
            failure::report(&failure, failure.kind.exit_code(), &context.output);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// The arguments of this process. What is wrong with them is told in colour where `--color` has it so.
fn parse_all() -> Result<Cli, clap::Error> {
    let given: Vec<_> = failure::own_arguments().collect();
    let wanted = given.iter().enumerate().find_map(|(at, argument)| match argument.to_str()? {
        "--color" => given.get(at + 1)?.to_str().map(ToOwned::to_owned),
        argument => argument.strip_prefix("--color=").map(ToOwned::to_owned),
    });
    let choice = match wanted.as_deref() {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    };
    Cli::from_arg_matches(&Cli::command().color(choice).try_get_matches()?)
}

/// Makes an interrupt tell programs so, in verbs that do not handle it themselves.
fn interruptible(verb: &Verb, output: &Output) -> Result<(), Failure> {
    match verb {
        Verb::Lock(_) | Verb::Edit(_) | Verb::Exec(_) | Verb::Gateway(_) | Verb::Demo(_) => Ok(()),
        // Without `--json` the signal itself says it all.
        _ if !output.json => Ok(()),
        _ => interrupt::end_this(&Arc::new(AtomicBool::new(true)), output),
    }
}

fn run(verb: Verb, context: &Context) -> Result<u8, Failure> {
    match verb {
        Verb::Put(put) => put.run(context),
        Verb::Get(get) => get.run(context),
        Verb::Ls(list) => list.run(context),
        Verb::Log(log) => log.run(context),
        Verb::Show(show) => show.run(context),
        Verb::Diff(diff) => diff.run(context),
        Verb::Rollback(rollback) => rollback.run(context),
        Verb::Rm(remove) => remove.run(context),
        Verb::Tag(tag) => tag.run(context),
        Verb::Lock(lock) => lock.run(context),
        Verb::Exec(exec) => exec.run(context),
        Verb::Gateway(gateway) => gateway.run(context),
        Verb::Renew(renew) => renew.run(context),
        Verb::Unlock(unlock) => unlock.run(context),
        Verb::Break(break_lock) => break_lock.run(context),
        Verb::Locks(locks) => locks.run(context),
        Verb::Watch(watch) => watch.run(context),
        Verb::Audit(audit) => audit.run(context),
        Verb::Verify(verify) => verify.run(context),
        Verb::Status(status) => status.run(context),
        Verb::Demo(demo) => demo.run(context),
        Verb::Edit(edit) => edit.run(context),
        Verb::Doctor(doctor) => doctor.run(context),
        Verb::Completions(completions) => completions.run(context),
        Verb::Man(manual) => manual.run(context),
        Verb::Prune(prune) => prune.run(context),
        Verb::Access(access) => access.run(context),
        Verb::Key(key) => key.run(context),
        Verb::Backup(backup) => backup.run(context),
        Verb::Restore(restore) => restore.run(context),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Alone;

    #[test]
    fn the_definition_is_consistent() {
        super::Cli::command().debug_assert();
        Alone::<super::get::Get>::command().debug_assert();
        Alone::<super::lock::LockVerb>::command().debug_assert();
        Alone::<super::put::Put>::command().debug_assert();
        Alone::<super::unlock::Unlock>::command().debug_assert();
    }
}
