//! Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) as a block: what files say of it, and its half of a layer.

use super::blocks::{Transformer, vocabulary};
use super::{Keys, Result, Shape, Sliced};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{Keeps, KvWidth, Weights};
use crate::ops::{Joint, KvLayer, LatentAttention, Matrix, Norm, Step, Tensor};

/// Hyperparameters of a model with latent attention.
pub struct LatentSizes {
    /// `head_dim` is that of a query before it is absorbed.
    pub t: Transformer,
    /// Columns that all queries are made of.
    pub q_rank: usize,
    /// Lanes of the latent.
    rank: usize,
    value_dim: usize,
}

/// Most lanes of a row of the cache: the kernel that writes it keeps it in workgroup memory.
const MAX_ROW: usize = 1024;

impl LatentSizes {
    pub fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let t = Transformer {
            layers: keys.size("block_count")?,
            hidden: keys.width("embedding_length")?,
            vocabulary: vocabulary(gguf, keys)?,
            context: keys.size("context_length")?,
            heads: keys.size("attention.head_count")?,
            kv_heads: 1,
            head_dim: keys.width("attention.key_length_mla")?,
            rope_dim: keys.width("rope.dimension_count")?,
            eps: keys.positive_or("attention.layer_norm_rms_epsilon", 1e-6)?,
        };
        let rank = keys.width("attention.kv_lora_rank")?;
        if rank + t.rope_dim > MAX_ROW {
            let problem = format!("with {} rotated lanes at most {MAX_ROW} are supported", t.rope_dim);
            return Err(keys.error("attention.kv_lora_rank", rank, problem));
        }
        if t.rope_dim >= t.head_dim {
            let problem = format!("a number below {}, the head's size, is needed", t.head_dim);
            return Err(keys.error("rope.dimension_count", t.rope_dim, problem));
        }
        // What the cache holds, said once more.
        for (key, lanes) in [("attention.key_length", rank + t.rope_dim), ("attention.value_length", rank)] {
            let said = keys.size_or(key, lanes)?;
            if said != lanes {
                return Err(keys.error(key, said, format!("the latent and its rotated part make it {lanes}")));
            }
        }
        Ok(LatentSizes {
            q_rank: keys.width("attention.q_lora_rank")?,
            rank,
            value_dim: keys.width("attention.value_length_mla")?,
            t,
        })
    }

    /// The model's sizes; `ff` are the floats of the feed-forward that live at once for each token.
    pub fn shape(&self, ff: usize) -> Shape {
        let LatentSizes { t, q_rank, rank, value_dim } = self;
        let key_dim = rank + t.rope_dim;
        // x and its norm; what q and the cache's row are made of, twice q's; q, and the values.
        let floats = 2 * t.hidden + 2 * q_rank + key_dim + t.heads * (t.head_dim + value_dim) + ff;
        Shape {
            hidden: t.hidden,
            vocabulary: t.vocabulary,
            keeps: vec![Keeps::Kv(KvWidth { k: key_dim, v: 0 }); t.layers],
            context: t.context,
            rope_pairs: t.rope_dim / 2,
            scratch_per_token: 4 * floats as u64,
            sliced: Sliced {
                bytes_per_token: 4 * (t.heads * (key_dim + rank)) as u64,
                tokens: LatentAttention::slice(t.heads, key_dim),
            },
        }
    }
}

/// The first half of a layer.
pub struct LatentBlock {
    norm: Norm,
    /// To what all queries are made of, and to the cache's row.
    a: Joint,
    /// First output of the cache's row.
    at: usize,
    q_norm: Norm,
    q_b: Matrix,
    attention: LatentAttention,
    output: Matrix,
}

impl LatentBlock {
    /// The weights of a layer; scores are scaled by `scale`.
    pub fn load(weights: &mut Weights, sizes: &LatentSizes, layer: usize, scale: f32) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let LatentSizes { t, q_rank, rank, value_dim } = sizes;
        let (q_a, kv_a) = (name("attn_q_a"), name("attn_kv_a_mqa"));
        let (a, at) = weights.joint(&[(&q_a, *q_rank), (&kv_a, rank + t.rope_dim)], &[], t.hidden)?;
        Ok(LatentBlock {
            norm: t.norm(weights, &name("attn_norm"), t.hidden)?,
            a,
            at: at[1],
            q_norm: t.norm(weights, &name("attn_q_a_norm"), *q_rank)?,
            q_b: weights.matrix(&name("attn_q_b"), t.heads * t.head_dim, *q_rank)?,
            attention: LatentAttention {
                heads: t.heads,
                rank: *rank,
                rope_dim: t.rope_dim,
                scale,
                norm: t.norm(weights, &name("attn_kv_a_norm"), *rank)?,
                k_b: weights.heads(&name("attn_k_b"), t.heads, *rank, t.head_dim - t.rope_dim)?,
                v_b: weights.heads(&name("attn_v_b"), t.heads, *value_dim, *rank)?,
            },
            output: weights.matrix(&name("attn_output"), t.hidden, t.heads * value_dim)?,
        })
    }

    /// x += output(attention(norm(x))).   x: [tokens, hidden]
    pub fn record(&self, step: &mut Step, x: &Tensor, cache: &KvLayer, rope: &View) -> Result<()> {
        let a = step.norm_joint("latents", x, &self.norm, &self.a)?; // [tokens, q_rank + rank + rope_dim]
        let q = step.norm_part_linear("q", &a, &self.q_norm, &self.q_b)?; // [tokens, heads * head_dim]
        let values = step.latent_attention(&q, &a, self.at, &self.attention, rope, cache)?;
        Ok(step.add_linear(x, &values, &self.output, None)?)
    }
}
