//! Qwen2 (arXiv 2407.10671): Qwen2.5, R1-Distill-Qwen. As Llama, with half-split rope and a bias on q, k and v.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::decoder::Decoder;
use super::{Architecture, Keys, Result, Rope};
use crate::memory::Weights;
use crate::ops::RopePairs;

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
    Ok(Box::new(Decoder { shape: t.shape(ff), rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}
