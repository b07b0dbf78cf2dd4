//! `exec`: run a command whose Terraform finds its state here.

mod route;
mod sentinel;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use clap::Args;
use stated_shared::{Failure, FailureKind, LockId, Reply, Request, Selector, StateName};

use super::child::{self, Signals};
use super::{Context, args, failure};
use crate::gateway::configuration::Configuration;
use crate::gateway::control::{ProxySettings, Settings};
use crate::gateway::default_name::{Repository, default_name};
use crate::gateway::owner::Owner;
use crate::gateway::process::GatewayProcess;
use crate::gateway::{Credential, DIRECTORY_LABEL, directory_label, environment};
use crate::held_back::HeldBack;
use crate::printable::printable;
pub(super) use route::Protocol;
use route::{Route, Surroundings};
use sentinel::Sentinel;
pub(super) use sentinel::{VERB as SENTINEL_VERB, run as sentinel};

/// Run a command whose Terraform keeps its state here
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl exec -- terraform apply                        the state is named after the repository
  statectl exec --state example/network -- tofu plan
  statectl lock example/network -- statectl exec --state example/network -- make deploy
  statectl exec --protocol s3 -- sh -c 'aws s3 cp …'      an AWS client without a configuration

A configuration with an s3 backend runs as it is: its state is BUCKET/KEY. Another one needs an empty block:

  terraform {
    backend \"http\" {}
  }

The command finds TF_HTTP_*, STATED_STATE and STATED_SOCKET in its environment, and its exit code is
passed through. With an s3 backend it also finds AWS_ENDPOINT_URL and keys of this run; where the
configuration uses the aws provider, which would follow these too, it finds TF_CLI_ARGS_init and HTTP_PROXY
instead. Where this wrapper is killed, Terraform still saves its state and unlocks.")]
pub(super) struct Exec {
    /// The state's name for the http backend [default: the origin remote's host and path, then the directory]
    #[arg(long, value_name = "NAME", value_parser = StateName::parse)]
    state: Option<StateName>,
    /// Lead the command here by this protocol only [default: both, s3 where the directory's backend is s3]
    #[arg(long, value_name = "NAME")]
    protocol: Option<Protocol>,
    /// How an s3 backend is led here [default: by what the directory says]
    #[arg(long, value_name = "ROUTE")]
    s3_route: Option<Route>,
    /// A lock that writes rely on [default: $STATED_LOCK_ID]
    #[arg(long, value_name = "ID", value_parser = LockId::parse)]
    lock: Option<LockId>,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(Failure::new(FailureKind::Usage, "no command is given"));
        };
        let tool = Tool::of(program);
        let directory = directory(tool, arguments)?;
        let label = directory_label(&host(), &directory);
        let surroundings = Surroundings::read(&directory);
        let route = surroundings.route(self.protocol, self.s3_route);
        let object = surroundings.object().filter(|_| route.is_some());
        let state = self.http_state(&directory, &label, surroundings.is_s3() && route.is_some(), context)?;
        if let Some(route) = route {
            if let Some(object) = &object {
                tell!("statectl: state {object}");
            }
            tell!("statectl: {}", route.told());
            if surroundings.is_stale(route) && tool.is_some() && !route::reconfigures(arguments) {
                tell!(
                    "statectl: this directory was initialised to find its state elsewhere; once: \
                     statectl exec -- terraform init -reconfigure (or -migrate-state, which brings that state along)"
                );
            }
        } else if tool.is_some() && uses_state(arguments) {
            advise(&surroundings.configuration);
        }

        let under = args::relied_on(self.lock)?.pop();
        let no_random = |error| Failure::new(FailureKind::Internal, format!("no random numbers: {error}"));
        let credential = Credential::draw().map_err(no_random)?;
        let keys = Credential::draw_keys().map_err(no_random)?;
        let gateway = GatewayProcess::start(Settings {
            socket: context.options.socket.as_deref().map(absolute).transpose()?,
            autostart: context.options.autostart,
            state_dir: context.options.state_dir.as_deref().map(absolute).transpose()?,
            exe: context.options.exe.clone(),
            pins: context.options.pins.clone(),
            credential: credential.clone(),
            keys: route.is_some().then(|| keys.clone()),
            proxy: (route == Some(Route::Backend)).then(|| ProxySettings { upstream: route::users_proxy() }),
            state: state.clone(),
            under: under.clone(),
            labels: BTreeMap::from([(DIRECTORY_LABEL.to_owned(), label)]),
            program: tool.unwrap_or("terraform").to_owned(),
        })?;
        let address = format!("127.0.0.1:{}", gateway.port());
        let mut command = Command::new(program);
        command.args(arguments).env("STATED_SOCKET", gateway.socket());
        if let Some(state) = &state {
            let url = environment::state_url(&address, state);
            let preferred = |name: &str| environment::is_preference(name) && std::env::var_os(name).is_some();
            command.envs(environment::for_state(&url, &credential).into_iter().filter(|(name, _)| !preferred(name)));
        }
        if let Some(route) = route {
            route.lead(&mut command, &address, &credential, &keys);
        }
        if let Some(state) = object.or(state) {
            command.env("STATED_STATE", state.as_str());
        }
        if let Some(under) = &under {
            command.env("STATED_LOCK_ID", under.as_str());
        }
        run(command, &gateway, context)
    }

    /// The state of the http backend, where that is led here.
    ///
    /// Beside an `s3` backend it only counts for a state that moves from one to the other, and is not spoken of.
    fn http_state(
        &self,
        directory: &Path,
        label: &str,
        is_beside_s3: bool,
        context: &Context,
    ) -> Result<Option<StateName>, Failure> {
        if self.protocol == Some(Protocol::S3) {
            return Ok(None);
        }
        if let Some(state) = &self.state {
            return Ok(Some(state.clone()));
        }
        let named = name(directory).and_then(|state| {
            refuse_foreign(&state, label, &self.command, context)?;
            Ok(state)
        });
        match named {
            Ok(state) => {
                if !is_beside_s3 {
                    tell!("statectl: state {state}");
                }
                Ok(Some(state))
            }
            Err(failure) if is_beside_s3 && matches!(failure.kind, FailureKind::Conflict | FailureKind::Usage) => {
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// Runs the command once the gateway knows its process; returns its exit code.
fn run(command: Command, gateway: &GatewayProcess, context: &Context) -> Result<u8, Failure> {
    let signals = Signals::register(None).map_err(|error| failure::local("handle signals", &error))?;
    let interruptible = child::exit_on_interrupt(&context.output)?;
    let sentinel = Sentinel::start().map_err(|error| failure::local("hear signals", &error))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let cannot = |error: std::io::Error| failure::local(format!("run {program}"), &error);
    let command = HeldBack::start(&command, None).map_err(cannot)?;
    let gone = |why: &str| Failure::new(FailureKind::Internal, format!("cannot watch the command: {why}"));
    let owner = Owner::open(command.pid().as_raw_nonzero().get().unsigned_abs()).ok_or_else(|| gone("it is gone"))?;
    gateway.attend(&owner).map_err(|error| gone(&error.to_string()))?;
    // From here on an interrupt at the terminal is the command's to handle; this waits for it.
    interruptible.store(false, Ordering::Relaxed);
    let running = command.let_go("").map_err(cannot)?;
    gateway
        .remarks(|remark| tell!("statectl: {}", printable(remark)))
        .and_then(|()| wait(running.pidfd(), signals, sentinel))
        .map_err(|error| failure::local(format!("wait for {program}"), &error))?;
    Ok(running.wait().map_or_else(|error| child::not_started(&program, &error, &context.output), child::exit_code))
}

fn wait(pidfd: &OwnedFd, mut signals: Signals, mut sentinel: Sentinel) -> std::io::Result<()> {
    loop {
        let ended = child::wait(pidfd, None, false, &signals)?.child;
        for signal in sentinel.not_heard(&mut signals) {
            child::signal(pidfd, signal)?;
        }
        if ended {
            return Ok(());
        }
    }
}

/// A program that reads Terraform configurations.
struct Tool;

impl Tool {
    /// Its name, where the command is one.
    fn of(program: &OsStr) -> Option<&'static str> {
        let name = Path::new(program).file_name()?.to_str()?;
        ["terraform", "tofu"].into_iter().find(|tool| *tool == name)
    }
}

/// The directory of the configuration: of `-chdir`, which only counts before Terraform's own verb, else this one.
fn directory(tool: Option<&str>, arguments: &[OsString]) -> Result<PathBuf, Failure> {
    let options = arguments.iter().take_while(|argument| argument.as_encoded_bytes().starts_with(b"-"));
    let chosen = options.filter_map(|option| option.to_str()?.strip_prefix("-chdir=")).last();
    let directory = Path::new(chosen.filter(|_| tool.is_some()).unwrap_or("."));
    directory.canonicalize().map_err(|error| failure::file("enter", directory, &error))
}

/// Whether Terraform's verb has to do with the state at all.
fn uses_state(arguments: &[OsString]) -> bool {
    let verb = arguments.iter().find(|argument| !argument.as_encoded_bytes().starts_with(b"-"));
    let verb = verb.and_then(|verb| verb.to_str());
    verb.is_some_and(|verb| !matches!(verb, "fmt" | "version" | "login" | "logout" | "metadata" | "functions"))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| failure::local(format!("find {}", path.display()), &error))
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn name(directory: &Path) -> Result<StateName, Failure> {
    let repository = Repository::find(directory);
    default_name(directory, repository.as_ref()).map_err(|error| {
        Failure::new(FailureKind::Usage, format!("{} gives no state's name: {error}", directory.display()))
            .hint("name it: statectl exec --state NAME -- …")
    })
}

/// Refuses a default name whose newest version came from another directory: two clones, or two that look alike,
/// must not write one state by accident.
fn refuse_foreign(state: &StateName, label: &str, command: &[OsString], context: &Context) -> Result<(), Failure> {
    let request = Request::Show { state: state.clone(), at: Selector::Newest };
    let version = match context.connect()?.call(&request) {
        Ok(Reply::Version(version)) => version,
        Ok(_) => return Err(failure::unexpected()),
        Err(failure) if failure.kind == FailureKind::NotFound => return Ok(()),
        Err(failure) => return Err(failure),
    };
    match version.labels.get(DIRECTORY_LABEL) {
        Some(last) if version.content.is_some() && last != label => Err(Failure::new(
            FailureKind::Conflict,
            format!("{state} was last written from {last}, and this is {label}"),
        )
        .hint(format!("where it is the same state: {}", with_state(state, command)))),
        _ => Ok(()),
    }
}

/// The command line that names the state.
fn with_state(state: &StateName, command: &[OsString]) -> String {
    let mut line = format!("statectl exec --state {} --", failure::quoted(state.as_str()));
    for word in command {
        line.push(' ');
        line.push_str(&failure::quoted(&word.to_string_lossy()));
    }
    line
}

/// Tells where Terraform would not come here: it takes a missing backend for a file in the directory.
fn advise(configuration: &Configuration) {
    match &configuration.backend {
        None if configuration.exists => tell!(
            "statectl: this configuration names no backend, so its state stays in a local file; add:\n\n  \
             terraform {{\n    backend \"http\" {{}}\n  }}\n"
        ),
        Some(backend) if backend.kind != "http" => tell!(
            "statectl: this configuration keeps its state elsewhere (backend {:?}); for here: backend \"http\" {{}}",
            backend.kind
        ),
        Some(backend) if backend.has_address() => {
            tell!("statectl: the address in the backend block counts more than this gateway's; remove it");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn chdir_counts_before_the_verb_of_terraform_only() {
        let room = tempfile::tempdir().unwrap();
        let room = room.path().canonicalize().unwrap();
        let chdir = format!("-chdir={}", room.display());
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(directory(Some("terraform"), &words(&format!("-no-color {chdir} plan"))).unwrap(), room);
        assert_eq!(directory(Some("terraform"), &words(&format!("plan {chdir}"))).unwrap(), here);
        assert_eq!(directory(None, &words(&chdir)).unwrap(), here);
        assert!(directory(Some("tofu"), &words("-chdir=/nonexistent plan")).is_err());
    }

    #[test]
    fn tools_are_known_by_their_file_name() {
        assert_eq!(Tool::of(OsStr::new("/usr/bin/terraform")), Some("terraform"));
        assert_eq!(Tool::of(OsStr::new("tofu")), Some("tofu"));
        assert_eq!(Tool::of(OsStr::new("make")), None);
        assert!(uses_state(&words("-chdir=x apply")) && !uses_state(&words("fmt")) && !uses_state(&words("-version")));
    }

    #[test]
    fn the_line_to_type_can_be_typed() {
        let state = StateName::parse("a b/it's").unwrap();
        let line = with_state(&state, &words("terraform apply -var=x=$y"));
        assert_eq!(line, r"statectl exec --state 'a b/it'\''s' -- terraform apply '-var=x=$y'");
    }
}
