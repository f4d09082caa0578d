//! `halogen run`: one answer, or a chat.

mod answer;
mod chat;
mod options;
mod prompt;
mod saved;
mod setup;
mod stats;

use super::{output, usage};
use answer::{Answer, Ending, Sink};
use anyhow::Result;
pub use options::Args;
use serde_json::Value;
use setup::Runner;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by Ctrl-C, taken by the answer that it stops.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// What a shell reports of a program that SIGINT ended.
const INTERRUPTED_EXIT: u8 = 130;

pub fn run(args: Args, verbose: bool) -> Result<ExitCode> {
    let task = prompt::read(&args)?;
    let chats = task.prompt.is_none();
    catch_interrupts(!chats);
    let mut runner = match Runner::new(&args, task.model.as_deref(), verbose) {
        Err(error) if is_cancelled(&error) => {
            output::note("loading was cancelled");
            return Ok(ExitCode::from(INTERRUPTED_EXIT));
        }
        made => made?,
    };
    let before = match &args.resume {
        Some(file) => saved::resume(&mut runner, &args.sampling, file)?,
        None => args.opening(),
    };
    if chats {
        chat::run(&mut runner, &args, before)?;
        return Ok(ExitCode::SUCCESS);
    }
    one_answer(&mut runner, &args, task.messages(before))
}

/// Whether Ctrl-C ended the load.
fn is_cancelled(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(halogen::Error::Memory(halogen::memory::Error::Cancelled)))
}

fn one_answer(runner: &mut Runner, args: &Args, mut messages: Vec<Value>) -> Result<ExitCode> {
    let prompt = runner.prompt(&messages)?;
    let sink = if args.json { Sink::Nowhere } else { Sink::stdout() };
    let answer = runner.answer(&prompt, sink)?;
    let stats = runner.stats(&answer);
    if args.json {
        output::print_json(&Report::new(runner, &answer, stats))?;
    } else {
        answer.explain_stop();
        output::note(stats);
    }
    if let Some(file) = &args.save {
        messages.push(answer.message());
        saved::save(runner, &messages, file)?;
    }
    Ok(if answer.stop == Ending::Interrupted { ExitCode::from(INTERRUPTED_EXIT) } else { ExitCode::SUCCESS })
}

/// Ctrl-C ends the answer, and a second one the program where it is `leaves`; a chat goes on.
fn catch_interrupts(leaves: bool) {
    // It fails only where a handler is set already.
    let _ = ctrlc::set_handler(move || {
        if INTERRUPTED.swap(true, Ordering::Relaxed) && leaves {
            std::process::exit(INTERRUPTED_EXIT.into());
        }
    });
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    model: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    tokens: &'a [u32],
    stop_reason: Ending,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_string: Option<&'a str>,
    seed: u32,
    stats: stats::Stats,
}

impl<'a> Report<'a> {
    fn new(runner: &'a Runner, answer: &'a Answer, stats: stats::Stats) -> Self {
        Report {
            model: &runner.name,
            text: &answer.text,
            reasoning: answer.reasoning.as_deref(),
            tokens: &answer.tokens,
            stop_reason: answer.stop,
            stop_string: answer.stop_string.as_deref(),
            seed: runner.sampling.seed,
            stats,
        }
    }
}
