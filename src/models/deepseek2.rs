//! DeepSeek-V3 (arXiv 2412.19437): V3, R1, V3.1. Latent attention, dense layers first, a sigmoid router that chooses among
//! groups of experts, a shared expert, YaRN. Blocks for predicting further tokens, after the trunk, are passed over.

use super::blocks::{Ends, GatedMlp, trunk};
use super::decoder::FeedForward as _;
use super::latent::{LatentBlock, LatentSizes};
use super::sigmoid_experts::{FeedForward, SigmoidMixture};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{KvCache, Weights};
use crate::ops::{Matrix, Norm, Step, Tensor};

struct DeepSeek2 {
    shape: Shape,
    rope: Rope,
    ends: Ends,
    layers: Vec<(LatentBlock, FeedForward)>,
}

/// What the keys say.
struct Sizes {
    /// Of the trunk.
    latent: LatentSizes,
    blocks: usize,
    dense: usize,
    ff: usize,
    mixture: SigmoidMixture,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let mut latent = LatentSizes::read(gguf, keys)?;
        let blocks = latent.t.layers;
        latent.t.layers = trunk(keys, blocks)?;
        Ok(Sizes {
            latent,
            blocks,
            dense: keys.count_or("leading_dense_block_count", 0)?,
            ff: keys.width("feed_forward_length")?,
            mixture: SigmoidMixture::read(keys)?,
        })
    }

    fn shape(&self) -> Shape {
        self.latent.shape(self.ff.max(self.mixture.floats_per_token(&self.latent.t)))
    }
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys)?;
    let t = &sizes.latent.t;
    let ends = Ends::load(weights, t)?;
    let (rope, magnitude) = rope(keys, t.rope_dim)?;
    let scale = (magnitude * magnitude / (t.head_dim as f64).sqrt()) as f32;
    let layers = (0..t.layers)
        .map(|i| {
            let attention = LatentBlock::load(weights, &sizes.latent, i, scale)?;
            let feed_forward = match i < sizes.dense {
                true => FeedForward::Dense(Box::new(GatedMlp::load(weights, t, i, sizes.ff)?)),
                false => FeedForward::Mixture(Box::new(sizes.mixture.load(weights, t, i, "ffn_norm")?)),
            };
            Ok((attention, feed_forward))
        })
        .collect::<Result<_>>()?;
    (t.layers..sizes.blocks).for_each(|i| weights.skip(&format!("blk.{i}.")));
    Ok(Box::new(DeepSeek2 { shape: sizes.shape(), rope, ends, layers }))
}

/// The rope table, and the factor of queries and of keys that YaRN's magnitude is here: it holds for all lanes, not only for
/// those that turn. `yarn_log_multiplier` is a tenth of the configuration's mscale_all_dim.
fn rope(keys: &Keys, dim: usize) -> Result<(Rope, f64)> {
    let mut rope = Rope::new(keys, dim, None)?;
    if keys.word("rope.scaling.type")? != Some("yarn") {
        return Ok((rope, 1.0));
    }
    let log = f64::from(keys.positive_or("rope.scaling.factor", 1.0)?).ln();
    rope.magnitude /= 1.0 + 0.1 * log;
    let multiplier = keys.positive("rope.scaling.yarn_log_multiplier")?.map_or(0.0, f64::from);
    Ok((rope, 1.0 + multiplier * log))
}

impl Architecture for DeepSeek2 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        for (i, (attention, feed_forward)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            attention.record(step, &x, cache.kv(i), &ropes[0])?; // norm, latents, q, attention, values, output
            feed_forward.record(step, &x)?; // norm, (router,) gate and up, down
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
