//! A mixture beside one more expert that every token uses, weighted by a sigmoid of its own (Qwen2-MoE, arXiv 2407.10671).
//! Where the shared one is of the others' size and types it lies in their stacks and takes no dispatch of its own.

use super::blocks::{GatedMlp, Transformer};
use super::decoder::FeedForward;
use super::mixture::Mixture;
use super::{Keys, Result};
use crate::memory::Weights;
use crate::ops::{ExpertMlp, Joint, Norm, Step, Tensor};

pub struct SharedExpertMixture {
    norm: Norm,
    /// Logits of the experts, then of the shared one's gate.
    router: Joint,
    /// Experts of each token, the shared one apart.
    used: usize,
    experts: ExpertMlp,
    /// What does not fit into the experts' stacks.
    shared: Option<GatedMlp>,
}

/// Columns of the shared expert.
fn shared_ff(keys: &Keys) -> Result<usize> {
    keys.width("expert_shared_feed_forward_length")
}

impl SharedExpertMixture {
    /// The mixture of a layer, behind the norm of that name.
    pub fn load(weights: &mut Weights, keys: &Keys, t: &Transformer, layer: usize, norm: &str) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let (mixture, ff) = (Mixture::read(keys)?, shared_ff(keys)?);
        let joined = mixture.can_join(weights, layer, ff);
        let [router, gate] = ["ffn_gate_inp", "ffn_gate_inp_shexp"].map(name);
        Ok(SharedExpertMixture {
            norm: t.norm(weights, &name(norm), t.hidden)?,
            router: weights.joint(&[(&router, mixture.experts), (&gate, 1)], &[], t.hidden)?.0,
            used: mixture.used,
            experts: mixture.joined_mlp(weights, t, layer, joined)?,
            shared: match joined {
                true => None,
                false => Some(GatedMlp::named(weights, t, layer, norm, "_shexp", ff)?),
            },
        })
    }

    /// Floats of each token that live at once.
    pub fn floats_per_token(keys: &Keys, t: &Transformer) -> Result<usize> {
        Ok(Mixture::read(keys)?.floats_per_token(t) + shared_ff(keys)? + t.hidden + 1)
    }
}

impl FeedForward for SharedExpertMixture {
    /// x += sigmoid(gate norm(x)) * shared(norm(x)) + sum over the chosen experts of weight * mlp(norm(x)).
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        let logits = step.norm_joint("router logits", x, &self.norm, &self.router)?; // [tokens, experts + 1]
        let routing = step.route_softmax_beside(&logits, self.used, true, self.shared.is_none())?;
        let shared = match &self.shared {
            Some(shared) => {
                let h = shared.inner(step, x)?; // before the experts add to x
                step.gate(&h, &logits, logits.columns - 1, h.columns)?;
                Some((shared, h))
            }
            None => None,
        };
        step.norm_experts(x, &self.norm, &routing, &self.experts)?;
        match shared {
            Some((shared, h)) => shared.add_outer(step, x, &h),
            None => Ok(()),
        }
    }
}
