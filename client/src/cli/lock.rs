//! `lock`: run a command under a lock, or take a lease.

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use stated_shared::limits::SEMAPHORE_SLOTS_MAX;
use stated_shared::{
    Failure, FailureKind, Grant, Hold, Lock, LockId, LockKind, Notice, ProcessRef, Request, StateName, Wait,
};

use super::child::{self, Held, OnLost, Signals};
use super::views::GrantView;
use super::{Context, args, failure, table};
use crate::Client;
use crate::client::{Opening, with_id};
use crate::held_back::HeldBack;
use crate::printable::printable;

/// Run a command under a lock, or take a lease
#[derive(Debug, Args)]
#[command(
    override_usage = "statectl lock [-s|-x|--slots N] [-n|-w DUR] [-E CODE] [-o] [--on-lost term|warn] [-m TEXT] NAME… -- CMD…
       statectl lock --ttl DUR [-s|-x|--slots N] [-n|-w DUR] [-E CODE] [-m TEXT] NAME…",
    after_help = "Examples:
  statectl lock example/network -- make deploy       wait for the lock, then run
  statectl lock -n example/network -- make deploy    fail with 75 where it is held
  statectl lock --slots 3 builds -- make             at most three at once
  id=$(statectl lock --ttl 1h example/network)       a lease; later: statectl unlock \"$id\"

The lock lives as long as the command, also where this wrapper is killed. The command finds
STATED_LOCK_ID, STATED_FENCE, STATED_STATE (a name a line) and STATED_SOCKET in its environment,
and its exit code is passed through."
)]
pub(super) struct LockVerb {
    /// Share it with other shared holders; nobody writes meanwhile
    #[arg(short, long, conflicts_with_all = ["exclusive", "slots"])]
    shared: bool,
    /// Hold it alone (the default)
    #[arg(short = 'x', long, visible_short_alias = 'e', conflicts_with = "slots")]
    exclusive: bool,
    /// Be one of at most N holders; guards no writes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(SEMAPHORE_SLOTS_MAX)))]
    slots: Option<u32>,
    /// Fail where it is held
    #[arg(short, long, visible_alias = "nb", conflicts_with = "wait")]
    nonblock: bool,
    /// Wait at most this long: seconds, or a duration such as 5m
    #[arg(short, long, visible_alias = "timeout", value_name = "DUR", value_parser = args::duration)]
    wait: Option<Duration>,
    /// The exit code where it is held or the time is over
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 75)]
    conflict_exit_code: u8,
    /// End the lock with this wrapper, not with the command
    #[arg(short = 'o', long, visible_alias = "close")]
    only_wrapper: bool,
    /// What to do where the lock is lost: term ends the command, warn only tells
    #[arg(long, value_name = "term|warn", default_value = "term", hide_possible_values = true)]
    on_lost: OnLost,
    /// What for
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Take a lease of this length instead of running a command; prints its ID
    #[arg(long, value_name = "DUR", value_parser = args::duration, conflicts_with_all = ["only_wrapper", "command"])]
    ttl: Option<Duration>,
    /// What to lock, all or nothing
    #[arg(required = true, value_name = "NAME", value_parser = StateName::parse)]
    names: Vec<StateName>,
    /// The command
    #[arg(last = true, value_name = "CMD", required_unless_present = "ttl")]
    command: Vec<OsString>,
}

impl LockVerb {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let waiting = child::exit_on_interrupt(&context.output)?;
        let mut opening = context.open()?;
        let mut lock = with_id(&self.request()?)?;
        // While the daemon reads the hello. The command becomes what it is only once it has its lock.
        let command = self.command.split_first().map(|command| self.hold_back(command, &opening, &lock)).transpose()?;
        let pidfd = command.as_ref().map(HeldBack::pidfd).filter(|_| !self.only_wrapper);
        if pidfd.is_some() {
            (lock.hold, lock.process) = (Hold::ConnectionOrProcess, Some(ProcessRef::Descriptor));
        }
        opening.ask_ahead(&Request::Lock(lock.clone()), pidfd)?;
        // While the daemon decides; until the command may run they end this wrapper as ever.
        let signals = Signals::register(Some(&waiting)).map_err(|error| failure::local("handle signals", &error))?;
        let mut client = context.finish(opening)?;
        tell_holders(&mut client);
        let granted = match (client.lock(&lock, pidfd), &command) {
            (Err(first), Some(command)) if lock.process.is_some() && is_of_process(&first) => {
                lock.process = Some(ProcessRef::Pid(command.pid().as_raw_nonzero().get().unsigned_abs()));
                client.lock(&lock, None).map_err(|second| match second.hint {
                    None if second.message != first.message => second.hint("-o ties the lock to this wrapper instead"),
                    _ => second,
                })
            }
            (granted, _) => granted,
        };
        let grant = match granted {
            Ok(grant) => grant,
            Err(failure) if failure.kind == FailureKind::Busy => {
                failure::report(&failure, self.conflict_exit_code, &context.output);
                return Ok(self.conflict_exit_code);
            }
            Err(failure) => return Err(failure),
        };
        let Some(command) = command else {
            return print_lease(&grant, context);
        };
        if lock.id.as_ref() != Some(&grant.id) {
            return Err(failure::unexpected());
        }
        let held = Held { id: grant.id, fence: grant.fence.to_string(), on_lost: self.on_lost };
        let program = self.command[0].to_string_lossy();
        child::run(command, &program, &mut client, &held, signals, &waiting, &context.output)
    }

    /// Starts the command, which learns its fence when it is let go.
    fn hold_back(
        &self,
        (program, arguments): (&OsString, &[OsString]),
        opening: &Opening,
        lock: &Lock,
    ) -> Result<HeldBack, Failure> {
        let names: Vec<&str> = self.names.iter().map(StateName::as_str).collect();
        let mut command = Command::new(program);
        command.args(arguments).env("STATED_SOCKET", opening.socket()).env("STATED_STATE", names.join("\n"));
        if let Some(id) = &lock.id {
            command.env("STATED_LOCK_ID", id.as_str());
        }
        HeldBack::start(&command, Some("STATED_FENCE"))
            .map_err(|error| failure::local(format!("run {}", program.to_string_lossy()), &error))
    }

    fn request(&self) -> Result<Lock, Failure> {
        let kind = match self.slots {
            Some(slots) => LockKind::Semaphore { slots },
            None if self.shared => LockKind::Shared,
            None => LockKind::Exclusive,
        };
        let wait = match self.wait {
            _ if self.nonblock => Wait::No,
            Some(duration) if duration.is_zero() => Wait::No,
            Some(duration) => Wait::AtMost { ms: args::milliseconds(duration) },
            None => Wait::Forever,
        };
        Ok(Lock {
            kind,
            wait,
            ttl_ms: self.ttl.map(args::milliseconds),
            reason: self.reason(),
            under: args::inherited_lock()?,
            ..Lock::exclusive(self.names.iter().cloned(), "lock")
        })
    }

    /// The message, else the command's name: not its arguments, which may hold secrets.
    fn reason(&self) -> Option<String> {
        self.message.clone().or_else(|| {
            let program = std::path::Path::new(self.command.first()?);
            Some(program.file_name()?.to_string_lossy().into_owned())
        })
    }
}

/// Whether a failure may be of the process that came with the request: by its ID, where daemon and client share a PID
/// namespace, it may be known better.
fn is_of_process(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Usage | FailureKind::Other)
}

fn print_lease(grant: &Grant, context: &Context) -> Result<u8, Failure> {
    if context.output.json {
        context.output.print_object(&GrantView::from(grant))?;
    } else {
        context.output.print(LockId::as_str(&grant.id))?;
    }
    Ok(0)
}

/// Tells once who is in the way.
fn tell_holders(client: &mut Client) {
    let mut told = false;
    client.on_notice(Box::new(move |notice| {
        let Notice::Queued { holders, ahead, .. } = notice else { return };
        if std::mem::replace(&mut told, true) {
            return;
        }
        let before = match ahead {
            0 => String::new(),
            ahead => format!(", {ahead} waiting before this one"),
        };
        let holders: Vec<String> = holders.iter().map(table::holder).collect();
        let who = if holders.is_empty() { "others wait for it".to_owned() } else { holders.join("; ") };
        tell!("statectl: waiting: {}{before}", printable(&who));
    }));
}
