//! A conversation at a terminal.

use super::answer::Sink;
use super::setup::Runner;
use super::{Args, INTERRUPTED, saved};
use crate::cli::human;
use crate::cli::output::{Style, note};
use crate::cli::profile::cache_folder;
use anyhow::Result;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper, completion::Completer, highlight::Highlighter, hint::Hinter};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

const HELP: &str = "  /clear    forget the conversation
  /save FILE and /load FILE  keep the conversation, and go on from one that was kept
  /stats    what the last answer took, and how full the context is
  /help     this list
  /bye      leave; so does Ctrl-D
  \"\"\"       begins and ends text of several lines; a \\ at a line's end goes on with the next
  Ctrl-C    stops an answer";

/// Talks until the user leaves.
pub fn run(runner: &mut Runner, args: &Args, messages: Vec<Value>) -> Result<()> {
    let mut editor = Editor::<Input, FileHistory>::new()?;
    editor.set_helper(Some(Input));
    let history = cache_folder().map(|folder| folder.join("history.txt"));
    // There is none before the first chat.
    let _ = history.as_ref().map(|file| editor.load_history(file));
    let (device, context) = (&runner.model.gpu().info().name, runner.session.context());
    let style = Style::of(&io::stderr());
    note(format_args!("{}{} on {device}, context {context}; /help tells more{}", style.dim, runner.name, style.reset));

    let mut chat = Chat { runner, args, messages, last: None };
    loop {
        let line = match editor.readline(">>> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                note("Ctrl-D or /bye leaves");
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        if line.trim().is_empty() {
            continue;
        }
        // A history that cannot grow is no reason to stop.
        let _ = editor.add_history_entry(line.as_str());
        match line.trim() {
            "/bye" | "/exit" | "/quit" => break,
            "/help" | "/?" => note(HELP),
            "/clear" => chat.clear(),
            "/stats" => chat.stats(),
            command if let Some(file) = argument(command, "/save") => chat.save(file),
            command if let Some(file) = argument(command, "/load") => chat.load(file),
            command if is_command(command) => note(format_args!("{command}: no such command; /help lists them")),
            _ => chat.turn(&unquoted(&line))?,
        }
    }
    keep_lines(&mut editor, history);
    if let Some(file) = &args.save {
        saved::save(chat.runner, &chat.messages, file)?;
    }
    Ok(())
}

fn keep_lines(editor: &mut Editor<Input, FileHistory>, file: Option<PathBuf>) {
    if let Some(file) = file {
        let _ = file.parent().map(std::fs::create_dir_all);
        let _ = editor.save_history(&file);
    }
}

/// What follows a command's name, if it is that command.
fn argument<'l>(line: &'l str, command: &str) -> Option<&'l str> {
    let rest = line.strip_prefix(command)?;
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then(|| rest.trim())
}

/// `/word` is a command, `/usr/bin` and `/ is a slash` are not.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic()))
}

/// The conversation so far.
struct Chat<'r> {
    runner: &'r mut Runner,
    args: &'r Args,
    messages: Vec<Value>,
    /// The last answer's line of stats.
    last: Option<String>,
}

impl Chat<'_> {
    fn clear(&mut self) {
        self.messages = self.args.opening();
        self.runner.session.clear();
    }

    fn save(&mut self, file: &str) {
        if file.is_empty() {
            return note("/save FILE writes the conversation to a file");
        }
        match saved::save(self.runner, &self.messages, Path::new(file)) {
            Ok(bytes) => note(format_args!("saved: {}", human::bytes(bytes))),
            Err(error) => note(format_args!("error: {error:#}")),
        }
    }

    fn load(&mut self, file: &str) {
        if file.is_empty() {
            return note("/load FILE goes on from a conversation that /save wrote");
        }
        match saved::resume(self.runner, &self.args.sampling, Path::new(file)) {
            Ok(messages) => {
                let cached = self.runner.session.history().len();
                note(format_args!("{} messages, {cached} tokens cached", messages.len()));
                self.messages = messages;
            }
            // If the session was emptied already, the messages are there still, and are computed again.
            Err(error) => note(format_args!("error: {error:#}")),
        }
    }

    fn stats(&self) {
        note(self.last.as_deref().unwrap_or("nothing was answered yet"));
        let (used, context) = (self.runner.session.history().len(), self.runner.session.context());
        note(format_args!("context {used} of {context} tokens · seed {}", self.runner.sampling.seed));
    }

    /// Answers. Only what stdout refuses ends the chat; of other errors, the turn is taken back.
    fn turn(&mut self, text: &str) -> Result<()> {
        let before = self.messages.len();
        self.messages.push(json!({ "role": "user", "content": text }));
        INTERRUPTED.store(false, Ordering::Relaxed);
        let prompt = self.runner.prompt(&self.messages);
        let answered = prompt.and_then(|prompt| self.runner.answer(&prompt, Sink::stdout()));
        INTERRUPTED.store(false, Ordering::Relaxed);
        match answered {
            Ok(answer) => {
                self.last = Some(self.runner.stats(&answer).to_string());
                answer.explain_stop();
                self.messages.push(answer.message());
                Ok(())
            }
            Err(error) if error.is::<io::Error>() => Err(error),
            Err(error) => {
                self.messages.truncate(before);
                note(format_args!("error: {error}"));
                if let Some(halogen::session::Error::ContextOverflow { .. }) = error.downcast_ref() {
                    note("/clear forgets the conversation and makes room");
                }
                Ok(())
            }
        }
    }
}

const QUOTES: &str = "\"\"\"";

/// Reads on where the text is not complete: an open `"""`, or a backslash at the end.
struct Input;

impl Helper for Input {}
impl Highlighter for Input {}
impl Completer for Input {
    type Candidate = String;
}
impl Hinter for Input {
    type Hint = String;
}

impl Validator for Input {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let text = context.input();
        let open = text.trim_start().strip_prefix(QUOTES).is_some_and(|rest| !rest.contains(QUOTES));
        Ok(if open || text.ends_with('\\') { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

/// What the user meant by quotes and backslashes.
fn unquoted(text: &str) -> String {
    match text.trim().strip_prefix(QUOTES) {
        Some(rest) => rest.replacen(QUOTES, "", 1).trim_matches('\n').to_string(),
        None => text.replace("\\\n", "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_are_one_message() {
        assert_eq!(unquoted("plain"), "plain");
        assert_eq!(unquoted("\"\"\"\na\n  b\n\"\"\""), "a\n  b");
        assert_eq!(unquoted("\"\"\"a\nb\"\"\" c"), "a\nb c");
        assert_eq!(unquoted("a\\\nb"), "a\nb");
    }

    #[test]
    fn paths_are_no_commands() {
        assert!(is_command("/clera"));
        assert!(!is_command("/usr/bin"));
        assert!(!is_command("/ is a slash"));
        assert!(!is_command("what"));
    }
}
