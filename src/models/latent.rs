//! Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) as a block: what files say of it, its half of a layer, and
//! the decoder of those models: dense layers first, then mixtures by sigmoids.

use super::blocks::{Ends, GatedMlp, Transformer, trunk, vocabulary};
use super::decoder::FeedForward as _;
use super::sigmoid_experts::{FeedForward, SigmoidMixture};
use super::{Architecture, Keys, Result, Rope, Shape, Sliced};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{Keeps, KvCache, KvWidth, Weights};
use crate::ops::{
    Indexer, Joint, KvLayer, LatentAttention, LatentInputs, Matrix, Norm, RopePairs, Selection, Step, Tensor,
};

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
            keeps: vec![Keeps::Kv(KvWidth { heads: 1, k: key_dim, v: 0, index: 0 }); t.layers],
            context: t.context,
            together: 0..0,
            rope_pairs: t.rope_dim / 2,
            scratch_per_token: 4 * floats as u64,
            sliced: Sliced {
                bytes_per_token: 4 * (t.heads * (key_dim + rank)) as u64,
                tokens: LatentAttention::slice(t.heads, key_dim),
            },
            rounded_per_token: 0,
        }
    }
}

/// The sizes of a whole model: latent attention, dense layers first, then mixtures.
pub struct LatentMixture {
    /// Of the trunk.
    pub latent: LatentSizes,
    blocks: usize,
    dense: usize,
    ff: usize,
    mixture: SigmoidMixture,
}

impl LatentMixture {
    pub fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let mut latent = LatentSizes::read(gguf, keys)?;
        let blocks = latent.t.layers;
        latent.t.layers = trunk(keys, blocks)?;
        Ok(LatentMixture {
            latent,
            blocks,
            dense: keys.count_or("leading_dense_block_count", 0)?,
            ff: keys.width("feed_forward_length")?,
            mixture: SigmoidMixture::read(keys)?,
        })
    }

    pub fn shape(&self) -> Shape {
        self.latent.shape(self.ff.max(self.mixture.floats_per_token(&self.latent.t)))
    }

    /// Loads the model; `block` gives the first half of each layer. Blocks after the trunk are passed over.
    pub fn load(
        &self,
        weights: &mut Weights,
        shape: Shape,
        rope: Rope,
        mut block: impl FnMut(&mut Weights, usize) -> Result<LatentBlock>,
    ) -> Result<LatentDecoder> {
        let t = &self.latent.t;
        let ends = Ends::load(weights, t)?;
        let layers = (0..t.layers)
            .map(|i| {
                let attention = block(weights, i)?;
                let feed_forward = match i < self.dense {
                    true => FeedForward::Dense(Box::new(GatedMlp::load(weights, t, i, self.ff)?)),
                    false => FeedForward::Mixture(Box::new(self.mixture.load(weights, t, i, "ffn_norm")?)),
                };
                Ok((attention, feed_forward))
            })
            .collect::<Result<_>>()?;
        (t.layers..self.blocks).for_each(|i| weights.skip(&format!("blk.{i}.")));
        Ok(LatentDecoder { shape, rope, ends, layers })
    }
}

/// Layers of latent attention and a feed-forward on one residual stream.
pub struct LatentDecoder {
    shape: Shape,
    rope: Rope,
    ends: Ends,
    layers: Vec<(LatentBlock, FeedForward)>,
}

impl Architecture for LatentDecoder {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        let mut selection = None; // layers without an indexer of their own see what the layer before them saw
        for (i, (attention, feed_forward)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            // norm, latents, q, (indexer,) attention, values, output
            selection = attention.record(step, &x, cache.kv(i), &ropes[0], selection)?;
            feed_forward.record(step, &x)?; // norm, (router,) gate and up, down
        }
        Ok(x)
    }

    /// A layer without an indexer sees what the one before it saw.
    fn hands_on(&self) -> &'static [&'static str] {
        &["x", "selected"]
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}

/// A layer's lightning indexer.
struct IndexerBlock {
    q_b: Matrix,
    /// First outputs of the key and of the heads' weights.
    at: [usize; 2],
    indexer: Indexer,
}

/// What keys say of the indexers.
#[derive(Clone, Copy)]
pub struct IndexerSizes {
    pub heads: usize,
    pub head_dim: usize,
    pub top_k: usize,
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
    indexer: Option<IndexerBlock>,
    attention: LatentAttention,
    output: Matrix,
}

/// Of the indexer's LayerNorm; files do not say it.
const INDEX_EPS: f32 = 1e-6;

impl LatentBlock {
    /// The weights of a layer, with an indexer if it has one; scores are scaled by `scale`.
    pub fn load(
        weights: &mut Weights,
        sizes: &LatentSizes,
        layer: usize,
        scale: f32,
        index: Option<IndexerSizes>,
    ) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let LatentSizes { t, q_rank, rank, value_dim } = sizes;
        let (q_a, kv_a) = (name("attn_q_a"), name("attn_kv_a_mqa"));
        let (index_k, index_weights) = (name("indexer.attn_k"), name("indexer.proj"));
        let mut parts = vec![(q_a.as_str(), *q_rank), (&kv_a, rank + t.rope_dim)];
        parts.extend(index.iter().flat_map(|ix| [(index_k.as_str(), ix.head_dim), (&index_weights, ix.heads)]));
        let (a, at) = weights.joint(&parts, &[], t.hidden)?;
        let indexer = match index {
            Some(IndexerSizes { heads, head_dim, top_k }) => Some(IndexerBlock {
                q_b: weights.matrix(&name("indexer.attn_q_b"), heads * head_dim, *q_rank)?,
                at: [at[2], at[3]],
                indexer: Indexer {
                    heads,
                    head_dim,
                    rope_dim: t.rope_dim,
                    pairs: RopePairs::Adjacent,
                    top_k,
                    norm: [
                        weights.vector(&name("indexer.k_norm"), head_dim)?,
                        weights.vector(&format!("blk.{layer}.indexer.k_norm.bias"), head_dim)?,
                    ],
                    eps: INDEX_EPS,
                },
            }),
            None => None,
        };
        Ok(LatentBlock {
            norm: t.norm(weights, &name("attn_norm"), t.hidden)?,
            a,
            at: at[1],
            indexer,
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

    /// x += output(attention(norm(x))), over the positions that the layer's indexer selects, or `selection` without one.
    /// Gives the selection on.   x: [tokens, hidden]
    pub fn record(
        &self,
        step: &mut Step,
        x: &Tensor,
        cache: &KvLayer,
        rope: &View,
        selection: Option<Selection>,
    ) -> Result<Option<Selection>> {
        let a = step.norm_joint("latents", x, &self.norm, &self.a)?; // [tokens, q_rank + rank + rope_dim + ..]
        let q = step.norm_part_linear("q", &a, &self.q_norm, &self.q_b)?; // [tokens, heads * head_dim]
        let selection = match &self.indexer {
            Some(ix) => {
                let index_q = step.norm_part_linear("index q", &a, &self.q_norm, &ix.q_b)?;
                Some(step.index(&index_q, &a, ix.at, &ix.indexer, rope, cache)?) // [tokens, top_k]
            }
            None => selection,
        };
        let inputs = LatentInputs { q: &q, a: &a, at: self.at, rope, selection: selection.as_ref() };
        let values = step.latent_attention(&inputs, &self.attention, cache)?;
        step.add_linear(x, &values, &self.output, None)?;
        Ok(selection)
    }
}
