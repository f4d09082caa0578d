//! Qwen3-MoE (arXiv 2505.09388): Qwen3-30B-A3B, 235B-A22B, Coder-30B. Every layer is a mixture; no shared expert.

use super::blocks::{Ends, Extras, SelfAttention, Transformer};
use super::decoder::Decoder;
use super::mixture::{Mixture, SoftmaxExperts};
use super::{Architecture, Keys, Result, Rope};
use crate::memory::Weights;
use crate::ops::RopePairs;

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
    Ok(Box::new(Decoder { shape, rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}
