//! `halogen completions`: a script that teaches a shell to complete halogen's commands.

use super::{Cli, output, success};
use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use std::process::ExitCode;

/// Print a script that completes halogen's commands in a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  halogen completions bash > ~/.local/share/bash-completion/completions/halogen")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: Args) -> Result<ExitCode> {
    // Into memory: clap_complete panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "halogen", &mut script);
    output::print(format_args!("{}", String::from_utf8_lossy(&script)))?;
    success()
}
