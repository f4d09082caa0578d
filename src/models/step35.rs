//! Step-3.5-Flash: layers with a window of their own head counts, rope base and full rope between layers that see all and
//! turn half of each head; a sigmoid gate on each head's result; a sigmoid router with a bias, a shared expert, dense layers
//! first; the products of some layers held within limits. Blocks for predicting further tokens are passed over.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer, trunk};
use super::decoder::FeedForward as _;
use super::sigmoid_experts::{FeedForward, SigmoidMixture};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{Keeps, KvCache, KvWidth, Weights};
use crate::ops::{Activation, Matrix, Norm, RopePairs, Step, Tensor, Window};

struct Step35 {
    shape: Shape,
    /// Of the layers that see all, and of those with a window.
    ropes: [Rope; 2],
    ends: Ends,
    windowed: Vec<bool>,
    layers: Vec<(SelfAttention, FeedForward)>,
}

/// What the keys say beside the usual.
struct Sizes {
    /// Of each layer.
    t: Vec<Transformer>,
    windowed: Vec<bool>,
    /// Positions; 0 without a layer that has one.
    window: usize,
    dense: usize,
    ff: usize,
    mixture: SigmoidMixture,
    blocks: usize,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let blocks = keys.size("block_count")?;
        let layers = trunk(keys, blocks)?;
        let pattern = "attention.sliding_window_pattern";
        for key in
            ["attention.head_count", "attention.head_count_kv", pattern, "swiglu_clamp_exp", "swiglu_clamp_shexp"]
        {
            keys.one_a_layer(key, blocks)?;
        }
        let every = keys.size_or("moe_every_n_layers", 1)?;
        if every != 1 {
            return Err(keys.error("moe_every_n_layers", every, "halogen knows mixtures in every layer here"));
        }
        let windowed: Vec<bool> =
            (0..layers).map(|i| Ok(keys.flag_of_layer(pattern, i)?.unwrap_or(false))).collect::<Result<_>>()?;
        let sizes = Sizes {
            t: (0..layers).map(|i| Transformer::read_layer(gguf, keys, i, "")).collect::<Result<_>>()?,
            window: if windowed.contains(&true) { keys.size("attention.sliding_window")? } else { 0 },
            windowed,
            dense: keys.count_or("leading_dense_block_count", 0)?,
            ff: keys.width("feed_forward_length")?,
            mixture: SigmoidMixture::read(keys)?,
            blocks,
        };
        let dim = sizes.t[0].rope_dim;
        if !dim.is_multiple_of(4) {
            return Err(keys.error(
                "rope.dimension_count",
                dim,
                "a multiple of 4, of which layers without a window turn half",
            ));
        }
        Ok(sizes)
    }

    fn shape(&self) -> Shape {
        let widest = self.t.iter().max_by_key(|t| t.heads).expect("a layer");
        let dense = if self.dense > 0 { self.ff } else { 0 };
        let shape = widest.shape(widest.heads + dense + self.mixture.floats_per_token(widest));
        let shape = Shape {
            keeps: self.t.iter().map(|t| Keeps::Kv(KvWidth::both(t.kv_heads, t.head_dim))).collect(),
            rope_pairs: widest.rope_dim / 4 + widest.rope_dim / 2,
            ..shape
        };
        shape.with_windows(self.window, |i| self.windowed[i])
    }
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys)?;
    let dim = sizes.t[0].rope_dim;
    let factors = match weights.has("rope_freqs.weight") {
        true => Some(weights.host_vector("rope_freqs.weight", dim / 2)?),
        false => None,
    };
    let local = f64::from(keys.positive_or("rope.freq_base_swa", 10_000.0)?);
    let ropes = [Rope::new(keys, dim / 2, factors.as_deref())?, Rope::unscaled(local, dim)];
    let ends = Ends::load(weights, &sizes.t[0])?;
    let layers = (0..sizes.t.len())
        .map(|i| Ok((attention(weights, &sizes, i)?, feed_forward(weights, keys, &sizes, i)?)))
        .collect::<Result<_>>()?;
    (sizes.t.len()..sizes.blocks).for_each(|i| weights.skip(&format!("blk.{i}.")));
    let shape = sizes.shape();
    Ok(Box::new(Step35 { shape, ropes, ends, windowed: sizes.windowed, layers }))
}

fn attention(weights: &mut Weights, sizes: &Sizes, layer: usize) -> Result<SelfAttention> {
    let t = &sizes.t[layer];
    let extras = Extras { head_gate: true, ..Extras::QK_NORM };
    let mut attention = SelfAttention::load(weights, t, layer, RopePairs::HalfSplit, extras)?;
    if sizes.windowed[layer] {
        attention.geometry.window = Some(Window::Last(sizes.window));
    } else {
        attention.rope_dim = t.rope_dim / 2;
    }
    Ok(attention)
}

fn feed_forward(weights: &mut Weights, keys: &Keys, sizes: &Sizes, layer: usize) -> Result<FeedForward> {
    let t = &sizes.t[layer];
    let limited = |key: &str| -> Result<Activation> {
        Ok(keys.limit_of_layer(key, layer)?.map_or(Activation::Silu, Activation::SiluLimited))
    };
    // The limit of shared experts is that of dense layers, too.
    let (routed, shared) = (limited("swiglu_clamp_exp")?, limited("swiglu_clamp_shexp")?);
    if layer < sizes.dense {
        let mut mlp = GatedMlp::load(weights, t, layer, sizes.ff)?;
        mlp.activation = shared;
        return Ok(FeedForward::Dense(Box::new(mlp)));
    }
    let mixture = sizes.mixture.load_activated(weights, t, layer, "ffn_norm", [routed, shared])?;
    Ok(FeedForward::Mixture(Box::new(mixture)))
}

impl Architecture for Step35 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        &self.ropes
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        for (i, (attention, feed_forward)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            let rope = &ropes[usize::from(self.windowed[i])];
            attention.record(step, &x, cache.kv(i), rope)?; // norm, q k v and gates, q/k norm and rope, attention, gate, output
            feed_forward.record(step, &x)?; // norm, (router,) gate and up, down
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
