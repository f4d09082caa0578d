//! GLM-4.5 (arXiv 2508.06471): GLM-4.5, 4.6, 4.5-Air. Sigmoid router with a bias for the choice, a shared expert, dense
//! layers first, rope on a part of each head. Blocks for predicting further tokens, after the trunk, are passed over.

use super::blocks::{Ends, Extras, GatedMlp, Mixture, SelfAttention, Transformer, prediction_blocks};
use super::decoder::{self, Decoder};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::Weights;
use crate::ops::{ExpertMlp, Matrix, Norm, RopePairs, Step, Tensor};

enum FeedForward {
    Dense(Box<GatedMlp>),
    Mixture(Box<Experts>),
}

struct Experts {
    norm: Norm,
    router: Matrix,
    /// f32 [experts], for the choice alone.
    bias: View,
    /// Of the weights.
    scale: f32,
    renormalise: bool,
    /// Experts of each token, the shared one apart.
    used: usize,
    experts: ExpertMlp,
    shared: GatedMlp,
}

/// What the keys say beside the usual.
struct Sizes {
    /// Of the trunk.
    t: Transformer,
    blocks: usize,
    dense: usize,
    ff: usize,
    mixture: Mixture,
    shared_ff: usize,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let t = Transformer::read(gguf, keys)?;
        let (blocks, next) = (t.layers, prediction_blocks(keys, t.layers)?);
        for key in ["expert_group_count", "expert_group_used_count"] {
            let groups = keys.size_or(key, 1)?;
            if groups != 1 {
                return Err(keys.error(key, groups, "experts in groups are not supported in this architecture"));
            }
        }
        let function = keys.count_or("expert_gating_func", 2)?;
        if function != 2 {
            return Err(keys.error("expert_gating_func", function, "halogen knows 2 here, the sigmoid"));
        }
        let mixture = Mixture::read(keys)?;
        let shared_ff = mixture.ff * keys.size_or("expert_shared_count", 1)?;
        Ok(Sizes {
            t: Transformer { layers: blocks - next, ..t },
            blocks,
            dense: keys.count_or("leading_dense_block_count", 0)?,
            ff: keys.width("feed_forward_length")?,
            mixture,
            shared_ff,
        })
    }

    fn shape(&self) -> Shape {
        self.t.shape(self.ff.max(self.mixture.floats_per_token(&self.t) + self.shared_ff))
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
    let extras = Extras { bias: weights.has("blk.0.attn_q.bias"), qk_norm: weights.has("blk.0.attn_q_norm.weight") };
    let layers = (0..t.layers)
        .map(|i| {
            let attention = SelfAttention::load(weights, t, i, RopePairs::HalfSplit, extras)?;
            let feed_forward = match i < sizes.dense {
                true => {
                    FeedForward::Dense(Box::new(GatedMlp::named(weights, t, i, "post_attention_norm", "", sizes.ff)?))
                }
                false => FeedForward::Mixture(Box::new(Experts::load(weights, keys, &sizes, i)?)),
            };
            Ok((attention, feed_forward))
        })
        .collect::<Result<_>>()?;
    (t.layers..sizes.blocks).for_each(|i| weights.skip(&format!("blk.{i}.")));
    Ok(Box::new(Decoder { shape: sizes.shape(), rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}

impl Experts {
    fn load(weights: &mut Weights, keys: &Keys, sizes: &Sizes, layer: usize) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}");
        let Sizes { t, mixture, shared_ff, .. } = sizes;
        Ok(Experts {
            norm: t.norm(weights, &name("post_attention_norm.weight"), t.hidden)?,
            router: weights.matrix(&name("ffn_gate_inp.weight"), mixture.experts, t.hidden)?,
            bias: weights.vector(&name("exp_probs_b.bias"), mixture.experts)?,
            scale: keys.positive_or("expert_weights_scale", 1.0)?,
            renormalise: keys.flag("expert_weights_norm")?.unwrap_or(true),
            used: mixture.used,
            experts: mixture.mlp(weights, t, layer)?,
            shared: GatedMlp::named(weights, t, layer, "post_attention_norm", "_shexp", *shared_ff)?,
        })
    }

    /// x += shared(norm(x)) + sum over the chosen experts of weight * mlp(norm(x)).   x: [tokens, hidden]
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        let logits = step.norm_linear("router logits", x, &self.norm, &self.router)?; // [tokens, experts]
        let routing = step.route_sigmoid(&logits, &self.bias, self.used, self.renormalise, self.scale)?;
        let shared = self.shared.inner(step, x)?; // before the experts add to x
        step.norm_experts(x, &self.norm, &routing, &self.experts)?;
        self.shared.add_outer(step, x, &shared)
    }
}

impl decoder::FeedForward for FeedForward {
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        match self {
            FeedForward::Dense(mlp) => mlp.record(step, x),
            FeedForward::Mixture(experts) => experts.record(step, x),
        }
    }
}
