//! Mistral 3: Ministral 3, Devstral 2. As Llama, with YaRN and an attention temperature that grows with the position.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::decoder::Decoder;
use super::{Architecture, Keys, Result, Rope};
use crate::memory::Weights;
use crate::ops::{RopePairs, Temperature};

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let t = Transformer::read(weights.gguf, keys)?;
    let ff = keys.width("feed_forward_length")?;
    let ends = Ends::load(weights, &t)?;
    let mut rope = Rope::new(keys, t.rope_dim, None)?;
    let multiplier = keys.positive("rope.scaling.yarn_log_multiplier")?;
    if let (Some("yarn"), Some(multiplier)) = (keys.word("rope.scaling.type")?, multiplier) {
        // The configuration's mscale_all_dim: its share of YaRN's magnitude is taken out of q and k again.
        let factor = f64::from(keys.positive_or("rope.scaling.factor", 1.0)?);
        rope.magnitude /= 1.0 + 0.1 * f64::from(multiplier) * factor.ln().max(0.0);
    }
    let temperature = match keys.positive("attention.temperature_scale")? {
        Some(scale) => Some(Temperature { scale, span: keys.size("rope.scaling.original_context_length")?, offset: 0 }),
        None => None,
    };
    let layers = (0..t.layers)
        .map(|i| {
            let mut attention = SelfAttention::load(weights, &t, i, RopePairs::Adjacent, Extras::NOTHING)?;
            attention.temperature = temperature;
            Ok((attention, GatedMlp::load(weights, &t, i, ff)?))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Decoder { shape: t.shape(ff), rope, ends, layers }))
}
