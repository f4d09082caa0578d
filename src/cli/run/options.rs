//! The options of `halogen run`.

use crate::cli::cache::CacheArgs;
use crate::cli::device::DeviceArgs;
use crate::cli::model::UploadArgs;
use crate::cli::placement::PlacementArgs;
use anyhow::Result;
use halogen::gguf::Metadata;
use halogen::session::Sampling;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;

/// Answer a prompt, or chat
#[derive(clap::Args)]
#[command(after_help = "\
Without a prompt it is a chat. Text piped to stdin is the prompt, or follows on it.
Sampling options that are not given come from the file (general.sampling.*), if it has them.
The answer goes to stdout, all else to stderr. Ctrl-C ends the answer; without a chat, the program exits with 130.")]
pub struct Args {
    /// A .gguf file, or `demo`: the embedded model (also where none is named)
    pub model: Option<String>,

    /// What to answer
    #[arg(value_name = "PROMPT", conflicts_with = "prompt")]
    pub words: Option<String>,

    /// The same as PROMPT
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Give the prompt to the model as it is, without the chat template; control tokens in it count
    #[arg(long)]
    pub raw: bool,

    /// Ask the model to reason before it answers, or not to, where its template knows how
    #[arg(long, value_name = "on|off", hide_possible_values = true)]
    pub think: Option<Switch>,

    /// Most tokens of an answer
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,

    /// Tokens that the context holds [default: the model's, at most 8192]
    #[arg(short, long, visible_alias = "ctx-size", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,

    #[command(flatten)]
    pub cache: CacheArgs,

    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "STRING")]
    pub stop: Vec<String>,

    /// Go on from a conversation that --save or a chat's /save wrote, with its sampling but for what is given here
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    pub resume: Option<PathBuf>,

    /// Write the conversation to a file after the answer, or where a chat is left; it may be that of --resume
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,

    /// Print one JSON object: text, token ids, stop reason, stats
    #[arg(long)]
    pub json: bool,

    /// GPU time that one submit may take, in milliseconds
    #[arg(long, value_name = "MS", default_value = "200", value_parser = clap::value_parser!(u32).range(1..))]
    pub submit_ms: u32,

    #[command(flatten, next_help_heading = "Sampling")]
    pub sampling: SamplingArgs,

    /// Most tokens of a prompt that are processed at once; also -ub
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(1..))]
    pub ubatch_size: u32,

    #[command(flatten, next_help_heading = "Device")]
    pub device: DeviceArgs,

    #[command(flatten, next_help_heading = "Placement")]
    pub placement: PlacementArgs,

    #[command(flatten, next_help_heading = "Placement")]
    pub upload: UploadArgs,
}

impl Args {
    /// The messages that a conversation begins with.
    pub fn opening(&self) -> Vec<Value> {
        self.system.iter().map(|text| json!({ "role": "system", "content": text })).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(clap::Args)]
pub struct SamplingArgs {
    /// Temperature; 0: always the best token [default: 0.8]
    #[arg(long, value_name = "T", alias = "temperature")]
    pub temp: Option<f32>,

    /// Only the K best tokens; 0: all [default: 40]
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,

    /// Only the best tokens that together have probability P [default: 0.95]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,

    /// Only tokens at least P times as probable as the best [default: 0.05]
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,

    /// Make the last 64 tokens less likely; 1: do not [default: 1]
    #[arg(long, value_name = "X")]
    pub repeat_penalty: Option<f32>,

    /// The same seed, prompt and device give the same text [default: a random one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
}

impl SamplingArgs {
    /// What is given here, else what the file recommends (llama.cpp's keys), else halogen's defaults.
    pub fn resolve(&self, metadata: &Metadata) -> Result<Sampling> {
        let float = |name: &str| metadata.f32(&format!("general.sampling.{name}"));
        let default = Sampling::default();
        let top_k = metadata.u32("general.sampling.top_k")?;
        self.over(Sampling {
            temperature: float("temp")?.unwrap_or(default.temperature),
            top_k: top_k.unwrap_or(default.top_k),
            top_p: float("top_p")?.unwrap_or(default.top_p),
            min_p: float("min_p")?.unwrap_or(default.min_p),
            repeat_penalty: float("penalty_repeat")?.unwrap_or(default.repeat_penalty),
            seed: random_seed(),
        })
    }

    /// What is given here in place of what `others` say.
    pub fn over(&self, others: Sampling) -> Result<Sampling> {
        let sampling = Sampling {
            temperature: self.temp.unwrap_or(others.temperature),
            top_k: self.top_k.unwrap_or(others.top_k),
            top_p: self.top_p.unwrap_or(others.top_p),
            min_p: self.min_p.unwrap_or(others.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(others.repeat_penalty),
            seed: self.seed.unwrap_or(others.seed),
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// std keys its hash maps with the system's randomness.
fn random_seed() -> u32 {
    std::hash::RandomState::new().build_hasher().finish() as u32
}
