//! Llama (arXiv 2407.21783): Llama 3.x, and models distilled into it. Rope on adjacent pairs.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::decoder::Decoder;
use super::{Architecture, Keys, Result, Rope};
use crate::memory::Weights;
use crate::ops::RopePairs;

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let t = Transformer::read(weights.gguf, keys)?;
    let ff = keys.width("feed_forward_length")?;
    let ends = Ends::load(weights, &t)?;
    // Llama 3's scaling of long contexts comes as one factor a pair.
    let factors = match weights.has("rope_freqs.weight") {
        true => Some(weights.host_vector("rope_freqs.weight", t.rope_dim / 2)?),
        false => None,
    };
    // Few have biases (`attention_bias` in their configurations); the tensors alone say so.
    let extras = if weights.has("blk.0.attn_q.bias") { Extras::BIAS } else { Extras::NOTHING };
    let layers = (0..t.layers)
        .map(|i| {
            let attention = SelfAttention::load(weights, &t, i, RopePairs::Adjacent, extras)?;
            Ok((attention, GatedMlp::load(weights, &t, i, ff)?))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Decoder { shape: t.shape(ff), rope: Rope::new(keys, t.rope_dim, factors.as_deref())?, ends, layers }))
}
