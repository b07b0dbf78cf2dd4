//! `gateway`: serve Terraform's http backend until told to end.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use stated_shared::{Failure, FailureKind, LockId, StateName};

use super::{Context, args, failure};
use crate::gateway::server::{Address, States};
use crate::gateway::standing::{Bound, Standing};
use crate::gateway::terraform::STATE_PATH;
use crate::gateway::{Credential, environment};
use crate::printable::printable;
use stated_shared::paths::{self, ProcessEnvironment};

/// Serve Terraform's http backend on loopback, in the foreground
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl gateway --listen 127.0.0.1:8087 --env-file ./gateway.env &
  set -a; . ./gateway.env; set +a
  TF_HTTP_ADDRESS=\"$STATED_GATEWAY/example/network\" …     (and the lock and unlock addresses)
  statectl gateway --state example/network                one state: its addresses are in the file

Whoever can read the file acts as you. It holds new secrets at each start and is removed at the end.")]
pub(super) struct Gateway {
    /// Loopback address and port, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = str::parse::<Address>)]
    listen: Address,
    /// Serve this state only
    #[arg(long, value_name = "NAME", value_parser = StateName::parse)]
    state: Option<StateName>,
    /// Where the variables are written; - for standard output [default: beside the user's socket]
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// A lock that writes rely on [default: $STATED_LOCK_ID]
    #[arg(long, value_name = "ID", value_parser = LockId::parse)]
    lock: Option<LockId>,
}

impl Gateway {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let credential = Credential::draw()
            .map_err(|error| Failure::new(FailureKind::Internal, format!("no random numbers: {error}")))?;
        let states = match &self.state {
            Some(state) => States::One(state.clone()),
            None => States::All,
        };
        let standing = Standing {
            options: context.options.clone(),
            address: self.listen.clone(),
            states,
            under: args::relied_on(self.lock.clone())?.pop(),
            credential: credential.clone(),
            report: Arc::new(|text| eprintln!("statectl: {}", printable(text))),
        };
        let mut written = None;
        let result = standing.run(|bound| {
            let lines = self.variables(bound, &credential);
            if self.env_file.as_deref() == Some(Path::new("-")) {
                return context.output.print_bytes(lines.as_bytes());
            }
            let path = match &self.env_file {
                Some(path) => path.clone(),
                None => default_file()?,
            };
            write(&path, &lines).map_err(|error| failure::file("write", &path, &error))?;
            eprintln!("statectl: serving {}", self.place(bound));
            context.output.print(&path.display().to_string())?;
            written = Some(path);
            Ok(())
        });
        if let Some(path) = written {
            let _ = fs::remove_file(path);
        }
        result.map(|()| 0)
    }

    fn place(&self, bound: &Bound) -> String {
        match &self.listen {
            Address::Tcp(_) => format!("http://{}{STATE_PATH}", bound.host),
            Address::Unix(path) => format!("http://localhost{STATE_PATH} on {}", path.display()),
        }
    }

    /// The file's lines. No value needs quoting, since readers of such files differ in it.
    fn variables(&self, bound: &Bound, credential: &Credential) -> String {
        let mut variables = match &self.state {
            Some(state) => environment::for_state(&environment::state_url(&bound.host, state), credential),
            None => environment::for_any(credential),
        };
        let gateway = format!("http://{}{}", bound.host, STATE_PATH.trim_end_matches('/'));
        variables.push(("STATED_GATEWAY", gateway));
        variables.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }
}

/// Beside the socket of the user's daemon, whose directory is the user's alone.
fn default_file() -> Result<PathBuf, Failure> {
    let socket = paths::user_socket(&ProcessEnvironment).ok_or_else(|| {
        Failure::new(FailureKind::Usage, "there is no directory for the variables").hint("choose one: --env-file FILE")
    })?;
    Ok(socket.with_file_name(format!("gateway-{}.env", std::process::id())))
}

/// Writes a file that nobody else can read, whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Created with 0600.
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_for_its_owner_and_needs_no_quotes() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.env");
        fs::write(&path, "old").unwrap();
        let credential = Credential::draw().unwrap();
        let gateway = Gateway {
            listen: "127.0.0.1:0".parse().unwrap(),
            state: Some(StateName::parse("a b/$c").unwrap()),
            env_file: None,
            lock: None,
        };
        let lines = gateway.variables(&Bound { host: "127.0.0.1:8080".into() }, &credential);
        write(&path, &lines).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("TF_HTTP_ADDRESS=http://127.0.0.1:8080/v1/state/a%20b/%24c\n"), "{text}");
        assert!(text.contains("STATED_GATEWAY=http://127.0.0.1:8080/v1/state\n"), "{text}");
        assert!(!text.contains(['\'', '"', ' ', '$']), "{text}");
    }
}
