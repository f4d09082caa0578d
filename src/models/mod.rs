//! Architectures: one file each, its hyperparameters, its tensors' names, its forward pass told in operators.

mod blocks;
mod decoder;
mod deepseek2;
mod deepseek4;
mod deepseek4_attention;
mod delta_net;
mod gated_attention;
mod gemma3;
mod gemma4;
mod gemma4_attention;
mod glm4moe;
mod glm_dsa;
mod gpt_oss;
mod keys;
mod latent;
mod llama;
mod llama4;
mod mistral3;
mod mixture;
mod qwen2;
mod qwen3;
mod qwen35;
mod qwen35moe;
mod qwen3moe;
mod qwen3next;
mod rope;
mod shared_expert;
mod sigmoid_experts;
mod step35;

pub use keys::Keys;
pub use rope::Rope;

use crate::formats::Format;
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{self, Keeps, KvCache, Span, Weights};
use crate::ops::{self, Indexer, Matrix, Norm, Step, Tensor};
use crate::{gguf, gpu};
use std::ops::Range;

/// What makes a file no model that halogen can run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error(transparent)]
    Gpu(#[from] gpu::Error),
    #[error(transparent)]
    Op(#[from] ops::Error),
    #[error("{file}: architecture `{found}` is not supported; halogen runs {known}")]
    UnknownArchitecture { file: String, found: String, known: String },
    #[error("{file}: token_embd.weight has rows for {rows} tokens, tokenizer.ggml.tokens has {tokens}")]
    Vocabulary { file: String, tokens: usize, rows: usize },
    #[error("{file}: rope_freqs.weight holds {factor}: positive numbers are needed")]
    RopeFactor { file: String, factor: f32 },
    #[error("{file}: {name} holds {value}: numbers below zero are needed, by which a state decays")]
    Decay { file: String, name: String, value: f32 },
    #[error("{file}: {key} = {value}: {problem}")]
    Key { file: String, key: String, value: String, problem: String },
}

/// Result of reading or recording a model.
pub type Result<T> = std::result::Result<T, Error>;

/// The sizes of a model that a session must know.
#[derive(Clone, Debug)]
pub struct Shape {
    pub hidden: usize,
    pub vocabulary: usize,
    /// What each layer keeps from one token to the next.
    pub keeps: Vec<Keeps>,
    /// Layers that must lie on one device: some of them read what others keep.
    pub together: Range<usize>,
    /// Positions that the model was made for.
    pub context: usize,
    /// Pairs of a head that turn: the columns of the rope tables, all together.
    pub rope_pairs: usize,
    /// Bytes of activations that each token of a step takes, the logits apart.
    pub scratch_per_token: u64,
    /// What lives for some of the step's tokens at once.
    pub sliced: Sliced,
    /// Bytes that a token's activations take once more where products round them to integers.
    pub rounded_per_token: u64,
}

/// Activations of a part of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sliced {
    pub bytes_per_token: u64,
    /// Most tokens at once.
    pub tokens: usize,
}

impl Shape {
    /// With layers that see no more than `window` positions.
    pub fn with_windows(mut self, window: usize, windowed: impl Fn(usize) -> bool) -> Shape {
        for (i, keeps) in self.keeps.iter_mut().enumerate() {
            if let (true, Keeps::Kv(width)) = (windowed(i), *keeps) {
                *keeps = Keeps::Window { width, window };
            }
        }
        self
    }

    /// Of some of its layers.
    pub fn of(&self, span: &Span) -> Shape {
        Shape { keeps: self.keeps[span.layers(self.keeps.len())].to_vec(), ..self.clone() }
    }

    /// Bytes of a lightning indexer's scores in steps of at most `tokens` tokens.
    pub fn score_bytes(&self, context: usize, tokens: usize) -> u64 {
        let keys = |keeps: &Keeps| match keeps {
            Keeps::Kv(width) if width.index > 0 => context,
            Keeps::Compressed(c) if c.index > 0 => c.entries(context).max(1),
            _ => 0,
        };
        match self.keeps.iter().map(keys).max() {
            None | Some(0) => 0,
            Some(keys) => (4 * keys.next_multiple_of(4)) as u64 * Indexer::slice(keys).min(tokens) as u64,
        }
    }
}

impl Sliced {
    /// Bytes in steps of at most `tokens` tokens.
    pub fn bytes(&self, tokens: usize) -> u64 {
        self.bytes_per_token * self.tokens.min(tokens) as u64
    }
}

/// A model's forward pass.
pub trait Architecture: wgpu::WasmNotSendSync {
    /// All of it but what rounded activations take.
    fn shape(&self) -> &Shape;

    /// The rope tables, one for each kind of layer.
    fn ropes(&self) -> &[Rope];

    /// Records all layers over the step's tokens. `ropes` are the tables of [`Rope::table`] on the device. The result
    /// is the residual stream [tokens, hidden].
    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor>;

    /// The activations that a layer hands to the next, by the names under which they are recorded: where layers lie on several
    /// devices, these cross.
    fn hands_on(&self) -> &'static [&'static str] {
        &["x"]
    }

    /// The final norm and the output matrix [vocabulary, hidden].
    fn head(&self) -> (&Norm, &Matrix);

    /// What logits stay within: cap * tanh(logit / cap).
    fn logit_cap(&self) -> Option<f32> {
        None
    }
}

/// What halogen knows of an architecture.
struct Known {
    /// As GGUF files name it.
    name: &'static str,
    shape: fn(&Gguf, &Keys) -> Result<Shape>,
    load: fn(&mut Weights, &Keys) -> Result<Box<dyn Architecture>>,
}

const ARCHITECTURES: &[Known] = &[
    Known { name: "deepseek2", shape: deepseek2::shape, load: deepseek2::load },
    Known { name: "deepseek4", shape: deepseek4::shape, load: deepseek4::load },
    Known { name: "gemma3", shape: gemma3::shape, load: gemma3::load },
    Known { name: "gemma4", shape: gemma4::shape, load: gemma4::load },
    Known { name: "glm-dsa", shape: glm_dsa::shape, load: glm_dsa::load },
    Known { name: "glm4moe", shape: glm4moe::shape, load: glm4moe::load },
    Known { name: "gpt-oss", shape: gpt_oss::shape, load: gpt_oss::load },
    Known { name: "llama", shape: blocks::dense_shape, load: llama::load },
    Known { name: "llama4", shape: llama4::shape, load: llama4::load },
    Known { name: "mistral3", shape: blocks::dense_shape, load: mistral3::load },
    Known { name: "qwen2", shape: blocks::dense_shape, load: qwen2::load },
    Known { name: "qwen3", shape: blocks::dense_shape, load: qwen3::load },
    Known { name: "qwen35", shape: qwen35::shape, load: qwen35::load },
    Known { name: "qwen35moe", shape: qwen35moe::shape, load: qwen35moe::load },
    Known { name: "qwen3moe", shape: mixture::mixture_shape, load: qwen3moe::load },
    Known { name: "qwen3next", shape: qwen3next::shape, load: qwen3next::load },
    Known { name: "step35", shape: step35::shape, load: step35::load },
];

/// The architecture of a file.
fn known(gguf: &Gguf) -> Result<&'static Known> {
    let name = gguf.architecture()?;
    ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
        let known = ARCHITECTURES.iter().map(|known| known.name).collect::<Vec<_>>().join(", ");
        Error::UnknownArchitecture { file: gguf.name().into(), found: name.into(), known }
    })
}

/// Reads the sizes of a model from its header: what a session on it will need, before anything is loaded.
///
/// # Errors
/// An architecture that halogen does not run, or a hyperparameter that is missing or absurd.
pub fn shape(gguf: &Gguf) -> Result<Shape> {
    let known = known(gguf)?;
    let keys = Keys::new(gguf, known.name);
    Ok(Shape { rounded_per_token: rounded(gguf, &keys)?, ..(known.shape)(gguf, &keys)? })
}

/// The widest input of a matrix whose format has integers, and what a token's experts hand to their down projections.
fn rounded(gguf: &Gguf, keys: &Keys) -> Result<u64> {
    let ranks = keys.count_or("expert_used_count", 0)? + keys.count_or("expert_shared_count", 0)?;
    let [mut widest, mut down] = [0; 2];
    for tensor in gguf.tensors() {
        let integers = Format::from_ggml(tensor.ggml_type).is_some_and(Format::has_integers);
        let experts = tensor.name.ends_with("_exps.weight");
        let columns = tensor.dims.first().copied().unwrap_or(0) as usize;
        match integers && (tensor.dims.len() == 2 || experts) {
            true if experts && tensor.name.contains("down") => down = down.max(columns),
            true => widest = widest.max(columns),
            false => {}
        }
    }
    Ok(ops::rounded_bytes(widest) + ops::rounded_bytes(ranks * down))
}

/// Reads the hyperparameters and loads the tensors of a model.
pub fn load(weights: &mut Weights) -> Result<(Box<dyn Architecture>, Shape)> {
    let gguf = weights.gguf;
    let known = known(gguf)?;
    let keys = Keys::new(gguf, known.name);
    let model = (known.load)(weights, &keys)?;
    weights.check_all_asked()?;
    let shape = Shape { rounded_per_token: rounded(gguf, &keys)?, ..model.shape().clone() };
    Ok((model, shape))
}
