//! Mixtures of gated MLPs: their numbers, their stacks of experts, and the kind that a softmax routes.

use super::blocks::Transformer;
use super::{Keys, Result};
use crate::gguf::Gguf;
use crate::memory::Weights;
use crate::ops::{Activation, ExpertMlp, MAX_EXPERTS, Matrix, Norm, Step, Tensor};

/// The numbers of a mixture.
pub struct Mixture {
    pub experts: usize,
    /// Experts of each token.
    pub used: usize,
    pub ff: usize,
}

impl Mixture {
    pub fn read(keys: &Keys) -> Result<Self> {
        let (experts, used) = (keys.size("expert_count")?, keys.size("expert_used_count")?);
        if experts > MAX_EXPERTS {
            return Err(keys.error("expert_count", experts, format!("at most {MAX_EXPERTS} are supported")));
        }
        if used > experts {
            return Err(keys.error("expert_used_count", used, format!("there are {experts} experts")));
        }
        Ok(Mixture { experts, used, ff: keys.width("expert_feed_forward_length")? })
    }

    /// Floats that live at once for each token: the experts' inner and outer rows.
    pub fn floats_per_token(&self, t: &Transformer) -> usize {
        self.used * (self.ff + t.hidden) + self.experts
    }

    /// The experts of a layer, with silu and no bias. A file may hold gate and up as one stack, gate rows first.
    pub fn mlp(&self, weights: &mut Weights, t: &Transformer, layer: usize) -> Result<ExpertMlp> {
        self.joined_mlp(weights, t, layer, false)
    }

    /// As [`Mixture::mlp`], with the layer's shared expert behind the others if `shared`.
    pub fn joined_mlp(&self, weights: &mut Weights, t: &Transformer, layer: usize, shared: bool) -> Result<ExpertMlp> {
        let ([gate, up, down], fused) = (expert_names(layer, "exps"), fused_name(layer));
        let [shared_gate, shared_up, shared_down] = expert_names(layer, "shexp");
        let inner = shared.then_some([shared_gate.as_str(), &shared_up]);
        let outer = shared.then_some(shared_down.as_str());
        Ok(ExpertMlp {
            gate_up: match weights.has(&fused) {
                true => weights.fused_gate_up(&fused, inner, self.experts, self.ff, t.hidden)?,
                false => weights.expert_gate_up([&gate, &up], inner, self.experts, self.ff, t.hidden)?,
            },
            down: weights.stack(&down, outer, self.experts, t.hidden, self.ff)?,
            bias: None,
            activation: Activation::Silu,
        })
    }

    /// Whether a shared expert of `ff` columns can be one more of a layer's stacks: of the size of the others, each of
    /// its matrices of their type.
    pub fn can_join(&self, weights: &Weights, layer: usize, ff: usize) -> bool {
        let (mut routed, shared) = (expert_names(layer, "exps"), expert_names(layer, "shexp"));
        let fused = fused_name(layer);
        if weights.has(&fused) {
            routed[..2].fill(fused);
        }
        let room = ff == self.ff && self.experts < MAX_EXPERTS;
        room && routed.iter().zip(&shared).all(|(a, b)| weights.of_one_type(a, b))
    }
}

/// The sizes of a model whose layers are all mixtures.
pub fn mixture_shape(gguf: &Gguf, keys: &Keys) -> Result<super::Shape> {
    let t = Transformer::read(gguf, keys)?;
    Ok(t.shape(Mixture::read(keys)?.floats_per_token(&t)))
}

/// Gate, up and down of a layer's `exps` or `shexp`.
fn expert_names(layer: usize, kind: &str) -> [String; 3] {
    ["gate", "up", "down"].map(|what| format!("blk.{layer}.ffn_{what}_{kind}.weight"))
}

/// Gate and up of a layer's experts in one tensor.
fn fused_name(layer: usize) -> String {
    format!("blk.{layer}.ffn_gate_up_exps.weight")
}

/// A mixture of gated MLPs, of which a softmax router picks some for each token.
pub struct SoftmaxExperts {
    norm: Norm,
    router: Matrix,
    mlp: ExpertMlp,
    used: usize,
}

impl SoftmaxExperts {
    pub fn load(weights: &mut Weights, keys: &Keys, t: &Transformer, layer: usize) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let mixture = Mixture::read(keys)?;
        Ok(SoftmaxExperts {
            norm: t.norm(weights, &name("ffn_norm"), t.hidden)?,
            router: weights.matrix(&name("ffn_gate_inp"), mixture.experts, t.hidden)?,
            mlp: mixture.mlp(weights, t, layer)?,
            used: mixture.used,
        })
    }

    /// x += sum over the chosen experts of weight * mlp(norm(x)), the weights renormalised to 1.   x: [tokens, hidden]
    pub fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        let logits = step.norm_linear("router logits", x, &self.norm, &self.router)?;
        let routing = step.route_softmax(&logits, self.used, true)?;
        Ok(step.norm_experts(x, &self.norm, &routing, &self.mlp)?)
    }
}
