//! What several architectures are built of: the ends, grouped-query attention, a gated MLP.

use super::{Error, Keys, Result, Sliced};
use crate::gguf::{Gguf, Value};
use crate::gpu::View;
use crate::memory::{Keeps, KvWidth, Weights};
use crate::ops::{
    Activation, Attention, GateUp, Heads, Joint, KvLayer, MAX_HEAD_DIM, Matrix, Norm, RopePairs, Step, Temperature,
    Tensor,
};

/// Hyperparameters that every transformer here has.
pub struct Transformer {
    pub layers: usize,
    pub hidden: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Elements of a head that turn.
    pub rope_dim: usize,
    pub eps: f32,
}

impl Transformer {
    /// Of a model whose layers are alike.
    pub fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let heads = keys.size("attention.head_count")?;
        Transformer::of_heads(gguf, keys, heads, keys.size_or("attention.head_count_kv", heads)?, "")
    }

    /// Of one layer, where they are not. Head counts may be arrays; `kind` ends the keys of head sizes that the layer's
    /// kind has of its own.
    pub fn read_layer(gguf: &Gguf, keys: &Keys, layer: usize, kind: &str) -> Result<Self> {
        let heads = keys.size_of_layer("attention.head_count", layer)?;
        Transformer::of_heads(gguf, keys, heads, keys.size_of_layer("attention.head_count_kv", layer)?, kind)
    }

    fn of_heads(gguf: &Gguf, keys: &Keys, heads: usize, kv_heads: usize, kind: &str) -> Result<Self> {
        let [key, value, rope] = ["attention.key_length", "attention.value_length", "rope.dimension_count"]
            .map(|key| format!("{key}{kind}"));
        let hidden = keys.width("embedding_length")?;
        let head_dim = match keys.size_or(&key, 0)? {
            0 if hidden.is_multiple_of(heads) => hidden / heads,
            0 => return Err(keys.error("attention.head_count", heads, format!("they cannot share {hidden} columns"))),
            dim => dim,
        };
        if !head_dim.is_multiple_of(4) || head_dim > MAX_HEAD_DIM {
            let problem = format!("heads of a multiple of 4 up to {MAX_HEAD_DIM} are supported");
            return Err(keys.error(&key, head_dim, problem));
        }
        let value_dim = keys.size_or(&value, head_dim)?;
        if value_dim != head_dim {
            let problem = format!("keys of {head_dim} need values of the same size in this architecture");
            return Err(keys.error(&value, value_dim, problem));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.error("attention.head_count_kv", kv_heads, format!("{heads} heads cannot share them")));
        }
        let rope_dim = keys.size_or(&rope, head_dim)?;
        if rope_dim > head_dim || !rope_dim.is_multiple_of(2) {
            return Err(keys.error(&rope, rope_dim, format!("an even number up to {head_dim}")));
        }
        Ok(Transformer {
            layers: keys.size("block_count")?,
            hidden,
            vocabulary: vocabulary(gguf, keys)?,
            context: keys.size("context_length")?,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            eps: keys.positive_or("attention.layer_norm_rms_epsilon", 1e-6)?,
        })
    }

    pub fn norm(&self, weights: &mut Weights, name: &str, columns: usize) -> Result<Norm> {
        Ok(Norm { weight: weights.vector(name, columns)?, columns, eps: self.eps })
    }

    /// A norm without weights.
    pub fn unit_norm(&self, weights: &mut Weights, columns: usize) -> Result<Norm> {
        Ok(Norm { weight: weights.upload("unit norm", &vec![1f32; columns])?, columns, eps: self.eps })
    }

    /// The model's sizes; `ff` are the floats of the feed-forward that live at once for each token.
    pub fn shape(&self, ff: usize) -> super::Shape {
        // x and its norm; q, k, v; rotated q and attention's result.
        let floats = 2 * self.hidden + (3 * self.heads + 2 * self.kv_heads) * self.head_dim + ff;
        super::Shape {
            hidden: self.hidden,
            vocabulary: self.vocabulary,
            keeps: vec![Keeps::Kv(KvWidth::both(self.kv_heads, self.head_dim)); self.layers],
            context: self.context,
            together: 0..0,
            rope_pairs: self.rope_dim / 2,
            scratch_per_token: 4 * floats as u64,
            sliced: Sliced::default(),
            rounded_per_token: 0,
        }
    }
}

/// Tokens that there are.
pub fn vocabulary(gguf: &Gguf, keys: &Keys) -> Result<usize> {
    // The table's own shape says how many tokens there are; its columns are checked when it is loaded.
    let table = gguf.tensor("token_embd.weight");
    let vocabulary = table.and_then(|t| t.dims.get(1).copied()).unwrap_or(1) as usize;
    if let (Some(_), Some(Value::Array(tokens))) = (table, gguf.metadata().get("tokenizer.ggml.tokens"))
        && tokens.len() != vocabulary
    {
        return Err(Error::Vocabulary { file: keys.file().into(), tokens: tokens.len(), rows: vocabulary });
    }
    Ok(vocabulary)
}

/// Layers of the trunk, of `blocks` that the file has: those for predicting further tokens come after it.
pub fn trunk(keys: &Keys, blocks: usize) -> Result<usize> {
    let next = keys.count_or("nextn_predict_layers", 0)?;
    if next >= blocks {
        return Err(keys.error("nextn_predict_layers", next, format!("there are {blocks} blocks")));
    }
    Ok(blocks - next)
}

/// The sizes of a model whose layers are all dense.
pub fn dense_shape(gguf: &Gguf, keys: &Keys) -> Result<super::Shape> {
    Ok(Transformer::read(gguf, keys)?.shape(keys.width("feed_forward_length")?))
}

/// The embedding table, and the final norm with the output matrix; the table itself where the file has none.
pub struct Ends {
    pub embedding: Matrix,
    pub norm: Norm,
    pub output: Matrix,
}

impl Ends {
    pub fn load(weights: &mut Weights, t: &Transformer) -> Result<Self> {
        let [embedding, output] = weights.ends(t.vocabulary, t.hidden)?;
        Ok(Ends { embedding, norm: t.norm(weights, "output_norm.weight", t.hidden)?, output })
    }
}

/// What an architecture has beside q, k and v; a file that lacks it is no such model.
#[derive(Clone, Copy)]
pub struct Extras {
    /// A bias on q, k and v.
    pub bias: bool,
    /// A norm of each head of q and k.
    pub qk_norm: bool,
    /// A sigmoid gate on each head's result.
    pub head_gate: bool,
}

impl Extras {
    pub const NOTHING: Extras = Extras { bias: false, qk_norm: false, head_gate: false };
    pub const BIAS: Extras = Extras { bias: true, ..Extras::NOTHING };
    pub const QK_NORM: Extras = Extras { qk_norm: true, ..Extras::NOTHING };
}

/// x += W h, or x += norm(W h) where a branch ends in a norm.   x: [tokens, hidden]
fn add_branch(step: &mut Step, x: &Tensor, h: &Tensor, matrix: &Matrix, norm: Option<&Norm>) -> Result<()> {
    match norm {
        None => step.add_linear(x, h, matrix, None)?,
        Some(norm) => {
            let branch = step.project("branch", h, matrix)?;
            step.add_norm(x, &branch, norm)?;
        }
    }
    Ok(())
}

/// Attention over all positions, scaled by the head size.
pub fn full_attention(t: &Transformer) -> Attention {
    Attention {
        heads: t.heads,
        kv_heads: t.kv_heads,
        head_dim: t.head_dim,
        scale: 1.0 / (t.head_dim as f32).sqrt(),
        window: None,
        sinks: None,
    }
}

/// Grouped-query attention with rotary positions.
pub struct SelfAttention {
    norm: Norm,
    qkv: Joint,
    /// First outputs of q, k and v.
    at: [usize; 3],
    /// First output of the heads' gates.
    gate_at: Option<usize>,
    /// Of each head of q and k, before rope.
    pub qk_norm: Option<(Norm, Norm)>,
    output: Matrix,
    pub geometry: Attention,
    pairs: RopePairs,
    /// Elements of a head that turn.
    pub rope_dim: usize,
    pub temperature: Option<Temperature>,
    pub output_bias: Option<View>,
    /// Of the result without a bias, before it joins the residual stream.
    pub post_norm: Option<Norm>,
}

impl SelfAttention {
    pub fn load(
        weights: &mut Weights,
        t: &Transformer,
        layer: usize,
        pairs: RopePairs,
        extras: Extras,
    ) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}");
        let (q_rows, kv_rows) = (t.heads * t.head_dim, t.kv_heads * t.head_dim);
        let names = ["attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_gate.weight"].map(name);
        let biases = ["attn_q.bias", "attn_k.bias", "attn_v.bias"].map(name);
        let biases: Vec<&str> = if extras.bias { biases.iter().map(String::as_str).collect() } else { vec![] };
        let mut parts = vec![(names[0].as_str(), q_rows), (&names[1], kv_rows), (&names[2], kv_rows)];
        parts.extend(extras.head_gate.then_some((names[3].as_str(), t.heads)));
        let (qkv, at) = weights.joint(&parts, &biases, t.hidden)?;
        let qk_norm = match extras.qk_norm {
            true => Some((
                t.norm(weights, &name("attn_q_norm.weight"), t.head_dim)?,
                t.norm(weights, &name("attn_k_norm.weight"), t.head_dim)?,
            )),
            false => None,
        };
        Ok(SelfAttention {
            norm: t.norm(weights, &name("attn_norm.weight"), t.hidden)?,
            qkv,
            at: [at[0], at[1], at[2]],
            gate_at: at.get(3).copied(),
            qk_norm,
            output: weights.matrix(&name("attn_output.weight"), t.hidden, q_rows)?,
            geometry: full_attention(t),
            pairs,
            rope_dim: t.rope_dim,
            temperature: None,
            output_bias: None,
            post_norm: None,
        })
    }

    /// x += output(attention(norm(x))).   x: [tokens, hidden]
    pub fn record(&self, step: &mut Step, x: &Tensor, cache: &KvLayer, rope: &View) -> Result<()> {
        let qkv = step.norm_joint("qkv", x, &self.norm, &self.qkv)?;
        let heads = Heads {
            heads: self.geometry.heads,
            kv_heads: self.geometry.kv_heads,
            head_dim: self.geometry.head_dim,
            at: self.at,
            qk_norm: self.qk_norm.as_ref().map(|(q, k)| (q, k)),
            v_norm: false,
            pairs: self.pairs,
            rope,
            rope_dim: self.rope_dim,
            temperature: self.temperature,
        };
        let q = step.heads(&qkv, &heads, cache)?;
        let attended = step.attention(&q, &self.geometry, cache)?;
        if let Some(at) = self.gate_at {
            step.gate(&attended, &qkv, at, self.geometry.head_dim)?;
        }
        match &self.output_bias {
            None => add_branch(step, x, &attended, &self.output, self.post_norm.as_ref()),
            bias => Ok(step.add_linear(x, &attended, &self.output, bias.as_ref())?),
        }
    }
}

/// down(activation(gate x) * up x), with its norm; silu unless an architecture says otherwise.
pub struct GatedMlp {
    norm: Norm,
    gate_up: GateUp,
    down: Matrix,
    pub activation: Activation,
    /// Of the result, before it joins the residual stream.
    pub post_norm: Option<Norm>,
}

impl GatedMlp {
    pub fn load(weights: &mut Weights, t: &Transformer, layer: usize, ff: usize) -> Result<Self> {
        GatedMlp::named(weights, t, layer, "ffn_norm", "", ff)
    }

    /// With a norm of another name, and a suffix on the matrices' names.
    pub fn named(
        weights: &mut Weights,
        t: &Transformer,
        layer: usize,
        norm: &str,
        suffix: &str,
        ff: usize,
    ) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}{suffix}.weight");
        Ok(GatedMlp {
            norm: t.norm(weights, &format!("blk.{layer}.{norm}.weight"), t.hidden)?,
            gate_up: weights.gate_up(&name("ffn_gate"), &name("ffn_up"), ff, t.hidden)?,
            down: weights.matrix(&name("ffn_down"), t.hidden, ff)?,
            activation: Activation::Silu,
            post_norm: None,
        })
    }

    /// x += down(activation(gate norm(x)) * up norm(x)).   x: [tokens, hidden]
    pub fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        let h = self.inner(step, x)?;
        self.add_outer(step, x, &h)
    }

    /// activation(gate norm(x)) * up norm(x): [tokens, ff].
    pub fn inner(&self, step: &mut Step, x: &Tensor) -> Result<Tensor> {
        Ok(step.norm_gate_up(x, &self.norm, &self.gate_up, self.activation)?)
    }

    /// down(h): [tokens, hidden].
    pub fn outer(&self, step: &mut Step, h: &Tensor) -> Result<Tensor> {
        Ok(step.project("dense", h, &self.down)?)
    }

    /// x += down(h).
    pub fn add_outer(&self, step: &mut Step, x: &Tensor, h: &Tensor) -> Result<()> {
        add_branch(step, x, h, &self.down, self.post_norm.as_ref())
    }
}
