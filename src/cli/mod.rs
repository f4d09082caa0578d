//! The command line: one file a subcommand.

mod bench;
mod cache;
mod completions;
mod device;
mod devices;
mod fit;
mod human;
mod like;
mod logits;
mod model;
mod output;
mod pipelines;
mod placement;
mod profile;
mod run;
mod shaders;
mod show;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  halogen run                                  chat with the embedded model
  halogen run demo \"What is error E0382?\"      one answer, then exit
  halogen run model.gguf -p \"Hello\" --temp 0   a model from a file, always the best token
  git diff | halogen run model.gguf \"Review this:\"
  halogen devices                              the adapters of this machine, and what they reach
  halogen bench model model.gguf               tokens a second, beside the limit of the machine
  halogen fit --like gpt-oss-120b              whether a model fits, before its download
  halogen show model.gguf                      what is in a file

MODEL is the path of a .gguf file (of a split model: any of its files), or `demo`:
the embedded model, a mixture of experts trained on the documentation of Rust.
Without MODEL it is `demo`.

Exit codes: 0, 1 for an error, 2 for wrong usage, 130 where Ctrl-C ended an answer or a load. A closed pipe is success.";

/// Runs large language models, mixtures of experts first, on any GPU.
#[derive(Parser)]
#[command(name = "halogen", version, after_help = EXAMPLES, max_term_width = 120)]
struct Cli {
    /// On an error, also say what caused it; with run, also print the decode step's dispatches
    #[arg(short, long, global = true, display_order = 90)]
    verbose: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Devices(devices::Args),
    Bench(bench::Args),
    Fit(fit::Args),
    Show(show::Args),
    Logits(logits::Args),
    Shaders(shaders::Args),
    Completions(completions::Args),
}

/// Parses the command line and runs it. Exit codes: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(cache::long_names(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no failure of `--help`.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(args, cli.verbose),
        Command::Devices(args) => devices::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Fit(args) => fit::run(args),
        Command::Show(args) => show::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Shaders(args) => shaders::run(args),
        Command::Completions(args) => completions::run(args),
    };
    match done {
        Ok(code) => code,
        Err(error) => report(&error, cli.verbose),
    }
}

/// One clear line; with `--verbose`, also each cause that the line does not name already.
fn report(error: &anyhow::Error, verbose: bool) -> ExitCode {
    if output::is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        let _ = usage.print();
        return ExitCode::from(2);
    }
    let mut said = error.to_string();
    output::note(format_args!("error: {said}"));
    for cause in error.chain().skip(1).filter(|_| verbose) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            output::note(format_args!("  because: {cause}"));
            said = cause;
        }
    }
    ExitCode::FAILURE
}

/// An error of usage: it exits with 2, as those that clap finds itself.
fn usage(subcommand: &str, kind: clap::error::ErrorKind, message: String) -> anyhow::Error {
    use clap::CommandFactory;
    let mut command = Cli::command();
    command.build();
    let command = command.find_subcommand_mut(subcommand).expect("a subcommand's name");
    command.error(kind, message).into()
}

/// What a subcommand that cannot fail halfway gives.
fn success() -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
