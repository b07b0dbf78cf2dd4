//! Interrupts at the terminal: exit 130, and under `--json` the line that programs read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use stated_shared::Failure;

use super::failure;
use super::output::Output;
use crate::held_back::is_ignored;

/// The exit code of an interrupted process, as shells have it.
const EXIT_CODE: u8 = 130;

/// Ends this process with 130 on an interrupt, as long as the flag is set.
pub(super) fn end_this(while_set: &Arc<AtomicBool>, output: &Output) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| failure::local("handle signals", &error);
    if is_ignored(SIGINT) {
        return Ok(());
    }
    if !output.json {
        signal_hook::flag::register_conditional_shutdown(SIGINT, i32::from(EXIT_CODE), Arc::clone(while_set))
            .map_err(cannot)?;
        return Ok(());
    }
    // A signal handler may not print; a thread may.
    let mut signals = Signals::new([SIGINT]).map_err(cannot)?;
    let while_set = Arc::clone(while_set);
    let waiting = move || {
        for _ in signals.forever() {
            if while_set.load(Ordering::Relaxed) {
                failure::line(EXIT_CODE, "interrupted", "interrupted", None);
                std::process::exit(i32::from(EXIT_CODE));
            }
        }
    };
    std::thread::Builder::new().name("statectl-interrupt".into()).spawn(waiting).map(drop).map_err(cannot)
}
