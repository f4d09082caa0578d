//! Qwen3 (arXiv 2505.09388): 4B to 32B. As Qwen2, with a norm per head on q and k in place of the biases.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gpu::View;
use crate::memory::{KvCache, Weights};
use crate::ops::{Matrix, Norm, RopePairs, Step, Tensor};

struct Qwen3 {
    shape: Shape,
    rope: Rope,
    ends: Ends,
    layers: Vec<(SelfAttention, GatedMlp)>,
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let t = Transformer::read(weights.gguf, keys)?;
    let ff = keys.width("feed_forward_length")?;
    let ends = Ends::load(weights, &t)?;
    let layers = (0..t.layers)
        .map(|i| {
            let attention = SelfAttention::load(weights, &t, i, RopePairs::HalfSplit, Extras::QK_NORM)?;
            Ok((attention, GatedMlp::load(weights, &t, i, ff)?))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Qwen3 { shape: t.shape(ff), rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}

impl Architecture for Qwen3 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        for (i, (attention, mlp)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            attention.record(step, &x, &cache.layers[i], &ropes[0])?;
            mlp.record(step, &x)?;
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
