//! What is asked: words of the command line, and text piped to stdin.

use super::Args;
use super::usage;
use crate::cli::model::DEMO;
use crate::cli::output;
use anyhow::{Context, Result, anyhow, bail};
use clap::error::ErrorKind;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// What to do, and on which model.
pub struct Task {
    pub model: Option<String>,
    /// `None`: chat.
    pub prompt: Option<String>,
}

impl Task {
    /// The prompt behind the conversation `before`.
    pub fn messages(&self, before: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
        let user = self.prompt.iter().map(|text| serde_json::json!({ "role": "user", "content": text }));
        before.into_iter().chain(user).collect()
    }
}

/// Takes the command line's words apart and reads stdin where it is no terminal.
pub fn read(args: &Args) -> Result<Task> {
    let (model, words) = positionals(args)?;
    let piped = if io::stdin().is_terminal() { None } else { piped_text(words.is_some())? };
    let prompt = match (words, piped) {
        (Some(words), Some(piped)) if !piped.is_empty() => Some(format!("{words}\n\n{piped}")),
        (Some(words), _) => Some(words),
        (None, piped) => piped,
    };
    if prompt.as_ref().is_some_and(|p| p.trim().is_empty() && !args.raw || p.is_empty()) {
        bail!("the prompt is empty");
    }
    if prompt.is_none() && args.json {
        return Err(usage("run", ErrorKind::MissingRequiredArgument, "--json needs a prompt".into()));
    }
    Ok(Task { model, prompt })
}

/// MODEL and PROMPT. Of `run WORD`, the word is a model, unless only a prompt has spaces and names no file.
fn positionals(args: &Args) -> Result<(Option<String>, Option<String>)> {
    let (model, words) = (args.model.clone(), args.words.clone().or(args.prompt.clone()));
    let Some(word) = model.as_deref().filter(|_| words.is_none()) else { return Ok((model, words)) };
    if word == DEMO || word.ends_with(".gguf") || Path::new(word).exists() {
        return Ok((model, None));
    }
    if word.contains(char::is_whitespace) {
        return Ok((None, model));
    }
    Err(anyhow!("{word}: no such file; MODEL is the path of a .gguf file, or `{DEMO}` (to ask that: -p {word:?})"))
}

/// All of stdin, without the line break that ends it.
fn piped_text(has_prompt: bool) -> Result<Option<String>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = sender.send(io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes));
    });
    let bytes = receiver.recv_timeout(Duration::from_secs(2)).or_else(|_| {
        let what = if has_prompt { "the rest of the prompt" } else { "the prompt" };
        output::note(format_args!("reading {what} from stdin, up to its end"));
        receiver.recv()
    });
    let bytes = bytes.context("stdin")?.context("stdin cannot be read")?;
    let text = String::from_utf8(bytes).map_err(|e| {
        anyhow!("the prompt on stdin is not valid UTF-8 (first bad byte at {})", e.utf8_error().valid_up_to())
    })?;
    let text = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text);
    Ok(Some(text.to_string()))
}
