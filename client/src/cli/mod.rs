//! `statectl`: one verb, one file.
//!
//! **Invariant:** standard output carries data only; everything else goes to standard error. A verb returns its exit
//! code or a failure and never ends the process itself.

mod args;
mod audit;
mod break_lock;
mod child;
mod demo;
mod diff;
mod exec;
mod failure;
mod gateway;
mod get;
mod list;
mod lock;
mod locks;
mod log;
mod output;
mod put;
mod remove;
mod renew;
mod rollback;
mod show;
mod status;
mod table;
mod unlock;
mod verify;
mod versions;
mod views;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use stated_shared::Failure;

use crate::gateway::process;
use crate::{Client, ConnectOptions};
use output::Output;

/// The state daemon's client: versioned, encrypted, locked state.
#[derive(Debug, Parser)]
#[command(name = "statectl", version, max_term_width = 100, disable_help_subcommand = true, after_help = AFTER_HELP)]
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
    Lock(lock::LockVerb),
    Exec(exec::Exec),
    Gateway(gateway::Gateway),
    #[command(name = process::VERB, hide = true)]
    ServeGateway,
    Renew(renew::Renew),
    Unlock(unlock::Unlock),
    Break(break_lock::Break),
    Locks(locks::Locks),
    Audit(audit::Audit),
    Verify(verify::Verify),
    Status(status::Status),
    Demo(demo::Demo),
}

/// What every verb gets: how to connect, and where to print.
struct Context {
    options: ConnectOptions,
    output: Output,
}

impl Context {
    fn connect(&self) -> Result<Client, Failure> {
        let client = Client::connect(&self.options)?;
        // That it serves goes without saying.
        if let Some(said) = client.daemon_said().filter(|said| *said != "serving") {
            eprintln!("statectl: the daemon {said}");
        }
        Ok(client)
    }
}

/// The verbs that scripts call in loops, defined alone.
#[derive(Debug, Parser)]
#[command(name = "statectl", disable_help_subcommand = true)]
struct FrequentCli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Frequent,
}

#[derive(Debug, Subcommand)]
enum Frequent {
    Put(put::Put),
    Get(get::Get),
    Lock(lock::LockVerb),
    Unlock(unlock::Unlock),
}

/// Parses the arguments of this process.
///
/// To define all verbs takes longer than to take a lock, so what is called in loops is tried first. Whatever is no
/// complete call of that, help and mistakes included, is for the whole definition to tell.
fn parse() -> Result<Cli, clap::Error> {
    FrequentCli::try_parse().map_or_else(
        |_| Cli::try_parse(),
        |FrequentCli { globals, verb }| {
            let verb = match verb {
                Frequent::Put(put) => Verb::Put(put),
                Frequent::Get(get) => Verb::Get(get),
                Frequent::Lock(lock) => Verb::Lock(lock),
                Frequent::Unlock(unlock) => Verb::Unlock(unlock),
            };
            Ok(Cli { globals, verb })
        },
    )
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let mut options = ConnectOptions::from_env();
    // The flag includes STATED_SOCKET; an empty value counts as none.
    options.socket = cli.globals.socket.filter(|path| !path.as_os_str().is_empty());
    options.autostart &= !cli.globals.no_autostart;
    let context = Context { options, output: Output::new(cli.globals.json, cli.globals.color) };
    match run(cli.verb, &context) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure::report(&failure, failure.kind.exit_code(), &context.output);
            ExitCode::from(failure.kind.exit_code())
        }
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
        Verb::Lock(lock) => lock.run(context),
        Verb::Exec(exec) => exec.run(context),
        Verb::Gateway(gateway) => gateway.run(context),
        Verb::ServeGateway => Ok(process::run()),
        Verb::Renew(renew) => renew.run(context),
        Verb::Unlock(unlock) => unlock.run(context),
        Verb::Break(break_lock) => break_lock.run(context),
        Verb::Locks(locks) => locks.run(context),
        Verb::Audit(audit) => audit.run(context),
        Verb::Verify(verify) => verify.run(context),
        Verb::Status(status) => status.run(context),
        Verb::Demo(demo) => demo.run(context),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        super::Cli::command().debug_assert();
        super::FrequentCli::command().debug_assert();
    }
}
