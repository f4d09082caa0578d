//! Qwen3-Next: Qwen3-Next-80B-A3B, Qwen3-Coder-Next. Three gated delta nets to one gated attention, each followed by a
//! mixture with a shared expert. Value heads of one key head follow one another; beta and alpha lie interleaved.

use super::delta_net::{DeltaNetLayer, Hybrid, Sizes};
use super::shared_expert::SharedExpertMixture;
use super::{Architecture, Keys, Result, Shape};
use crate::gguf::Gguf;
use crate::memory::{Take, Weights};
use crate::ops::KeySharing;

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    let sizes = Sizes::read(gguf, keys, KeySharing::Grouped)?;
    Ok(sizes.shape(SharedExpertMixture::floats_per_token(keys, &sizes.t)?))
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys, KeySharing::Grouped)?;
    let ff = SharedExpertMixture::floats_per_token(keys, &sizes.t)?;
    // Of each key head: beta of its value heads, then their alpha.
    let (rows, sharing) = (2 * sizes.heads.value_heads, sizes.heads.value_heads / sizes.heads.key_heads);
    let delta = |weights: &mut Weights, i: usize| {
        let name = format!("blk.{i}.ssm_ba.weight");
        let part = |first| Take { name: &name, rows, group: 2 * sharing, first, run: sharing };
        DeltaNetLayer::load(weights, keys, &sizes, i, [part(0), part(sharing)])
    };
    Hybrid::load(weights, keys, &sizes, ff, delta, |weights, i| {
        SharedExpertMixture::load(weights, keys, &sizes.t, i, "post_attention_norm")
    })
}
