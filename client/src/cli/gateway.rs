//! `gateway`: serve Terraform's http backend, or S3, until told to end.

use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use stated_shared::{Failure, FailureKind, LockId};

use super::exec::Protocol;
use super::target::Target;
use super::{Context, args, failure};
use crate::autostart;
use crate::gateway::scope::{Pattern, Scope, Verb};
use crate::gateway::server::Address;
use crate::gateway::standing::{Bound, Standing};
use crate::gateway::terraform::STATE_PATH;
use crate::gateway::{Credential, environment};
use crate::printable::printable;
use stated_shared::paths::{self, ProcessEnvironment};

/// Serve Terraform's http backend, or S3, on loopback, in the foreground
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl gateway --listen 127.0.0.1:8087 --env-file ./gateway.env &
  set -a; . ./gateway.env; set +a
  TF_HTTP_ADDRESS=\"$STATED_GATEWAY/example/network\" …     (and the lock and unlock addresses)
  statectl gateway --state example/network                one state: its addresses are in the file
  statectl gateway --protocol s3 --state 'my-bucket/**'    for backend \"s3\", and for other clients of S3
  statectl gateway --allow read                           for an editor

Whoever can read the file acts as you. It holds new secrets at each start and is removed at the end.")]
pub(super) struct Gateway {
    /// Loopback address and port, or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = str::parse::<Address>)]
    listen: Address,
    /// Serve this state only, or those that a glob matches; may come more than once
    #[arg(long = "state", value_name = "GLOB", value_parser = str::parse::<Pattern>)]
    states: Vec<Pattern>,
    /// What clients may do with states
    #[arg(long, value_name = "VERB", value_delimiter = ',', value_parser = verbs(), default_value = "read,write,lock")]
    allow: Vec<Verb>,
    /// What is served; the file leads there, with s3 every AWS client that reads it
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', value_enum, default_values_t = [Protocol::Http])]
    protocol: Vec<Protocol>,
    /// Where the variables are written; - for standard output [default: beside the user's socket]
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// A lock that writes rely on [default: $STATED_LOCK_ID]
    #[arg(long, value_name = "ID", value_parser = LockId::parse)]
    lock: Option<LockId>,
}

impl Gateway {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let serves = |protocol| self.protocol.contains(&protocol);
        if serves(Protocol::S3) && matches!(self.listen, Address::Unix(_)) {
            return Err(Failure::new(FailureKind::Usage, "no client of AWS speaks over a Unix socket")
                .hint("let it have a port of loopback: --listen 127.0.0.1:0"));
        }
        let no_random = |error| Failure::new(FailureKind::Internal, format!("no random numbers: {error}"));
        let credential = serves(Protocol::Http).then(Credential::draw).transpose().map_err(no_random)?;
        let keys = serves(Protocol::S3).then(Credential::draw_keys).transpose().map_err(no_random)?;
        let scope = Scope { states: self.states.clone(), verbs: self.allow.clone() };
        let standing = Standing {
            options: context.options.clone(),
            address: self.listen.clone(),
            scope: scope.clone(),
            under: args::relied_on(self.lock.clone())?.pop(),
            credential: credential.clone(),
            keys: keys.clone(),
            report: Arc::new(|text| tell!("statectl: {}", printable(text))),
        };
        let path = match &self.env_file {
            Some(path) => path.clone(),
            None => default_file()?,
        };
        let cannot = |error: io::Error| failure::file("write", &path, &error);
        // A pipe is opened once somebody reads it, which a signal ends as long as nothing is served.
        let target = Target::of(&path).map_err(cannot)?;
        let mut written = None;
        let result = standing.run(|bound| {
            let lines = variables(bound, &scope, credential.as_ref(), keys.as_ref());
            match target {
                Target::Output => return context.output.print_bytes(lines.as_bytes()),
                Target::Stream(mut stream) => stream.write_all(lines.as_bytes()).map_err(cannot)?,
                Target::File(file) => written = Some(Written::write(file, &lines).map_err(cannot)?),
            }
            tell!("statectl: serving {}", self.place(bound));
            context.output.print(&path.display().to_string())
        });
        if let Some(written) = written {
            written.remove();
        }
        result.map(|()| 0)
    }

    fn place(&self, bound: &Bound) -> String {
        let path = if self.protocol.contains(&Protocol::Http) { STATE_PATH } else { "/" };
        match &self.listen {
            Address::Tcp(_) => format!("http://{}{path}", bound.host),
            Address::Unix(socket) => format!("http://localhost{path} on {}", socket.display()),
        }
    }
}

fn verbs() -> impl TypedValueParser<Value = Verb> {
    PossibleValuesParser::new(Verb::ALL.map(Verb::as_str)).try_map(|text| text.parse::<Verb>())
}

/// The file's lines. No value needs quoting, since readers of such files differ in it.
fn variables(bound: &Bound, scope: &Scope, credential: Option<&Credential>, keys: Option<&Credential>) -> String {
    let mut variables = Vec::new();
    if let Some(credential) = credential {
        variables.extend(match scope.only() {
            Some(state) => environment::for_state(&environment::state_url(&bound.host, state), credential),
            None => environment::for_any(credential),
        });
        let gateway = format!("http://{}{}", bound.host, STATE_PATH.trim_end_matches('/'));
        variables.push(("STATED_GATEWAY", gateway));
    }
    if let Some(keys) = keys {
        variables.extend(environment::for_aws(&bound.host, keys));
        variables.push(("AWS_REGION", environment::region()));
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// Beside the socket of the user's daemon, whose directory is the user's alone; it is made where another daemon serves.
fn default_file() -> Result<PathBuf, Failure> {
    let elsewhere = "choose another place: --env-file FILE";
    let socket = paths::user_socket(&ProcessEnvironment)
        .ok_or_else(|| Failure::new(FailureKind::Usage, "there is no directory for the variables").hint(elsewhere))?;
    if let Some(directory) = socket.parent() {
        if let Some(why) = autostart::somebody_elses(directory) {
            return Err(Failure::new(FailureKind::Denied, format!("no variables are written: {why}")).hint(elsewhere));
        }
        autostart::make(directory).map_err(|error| failure::file("make", directory, &error).hint(elsewhere))?;
    }
    Ok(socket.with_file_name(format!("gateway-{}.env", std::process::id())))
}

/// A file of variables, held open so that no other one is taken for it.
struct Written {
    path: PathBuf,
    file: File,
}

impl Written {
    /// Writes a file that nobody else can read, whole or not at all.
    fn write(path: PathBuf, text: &str) -> io::Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Created with 0600.
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        file.write_all(text.as_bytes())?;
        let file = file.persist(&path)?;
        Ok(Self { path, file })
    }

    /// Removes it, and nothing that has taken its place.
    fn remove(self) {
        let is_ours = |there: Metadata, ours: Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        if let (Ok(there), Ok(ours)) = (fs::symlink_metadata(&self.path), self.file.metadata())
            && is_ours(there, ours)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
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
        let (credential, keys) = (Credential::draw().unwrap(), Credential::draw_keys().unwrap());
        let scope = Scope { states: vec!["a b/$c".parse().unwrap()], verbs: Vec::new() };
        let bound = Bound { host: "127.0.0.1:8080".into() };
        let lines = variables(&bound, &scope, Some(&credential), Some(&keys));
        let written = Written::write(path.clone(), &lines).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("TF_HTTP_ADDRESS=http://127.0.0.1:8080/v1/state/a%20b/%24c\n"), "{text}");
        assert!(text.contains("STATED_GATEWAY=http://127.0.0.1:8080/v1/state\n"), "{text}");
        assert!(text.contains("AWS_ENDPOINT_URL=http://127.0.0.1:8080\n"), "{text}");
        assert!(!text.contains(['\'', '"', ' ', '$']), "{text}");
        written.remove();
        assert!(!path.exists());
        let of_one = |credential, keys| variables(&bound, &scope, credential, keys);
        assert!(!of_one(Some(&credential), None).contains("AWS_"), "AWS clients are led here where that is asked for");
        assert!(!of_one(None, Some(&keys)).contains("TF_HTTP"));
    }
}
