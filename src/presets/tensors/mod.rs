//! The tensors of a GGUF file from its hyperparameters, by architecture: names and shapes, in layer order.

mod architectures;

use super::{Error, Result};
use crate::models::Keys;

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaped {
    pub name: String,
    /// Innermost, the columns, first.
    pub dims: Vec<u64>,
    pub kind: Kind,
}

/// What a tensor may be stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In any block format.
    Matrix,
    /// Norms, biases, routers and other small ones.
    F32,
    /// A table of ids.
    I32,
}

/// What the tensors of a file tell and its metadata do not.
#[derive(Clone, Copy, Debug)]
pub struct Untold {
    pub vocabulary: usize,
    /// The embedding table is the output matrix, too.
    pub tied: bool,
    /// glm4moe: q, k and v have biases.
    pub qkv_bias: bool,
    /// glm4moe: each head of q and k has a norm.
    pub qk_norm: bool,
    /// Factors of the rope's frequencies, where they are optional.
    pub rope_freqs: bool,
}

/// The tensors of a file. Blocks that predict further tokens are left out.
///
/// # Errors
/// An architecture of which this is not known, or a hyperparameter that is missing or absurd.
pub fn tensors(keys: &Keys, untold: &Untold) -> Result<Vec<Shaped>> {
    let known = architectures::ALL.iter().find(|(name, _)| *name == keys.architecture());
    let (_, list) = known.ok_or_else(|| Error::UnknownArchitecture {
        file: keys.file().into(),
        architecture: keys.architecture().into(),
    })?;
    let mut tensors = List::default();
    list(&mut tensors, keys, untold)?;
    Ok(tensors.tensors)
}

/// A list in the making.
#[derive(Default)]
struct List {
    tensors: Vec<Shaped>,
    /// Goes before the names of a layer's tensors: `blk.7.`.
    prefix: String,
}

impl List {
    fn enter(&mut self, layer: usize) {
        self.prefix = format!("blk.{layer}.");
    }

    fn push(&mut self, name: &str, dims: &[usize], kind: Kind) {
        let dims = dims.iter().map(|d| *d as u64).collect();
        self.tensors.push(Shaped { name: format!("{}{name}", self.prefix), dims, kind });
    }

    /// `{what}.weight` [columns, rows, ...].
    fn matrix(&mut self, what: &str, dims: &[usize]) {
        self.push(&format!("{what}.weight"), dims, Kind::Matrix);
    }

    /// `{what}.weight`, which no file quantizes.
    fn float(&mut self, what: &str, dims: &[usize]) {
        self.push(&format!("{what}.weight"), dims, Kind::F32);
    }

    fn bias(&mut self, what: &str, dims: &[usize]) {
        self.push(&format!("{what}.bias"), dims, Kind::F32);
    }

    /// Embedding, final norm and output.
    fn ends(&mut self, hidden: usize, untold: &Untold) {
        self.matrix("token_embd", &[hidden, untold.vocabulary]);
        if !untold.tied {
            self.matrix("output", &[hidden, untold.vocabulary]);
        }
        self.float("output_norm", &[hidden]);
    }

    /// q, k, v and output.
    fn attention(&mut self, a: &Heads) {
        let Heads { hidden, q, kv, .. } = *a;
        self.matrix("attn_q", &[hidden, q]);
        self.matrix("attn_k", &[hidden, kv]);
        self.matrix("attn_v", &[hidden, kv]);
        self.matrix("attn_output", &[q, hidden]);
    }

    fn qkv_bias(&mut self, a: &Heads) {
        self.bias("attn_q", &[a.q]);
        self.bias("attn_k", &[a.kv]);
        self.bias("attn_v", &[a.kv]);
    }

    fn qk_norm(&mut self, head_dim: usize) {
        self.float("attn_q_norm", &[head_dim]);
        self.float("attn_k_norm", &[head_dim]);
    }

    /// A gated MLP, with a suffix on the names.
    fn mlp(&mut self, hidden: usize, ff: usize, suffix: &str) {
        self.matrix(&format!("ffn_gate{suffix}"), &[hidden, ff]);
        self.matrix(&format!("ffn_up{suffix}"), &[hidden, ff]);
        self.matrix(&format!("ffn_down{suffix}"), &[ff, hidden]);
    }

    /// A router and its experts.
    fn experts(&mut self, hidden: usize, m: &Experts) {
        self.float("ffn_gate_inp", &[hidden, m.count]);
        self.matrix("ffn_gate_exps", &[hidden, m.ff, m.count]);
        self.matrix("ffn_up_exps", &[hidden, m.ff, m.count]);
        self.matrix("ffn_down_exps", &[m.ff, hidden, m.count]);
    }
}

/// Widths of a layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub hidden: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Outputs of q, and of k and v each.
    pub q: usize,
    pub kv: usize,
}

impl Heads {
    /// Those of a layer, where the keys may hold one number for each.
    pub fn of(keys: &Keys, layer: usize) -> Result<Self> {
        let heads = keys.count_of_layer("attention.head_count", layer)?.max(1);
        let kv_heads = keys.count_of_layer("attention.head_count_kv", layer)?.max(1);
        let hidden = keys.size("embedding_length")?;
        let head_dim = keys.size_or("attention.key_length", hidden / heads)?;
        // gemma4: heads of layers with a window have a size of their own.
        let head_dim = match windowed(keys, layer)? {
            true => keys.size_or("attention.key_length_swa", head_dim)?,
            false => head_dim,
        };
        Ok(Heads { hidden, heads, head_dim, q: heads * head_dim, kv: kv_heads * head_dim })
    }
}

struct Experts {
    count: usize,
    ff: usize,
}

impl Experts {
    fn of(keys: &Keys) -> Result<Self> {
        Ok(Experts { count: keys.size("expert_count")?, ff: keys.size("expert_feed_forward_length")? })
    }
}

/// Layers of the trunk.
pub(super) fn layers(keys: &Keys) -> Result<usize> {
    let blocks = keys.size("block_count")?;
    Ok(blocks.saturating_sub(keys.count_or("nextn_predict_layers", 0)?))
}

/// Whether a layer sees only the positions of a window.
pub(super) fn windowed(keys: &Keys, layer: usize) -> Result<bool> {
    Ok(keys.flag_of_layer("attention.sliding_window_pattern", layer)?.unwrap_or(false))
}

/// Whether a layer has a recurrent state instead of keys and values.
pub(super) fn recurrent(keys: &Keys, layer: usize) -> Result<bool> {
    let said = keys.flag_of_layer("attention.recurrent_layers", layer)?;
    let interval = keys.size_or("full_attention_interval", 1)?;
    Ok(said.unwrap_or(!(layer + 1).is_multiple_of(interval)))
}

/// Whether a tensor belongs to routed experts, of which a token uses some.
pub fn is_expert(name: &str) -> bool {
    name.contains("_exps.")
}
