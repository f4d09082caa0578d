//! Chat templates: a conversation as the text that its model was trained on.

use std::io;
use web_time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value};
use minijinja_contrib::pycompat;
use serde_json::Map;

use super::stream::Markers;
use super::{Error, Result, clock, json};
use crate::gguf::Metadata;

/// Bytes of a template. The longest published one has 17 thousand.
const SOURCE: usize = 64 << 10;
/// Instructions that a template may run. Published templates need 40 to 90 a message; Gemma 4's goes over all messages
/// for each, and comes to 1000 of them.
const FUEL: u64 = 4_000_000;
/// Macro calls and loops within each other; published templates nest as deep as a tool's schema does.
const RECURSION: usize = 120;
/// Bytes of stack, of which only those in use take memory. minijinja recurses over whatever a template nests, without
/// a limit where it parses operators and where it drops values: at most once a byte of source or an instruction.
const STACK: usize = 1 << 30;
/// Bytes that a template may write.
const OUTPUT: usize = 64 << 20;
const NAME: &str = "chat";

/// A conversation, and what a template may ask about it.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// Objects with `role` and `content`, and what else the template knows: `tool_calls`, `reasoning_content`, ...
    pub messages: Vec<serde_json::Value>,
    /// Tools in OpenAI's format. `None` is not the same as an empty list to all templates.
    pub tools: Option<Vec<serde_json::Value>>,
    /// Whether the text ends where the assistant's next message begins.
    pub add_generation_prompt: bool,
    /// Further variables: `enable_thinking`, `reasoning_effort`, ... They win over those above.
    pub variables: Map<String, serde_json::Value>,
    /// The time that the template sees, in UTC. `None`: the system's clock, which the web has not.
    pub now: Option<SystemTime>,
}

/// A chat template: Jinja, as `transformers` renders it.
///
/// Templates come with models, from anyone. They read no files, include no other templates, are no longer than 64 KiB,
/// and stop with an error after 4 million instructions, 120 nested calls or 64 MiB of text. The memory of a string that
/// a template doubles again and again is not bounded.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// Reads `tokenizer.chat_template`; `None` if the file has none.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<ChatTemplate>> {
        metadata.str("tokenizer.chat_template")?.map(ChatTemplate::new).transpose()
    }

    /// Compiles a template. Errors name the line.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        if source.len() > SOURCE {
            return Err(Error::TemplateTooLong { bytes: source.len(), limit: SOURCE });
        }
        let environment = on_own_stack(|| environment(source))?;
        Ok(ChatTemplate { environment, source: source.to_owned() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What the model writes around its reasoning, as far as the template shows it.
    pub fn reasoning(&self) -> Option<Markers> {
        Markers::ALL.into_iter().find(|markers| self.source.contains(markers.sign))
    }

    /// The conversation as text.
    ///
    /// [`Error::Refused`] holds what the template itself says against the conversation.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        on_own_stack(|| self.render_here(chat))
    }

    #[allow(clippy::disallowed_methods, reason = "web_time's is the standard library's where that has one")]
    fn render_here(&self, chat: &Chat) -> Result<String> {
        let now = chat.now;
        let strftime = move |format: &str| clock::strftime(format, now.unwrap_or_else(SystemTime::now));
        let variables = chat.variables.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        let context = [
            ("messages".to_owned(), Value::from(Serde(&chat.messages))),
            ("tools".to_owned(), Value::from(Serde(&chat.tools))),
            ("add_generation_prompt".to_owned(), Value::from(chat.add_generation_prompt)),
            ("strftime_now".to_owned(), Value::from_function(strftime)),
        ]
        .into_iter()
        .chain(variables);

        let mut text = Bounded { bytes: Vec::new(), full: false };
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        match template.render_captured_to(Value::from_pairs(context), &mut text) {
            Err(_) if text.full => Err(Error::OutputTooLong(OUTPUT)),
            Err(error) => Err(template_error(error)),
            Ok(_) => Ok(String::from_utf8(text.bytes).expect("a template writes str")),
        }
    }
}

/// An environment with this template, and with what `transformers` gives to templates.
fn environment(source: &str) -> Result<Environment<'static>> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(template_error)?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_test("iterable", is_iterable);
    environment.add_filter("tojson", tojson);
    environment.add_filter("from_json", from_json);
    environment.add_template_owned(NAME, without_generation_tags(source)).map_err(template_error)?;
    Ok(environment)
}

/// Runs on a thread with [`STACK`]; where there are no threads, here.
#[allow(clippy::disallowed_methods, reason = "of targets that have threads")]
fn on_own_stack<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if cfg!(target_family = "wasm") {
        return run();
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, run).map_err(|error| Error::Template(format!("no thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::Template("panicked".to_owned())))
    })
}

/// Collects what a template writes, up to [`OUTPUT`].
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full = self.bytes.len() + bytes.len() > OUTPUT;
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template said through `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

fn template_error(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Error::Refused(message.clone());
        }
        cause = error.source();
    }
    Error::Template(error.to_string())
}

/// Python does not iterate over `None`; minijinja does, and then fails to take its length.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// `tojson` of `transformers`: Python's `json.dumps`, not HTML's.
fn tojson(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let style = json::Style {
        indent: options.get("indent")?,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: separators.and_then(|pair| <[String; 2]>::try_from(pair).ok()),
    };
    options.assert_all_used()?;
    style.write(value)
}

/// The inverse of `tojson`; some templates take a tool call's arguments apart with it.
fn from_json(text: &str) -> Result<Value, minijinja::Error> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, "not JSON").with_source(error))?;
    Ok(Value::from(Serde(value)))
}

/// `transformers` marks what an assistant said with `{% generation %}`, for training. Here it is a block with no name.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let word = tag[2..end].trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag[..end].replace(word, "if true")),
            "endgeneration" => out.push_str(&tag[..end].replace(word, "endif")),
            _ => {
                out.push_str("{%");
                rest = &tag[2..];
                continue;
            }
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}
