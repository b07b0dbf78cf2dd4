//! `statectl`: the command line of the state daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    stated_client::cli::main()
}
