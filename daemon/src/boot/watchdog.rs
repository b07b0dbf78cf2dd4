//! Proves to a service manager that the daemon lives, where it asks for that.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::host::Supervisor;

/// Answers asked for within one limit: one may be late, and the next is in time.
const PULSES: u32 = 3;

/// Says that the daemon lives as often as the service manager wants, until `stop`.
///
/// A timer alone would go on beside an owner that waits for ever. So each word follows a question that the owner answered,
/// once what it had decided before is durable: the thread that serves the connections, the owner and the disk all did
/// their part. Where one of them stands still the word does not come, and the service manager starts the daemon anew.
pub(super) async fn prove_life(engine: Engine, limit: Duration, stop: CancellationToken) {
    let mut due = interval(limit / PULSES);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pulses = async {
        loop {
            due.tick().await;
            // One that has stopped says so by itself.
            if engine.pulse().await.is_err() {
                return;
            }
            Supervisor.alive();
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = pulses => {}
    }
}
