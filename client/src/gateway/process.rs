//! The gateway process of one run.
//!
//! It has a session of its own, so that neither a hangup nor a signal to the run's process group reaches it, outlives one
//! that asks each process of a job to end, and lives until the run's work is gone, whatever becomes of `exec`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use stated_shared::{Failure, FailureKind};
use tokio::net::TcpListener;

use super::aws::Aws;
use super::body::Memory;
use super::control::{Control, News, Order, Settings};
use super::daemon::{self, Daemon};
use super::guard::Guard;
use super::model::{Model, Report};
use super::owner::Owner;
use super::proxy::Proxy;
use super::server::{Gateway, Listener, States};
use super::terraform::Terraform;
use super::work::Work;
use crate::launch;

/// The hidden verb that a gateway process is started with.
pub const VERB: &str = "serve-gateway";

/// A gateway process, as `exec` holds it.
#[derive(Debug)]
pub struct GatewayProcess {
    control: Control,
    port: u16,
    socket: PathBuf,
}

impl GatewayProcess {
    /// Starts this program once more, and returns when that serves.
    pub fn start(settings: Settings) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(FailureKind::Other, format!("cannot start a gateway: {error}"));
        let (control, other) = Control::pair().map_err(failed)?;
        let mut command = Command::new(program());
        command.arg0("statectl").arg(VERB).stdin(OwnedFd::from(other)).stdout(Stdio::null()).stderr(Stdio::null());
        command.current_dir("/");
        launch::detach(&mut command);
        // It is left to itself from here on, and nobody waits for it.
        let mut process = command.spawn().map_err(failed)?;
        // The command holds the other end, whose end would not be seen otherwise.
        drop(command);
        control.send(&Order::Serve(Box::new(settings)), None).map_err(failed)?;
        match control.receive().map_err(failed)? {
            Some((News::Serving { port, socket }, _)) => Ok(Self { control, port, socket }),
            Some((News::Failed(failure), _)) => Err(failure),
            _ => {
                let ended = process.wait().map_err(failed)?;
                Err(Failure::new(FailureKind::Internal, format!("the gateway ended at once ({ended})")))
            }
        }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The daemon's socket that it found.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Names the child; once this returns, locks are tied to it where nothing better is known.
    pub fn attend(&self, child: &Owner) -> io::Result<()> {
        self.control.send(&Order::Child { pid: child.pid }, Some(&child.pidfd))?;
        match self.control.receive()? {
            Some((News::ChildKnown, _)) => Ok(()),
            _ => Err(io::Error::other("the gateway is gone")),
        }
    }

    /// Hands over what the gateway remarks, until it ends; for a thread of its own.
    pub fn remarks(&self, mut tell: impl FnMut(&str) + Send + 'static) -> io::Result<()> {
        let control = self.control.try_clone()?;
        std::thread::spawn(move || {
            while let Ok(Some((news, _))) = control.receive::<News>() {
                if let News::Remark(remark) = news {
                    tell(&remark);
                }
            }
        });
        Ok(())
    }
}

/// This program; by its link in `/proc` where it was replaced on disk meanwhile.
pub(crate) fn program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.is_file()).unwrap_or_else(|| "/proc/self/exe".into())
}

/// The life of a gateway process: standard input is its end of the control socket.
///
/// Returns its exit code; there is nobody left to read a failure but `exec`.
pub fn run() -> u8 {
    let Ok(control) = Control::from_stdin().map(Arc::new) else { return FailureKind::Usage.exit_code() };
    match outlive_signals().and_then(|()| serve(&control)) {
        Ok(()) => 0,
        Err(failure) => {
            let code = failure.kind.exit_code();
            let _ = control.send(&News::Failed(failure), None);
            code
        }
    }
}

/// Whoever stops a job may signal each of its processes (systemd does): Terraform then saves its state, and needs this.
fn outlive_signals() -> Result<(), Failure> {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::default())
            .map_err(|error| Failure::new(FailureKind::Other, format!("the gateway cannot handle signals: {error}")))?;
    }
    Ok(())
}

fn serve(control: &Arc<Control>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(FailureKind::Other, format!("the gateway cannot serve: {error}"));
    let Some((Order::Serve(settings), _)) = control.receive().map_err(failed)? else {
        return Err(Failure::new(FailureKind::Usage, "this is started by `statectl exec` only"));
    };
    let daemon = Arc::new(Daemon::connect(settings.options())?);
    let socket = daemon.socket();
    let work = Arc::new(Work::attended());
    let remark: Report = {
        let control = Arc::clone(control);
        // With nobody left to read, nobody needs to know.
        Arc::new(move |text| drop(control.send(&News::Remark(text.to_owned()), None)))
    };
    daemon::watch_locks(&daemon, {
        let (work, remark) = (Arc::clone(&work), Arc::clone(&remark));
        move |id, why| {
            work.lost(id);
            remark(&format!("lock {id} is lost: {why}; writes under it are refused"));
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    let served = runtime.block_on(async {
        let listener = Listener::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let model = Arc::new(Model {
            backend: daemon,
            work: Arc::clone(&work),
            under: settings.under,
            labels: settings.labels,
            program: settings.program,
            report: remark,
        });
        let gateway = Arc::new(Gateway {
            guard: Guard::new(listener.hosts()?, settings.credential),
            states: settings.state.map_or(States::None, States::One),
            terraform: Terraform { model: Arc::clone(&model) },
            aws: settings.keys.map(|keys| Aws::new(Arc::clone(&model), keys)),
            proxy: settings.proxy.map(|proxy| Proxy::new(proxy.upstream.as_deref())),
            model,
            memory: Memory::new(),
        });
        control.send(&News::Serving { port: listener.port()?, socket }, None)?;
        listen_to_exec(Arc::clone(control), Arc::clone(&work));
        gateway.serve(listener, work.over()).await;
        Ok(())
    });
    // A thread that still asks a daemon out of reach must not keep the process.
    runtime.shutdown_background();
    served.map_err(failed)
}

/// Learns of the child, and of the end of `exec`.
fn listen_to_exec(control: Arc<Control>, work: Arc<Work>) {
    std::thread::spawn(move || {
        while let Ok(Some((order, descriptor))) = control.receive::<Order>() {
            if let (Order::Child { pid }, Some(pidfd)) = (order, descriptor) {
                work.has_child(Owner { pid, pidfd: Arc::new(pidfd) });
                let _ = control.send(&News::ChildKnown, None);
            }
        }
        work.is_left();
    });
}
