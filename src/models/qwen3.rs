//! Qwen3 (arXiv 2505.09388): 4B to 32B. As Qwen2, with a norm per head on q and k in place of the biases.

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
            let attention = SelfAttention::load(weights, &t, i, RopePairs::HalfSplit, Extras::QK_NORM)?;
            Ok((attention, GatedMlp::load(weights, &t, i, ff)?))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Decoder { shape: t.shape(ff), rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}
