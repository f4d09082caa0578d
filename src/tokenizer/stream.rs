//! An answer taken apart while it is being written: reasoning from the answer proper, and stop strings.

/// What a family of models writes around its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Markers {
    /// A text in the chat template that gives the family away.
    pub(super) sign: &'static str,
    /// Begins the reasoning.
    pub open: &'static str,
    /// Ends it.
    pub close: &'static str,
}

impl Markers {
    /// The families known, the more telling sign first. Where markers are control tokens, answers must be decoded with
    /// [`Control::Show`](super::Control::Show).
    pub const ALL: [Markers; 4] = [
        // gpt-oss: channels.
        Markers {
            sign: "<|channel|>analysis",
            open: "<|channel|>analysis<|message|>",
            close: "<|end|><|start|>assistant<|channel|>final<|message|>",
        },
        // Gemma 4.
        Markers { sign: "<|channel>", open: "<|channel>thought\n", close: "<channel|>" },
        // Mistral's reasoning models.
        Markers { sign: "[THINK]", open: "[THINK]", close: "[/THINK]" },
        Markers { sign: "</think>", open: "<think>", close: "</think>" },
    ];
}

/// What a part of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    Reasoning,
    Answer,
}

/// A part of an answer, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub kind: SegmentKind,
    pub text: String,
}

/// Tells a model's reasoning from its answer, in text that comes in any pieces.
///
/// Reasoning stands at the start of an answer or not at all: a marker that the answer itself mentions is text. Line
/// breaks next to a marker belong to it, and are dropped where they follow it.
#[derive(Clone, Debug)]
pub struct Reasoning {
    markers: Markers,
    state: State,
    /// Text that may be the start of a marker.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but whitespace yet: the opening marker may follow.
    Start,
    /// Past the opening marker, before any text.
    Opened,
    Inside,
    /// Past the closing marker, before any text.
    Closed,
    Answer,
}

impl Reasoning {
    /// `prompt` is the text that the answer follows on: some templates end with the opening marker.
    pub fn new(markers: Markers, prompt: &str) -> Reasoning {
        let opened = prompt.trim_end().ends_with(markers.open.trim_end());
        Reasoning { markers, state: if opened { State::Opened } else { State::Start }, held: String::new() }
    }

    /// Takes the next piece of the answer; returns what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        self.held.push_str(text);
        loop {
            let before = self.state;
            self.step(&mut segments);
            if self.state == before {
                return segments;
            }
        }
    }

    /// Ends the answer; returns what was held back.
    pub fn finish(&mut self) -> Option<Segment> {
        let kind = match self.state {
            State::Opened | State::Inside => SegmentKind::Reasoning,
            State::Start | State::Closed | State::Answer => SegmentKind::Answer,
        };
        let text = std::mem::take(&mut self.held);
        (!text.is_empty()).then_some(Segment { kind, text })
    }

    fn step(&mut self, segments: &mut Vec<Segment>) {
        let mut emit = |kind, text: String| {
            if !text.is_empty() {
                segments.push(Segment { kind, text });
            }
        };
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(self.markers.open) {
                    self.held = rest.to_owned();
                    self.state = State::Opened;
                } else if !self.markers.open.starts_with(text) {
                    self.state = State::Answer;
                }
            }
            State::Opened | State::Closed => {
                self.held = self.held.trim_start_matches(['\r', '\n']).to_owned();
                if !self.held.is_empty() {
                    self.state = if self.state == State::Opened { State::Inside } else { State::Answer };
                }
            }
            State::Inside => match self.held.split_once(self.markers.close) {
                Some((reasoning, rest)) => {
                    emit(SegmentKind::Reasoning, reasoning.to_owned());
                    self.held = rest.to_owned();
                    self.state = State::Closed;
                }
                None => {
                    let certain = self.held.len() - partial(&self.held, self.markers.close);
                    emit(SegmentKind::Reasoning, self.held.drain(..certain).collect());
                }
            },
            State::Answer => emit(SegmentKind::Answer, std::mem::take(&mut self.held)),
        }
    }
}

/// Finds stop strings in text that comes in any pieces, and lets none of their text through.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the start of a stop string.
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Empty strings stop nothing.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> StopStrings {
        let stops = stops.into_iter().map(Into::into).filter(|stop: &String| !stop.is_empty()).collect();
        StopStrings { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece of the answer; returns what is certain to come before any stop string, and the stop string
    /// that was found. Nothing follows a stop string.
    pub fn push(&mut self, text: &str) -> (String, Option<&str>) {
        if self.stopped {
            return (String::new(), None);
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)));
        // The first to begin; of those that begin together, the longest.
        if let Some((at, stop)) = found.min_by_key(|(at, stop)| (*at, std::cmp::Reverse(stop.len()))) {
            self.stopped = true;
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), Some(stop));
        }
        let uncertain = self.stops.iter().map(|stop| partial(&self.held, stop)).max().unwrap_or(0);
        (self.held.drain(..self.held.len() - uncertain).collect(), None)
    }

    /// Ends the answer; returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The bytes at the end of `text` that may be the start of `pattern`, but are not all of it.
fn partial(text: &str, pattern: &str) -> usize {
    let starts = pattern.char_indices().map(|(at, _)| at).rev();
    starts.into_iter().find(|at| text.ends_with(&pattern[..*at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use SegmentKind::{Answer, Reasoning as Thought};

    const THINK: Markers = Markers::ALL[3];

    /// All ways to cut a text into pieces of `step` characters must give the same.
    fn split(markers: Markers, prompt: &str, text: &str) -> Vec<(SegmentKind, String)> {
        let chars: Vec<char> = text.chars().collect();
        let mut answers = (1..=chars.len().max(1)).map(|step| {
            let mut reasoning = Reasoning::new(markers, prompt);
            let pieces = chars.chunks(step).map(String::from_iter);
            let mut segments: Vec<Segment> = pieces.flat_map(|piece| reasoning.push(&piece)).collect();
            segments.extend(reasoning.finish());
            let mut joined: Vec<(SegmentKind, String)> = Vec::new();
            for Segment { kind, text } in segments {
                match joined.last_mut() {
                    Some((last, all)) if *last == kind => all.push_str(&text),
                    _ => joined.push((kind, text)),
                }
            }
            joined
        });
        let first = answers.next().unwrap();
        answers.for_each(|other| assert_eq!(other, first));
        first
    }

    #[test]
    fn reasoning_in_any_pieces() {
        let text = |kind, text: &str| (kind, text.to_owned());
        let both = [text(Thought, "so < it </ is"), text(Answer, "yes </think> no")];
        assert_eq!(split(THINK, "", "<think>\nso < it </ is</think>\n\nyes </think> no"), both);
        assert_eq!(split(THINK, "", "\n<think>so < it </ is</think>yes </think> no"), both);
        assert_eq!(split(THINK, "assistant\n<think>\n", "so < it </ is</think>\nyes </think> no"), both);
        assert_eq!(split(THINK, "", "<thin air"), [text(Answer, "<thin air")]);
        assert_eq!(split(THINK, "", "a <think> b"), [text(Answer, "a <think> b")]);
        assert_eq!(split(THINK, "", "<think>never ends</thi"), [text(Thought, "never ends</thi")]);
        assert_eq!(split(THINK, "", "<think></think>a"), [text(Answer, "a")]);
        assert_eq!(split(THINK, "", ""), []);
        let channels = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b";
        assert_eq!(split(Markers::ALL[0], "", channels), [text(Thought, "a"), text(Answer, "b")]);
        assert_eq!(
            split(Markers::ALL[1], "", "<|channel>thought\na<channel|>b"),
            [text(Thought, "a"), text(Answer, "b")]
        );
    }

    #[test]
    fn text_leaves_as_soon_as_it_is_certain() {
        let mut reasoning = Reasoning::new(THINK, "<think>");
        let one = |kind, text: &str| vec![Segment { kind, text: text.to_owned() }];
        assert_eq!(reasoning.push("a<"), one(Thought, "a"));
        assert_eq!(reasoning.push("/think"), []);
        assert_eq!(reasoning.push("er"), one(Thought, "</thinker"));
        assert_eq!(reasoning.push("</think>\n"), []);
        assert_eq!(reasoning.push("b"), one(Answer, "b"));
    }

    /// The text before the stop string, which it is, and what was held back at the end.
    fn stop(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut strings = StopStrings::new(stops.iter().copied());
        let (mut text, mut found) = (String::new(), None);
        for piece in pieces {
            let (certain, stop) = strings.push(piece);
            text.push_str(&certain);
            found = found.or(stop.map(str::to_owned));
        }
        text.push_str(&strings.finish());
        (text, found)
    }

    #[test]
    fn stop_strings_across_pieces() {
        let some = |text: &str, stop: &str| (text.to_owned(), Some(stop.to_owned()));
        assert_eq!(stop(&["\n\n", "User:"], &["a\n", "b", "\n", "\nc"]), some("a\nb", "\n\n"));
        assert_eq!(stop(&["\n\n", "User:"], &["hi U", "se", "r", ": x", " y"]), some("hi ", "User:"));
        assert_eq!(stop(&["ab", "abc"], &["xabcd"]), some("x", "abc"));
        assert_eq!(stop(&["aab"], &["a", "a", "a", "b"]), some("a", "aab"));
        assert_eq!(stop(&["é!"], &["caf", "é", "?"]), ("café?".to_owned(), None));
        assert_eq!(stop(&["", "END"], &["the EN", "D"]), some("the ", "END"));
        assert_eq!(stop(&["END"], &["the EN"]), ("the EN".to_owned(), None));
        assert_eq!(stop(&[], &["all"]), ("all".to_owned(), None));
    }

    #[test]
    fn only_a_possible_start_is_held_back() {
        let mut strings = StopStrings::new(["User:"]);
        assert_eq!(strings.push("a Us"), ("a ".to_owned(), None));
        assert_eq!(strings.push("ual"), ("Usual".to_owned(), None));
        assert_eq!(strings.push("User:"), (String::new(), Some("User:")));
        assert_eq!(strings.push("more"), (String::new(), None));
    }
}
