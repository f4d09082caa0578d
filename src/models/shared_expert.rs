//! A mixture beside one more expert that every token uses, weighted by a sigmoid of its own (Qwen2-MoE, arXiv 2407.10671).

use super::blocks::{GatedMlp, Mixture, Transformer};
use super::decoder::FeedForward;
use super::{Keys, Result};
use crate::memory::Weights;
use crate::ops::{ExpertMlp, Matrix, Norm, Step, Tensor};

pub struct SharedExpertMixture {
    norm: Norm,
    router: Matrix,
    /// Experts of each token, the shared one apart.
    used: usize,
    experts: ExpertMlp,
    /// [1, hidden]
    shared_gate: Matrix,
    shared: GatedMlp,
}

/// Columns of the shared expert.
fn shared_ff(keys: &Keys) -> Result<usize> {
    keys.width("expert_shared_feed_forward_length")
}

impl SharedExpertMixture {
    /// `norm` names the norm before it.
    pub fn load(weights: &mut Weights, keys: &Keys, t: &Transformer, layer: usize, norm: &str) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let mixture = Mixture::read(keys)?;
        Ok(SharedExpertMixture {
            norm: t.norm(weights, &name(norm), t.hidden)?,
            router: weights.matrix(&name("ffn_gate_inp"), mixture.experts, t.hidden)?,
            used: mixture.used,
            experts: mixture.mlp(weights, t, layer)?,
            shared_gate: weights.matrix(&name("ffn_gate_inp_shexp"), 1, t.hidden)?,
            shared: GatedMlp::named(weights, t, layer, norm, "_shexp", shared_ff(keys)?)?,
        })
    }

    /// Floats of each token that live at once.
    pub fn floats_per_token(keys: &Keys, t: &Transformer) -> Result<usize> {
        Ok(Mixture::read(keys)?.floats_per_token(t) + shared_ff(keys)? + 1)
    }
}

impl FeedForward for SharedExpertMixture {
    /// x += sigmoid(gate norm(x)) * shared(norm(x)) + sum over the chosen experts of weight * mlp(norm(x)).
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        let logits = step.norm_linear("router logits", x, &self.norm, &self.router)?; // [tokens, experts]
        let routing = step.route_softmax(&logits, self.used, true)?;
        let gate = step.norm_linear("shared gate", x, &self.norm, &self.shared_gate)?; // [tokens, 1]
        let shared = self.shared.inner(step, x)?; // before the experts add to x
        step.gate(&shared, &gate, 0, shared.columns)?;
        step.norm_experts(x, &self.norm, &routing, &self.experts)?;
        self.shared.add_outer(step, x, &shared)
    }
}
