//! Qwen3-MoE (arXiv 2505.09388): Qwen3-30B-A3B, 235B-A22B, Coder-30B. Every layer is a mixture; no shared expert.

use super::blocks::{Ends, Extras, Mixture, SelfAttention, SoftmaxExperts, Transformer};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gpu::View;
use crate::memory::{KvCache, Weights};
use crate::ops::{Matrix, Norm, RopePairs, Step, Tensor};

struct Qwen3Moe {
    shape: Shape,
    rope: Rope,
    ends: Ends,
    layers: Vec<(SelfAttention, SoftmaxExperts)>,
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let t = Transformer::read(weights.gguf, keys)?;
    let ends = Ends::load(weights, &t)?;
    let layers = (0..t.layers)
        .map(|i| {
            let attention = SelfAttention::load(weights, &t, i, RopePairs::HalfSplit, Extras::QK_NORM)?;
            Ok((attention, SoftmaxExperts::load(weights, keys, &t, i)?))
        })
        .collect::<Result<_>>()?;
    let shape = t.shape(Mixture::read(keys)?.floats_per_token(&t));
    Ok(Box::new(Qwen3Moe { shape, rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}

impl Architecture for Qwen3Moe {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        for (i, (attention, experts)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            attention.record(step, &x, &cache.layers[i], &ropes[0])?; // norm, q k v, q/k norm and rope, attention, output
            experts.record(step, &x)?; // norm, router, top-k, gate and up, down, combine
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
