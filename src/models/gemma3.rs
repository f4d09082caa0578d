//! Gemma 3 (arXiv 2503.19786): norms before and after each block, GELU, five layers with a window to one that sees all.

use super::blocks::{Ends, Extras, GatedMlp, SelfAttention, Transformer};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{KvCache, Weights};
use crate::ops::{Activation, Matrix, Norm, RopePairs, Step, Tensor, Window};

/// Every so many layers one sees all positions; files do not say it.
const PERIOD: usize = 6;

struct Gemma3 {
    shape: Shape,
    /// Of the layers that see all, and of those with a window.
    ropes: [Rope; 2],
    ends: Ends,
    layers: Vec<(SelfAttention, GatedMlp)>,
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    sizes(&Transformer::read(gguf, keys)?, keys)
}

/// Two rope tables, and a branch's result before its norm.
fn sizes(t: &Transformer, keys: &Keys) -> Result<Shape> {
    let shape = t.shape(keys.width("feed_forward_length")? + t.hidden);
    let shape = Shape { rope_pairs: 2 * shape.rope_pairs, ..shape };
    Ok(shape.with_windows(keys.size("attention.sliding_window")?, windowed))
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let t = Transformer::read(weights.gguf, keys)?;
    let ff = keys.width("feed_forward_length")?;
    let window = keys.size("attention.sliding_window")?;
    let local = f64::from(keys.positive_or("rope.freq_base_swa", 10_000.0)?);
    let ropes = [Rope::new(keys, t.rope_dim, None)?, Rope::unscaled(local, t.rope_dim)];
    let ends = Ends::load(weights, &t)?;
    let layers = (0..t.layers)
        .map(|i| {
            let name = |what: &str| format!("blk.{i}.{what}.weight");
            let mut attention = SelfAttention::load(weights, &t, i, RopePairs::HalfSplit, Extras::QK_NORM)?;
            attention.geometry.window = windowed(i).then_some(Window::Last(window));
            if t.layers == 62 {
                // The 27B model alone scales by its width a head, 5376 / 32, and not by the head size; files do not say it.
                attention.geometry.scale = 1.0 / (t.hidden as f32 / t.heads as f32).sqrt();
            }
            attention.post_norm = Some(t.norm(weights, &name("post_attention_norm"), t.hidden)?);
            let mut mlp = GatedMlp::load(weights, &t, i, ff)?;
            mlp.activation = Activation::GeluTanh;
            mlp.post_norm = Some(t.norm(weights, &name("post_ffw_norm"), t.hidden)?);
            Ok((attention, mlp))
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(Gemma3 { shape: sizes(&t, keys)?, ropes, ends, layers }))
}

fn windowed(layer: usize) -> bool {
    layer % PERIOD != PERIOD - 1
}

impl Architecture for Gemma3 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        &self.ropes
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, (self.shape.hidden as f32).sqrt())?; // [tokens, hidden]
        for (i, (attention, mlp)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            let rope = &ropes[usize::from(windowed(i))];
            attention.record(step, &x, cache.kv(i), rope)?; // norm, q k v, q/k norm, rope, attention, output, norm
            mlp.record(step, &x)?; // norm, gate and up, GELU, down, norm
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
