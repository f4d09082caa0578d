//! An answer as it is made: tokens to text, reasoning told from the answer proper, stop strings found, all shown at once.

use super::INTERRUPTED;
use crate::cli::output::{Style, note, print_bytes};
use anyhow::Result;
use halogen::session::{Generation, Stats, StopReason};
use halogen::tokenizer::{Control, Decoder, Markers, Reasoning, Segment, SegmentKind, Special, StopStrings, Tokenizer};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    EndToken,
    Limit,
    ContextFull,
    StopString,
    Interrupted,
}

impl From<StopReason> for Ending {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::EndToken => Ending::EndToken,
            StopReason::Limit => Ending::Limit,
            StopReason::ContextFull => Ending::ContextFull,
        }
    }
}

/// A whole answer.
pub struct Answer {
    pub text: String,
    /// `None`: the model showed none.
    pub reasoning: Option<String>,
    /// Without the token that ended it.
    pub tokens: Vec<u32>,
    pub stop: Ending,
    pub stop_string: Option<String>,
    pub stats: Stats,
}

impl Answer {
    /// As a message of the conversation. Templates decide what becomes of reasoning.
    pub fn message(&self) -> Value {
        let mut message = json!({ "role": "assistant", "content": self.text });
        if let Some(reasoning) = &self.reasoning {
            message["reasoning_content"] = reasoning.as_str().into();
        }
        message
    }

    /// Says so where an answer was cut short by what the user did not ask for.
    pub fn explain_stop(&self) {
        if self.stop == Ending::ContextFull {
            note("note: the context is full; a larger -c would help");
        }
    }
}

/// Where an answer is shown while it is made.
pub enum Sink {
    Nowhere,
    /// The answer to stdout. Reasoning too, dimmed, on a terminal; elsewhere to stderr, since it is no part of the result.
    Stdout {
        terminal: bool,
        style: Style,
        shown: Shown,
    },
}

/// What the cursor stands behind.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    last: Option<SegmentKind>,
    /// White space of the reasoning that is written once something follows.
    space: String,
    line_open: bool,
}

impl Sink {
    pub fn stdout() -> Sink {
        let stdout = io::stdout();
        Sink::Stdout { terminal: stdout.is_terminal(), style: Style::of(&stdout), shown: Shown::default() }
    }

    fn show(&mut self, segment: &Segment) -> io::Result<()> {
        let Sink::Stdout { terminal, style, shown } = self else { return Ok(()) };
        match segment.kind {
            SegmentKind::Reasoning => {
                let trimmed = segment.text.trim_end();
                let text = if trimmed.is_empty() {
                    String::new()
                } else {
                    format!("{}{}{trimmed}{}", std::mem::take(&mut shown.space), style.dim, style.reset)
                };
                shown.space.push_str(&segment.text[trimmed.len()..]);
                if text.is_empty() {
                    return Ok(());
                }
                write_flushed(*terminal, &text)?;
                shown.line_open = true;
            }
            SegmentKind::Answer => {
                if shown.last == Some(SegmentKind::Reasoning) && std::mem::take(&mut shown.line_open) {
                    write_flushed(*terminal, "\n\n")?;
                }
                write_flushed(true, &segment.text)?;
                shown.line_open = !segment.text.ends_with('\n');
            }
        }
        shown.last = Some(segment.kind);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Sink::Stdout { shown, .. } if shown.line_open => write_flushed(true, "\n"),
            _ => Ok(()),
        }
    }
}

fn write_flushed(to_stdout: bool, text: &str) -> io::Result<()> {
    if to_stdout {
        return print_bytes(text.as_bytes());
    }
    let _ = io::stderr().write_all(text.as_bytes());
    Ok(())
}

/// Takes an answer apart as it comes.
pub struct Reader {
    tokenizer: Tokenizer,
    decoder: Decoder,
    /// Control tokens that mark reasoning; all others are no text.
    marker_tokens: HashSet<u32>,
    stops: StopStrings,
    reasoning: Option<Reasoning>,
    sink: Sink,
    text: String,
    thoughts: String,
}

impl Reader {
    /// `prompt` is the text that the answer follows on.
    pub fn new(tokenizer: &Tokenizer, markers: Option<Markers>, prompt: &str, stops: &[String], sink: Sink) -> Reader {
        let texts = markers.iter().flat_map(|m| [m.open, m.close]);
        Reader {
            tokenizer: tokenizer.clone(),
            decoder: tokenizer.stream(Control::Show),
            marker_tokens: texts.flat_map(|text| tokenizer.encode(text, Special::Token)).collect(),
            stops: StopStrings::new(stops),
            reasoning: markers.map(|m| Reasoning::new(m, prompt)),
            sink,
            text: String::new(),
            thoughts: String::new(),
        }
    }

    /// Reads a generation to its end, a stop string or Ctrl-C.
    pub fn read(mut self, mut generation: Generation) -> Result<Answer> {
        let (mut tokens, mut stop, mut stop_string) = (Vec::new(), Ending::Limit, None);
        while let Some(token) = generation.blocking_next()? {
            if let Some(reason) = token.stop {
                stop = reason.into();
            }
            if token.stop == Some(StopReason::EndToken) {
                break;
            }
            tokens.push(token.id);
            let text = self.decode(token.id);
            stop_string = self.push(&text)?;
            if stop_string.is_some() {
                stop = Ending::StopString;
                break;
            }
            if INTERRUPTED.load(Ordering::Relaxed) {
                stop = Ending::Interrupted;
                break;
            }
        }
        self.finish()?;
        let reasoning = Some(self.thoughts).filter(|t| !t.is_empty()).map(|t| t.trim_end().to_string());
        Ok(Answer { text: self.text, reasoning, tokens, stop, stop_string, stats: generation.stats() })
    }

    fn decode(&mut self, id: u32) -> String {
        let control = self.tokenizer.token_type(id).is_some_and(|t| t.is_control());
        if control && !self.marker_tokens.contains(&id) { String::new() } else { self.decoder.push(id) }
    }

    fn push(&mut self, text: &str) -> Result<Option<String>> {
        let (certain, stop) = self.stops.push(text);
        let stop = stop.map(str::to_string);
        self.tell(certain)?;
        Ok(stop)
    }

    fn finish(&mut self) -> Result<()> {
        let rest = self.decoder.finish();
        self.push(&rest)?;
        let held = self.stops.finish();
        self.tell(held)?;
        if let Some(segment) = self.reasoning.as_mut().and_then(Reasoning::finish) {
            self.show(segment)?;
        }
        Ok(self.sink.finish()?)
    }

    fn tell(&mut self, text: String) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let segments = match &mut self.reasoning {
            Some(reasoning) => reasoning.push(&text),
            None => vec![Segment { kind: SegmentKind::Answer, text }],
        };
        segments.into_iter().try_for_each(|segment| self.show(segment))
    }

    fn show(&mut self, segment: Segment) -> Result<()> {
        self.sink.show(&segment)?;
        match segment.kind {
            SegmentKind::Reasoning => self.thoughts.push_str(&segment.text),
            SegmentKind::Answer => self.text.push_str(&segment.text),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halogen::gguf::Gguf;

    #[test]
    fn reasoning_is_told_from_the_answer_and_stops_from_both() {
        let gguf = Gguf::open("assets/rust-docs-moe-q4_k_m.gguf".as_ref()).expect("the embedded model");
        let tokenizer = Tokenizer::from_metadata(gguf.metadata()).expect("its vocabulary");
        let markers = Markers::ALL.into_iter().find(|m| m.open == "<think>");
        let read = |prompt: &str, stops: &[String], text: &str| {
            let mut reader = Reader::new(&tokenizer, markers, prompt, stops, Sink::Nowhere);
            let stop = text.split_inclusive(' ').find_map(|piece| reader.push(piece).expect("nothing to fail"));
            reader.finish().expect("nothing to fail");
            (reader.thoughts, reader.text, stop)
        };
        let text = |thoughts: &str, answer: &str| (thoughts.to_string(), answer.to_string(), None);
        assert_eq!(read("", &[], "<think>\nso it is\n</think>\n\nyes it is"), text("so it is\n", "yes it is"));
        assert_eq!(read("<think>\n", &[], "so it is</think>yes"), text("so it is", "yes"));
        let stop = read("", &["it is".into()], "yes it is");
        assert_eq!(stop, (String::new(), "yes ".into(), Some("it is".into())));
    }
}
