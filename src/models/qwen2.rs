//! Qwen2 (arXiv 2407.10671): Qwen2.5, R1-Distill-Qwen. As Llama, with half-split rope and a bias on q, k and v.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gpu::View;
use crate::memory::{KvCache, Weights};
use crate::ops::{Matrix, Norm, RopePairs, Step, Tensor};

struct Qwen2 {
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
            let attention = SelfAttention::load(weights, &t, i, RopePairs::HalfSplit, Extras::BIAS)?;
            Ok((attention, GatedMlp::load(weights, &t, i, ff)?))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Qwen2 { shape: t.shape(ff), rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}

impl Architecture for Qwen2 {
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
