//! How far a long transfer is, for whoever watches standard error.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::output::Output;
use crate::{Client, Direction, Progress};

/// Contents shorter than this are there before anybody wonders, in bytes.
const SHOWN_LEN_MIN: u64 = 8 << 20;

/// Shows a bar for each long content that this client sends or reads, where standard error is a terminal.
pub(super) fn show(client: &mut Client, output: &Output) {
    if output.json || !io::stderr().is_terminal() {
        return;
    }
    let mut bar: Option<ProgressBar> = None;
    client.on_progress(Box::new(move |progress| {
        if progress.total_bytes < SHOWN_LEN_MIN {
            return;
        }
        let bar = bar.get_or_insert_with(|| start(progress));
        bar.set_position(progress.done_bytes);
        if progress.done_bytes == progress.total_bytes {
            bar.finish_and_clear();
        }
    }));
}

/// A bar for what is counted elsewhere, where standard error is a terminal.
pub(super) fn count(output: &Output, what: &'static str) -> Option<ProgressBar> {
    if output.json || !io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos} of {len}");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    Some(bar.with_message(what).with_finish(ProgressFinish::AndClear))
}

fn start(progress: Progress) -> ProgressBar {
    let what = match progress.direction {
        Direction::ToDaemon => "sending",
        Direction::FromDaemon => "reading",
    };
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes} of {total_bytes}, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(progress.total_bytes), ProgressDrawTarget::stderr());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        .with_message(what)
        // Also where the transfer fails: the failure is what stays on the screen.
        .with_finish(ProgressFinish::AndClear)
}
