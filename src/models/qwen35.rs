//! Qwen3.5, the dense models: three gated delta nets to one gated attention, each followed by a gated MLP. Value heads go
//! through the key heads in turn.

use super::blocks::GatedMlp;
use super::delta_net::{DeltaNetLayer, Hybrid, Sizes};
use super::{Architecture, Keys, Result, Shape};
use crate::gguf::Gguf;
use crate::memory::{Take, Weights};
use crate::ops::KeySharing;

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys, KeySharing::Tiled)?.shape(keys.width("feed_forward_length")?))
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys, KeySharing::Tiled)?;
    let ff = keys.width("feed_forward_length")?;
    let delta = |weights: &mut Weights, i: usize| delta_net(weights, keys, &sizes, i);
    Hybrid::load(weights, keys, &sizes, ff, delta, |weights, i| {
        GatedMlp::named(weights, &sizes.t, i, "post_attention_norm", "", ff)
    })
}

/// A delta net whose beta and alpha are matrices of their own.
pub fn delta_net(weights: &mut Weights, keys: &Keys, sizes: &Sizes, layer: usize) -> Result<DeltaNetLayer> {
    let [beta, alpha] = ["ssm_beta", "ssm_alpha"].map(|what| format!("blk.{layer}.{what}.weight"));
    let rows = sizes.heads.value_heads;
    DeltaNetLayer::load(weights, keys, sizes, layer, [Take::all(&beta, rows), Take::all(&alpha, rows)])
}
