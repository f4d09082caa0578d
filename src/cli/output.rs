//! Writing so that a closed pipe ends the program in peace: the macros of std panic there.

use std::fmt::{Arguments, Display};
use std::io::{self, IsTerminal, Write};

/// A line on stderr. One that nobody reads is lost.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes to stdout, at once.
pub fn print(text: Arguments) -> io::Result<()> {
    print_bytes(text.to_string().as_bytes())
}

/// Writes a value to stdout as JSON.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(print(format_args!("{text}\n"))?)
}

/// Whether an error says that the reader of stdout has gone.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io_error = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io_error)
}

/// How emphasis is written to a stream: as escape sequences on a terminal, not at all elsewhere (no-color.org).
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub dim: &'static str,
    pub bold: &'static str,
    pub reset: &'static str,
}

impl Style {
    pub fn of(stream: &impl IsTerminal) -> Style {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        if plain || !stream.is_terminal() {
            return Style { dim: "", bold: "", reset: "" };
        }
        Style { dim: "\x1b[2m", bold: "\x1b[1m", reset: "\x1b[0m" }
    }
}

/// Writes to stdout what need not be text.
pub fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| io::Error::new(e.kind(), format!("stdout: {e}")))
}
