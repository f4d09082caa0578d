//! Llama 4 (Scout, Maverick): attention within chunks, every fourth layer over all positions without rope, its queries
//! warmed with the position. One expert a token, its weight on the expert's input, beside a shared one; in Maverick every
//! other layer is dense.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::decoder::{Decoder, DenseOr, FeedForward};
use super::mixture::Mixture;
use super::sigmoid_experts::SharedExperts;
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::memory::Weights;
use crate::ops::{Activation, Matrix, Norm, RopePairs, Scoring, SigmoidRouter, Step, Temperature, Tensor, Window};

/// What files do not say, the same in all that are published: every so many layers one sees all positions; ...
const PERIOD: usize = 4;
/// ... the queries of such a layer are warmed; ...
const TEMPERATURE: Temperature = Temperature { scale: 0.1, span: 8192, offset: 1 };
/// ... the others see chunks of so many positions, unless the file says another number; ...
const CHUNK: usize = 8192;
/// ... and Maverick, the one with as many experts, has no norm of q and k.
const MAVERICK: usize = 128;

struct Experts {
    norm: Norm,
    matrix: Matrix,
    router: SigmoidRouter,
    experts: SharedExperts,
}

/// What the keys say beside the usual.
struct Sizes {
    t: Transformer,
    /// Of dense layers.
    ff: usize,
    mixture: Mixture,
    /// Positions of a chunk.
    chunk: usize,
    /// The last of each so many layers is a mixture.
    step: usize,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let function = keys.count_or("expert_gating_func", 2)?;
        if function != 2 {
            return Err(keys.error("expert_gating_func", function, "halogen knows 2 here, the sigmoid"));
        }
        Ok(Sizes {
            t: Transformer::read(gguf, keys)?,
            ff: keys.width("feed_forward_length")?,
            mixture: Mixture::read(keys)?,
            chunk: keys.size_or("attention.sliding_window", CHUNK)?,
            step: keys.size("interleave_moe_layer_step")?,
        })
    }

    fn qk_norm(&self) -> bool {
        self.mixture.experts != MAVERICK
    }

    fn shape(&self) -> Shape {
        let Sizes { t, ff, mixture, .. } = self;
        // The rows of dense layers, the shared expert's, and the others'.
        let dense = if self.step > 1 { *ff } else { 0 };
        let shape = t.shape(dense + mixture.ff + t.hidden + mixture.floats_per_token(t));
        shape.with_windows(self.chunk, chunked)
    }
}

fn chunked(layer: usize) -> bool {
    layer % PERIOD != PERIOD - 1
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys)?;
    let t = &sizes.t;
    let ends = Ends::load(weights, t)?;
    let factors = match weights.has("rope_freqs.weight") {
        true => Some(weights.host_vector("rope_freqs.weight", t.rope_dim / 2)?),
        false => None,
    };
    let layers = (0..t.layers)
        .map(|i| {
            let feed_forward = match i % sizes.step == sizes.step - 1 {
                true => DenseOr::Mixture(Box::new(Experts::load(weights, keys, &sizes, i)?)),
                false => DenseOr::Dense(Box::new(GatedMlp::load(weights, t, i, sizes.ff)?)),
            };
            Ok((attention(weights, &sizes, i)?, feed_forward))
        })
        .collect::<Result<_>>()?;
    let mut rope = Rope::new(keys, t.rope_dim, factors.as_deref())?;
    if sizes.qk_norm() {
        rope.magnitude = 1.0; // the norm after it would take another out again
    }
    Ok(Box::new(Decoder { shape: sizes.shape(), rope, ends, layers }))
}

fn attention(weights: &mut Weights, sizes: &Sizes, layer: usize) -> Result<SelfAttention> {
    let t = &sizes.t;
    let mut attention = SelfAttention::load(weights, t, layer, RopePairs::Adjacent, Extras::NOTHING)?;
    if !chunked(layer) {
        attention.rope_dim = 0;
        attention.temperature = Some(TEMPERATURE);
    } else {
        attention.geometry.window = Some(Window::Chunk(sizes.chunk));
        if sizes.qk_norm() {
            // Without weights and after rope, which turns a head and does not stretch it: so it may as well come before.
            attention.qk_norm = Some((t.unit_norm(weights, t.head_dim)?, t.unit_norm(weights, t.head_dim)?));
        }
    }
    Ok(attention)
}

impl Experts {
    fn load(weights: &mut Weights, keys: &Keys, sizes: &Sizes, layer: usize) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let Sizes { t, mixture, .. } = sizes;
        let experts = SharedExperts::load(weights, t, layer, mixture, (mixture.ff, "ffn_norm"), [Activation::Silu; 2])?;
        Ok(Experts {
            norm: t.norm(weights, &name("ffn_norm"), t.hidden)?,
            matrix: weights.matrix(&name("ffn_gate_inp"), mixture.experts, t.hidden)?,
            router: SigmoidRouter {
                bias: None,
                scoring: Scoring::Sigmoid,
                ranks: mixture.used,
                renormalise: false,
                scale: keys.positive_or("expert_weights_scale", 1.0)?,
                groups: (1, 1),
                shared: experts.joined(),
            },
            experts,
        })
    }
}

impl FeedForward for Experts {
    /// x += shared(norm(x)) + sum over the chosen experts of mlp(sigmoid(logit) * norm(x)).   x: [tokens, hidden]
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        let logits = step.norm_linear("router logits", x, &self.norm, &self.matrix)?; // [tokens, experts]
        let routing = step.route_sigmoid(&logits, &self.router)?;
        self.experts.record(step, x, |step, mlp| step.norm_weighted_experts(x, &self.norm, &routing, mlp))
    }
}
