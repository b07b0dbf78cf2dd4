//! The signals that end the daemon.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cancels `stop` at the first SIGTERM or SIGINT.
///
/// The handlers are in place when this returns. Its task is tracked, and ends with `stop` too.
pub fn stop_on_signals(stop: CancellationToken, tasks: &TaskTracker) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tasks.spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = stop.cancelled() => return,
        };
        tracing::info!(signal = name, "stopping");
        stop.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn sigterm_stops() {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        stop_on_signals(stop.clone(), &tasks).unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    }
}
