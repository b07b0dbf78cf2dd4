//! The daemon's command line.

mod log;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use stated::boot;
use stated::config::{Flags, Settings};
use stated_shared::paths::ProcessEnvironment;
use stated_shared::{Failure, FailureKind, Seq};

/// Keeps state files encrypted, versioned and locked, for every process of this host.
///
/// Clients reach it through a Unix socket: see `statectl`, which starts it by itself.
#[derive(Parser)]
#[command(name = "stated", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    places: Places,
}

#[derive(Subcommand)]
enum Command {
    /// Serve, in the foreground (the default)
    Run {
        #[command(flatten)]
        places: Places,
        /// Start without the records from SEQ on, which are damaged or missing: they are moved to lost/, and that is
        /// recorded. SEQ is the number that the refused start named
        #[arg(long, value_name = "SEQ")]
        accept_loss: Option<Seq>,
    },
    /// Make a new state directory and, where none is configured, the key that opens it
    Init {
        #[command(flatten)]
        places: Places,
        /// Another public key that shall open it, besides the identity's own and the configured ones: that of a key which
        /// is kept elsewhere, so that not all is lost with this machine. May be given more than once
        #[arg(long, value_name = "KEY")]
        recipient: Vec<String>,
    },
    /// Read everything in the state directory and name what is damaged; changes nothing
    Verify(Places),
    /// Make the state directory of a backup, for `statectl restore`; says in one JSON line what came of it
    #[command(hide = true)]
    Restore {
        #[command(flatten)]
        places: Places,
        /// The backup: a directory, or a file in the form of tar; - is standard input
        from: PathBuf,
        /// Move aside what is there
        #[arg(long)]
        force: bool,
    },
    /// Tell `statectl doctor` what a start would need, as JSON lines; takes no lock and changes nothing
    #[command(hide = true)]
    Inspect(Places),
}

#[derive(Args, Default)]
struct Places {
    /// Configuration file [default: ~/.config/stated/config.toml, else /etc/stated/config.toml]
    #[arg(long, env = "STATED_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory [default: ~/.local/state/stated, else /var/lib/stated]
    #[arg(long, env = "STATED_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Socket [default: $XDG_RUNTIME_DIR/stated/stated.sock, else below the state directory's home]
    #[arg(long, env = "STATED_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Places {
    fn settings(self) -> Result<Settings, Failure> {
        let Self { config, state_dir, socket } = self;
        Settings::gather(Flags { config, state_dir, socket }, &ProcessEnvironment)
    }
}

/// How long a stop waits for work beside that nobody waits for any more.
const UNFINISHED_MAX: Duration = Duration::from_secs(2);

/// Half of a commit's memory is freed by another thread than asked for it, in pieces of up to 64 KiB: the system's
/// allocator locks, merges and gives back to the kernel, which takes more time than hashing and sealing do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::init();
    let done = match cli.command {
        None => run(cli.places, None),
        Some(Command::Run { places, accept_loss }) => run(places, accept_loss),
        Some(Command::Init { places, recipient }) => init(places, recipient),
        Some(Command::Verify(places)) => verify(places),
        Some(Command::Inspect(places)) => inspect(places),
        Some(Command::Restore { places, from, force }) => {
            return restore(places, &from, force);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let hint = failure.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            // Nowhere to say that stderr is closed.
            let _ = writeln!(std::io::stderr(), "stated: {}{hint}", failure.message);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn run(places: Places, accept_loss: Option<Seq>) -> Result<(), Failure> {
    let settings = Settings { accept_loss, ..places.settings()? };
    // One thread serves all connections: each request is a few microseconds of it, and what takes longer runs elsewhere.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Internal, format!("cannot start the runtime: {error}")))?;
    let ended = runtime.block_on(boot::run(settings));
    // What still runs was acknowledged to nobody; a plugin that waits for a touch ends with us.
    runtime.shutdown_timeout(UNFINISHED_MAX);
    ended
}

fn init(places: Places, recipients: Vec<String>) -> Result<(), Failure> {
    let mut settings = places.settings()?;
    settings.recipients.extend(recipients);
    match boot::init(&settings)? {
        Some(founded) => {
            println!("repository {} in {}", founded.repository, settings.state_dir.display());
            for recipient in &founded.recipients {
                println!("sealed to {recipient}");
            }
            if founded.new_identity {
                println!("new key   {}", settings.identity);
                match founded.recipients.len() {
                    1 => println!(
                        "Back this key up, or add one that is kept elsewhere (statectl key add): without any nobody reads \
                         the states again."
                    ),
                    _ => println!("Back this key up: without any of these keys nobody reads the states again."),
                }
            }
            Ok(())
        }
        None => Err(Failure::new(
            FailureKind::Conflict,
            format!("{} holds a repository already; nothing was changed", settings.state_dir.display()),
        )
        .hint("serve it with: stated run")),
    }
}

fn verify(places: Places) -> Result<(), Failure> {
    let settings = places.settings()?;
    let (records, damage) = boot::verify(&settings).map_err(|failure| match failure.kind {
        FailureKind::Busy => failure.hint("its daemon checks it while it serves: statectl verify"),
        _ => failure,
    })?;
    for found in &damage {
        println!("{} at byte {}: {}", found.file, found.offset_bytes, found.what);
    }
    if damage.is_empty() {
        println!("{records} records, all as they were written");
        return Ok(());
    }
    Err(Failure::new(FailureKind::Storage, format!("{} things are damaged", damage.len()))
        .hint("nothing was changed; put the files back from a copy"))
}

/// First the settings, then what a start needs: `statectl doctor` has neither the configuration's grammar nor age.
fn inspect(places: Places) -> Result<(), Failure> {
    let settings = places.settings()?;
    println!(
        "{}",
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state_dir": settings.state_dir,
            "socket": settings.socket,
            "identity": settings.identity.to_string(),
        })
    );
    for inspected in boot::inspect(&settings)? {
        let (is_ok, what, hint) = match inspected.found {
            Ok(what) => (true, what, None),
            Err(failure) => (false, failure.message, failure.hint),
        };
        println!("{}", serde_json::json!({ "check": inspected.check, "ok": is_ok, "what": what, "hint": hint }));
    }
    Ok(())
}

/// A failure goes the same way as what was done: `statectl restore` tells it as its own.
fn restore(places: Places, from: &Path, force: bool) -> ExitCode {
    let restored = places.settings().and_then(|settings| {
        let restored = boot::restore(&settings, from, force)?;
        Ok((settings, restored))
    });
    let (line, code) = match restored {
        Ok((settings, boot::Restored { repository, seq, epoch, leases, aside, before })) => {
            let restored = serde_json::json!({
                "state_dir": settings.state_dir,
                "repository": repository,
                "seq": seq,
                "epoch": epoch,
                "leases": leases,
                "aside": aside,
                "before": before,
            });
            (serde_json::json!({ "restored": restored }), ExitCode::SUCCESS)
        }
        Err(failure) => {
            let code = failure.kind.exit_code();
            let failed = serde_json::json!({ "kind": failure.kind, "message": failure.message, "hint": failure.hint });
            (serde_json::json!({ "failed": failed }), ExitCode::from(code))
        }
    };
    println!("{line}");
    code
}
