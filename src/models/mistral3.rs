//! Mistral 3: Ministral 3, Devstral 2. As Llama, with YaRN and an attention temperature that grows with the position.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gpu::View;
use crate::memory::{KvCache, Weights};
use crate::ops::{Matrix, Norm, RopePairs, Step, Temperature, Tensor};

struct Mistral3 {
    shape: Shape,
    rope: Rope,
    ends: Ends,
    layers: Vec<(SelfAttention, GatedMlp)>,
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let t = Transformer::read(weights.gguf, keys)?;
    let ff = keys.width("feed_forward_length")?;
    let ends = Ends::load(weights, &t)?;
    let mut rope = Rope::new(keys, t.rope_dim, None)?;
    if let Some(multiplier) = keys.positive("rope.scaling.yarn_log_multiplier")? {
        // The configuration's mscale_all_dim: its share of YaRN's magnitude is taken out of q and k again.
        let factor = f64::from(keys.positive_or("rope.scaling.factor", 1.0)?);
        rope.magnitude /= 1.0 + 0.1 * f64::from(multiplier) * factor.ln().max(0.0);
    }
    let temperature = match keys.positive("attention.temperature_scale")? {
        Some(scale) => Some(Temperature { scale, span: keys.size("rope.scaling.original_context_length")? }),
        None => None,
    };
    let layers = (0..t.layers)
        .map(|i| {
            let mut attention = SelfAttention::load(weights, &t, i, RopePairs::Adjacent, Extras::NOTHING)?;
            attention.temperature = temperature;
            Ok((attention, GatedMlp::load(weights, &t, i, ff)?))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Mistral3 { shape: t.shape(ff), rope, ends, layers }))
}

impl Architecture for Mistral3 {
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
            attention.record(step, &x, &cache.layers[i], &ropes[0])?; // norm, q k v, rope and temperature, attention, output
            mlp.record(step, &x)?;
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
