//! GLM-4.5 (arXiv 2508.06471): GLM-4.5, 4.6, 4.5-Air. Sigmoid router with a bias for the choice, a shared expert, dense
//! layers first, rope on a part of each head. Blocks for predicting further tokens, after the trunk, are passed over.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer, trunk};
use super::decoder::Decoder;
use super::sigmoid_experts::{FeedForward, SigmoidMixture};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::memory::Weights;
use crate::ops::RopePairs;

/// The norm before a layer's second half.
const NORM: &str = "post_attention_norm";

/// What the keys say beside the usual.
struct Sizes {
    /// Of the trunk.
    t: Transformer,
    blocks: usize,
    dense: usize,
    ff: usize,
    mixture: SigmoidMixture,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let t = Transformer::read(gguf, keys)?;
        let blocks = t.layers;
        Ok(Sizes {
            t: Transformer { layers: trunk(keys, blocks)?, ..t },
            blocks,
            dense: keys.count_or("leading_dense_block_count", 0)?,
            ff: keys.width("feed_forward_length")?,
            mixture: SigmoidMixture::read(keys)?,
        })
    }

    fn shape(&self) -> Shape {
        self.t.shape(self.ff.max(self.mixture.floats_per_token(&self.t)))
    }
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys)?;
    let t = &sizes.t;
    let ends = Ends::load(weights, t)?;
    // 4.5-Air has no norm of q and k; the tensors alone say so.
    let extras = Extras {
        bias: weights.has("blk.0.attn_q.bias"),
        qk_norm: weights.has("blk.0.attn_q_norm.weight"),
        ..Extras::NOTHING
    };
    let layers = (0..t.layers)
        .map(|i| {
            let attention = SelfAttention::load(weights, t, i, RopePairs::HalfSplit, extras)?;
            let feed_forward = match i < sizes.dense {
                true => FeedForward::Dense(Box::new(GatedMlp::named(weights, t, i, NORM, "", sizes.ff)?)),
                false => FeedForward::Mixture(Box::new(sizes.mixture.load(weights, t, i, NORM)?)),
            };
            Ok((attention, feed_forward))
        })
        .collect::<Result<_>>()?;
    (t.layers..sizes.blocks).for_each(|i| weights.skip(&format!("blk.{i}.")));
    Ok(Box::new(Decoder { shape: sizes.shape(), rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}
