//! An end to every test: one that hangs where nothing else has a limit, in a thread or in a call of the client library.

use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// How long one host may be in use. Far beyond [`crate::LIMIT`], which tells better what was waited for.
const HOST_LIMIT: Duration = Duration::from_secs(1200);

/// Ends the whole process with the test's name, unless it is dropped in time.
#[derive(Debug)]
pub(crate) struct Bound(#[expect(dead_code, reason = "its drop is the news")] Sender<()>);

impl Bound {
    /// For the test that calls this.
    pub fn of_this_test() -> Self {
        Self::within(HOST_LIMIT)
    }

    fn within(limit: Duration) -> Self {
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let (alive, end) = channel();
        thread::spawn(move || {
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // Past the capture of output, which nobody would ever print.
                let _ = writeln!(std::io::stderr(), "{test} hangs: it uses a host for more than {limit:?}");
                std::process::abort();
            }
        });
        Self(alive)
    }
}
