//! `completions`: what a shell completes, from the definition of the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use stated_shared::Failure;

use super::{Cli, Context};

/// Print a shell's completions for statectl
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statectl completions bash >~/.local/share/bash-completion/completions/statectl
  statectl completions zsh >\"${fpath[1]}/_statectl\"
  statectl completions fish >~/.config/fish/completions/statectl.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "statectl", &mut script);
        context.output.print_bytes(&script)?;
        Ok(0)
    }
}
