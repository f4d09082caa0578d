//! A conversation to ids, with what its messages say kept apart from what the template says.
//!
//! The template's control tokens must be read as such, those that a message spells out must not: a user who writes
//! `<|im_end|>` would else end the turn and speak as somebody else. By the time the template has run, nothing tells
//! the two apart, and templates trim, split, compare and re-encode what they are given, so it cannot be told by place.
//!
//! Hence marks: before the template runs, a noncharacter that no message holds goes inside of every control token that
//! is spelled out in one. No token is spelled with it, so none is found there; it is no whitespace, so trimming leaves
//! it; and once the control tokens are found, all marks are taken out of the text between them.

use std::collections::HashMap;

use serde_json::{Map, Value};
use tokenizers::pipeline::Segment;

use super::stream::Markers;
use super::{Chat, ChatTemplate, Error, Result, Special, Tokenizer};

/// A conversation, ready for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Begins with BOS if the model wants one.
    pub ids: Vec<u32>,
    /// What the template wrote.
    pub text: String,
}

impl Tokenizer {
    /// Renders a conversation and encodes it. The template sees `bos_token` and `eos_token`, unless the chat sets them.
    ///
    /// `messages` says what control tokens are that stand in messages and tools: [`Special::Text`], text like any
    /// other, or [`Special::Token`], for callers that trust all of it. Reasoning markers in an assistant's messages are
    /// read either way, as templates take them out there.
    pub fn encode_chat(&self, template: &ChatTemplate, chat: &Chat, messages: Special) -> Result<Prompt> {
        let mut chat = chat.clone();
        for (name, id) in [("bos_token", self.bos()), ("eos_token", self.eos())] {
            if let Some(id) = id.filter(|_| !chat.variables.contains_key(name)) {
                chat.variables.insert(name.to_owned(), String::from_utf8_lossy(self.piece(id)).into());
            }
        }
        let mark = match messages {
            Special::Text => Some(self.quote(&mut chat)?),
            Special::Token => None,
        };
        let marked = template.render(&chat)?;

        let mut prompt =
            Prompt { ids: Vec::with_capacity(marked.len() / 4), text: String::with_capacity(marked.len()) };
        for segment in self.segments(&marked) {
            match segment {
                Segment::SpecialToken(id) => {
                    prompt.text.push_str(&String::from_utf8_lossy(self.piece(id)));
                    prompt.ids.push(id);
                }
                Segment::Text { text, .. } => {
                    let from = prompt.text.len();
                    prompt.text.extend(text.chars().filter(|c| Some(*c) != mark));
                    self.encode_into(&prompt.text[from..], Special::Text, &mut prompt.ids);
                }
            }
        }
        prompt.ids = self.with_bos(prompt.ids);
        Ok(prompt)
    }

    /// Marks all control tokens that messages and tools spell out; returns the mark.
    fn quote(&self, chat: &mut Chat) -> Result<char> {
        let mut seen = 0u32;
        let strings = chat.messages.iter().chain(chat.tools.iter().flatten());
        strings.for_each(|value| visit(value, &mut |text| text.chars().filter_map(place).for_each(|i| seen |= 1 << i)));
        let free = seen.trailing_ones();
        let mark = char::from_u32(0xfdd0 + free).filter(|c| place(*c).is_some()).ok_or(Error::NoGuard)?;

        let markers = Markers::ALL.into_iter().flat_map(|markers| [markers.open, markers.close]);
        let markers: Vec<&str> = markers.collect();
        let all = Quotes::new(mark, &self.inner.control, &[]);
        let others = Quotes::new(mark, &self.inner.control, &markers);
        for message in &mut chat.messages {
            let by_assistant = message.get("role").is_some_and(|role| role == "assistant");
            if by_assistant { &others } else { &all }.mark_value(message);
        }
        chat.tools.iter_mut().flatten().for_each(|tool| all.mark_value(tool));
        Ok(mark)
    }
}

/// Which of the 32 marks U+FDD0 to U+FDEF a character is. Unicode keeps them for uses like this: they are in no text.
fn place(c: char) -> Option<u32> {
    matches!(c, '\u{fdd0}'..='\u{fdef}').then(|| c as u32 - 0xfdd0)
}

/// Calls `see` with every string in a value, keys included.
fn visit(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| visit(item, see)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            see(key);
            visit(item, see);
        }),
        _ => {}
    }
}

/// Puts marks into text so that no control token is spelled in it, nor across its ends.
struct Quotes<'t> {
    mark: char,
    tokens: Vec<&'t str>,
    by_first: HashMap<char, Vec<&'t str>>,
}

impl<'t> Quotes<'t> {
    fn new(mark: char, control: &'t [String], except: &[&str]) -> Self {
        let tokens: Vec<&str> = control.iter().map(String::as_str).filter(|token| !except.contains(token)).collect();
        let mut by_first: HashMap<char, Vec<&str>> = HashMap::new();
        for token in &tokens {
            by_first.entry(token.chars().next().unwrap_or(mark)).or_default().push(token);
        }
        Quotes { mark, tokens, by_first }
    }

    fn mark_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.mark_text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark_value(item)),
            Value::Object(map) => {
                *map = std::mem::take(map)
                    .into_iter()
                    .map(|(key, mut item)| {
                        self.mark_value(&mut item);
                        (self.mark_text(&key), item)
                    })
                    .collect::<Map<_, _>>();
            }
            _ => {}
        }
    }

    fn mark_text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        if self.may_continue(text) {
            out.push(self.mark);
        }
        for (at, c) in text.char_indices() {
            out.push(c);
            let rest = &text[at..];
            // Whole here, or to be completed by what the template writes next. Words are never half a token: a
            // template may compare them (`role`, `type`), and one may build a token from them on purpose.
            let spelled = |token: &&str| rest.starts_with(token) || (!c.is_alphanumeric() && token.starts_with(rest));
            if self.by_first.get(&c).is_some_and(|tokens| tokens.iter().any(spelled)) {
                out.push(self.mark);
            }
        }
        out
    }

    /// Whether a control token that the template has begun may go on with this text: `<` and then `|im_end|>`.
    fn may_continue(&self, text: &str) -> bool {
        if !text.starts_with(|c: char| !c.is_alphanumeric() && !c.is_whitespace()) {
            return false;
        }
        let mut ends = self.tokens.iter().flat_map(|token| token.char_indices().skip(1).map(|(at, _)| &token[at..]));
        ends.any(|end| end.starts_with(text) || text.starts_with(end))
    }
}
