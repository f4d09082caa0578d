//! The mixture of DeepSeek-V3 (arXiv 2412.19437, section 2.1.2) and of those after it: a sigmoid router with a bias for the
//! choice, if need be among the best groups of experts, and an expert that all tokens share. Where the shared one is of
//! the others' size and types it lies in their stacks and takes no dispatch of its own.

use super::blocks::{GatedMlp, Transformer};
use super::decoder::{self, DenseOr};
use super::mixture::Mixture;
use super::{Keys, Result};
use crate::memory::Weights;
use crate::ops::{self, Activation, ExpertMlp, Matrix, Norm, Routing, Scoring, SigmoidRouter, Step, Tensor};

/// The numbers of such a mixture.
pub struct SigmoidMixture {
    mixture: Mixture,
    /// Columns of the shared expert.
    shared_ff: usize,
    /// Groups of experts, and those of them that a token chooses from.
    groups: (usize, usize),
    renormalise: bool,
    scale: f32,
}

/// One layer of it.
pub struct SigmoidExperts {
    norm: Norm,
    matrix: Matrix,
    router: SigmoidRouter,
    experts: SharedExperts,
}

/// The experts of a layer and the one that all tokens share.
pub struct SharedExperts {
    mlp: ExpertMlp,
    /// The shared one, where it does not fit into the others' stacks.
    apart: Option<GatedMlp>,
}

/// The second half of a layer, where the first layers are dense.
pub type FeedForward = DenseOr<SigmoidExperts>;

impl SigmoidMixture {
    pub fn read(keys: &Keys) -> Result<Self> {
        let mixture = Mixture::read(keys)?;
        let function = keys.count_or("expert_gating_func", 2)?;
        if function != 2 {
            return Err(keys.error("expert_gating_func", function, "halogen knows 2 here, the sigmoid"));
        }
        let groups = keys.size_or("expert_group_count", 1)?;
        let groups_used = keys.size_or("expert_group_used_count", groups)?;
        let size = mixture.experts / groups;
        if size * groups != mixture.experts || (groups > 1 && size < 2) {
            let problem = format!("{} experts cannot be in groups of two and more", mixture.experts);
            return Err(keys.error("expert_group_count", groups, problem));
        }
        if groups_used > groups || groups_used * size < mixture.used {
            let problem = format!("{groups} groups of {size} experts, of which each token uses {}", mixture.used);
            return Err(keys.error("expert_group_used_count", groups_used, problem));
        }
        Ok(SigmoidMixture {
            shared_ff: keys
                .width_or("expert_shared_feed_forward_length", mixture.ff * keys.size_or("expert_shared_count", 1)?)?,
            groups: (groups, groups_used),
            renormalise: keys.flag("expert_weights_norm")?.unwrap_or(true),
            scale: keys.positive_or("expert_weights_scale", 1.0)?,
            mixture,
        })
    }

    /// Floats that live at once for each token.
    pub fn floats_per_token(&self, t: &Transformer) -> usize {
        self.mixture.floats_per_token(t) + self.shared_ff + t.hidden
    }

    /// The mixture of a layer, behind the norm of that name.
    pub fn load(&self, weights: &mut Weights, t: &Transformer, layer: usize, norm: &str) -> Result<SigmoidExperts> {
        self.load_activated(weights, t, layer, norm, [Activation::Silu; 2])
    }

    /// With activations of the routed experts and of the shared one.
    pub fn load_activated(
        &self,
        weights: &mut Weights,
        t: &Transformer,
        layer: usize,
        norm: &str,
        activations: [Activation; 2],
    ) -> Result<SigmoidExperts> {
        let name = |what: &str| format!("blk.{layer}.{what}");
        let experts = SharedExperts::load(weights, t, layer, &self.mixture, (self.shared_ff, norm), activations)?;
        Ok(SigmoidExperts {
            norm: t.norm(weights, &name(&format!("{norm}.weight")), t.hidden)?,
            matrix: weights.matrix(&name("ffn_gate_inp.weight"), self.mixture.experts, t.hidden)?,
            router: SigmoidRouter {
                bias: Some(weights.vector(&name("exp_probs_b.bias"), self.mixture.experts)?),
                scoring: Scoring::Sigmoid,
                ranks: self.mixture.used,
                renormalise: self.renormalise,
                scale: self.scale,
                groups: self.groups,
                shared: experts.joined(),
            },
            experts,
        })
    }
}

impl decoder::FeedForward for SigmoidExperts {
    /// x += shared(norm(x)) + sum over the chosen experts of weight * mlp(norm(x)).   x: [tokens, hidden]
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        let logits = step.norm_linear("router logits", x, &self.norm, &self.matrix)?; // [tokens, experts]
        let routing = step.route_sigmoid(&logits, &self.router)?;
        self.experts.record(step, x, |step, mlp| step.norm_experts(x, &self.norm, &routing, mlp))
    }
}

impl SharedExperts {
    /// The shared one of `shared_ff` columns, behind the norm of that name as the others; activations of these and of it.
    pub fn load(
        weights: &mut Weights,
        t: &Transformer,
        layer: usize,
        mixture: &Mixture,
        (shared_ff, norm): (usize, &str),
        [routed, shared]: [Activation; 2],
    ) -> Result<Self> {
        let joined = routed == shared && mixture.can_join(weights, layer, shared_ff);
        Ok(SharedExperts {
            mlp: ExpertMlp { activation: routed, ..mixture.joined_mlp(weights, t, layer, joined)? },
            apart: match joined {
                true => None,
                false => {
                    let mut mlp = GatedMlp::named(weights, t, layer, norm, "_shexp", shared_ff)?;
                    mlp.activation = shared;
                    Some(mlp)
                }
            },
        })
    }

    /// Experts behind the routed ones in the stacks.
    pub fn joined(&self) -> usize {
        usize::from(self.apart.is_none())
    }

    /// shared(norm(x)) + sum over the chosen experts of weight * mlp(norm(x)): [tokens, hidden].
    pub fn project(
        &self,
        step: &mut Step,
        name: &'static str,
        x: &Tensor,
        norm: &Norm,
        routing: &Routing,
    ) -> Result<Tensor> {
        let y = step.project_experts(name, x, norm, routing, &self.mlp)?;
        if let Some(shared) = &self.apart {
            let h = shared.inner(step, x)?;
            shared.add_outer(step, &y, &h)?;
        }
        Ok(y)
    }

    /// x += shared(norm(x)), and what `mix` adds to x of the stacks.
    pub fn record(
        &self,
        step: &mut Step,
        x: &Tensor,
        mix: impl FnOnce(&mut Step, &ExpertMlp) -> ops::Result<()>,
    ) -> Result<()> {
        let Some(shared) = &self.apart else { return Ok(mix(step, &self.mlp)?) };
        let h = shared.inner(step, x)?; // before the experts add to x
        mix(step, &self.mlp)?;
        shared.add_outer(step, x, &h)
    }
}
