//! gpt-oss (arXiv 2508.10925): attention sinks, a window on every other layer, biases on every projection and expert,
//! clamped SwiGLU, YaRN.

use super::blocks::{Ends, Extras, SelfAttention, Transformer};
use super::mixture::{Mixture, mixture_shape};
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{KvCache, Weights};
use crate::ops::{Activation, ExpertBias, ExpertMlp, Joint, KvLayer, Matrix, Norm, RopePairs, Step, Tensor, Window};

struct GptOss {
    shape: Shape,
    rope: Rope,
    ends: Ends,
    layers: Vec<Layer>,
}

struct Layer {
    attention: SelfAttention,
    norm: Norm,
    router: Joint,
    experts: ExpertMlp,
    /// Experts of each token.
    used: usize,
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(mixture_shape(gguf, keys)?.with_windows(keys.size("attention.sliding_window")?, windowed))
}

fn windowed(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let t = Transformer::read(weights.gguf, keys)?;
    let mixture = Mixture::read(keys)?;
    let window = keys.size("attention.sliding_window")?;
    let ends = Ends::load(weights, &t)?;
    let layers = (0..t.layers)
        .map(|i| {
            let name = |what: &str| format!("blk.{i}.{what}");
            let mut attention = SelfAttention::load(weights, &t, i, RopePairs::HalfSplit, Extras::BIAS)?;
            attention.geometry.window = windowed(i).then_some(Window::Last(window));
            attention.geometry.sinks = Some(weights.vector(&name("attn_sinks.weight"), t.heads)?);
            attention.output_bias = Some(weights.vector(&name("attn_output.bias"), t.hidden)?);
            let router = name("ffn_gate_inp.weight");
            let (gate, up) = (name("ffn_gate_exps.bias"), name("ffn_up_exps.bias"));
            let bias = ExpertBias {
                gate_up: weights.expert_gate_up_bias(&gate, &up, mixture.experts, mixture.ff)?,
                down: weights.expert_bias(&name("ffn_down_exps.bias"), mixture.experts, t.hidden)?,
            };
            let mlp = mixture.mlp(weights, &t, i)?;
            Ok(Layer {
                attention,
                norm: t.norm(weights, &name("post_attention_norm.weight"), t.hidden)?,
                router: weights.joint(&[(&router, mixture.experts)], &[&name("ffn_gate_inp.bias")], t.hidden)?.0,
                experts: ExpertMlp { bias: Some(bias), activation: Activation::Clamped, ..mlp },
                used: mixture.used,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(GptOss { shape: shape(weights.gguf, keys)?, rope: Rope::new(keys, t.rope_dim, None)?, ends, layers }))
}

impl Layer {
    /// x: [tokens, hidden], updated in place
    fn record(&self, step: &mut Step, x: &Tensor, cache: &KvLayer, rope: &View) -> Result<()> {
        self.attention.record(step, x, cache, rope)?; // norm, q k v, rope, attention with sinks, output
        let logits = step.norm_joint("router logits", x, &self.norm, &self.router)?; // [tokens, experts]
        let routing = step.route_softmax(&logits, self.used, true)?; // softmax over the chosen
        Ok(step.norm_experts(x, &self.norm, &routing, &self.experts)?)
    }
}

impl Architecture for GptOss {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        for (i, layer) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            layer.record(step, &x, cache.kv(i), &ropes[0])?;
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
