//! Qwen3.5, the mixtures: 35B-A3B, 122B-A10B, 397B-A17B. The mixers of the dense models, each followed by a mixture with
//! a shared expert.

use super::delta_net::{Hybrid, Sizes};
use super::shared_expert::SharedExpertMixture;
use super::{Architecture, Keys, Result, Shape, qwen35};
use crate::gguf::Gguf;
use crate::memory::Weights;
use crate::ops::KeySharing;

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    let sizes = Sizes::read(gguf, keys, KeySharing::Tiled)?;
    Ok(sizes.shape(SharedExpertMixture::floats_per_token(keys, &sizes.t)?))
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys, KeySharing::Tiled)?;
    let ff = SharedExpertMixture::floats_per_token(keys, &sizes.t)?;
    let delta = |weights: &mut Weights, i: usize| qwen35::delta_net(weights, keys, &sizes, i);
    Hybrid::load(weights, keys, &sizes, ff, delta, |weights, i| {
        SharedExpertMixture::load(weights, keys, &sizes.t, i, "post_attention_norm")
    })
}
