//! A gateway that stands by itself, for as long as it is let: the one of `statectl gateway`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use stated_shared::{Failure, FailureKind, LockId};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

use super::Credential;
use super::aws::Aws;
use super::body::Memory;
use super::daemon::{self, Daemon};
use super::guard::Guard;
use super::model::{Model, Report};
use super::scope::{Scope, Scoped};
use super::server::{Address, Gateway, Listener, States};
use super::terraform::Terraform;
use super::work::Work;
use crate::ConnectOptions;

/// What such a gateway needs to know.
pub struct Standing {
    /// How the daemon is found.
    pub options: ConnectOptions,
    /// Where it listens.
    pub address: Address,
    /// What its clients may do.
    pub scope: Scope,
    /// A lock of the user's that covers all that goes through it.
    pub under: Option<LockId>,
    /// Lets clients of the `http` backend in, where it speaks that.
    pub credential: Option<Credential>,
    /// Lets clients of AWS in, where it speaks that.
    pub keys: Option<Credential>,
    /// Told what users of the gateway should know.
    pub report: Report,
}

impl Standing {
    /// Serves until SIGTERM or SIGINT; `ready` is told once where it listens.
    pub fn run(self, ready: impl FnOnce(&Bound) -> Result<(), Failure>) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(FailureKind::Other, format!("the gateway cannot serve: {error}"));
        let daemon = Arc::new(Daemon::connect(self.options)?);
        let work = Arc::new(Work::attended());
        daemon::watch_locks(&daemon, {
            let (work, report) = (Arc::clone(&work), Arc::clone(&self.report));
            move |id, why| {
                work.lost(id);
                report(&format!("lock {id} is lost: {why}; writes under it are refused"));
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        let served = runtime.block_on(async {
            let (mut terminate, mut interrupt) =
                (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
            let listener = bind(&self.address).await.map_err(|error| cannot_bind(&self.address, &error))?;
            let _place = Place(&self.address);
            let hosts = listener.hosts().map_err(failed)?;
            ready(&Bound { host: hosts.first().cloned().unwrap_or_default() })?;
            let model = Arc::new(Model {
                backend: Arc::new(Scoped::new(daemon, self.scope, Arc::clone(&self.report))),
                work: Arc::clone(&work),
                under: self.under,
                labels: Default::default(),
                program: "terraform".to_owned(),
                report: self.report,
            });
            let states = if self.credential.is_some() { States::All } else { States::None };
            let nobodys = Credential::draw().map_err(failed)?;
            let gateway = Arc::new(Gateway {
                guard: Guard::new(hosts, self.credential.unwrap_or(nobodys)),
                states,
                terraform: Terraform { model: Arc::clone(&model) },
                aws: self.keys.map(|keys| Aws::new(Arc::clone(&model), keys)),
                proxy: None,
                model,
                memory: Memory::new(),
            });
            let end = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    // Never over, but the processes that end are forgotten on the way.
                    () = work.over() => {}
                }
            };
            gateway.serve(listener, end).await;
            Ok(())
        });
        runtime.shutdown_background();
        served
    }
}

/// A socket's place in the file system, held from its bind on and cleared at the end.
struct Place<'a>(&'a Address);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Address::Unix(path) = self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Where a gateway listens.
#[derive(Debug, Clone)]
pub struct Bound {
    /// What its `Host` header is: address and port, or `localhost` for a Unix socket.
    pub host: String,
}

async fn bind(address: &Address) -> io::Result<Listener> {
    match address {
        Address::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
        Address::Unix(path) => {
            remove_stale(path)?;
            let listener = UnixListener::bind(path)?;
            // Peers of other users are dropped anyhow; this saves them the try.
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(Listener::Unix(listener))
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(_) => Ok(()),
    }
}

fn cannot_bind(address: &Address, error: &io::Error) -> Failure {
    let address = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => path.display().to_string(),
    };
    Failure::new(FailureKind::Other, format!("cannot listen on {address}: {error}"))
}
