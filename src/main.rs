//! The command line's door.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
