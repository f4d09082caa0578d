//! GLM-5 (arXiv 2602.15763). As DeepSeek-V3, with a lightning indexer that picks the positions each token attends to; a
//! layer without one of its own sees what the layer before it saw.

use super::latent::{IndexerSizes, LatentBlock, LatentMixture};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::memory::{Keeps, Weights};

/// The indexer's kernels keep a key in workgroup memory, and the selection of a step in one buffer.
const MAX_KEY: usize = 1024;
const MAX_TOP_K: usize = 65_536;

/// What the keys say.
struct Sizes {
    model: LatentMixture,
    /// Of each layer of the trunk.
    indexers: Vec<Option<IndexerSizes>>,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let model = LatentMixture::read(gguf, keys)?;
        let (heads, head_dim) =
            (keys.width("attention.indexer.head_count")?, keys.width("attention.indexer.key_length")?);
        let rope_dim = model.latent.t.rope_dim;
        if head_dim < rope_dim || head_dim > MAX_KEY {
            let problem = format!("a size from {rope_dim}, of which so many lanes turn, to {MAX_KEY} is needed");
            return Err(keys.error("attention.indexer.key_length", head_dim, problem));
        }
        let top_k = keys.size("attention.indexer.top_k")?;
        if top_k > MAX_TOP_K {
            return Err(keys.error("attention.indexer.top_k", top_k, format!("at most {MAX_TOP_K} are supported")));
        }
        let of_layer = |i| {
            let own = keys.flag_of_layer("attention.indexer.types", i)?.unwrap_or(true);
            if i == 0 && !own {
                return Err(keys.error("attention.indexer.types", own, "the first layer needs an indexer of its own"));
            }
            Ok(own.then_some(IndexerSizes { heads, head_dim, top_k }))
        };
        let indexers = (0..model.latent.t.layers).map(of_layer).collect::<Result<_>>()?;
        Ok(Sizes { model, indexers })
    }

    fn shape(&self) -> Shape {
        let mut shape = self.model.shape();
        for (keeps, indexer) in shape.keeps.iter_mut().zip(&self.indexers) {
            if let (Keeps::Kv(width), Some(ix)) = (keeps, indexer) {
                width.index = ix.head_dim;
            }
        }
        // The indexer's queries, key and weights, and the selection.
        let floats = |ix: &IndexerSizes| ix.heads * (ix.head_dim + 1) + ix.head_dim + ix.top_k;
        shape.scratch_per_token += 4 * self.indexers.iter().flatten().map(floats).max().unwrap_or(0) as u64;
        shape
    }
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys)?;
    let latent = &sizes.model.latent;
    let rope = Rope::new(keys, latent.t.rope_dim, None)?;
    let scale = 1.0 / (latent.t.head_dim as f32).sqrt();
    let block = |weights: &mut Weights, i: usize| LatentBlock::load(weights, latent, i, scale, sizes.indexers[i]);
    Ok(Box::new(sizes.model.load(weights, sizes.shape(), rope, block)?))
}
