//! DeepSeek-V3 (arXiv 2412.19437): V3, R1, V3.1. Latent attention, dense layers first, a sigmoid router that chooses among
//! groups of experts, a shared expert, YaRN. Blocks for predicting further tokens, after the trunk, are passed over.

use super::latent::{LatentBlock, LatentMixture};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::memory::Weights;

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(LatentMixture::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = LatentMixture::read(weights.gguf, keys)?;
    let t = &sizes.latent.t;
    let (rope, magnitude) = rope(keys, t.rope_dim)?;
    let scale = (magnitude * magnitude / (t.head_dim as f64).sqrt()) as f32;
    let block = |weights: &mut Weights, i| LatentBlock::load(weights, &sizes.latent, i, scale, None);
    Ok(Box::new(sizes.load(weights, sizes.shape(), rope, block)?))
}

/// The rope table, and the factor of queries and of keys that YaRN's magnitude is here: it holds for all lanes, not only for
/// those that turn. `yarn_log_multiplier` is a tenth of the configuration's mscale_all_dim.
fn rope(keys: &Keys, dim: usize) -> Result<(Rope, f64)> {
    let mut rope = Rope::new(keys, dim, None)?;
    if keys.word("rope.scaling.type")? != Some("yarn") {
        return Ok((rope, 1.0));
    }
    let log = f64::from(keys.positive_or("rope.scaling.factor", 1.0)?).ln();
    rope.magnitude /= 1.0 + 0.1 * log;
    let multiplier = keys.positive("rope.scaling.yarn_log_multiplier")?.map_or(0.0, f64::from);
    Ok((rope, 1.0 + multiplier * log))
}
