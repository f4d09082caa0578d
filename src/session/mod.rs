//! A conversation: its cache, its recordings, prefill, decode and the stream of tokens.

mod ahead;
mod answer;
mod budget;
mod buffers;
mod digest;
mod engine;
mod flight;
mod generate;
mod history;
mod logits;
mod measure;
mod missing;
mod model;
mod options;
mod saved;
mod share;
mod stage;
mod state;
mod steps;
mod warming;

pub use answer::{Stats, Token};
pub use budget::Budget;
pub use engine::Session;
pub use generate::Generation;
pub use history::Checkpoints;
pub use model::{LoadOptions, LoadStats, Model};
pub use options::SessionOptions;
pub use saved::{Conversation, SavedProblem};
pub use share::Share;
#[cfg(any(test, feature = "native-io"))]
pub(crate) use state::State;
pub use state::{MAX_STOPS, StopReason};
pub use warming::WarmUp;

use crate::{gguf, gpu, memory, models, ops, tokenizer};

/// What can go wrong from the file to the last token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    #[error(transparent)]
    Gpu(#[from] gpu::Error),
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error(transparent)]
    Model(Box<models::Error>),
    #[error(transparent)]
    Op(#[from] ops::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// A vocabulary or chat template that halogen cannot use.
    #[error("{file}: {source}")]
    Vocabulary { file: String, source: Box<tokenizer::Error> },
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error("token id {id} is out of range; the vocabulary has {vocabulary} tokens")]
    TokenRange { id: u32, vocabulary: usize },
    #[error("the prompt has {prompt} tokens, the context holds {context}; a larger -c would help")]
    ContextOverflow { prompt: usize, context: usize },
    #[error("a context of {context} tokens: 1 to {MAX_CONTEXT} are possible")]
    Context { context: usize },
    #[error("sampling: {name} = {value}: {problem}")]
    Sampling { name: &'static str, value: String, problem: &'static str },
    #[error(
        "the experts are held by another session of the model, in the middle of a step: advance that one, or stop it"
    )]
    ExpertsHeld,
    #[error("{file}: its {layers} layers cannot lie on {devices} devices{}", joined(together))]
    NoCut { file: String, layers: usize, devices: usize, together: std::ops::Range<usize> },
    #[error("{file}: {problem}")]
    Saved { file: String, problem: Box<SavedProblem> },
    #[error("the conversation cannot be written: {0}")]
    Write(#[from] std::io::Error),
    #[error("{count} stop tokens; at most {MAX_STOPS} are supported")]
    TooManyStops { count: usize },
}

/// Why layers cannot be cut anywhere.
fn joined(together: &std::ops::Range<usize>) -> String {
    match together.len() {
        0 => String::new(),
        _ => format!(
            ": layers {} to {} read the keys of each other, and stay together",
            together.start,
            together.end - 1
        ),
    }
}

// Boxed, so that every `Result` stays small.
impl From<models::Error> for Error {
    fn from(error: models::Error) -> Self {
        Error::Model(Box::new(error))
    }
}

/// Most positions of a context: far above any model's, and far from the end of the kernels' 32-bit arithmetic.
const MAX_CONTEXT: usize = 1 << 30;

/// Result of a session's work.
pub type Result<T> = std::result::Result<T, Error>;

/// How tokens are picked.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sampling {
    /// 0: always the best token.
    pub temperature: f32,
    /// Only the best so many; 0: all.
    pub top_k: u32,
    /// Only the best that together have this probability; 1: all.
    pub top_p: f32,
    /// Only those at least this probable relative to the best; 0: all.
    pub min_p: f32,
    /// Divides the logits (multiplies negative ones) of the last 64 tokens; 1: none.
    pub repeat_penalty: f32,
    /// The same seed, prompt and device give the same text.
    pub seed: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Always the best token.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Fails on a value that no sampling can mean.
    pub fn check(&self) -> Result<()> {
        let wrong = |name, value: f32, problem| Err(Error::Sampling { name, value: value.to_string(), problem });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("temperature", self.temperature, "0 or a positive number is needed");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top-p", self.top_p, "a number above 0, at most 1, is needed");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong("min-p", self.min_p, "a number from 0 to 1 is needed");
        }
        if !(self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite()) {
            return wrong("repeat-penalty", self.repeat_penalty, "a positive number is needed");
        }
        Ok(())
    }
}
